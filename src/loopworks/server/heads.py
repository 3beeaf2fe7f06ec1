"""Request heads that were parsed before: clients send the same lines and headers with every request.

The same bytes at the start of a request mean the same, so a head that the parser and the rules of the server let pass
once need not be taken apart again. What may change meanwhile (tokens, limits) is no part of it.
"""

from collections.abc import Mapping, Sequence

from loopworks.server.guard import encoding_of
from loopworks.server.serving import KEY_HEADER

MOST = 512
"""Heads that are kept; then the one that came first goes."""
LONGEST = 4096
"""Bytes of the longest head that is kept."""
_END = b"\r\n\r\n"


class Head:
    """What the line and the headers of an inference request say."""

    __slots__ = (
        "accepted",
        "authorization",
        "encoding",
        "expects",
        "headers",
        "is_picture",
        "keep_alive",
        "key",
        "length",
        "model",
        "path",
        "version",
    )

    def __init__(
        self,
        path: str,
        model: str,
        version: str,
        headers: Mapping[str, str],
        *,
        keep_alive: bool = True,
        expects: bool = False,
        is_picture: bool = False,
    ) -> None:
        """The head of a request for a model.

        Args:
            path: of its URL, decoded.
            model, version: that are asked.
            headers: names in lower case.
            keep_alive: whether the connection stays open.
            expects: whether the client waits for a sign to send the body.
            is_picture: whether the body is a picture for the plain route, rather than an inference request.
        """
        self.path, self.model, self.version = path, model, version
        self.headers = headers
        self.keep_alive = keep_alive
        self.expects = expects
        self.is_picture = is_picture
        self.key = headers.get(KEY_HEADER, "")
        self.authorization = headers.get("authorization", "")
        self.encoding = encoding_of(headers)
        self.accepted = headers.get("accept-encoding", "").strip().lower()
        self.length = -1
        """Bytes of the body, where the head is kept."""

    def unpacked(self) -> "Head":
        """The head of the same request with its body unpacked."""
        headers = {name: value for name, value in self.headers.items() if name != "content-encoding"}
        return Head(self.path, self.model, self.version, headers, keep_alive=self.keep_alive, expects=self.expects)


class Heads:
    """The heads of a server's clients."""

    def __init__(self, limit: int) -> None:
        """Of requests with bodies of at most ``limit`` bytes."""
        self._limit = limit
        self._kept: dict[bytes, Head] = {}

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """A request whose head is known, and its body; ``None`` where ``data`` is anything but one such request."""
        end = data.find(_END, 0, LONGEST) + 4
        head = self._kept.get(data[:end])
        return (head, data[end:]) if head is not None and len(data) - end == head.length else None

    def keep(self, data: bytes, head: Head, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep a head that let the request pass.

        Args:
            data: begins with the head.
            head: what the parser made of it.
            fields: its headers, as the parser found them.
        """
        end = data.find(_END, 0, LONGEST)
        length = head.headers.get("content-length", "")
        # One line each, all ended in the one way: then this end is the parser's end.
        is_plain = data.startswith(b"POST ") and data.count(b"\n", 0, end) == data.count(b"\r\n", 0, end) == len(fields)
        if end < 0 or not is_plain or not (length.isascii() and length.isdecimal()) or len(length) > 18:
            return
        if not head.keep_alive or head.expects or "transfer-encoding" in head.headers or int(length) > self._limit:
            return
        if len(self._kept) >= MOST:
            del self._kept[next(iter(self._kept))]
        head.length = int(length)
        self._kept[data[: end + 4]] = head
