"""HTTP by hand, over a socket: what a client library would never send."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

PATIENCE_S = 20.0
INFER = "/v2/models/linear/infer"


class Got(NamedTuple):
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """A connection."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._file: BinaryIO = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def read(self) -> Got:
        """The next answer, after any ``100 Continue``."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode("latin-1").partition(": ")
            headers[name] = value
        if status == 100:
            return self.read()
        return Got(status, headers, self._file.read(int(headers["content-length"])))

    def continues(self) -> bool:
        """Whether the server says that it waits for the body."""
        return self._file.readline().split()[1] == b"100" and self._file.readline() == b"\r\n"

    def is_closed(self) -> bool:
        """Whether the server ends it with nothing more to say."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:  # it had not read all that we sent
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def line(url: str) -> Iterator[Line]:
    made = Line(url)
    try:
        yield made
    finally:
        made.close()


def body(x: list[float] | None = None, **more: Any) -> bytes:
    """A request for the linear model; ``more`` are other keys of the header."""
    data = [1, 2, 3, 4] if x is None else x
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(data) // 4, 4], "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def head(
    length: int | None = None, *, path: str = INFER, method: str = "POST", headers: Mapping[str, str] | None = None
) -> bytes:
    told = {"host": "127.0.0.1", **({} if length is None else {"content-length": str(length)}), **(headers or {})}
    return "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{n}: {v}\r\n" for n, v in told.items()), "\r\n"]).encode()


def post(content: bytes, **named: Any) -> bytes:
    return head(len(content), **named) + content
