"""The picture of a pipeline for people: drawn when somebody asks for it, once for all who look."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loopworks.core.errors import Busy, NotFound
from loopworks.infer.live.definition import Preview as Settings
from loopworks.infer.live.frames import Result, jpeg


class Preview:
    """Keeps the last result, undrawn; for any number of threads."""

    def __init__(self, settings: Settings, draw: Callable[[Result], Any]) -> None:
        """Nothing is there to see yet."""
        self.settings = settings
        self._draw = draw
        self._changed = threading.Condition()
        self._drawing = threading.Lock()
        self._last: Result | None = None
        self._number = 0
        self._drawn: tuple[int, bytes] = (0, b"")
        self._is_open = True
        self.viewers = 0
        self.drawings = 0
        """How many pictures were drawn."""

    def show(self, result: Result) -> None:
        """Take note of a result that has a picture; nothing is drawn here."""
        if result.frame.pixels is None and not isinstance(result.frame.content, bytes):
            return
        with self._changed:
            self._last, self._number = result, self._number + 1
            if self.viewers:
                self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes: streams end."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def check(self) -> None:
        """``Busy`` where too many look already; before an answer begins."""
        with self._changed:
            self._check()

    def _check(self) -> None:
        if self.viewers >= self.settings.clients:
            raise Busy(f"at most {self.settings.clients} may watch a preview; got one more", "try again later")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count a viewer in; ``Busy`` where too many look already."""
        with self._changed:
            self._check()
            self.viewers += 1
        try:
            yield
        finally:
            with self._changed:
                self.viewers -= 1

    def after(self, number: int, timeout_s: float = 1.0) -> tuple[int, bytes] | None:
        """A picture newer than ``number`` as JPEG, with its number.

        ``None`` where none came in time. Raises: NotFound: the pipeline has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._number > number or not self._is_open, timeout_s)
            if not self._is_open:
                raise NotFound("picture of a pipeline that has ended", number)
            if self._number <= number:
                return None
        return self.latest()

    def latest(self) -> tuple[int, bytes]:
        """The newest picture as JPEG, with its number; ``NotFound`` where there is none yet."""
        with self._drawing:
            with self._changed:
                result, number = self._last, self._number
            if result is None:
                raise NotFound("picture", "latest", hint="the pipeline has answered no frame yet")
            if self._drawn[0] != number:
                self._drawn = (number, jpeg(self._draw(result), 80, self.settings.width))
                self.drawings += 1
            return self._drawn
