"""What is told of each request once it is answered, to the access log and to traces: nothing of it holds one up."""

import itertools
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loopworks.core.settings import Settings
from loopworks.server.access_log import AccessLog
from loopworks.server.tokens import ANYONE, Who

if TYPE_CHECKING:
    from loopworks.server.tracing import Tracing

NOTE = "loopworks.note"
"""Where a request's scope has its note."""
REQUEST_ID = "x-request-id"
GONE = 499
"""Status of a request whose client went away before its answer."""
_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


@dataclass(slots=True)
class Note:
    """One request and what became of it. Times are those of ``time.perf_counter_ns``."""

    method: str
    path: str
    headers: Mapping[str, str]
    """As the client sent them, names in lower case."""
    address: str = ""
    id: str = ""
    """By which client and log mean this request; empty where neither does."""
    who: Who = ANYONE
    began_ns: int = field(default_factory=time.perf_counter_ns)
    ended_ns: int = 0
    status: int = GONE
    size_bytes: int = 0
    """Of the answer's body."""
    model: str = ""
    """Deployment and revision that answered, as ``name/revision``."""
    parts_ns: tuple[int, int, int] = (0, 0, 0)
    """How long it was decoded, queued and computed."""
    code: str = ""
    """Of a gRPC call: the name of its status; ``status`` is then what HTTP would say."""


class Telling:
    """Access log and traces of one server, by its settings; nothing where they ask for none."""

    def __init__(self, settings: Settings, tracing: "Tracing | None" = None) -> None:
        """Open the access log and begin to trace, where the settings say so.

        Raises:
            Missing: traces without the packages for them.
            Denied, NotFound: the file of the access log cannot be written.
        """
        if tracing is None and settings.tracing:
            from loopworks.server.tracing import Tracing

            tracing = Tracing()
        self._tracing = tracing
        self._log = AccessLog(settings.access_log, settings.access_log_file) if settings.access_log else None
        self.is_on = self._tracing is not None or self._log is not None
        self._prefix = os.urandom(6).hex()
        self._turn = itertools.count(1)

    def id(self, headers: Mapping[str, str]) -> str:
        """The client's own id of a request; a new one where it gave none, or no sensible one, and somebody is told."""
        given = headers.get(REQUEST_ID, "")
        if given and _ID.fullmatch(given):
            return given
        return f"{self._prefix}-{next(self._turn):x}" if self.is_on else ""

    def tell(self, note: Note) -> None:
        """The request has ended."""
        note.ended_ns = time.perf_counter_ns()
        if self._log is not None:
            self._log.add(note)
        if self._tracing is not None:
            self._tracing.add(note)

    def close(self) -> None:
        """Write what is left; closing twice is harmless."""
        if self._log is not None:
            self._log.close()
        if self._tracing is not None:
            self._tracing.close()
