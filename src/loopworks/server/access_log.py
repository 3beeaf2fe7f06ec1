"""The access log: one line a request, written by a thread of its own."""

import logging
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from loopworks.core.errors import Denied, NotFound

if TYPE_CHECKING:
    from loopworks.server.telling import Note

log = logging.getLogger(__name__)
MOST = 100_000
"""Lines that wait to be written; more are dropped and counted in the log itself."""
PAUSE_S = 0.2


class AccessLog:
    """Writes lines as text for people or JSON for programs. A full disk loses lines and no request."""

    def __init__(self, form: str, path: str = "") -> None:
        """``form`` is text or json; ``path`` of the file, which grows at its end; empty is the standard error."""
        self._is_json = form == "json"
        self._file = _opened(path) if path else None
        self._waiting: deque[Note] = deque()
        self._dropped = 0
        self._is_broken = False
        self._zero_ns = time.time_ns() - time.perf_counter_ns()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="access-log", daemon=True)
        self._thread.start()

    def add(self, note: "Note") -> None:
        """Leave a line to the thread."""
        if len(self._waiting) >= MOST:
            self._dropped += 1
            return
        self._waiting.append(note)

    def close(self) -> None:
        """Write what waits; closing twice is harmless."""
        self._stopping.set()
        self._thread.join()
        if self._file is not None:
            self._file.close()

    def _work(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._line(self._waiting.popleft()) for _ in range(len(self._waiting))]
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lines.append(_json({"dropped": dropped}) if self._is_json else f"dropped {dropped} lines")
        if not lines:
            return
        try:
            self._put("\n".join(lines) + "\n")
            self._is_broken = False
        except (OSError, ValueError) as error:  # a full disk, or a standard error that somebody closed
            if not self._is_broken:
                log.error("access log cannot be written, lines are lost: %s", error)
            self._is_broken = True

    def _put(self, text: str) -> None:
        if self._file is None:
            sys.stderr.write(text)
            sys.stderr.flush()
            return
        left = memoryview(text.encode())
        while left:
            left = left[self._file.write(left) :]

    def _line(self, note: "Note") -> str:
        moment = datetime.fromtimestamp((self._zero_ns + note.ended_ns) / 1e9, UTC)
        stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        took_ms = round((note.ended_ns - note.began_ns) / 1e6, 3)
        if self._is_json:
            more = {"code": note.code} if note.code else {}
            return _json({
                "time": stamp,
                "method": note.method,
                "path": note.path,
                "status": note.status,
                "ms": took_ms,
                "bytes": note.size_bytes,
                "token": note.who.name,
                "address": note.address,
                "model": note.model,
                "request_id": note.id,
                **more,
            })
        asked = ascii(f"{note.method} {note.path}")[1:-1].replace('"', '\\"')  # a path may hold a line's end
        told = f'{stamp} {note.address or "-"} {note.who.name or "-"} "{asked}" {note.code or note.status} {took_ms} ms'
        return f"{told} {note.size_bytes} B {note.model or '-'} {note.id or '-'}"


def _json(body: dict[str, Any]) -> str:
    try:
        return orjson.dumps(body).decode()
    except orjson.JSONEncodeError:  # half a character in the path
        return orjson.dumps({**body, "path": ascii(body.get("path", ""))}).decode()


def _opened(path: str) -> FileIO:
    try:
        return Path(path).expanduser().open("ab", buffering=0)  # a buffer would keep what a full disk refused
    except FileNotFoundError:
        raise NotFound("folder of the access log", str(Path(path).parent), hint="make the folder first") from None
    except OSError as error:
        raise Denied(f"access_log_file must be a file that can be written; got {path}: {error.strerror}") from None
