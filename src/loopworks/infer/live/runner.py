"""One pipeline at work: a thread reads, a thread asks the model and hands on; it comes back when its source does."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loopworks.core.errors import Busy, Invalid, LoopworksError, NotFound, TimedOut, Unreachable
from loopworks.infer.live import definition as said
from loopworks.infer.live.definition import Pipeline
from loopworks.infer.live.frames import Frame, Mailbox, Result
from loopworks.infer.live.looking import Looker, Pick
from loopworks.infer.live.preview import Preview
from loopworks.infer.live.senders import pauses, wait
from loopworks.infer.live.sinks import Outlet, outlets
from loopworks.infer.live.sources import frames
from loopworks.store.home import Home

log = logging.getLogger(__name__)
STOP_S = 2.0
"""How long a thread that waits for a camera is waited for; it ends by itself when the camera's time is up."""
NOTHING: Mapping[str, Any] = {}
RATE_S = 10.0
"""Time over which frames per second are counted."""


class Runner:
    """A pipeline that runs until it is stopped, or its file has ended."""

    def __init__(
        self, pipeline: Pipeline, folder: Path, home: Home, pick: Pick, *, before: Mapping[str, Any] = NOTHING
    ) -> None:
        """Nothing is opened yet.

        Args:
            pipeline: what runs.
            folder: its own, for what must outlive a restart.
            home: the workspace.
            pick: gives the loaded model.
            before: its status when it was interrupted; counts go on from there, and a file after the last frame.
        """
        self.pipeline = pipeline
        after = int(before.get("last_index", -1)) if isinstance(pipeline.source, said.FileSource) else -1
        self._folder, self._home, self._after = folder, home, after
        self._looker = Looker(pipeline, pick, home.settings.max_image_pixels)
        self._looker.places.resume(before.get("counts", {}))
        self._box = Mailbox(is_lossless=pipeline.is_lossless)
        self._stop = threading.Event()
        self._outlets: list[Outlet] = []
        self._times: deque[float] = deque()
        self._lag_s = 0.0
        self._last_s = float("-inf")
        self.preview = Preview(pipeline.preview, self._looker.draw)
        self.state = "starting"
        self.error = ""
        self.frames_in = 0
        self.frames_out = 0
        self.failed = 0
        self.reconnects = 0
        self.last_index = after
        self.share = 0.0
        """Of a file: how much of it is answered, in 0..1."""
        self._worker = threading.Thread(target=self._work, name=f"live-{pipeline.name}", daemon=True)
        self._reader = threading.Thread(target=self._read, name=f"source-{pipeline.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._worker.start()

    def stop(self) -> None:
        """End: what was read is dropped, what the sinks hold is written."""
        self._stop.set()
        self._box.close(drop=True)
        self.preview.close()
        self._worker.join()
        if self._reader.ident is not None:
            self._reader.join(STOP_S)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended by itself; whether it has."""
        self._worker.join(timeout_s)
        return not self._worker.is_alive()

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "stopped")

    def status(self) -> dict[str, Any]:
        """How it goes, in figures."""
        now = time.monotonic()
        recent = [one for one in list(self._times) if now - one <= RATE_S]
        span = now - recent[0] if len(recent) > 1 else 0.0
        return {
            "state": self.state,
            "error": self.error,
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "frames_dropped": self._box.dropped,
            "frames_failed": self.failed,
            "fps": round(len(recent) / span, 2) if span > 0 else 0.0,
            "lag_s": round(self._lag_s, 4),
            "reconnects": self.reconnects,
            "last_index": self.last_index,
            "share": round(self.share, 4),
            "viewers": self.preview.viewers,
            "counts": self._looker.places.counts(),
            "sinks": [one.tally.to_json() for one in self._outlets],
        }

    # ---- working

    def _work(self) -> None:
        try:
            self._media = self._ready()
            self._outlets = outlets(
                self.pipeline.sinks,
                folder=self._folder,
                home=self._home,
                draw=self._looker.draw,
                is_lossless=self.pipeline.is_lossless,
                stopped=self._stop.is_set,
            )
            self._reader.start()
            while not self._stop.is_set() and not self._box.is_done:
                frame = self._box.take(0.5)
                if frame is not None and self._answer(frame) and frame.settle is not None:
                    frame.settle()
            state = "stopped" if self._stop.is_set() else self.state if self.state == "failed" else "done"
        except Exception as error:  # the top of a thread: a pipeline that cannot work says why, the others go on
            state = "stopped" if self._stop.is_set() else "failed"
            self._tell(error)
        self._box.close(drop=True)
        for outlet in self._outlets:
            outlet.close()
        self.preview.close()
        self.state = state
        log.info("pipeline ended name=%s state=%s frames=%s", self.pipeline.name, state, self.frames_out)

    def _ready(self) -> str:
        """Wait until the model is loaded; what it takes."""
        for pause in pauses(0.5, 10):
            try:
                return self._looker.media()
            except NotFound as error:
                if self._stop.is_set():
                    raise
                self.state, self.error = "waiting", _words(error)
                wait(pause, self._stop.is_set)
        raise AssertionError("pauses never end")

    def _answer(self, frame: Frame) -> bool:
        """Answer a frame and hand the result on; ``False`` where the pipeline was stopped before it could."""
        for pause in pauses(0.05, 2):
            try:
                result = self._looker.look(frame)
                break
            except (Busy, TimedOut, NotFound) as error:  # the engine is full, or the model is being changed
                self.error = error.message
                if self._stop.is_set():
                    return False
                if not self.pipeline.is_lossless:
                    self.failed += 1
                    return True
                wait(pause, self._stop.is_set)
            except LoopworksError as error:  # a frame that cannot be read: the next one may be
                self.failed += 1
                self._tell(error)
                return True
        self.frames_out += 1
        self.last_index = frame.index
        self.share = min(1.0, (frame.index + 1) / frame.total) if frame.total else 0.0
        self._lag_s = time.time() - frame.came_s
        self._times.append(time.monotonic())
        while len(self._times) > 1 and self._times[-1] - self._times[0] > RATE_S:
            self._times.popleft()
        self.preview.show(result)
        if self._passes(result):
            for outlet in self._outlets:
                outlet.put(result)
        return True

    def _passes(self, result: Result) -> bool:
        """Leave in the result what the filters let through; whether it goes on."""
        wanted = self.pipeline.filters
        result.objects = [
            one
            for one in result.objects
            if (not wanted.labels or one.label in wanted.labels)
            and one.score >= wanted.score
            and (not wanted.zones or set(one.zones) & set(wanted.zones))
        ]
        if wanted.crossed and not any(one.crossed for one in result.objects):
            return False
        if not result.objects and not wanted.empty:
            return False
        if result.frame.time_s < self._last_s + wanted.gap_s:
            return False
        self._last_s = result.frame.time_s
        return True

    def _tell(self, error: Exception) -> None:
        known = isinstance(error, LoopworksError)
        told = _words(error)
        if told != self.error:
            name = self.pipeline.name
            log.warning("pipeline name=%s: %s", name, told, exc_info=None if known else error)
        self.error = told

    # ---- reading

    def _read(self) -> None:
        source = self.pipeline.source
        live = None if isinstance(source, said.FileSource) else source
        first = getattr(live, "backoff_s", 1.0)
        most = getattr(live, "backoff_most_s", 60.0)
        waits = pauses(first, most)
        while not self._stop.is_set():
            before = self.frames_in
            try:
                self._pass_on()
                break
            except Unreachable as error:
                if self._stop.is_set():
                    break
                self._tell(error)
                if self.frames_in > before:  # it had worked: begin with short pauses again
                    waits = pauses(first, most)
                self.state = "reconnecting"
                wait(next(waits), self._stop.is_set)
                self.reconnects += not self._stop.is_set()
            except Exception as error:  # the top of a thread: what no second attempt mends ends the pipeline
                if self._stop.is_set():
                    break
                self._tell(error)
                self.state = "failed"
                break
        self._box.close()

    def _opened(self) -> None:
        if not self._stop.is_set() and not self.is_ended:
            self.state = "running"

    def _pass_on(self) -> None:
        found = frames(
            self.pipeline.source,
            self._media,
            self._folder,
            self._stop.is_set,
            self._opened,
            after=self._after,
            max_pixels=self._home.settings.max_image_pixels,
        )
        for frame in found:
            self.frames_in += 1
            if not self._box.put(frame):
                return


def _words(error: Exception) -> str:
    if isinstance(error, LoopworksError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return str(error) or type(error).__name__


def check(pipeline: Pipeline, model_media: Callable[[], str]) -> None:
    """Refuse a pipeline whose model takes something else than its source gives; before it is kept.

    Raises: NotFound: no such deployment. Invalid: it does not fit.
    """
    media = model_media()
    if media != "image" and not isinstance(pipeline.source, said.MqttSource):
        raise Invalid("model of a pipeline", "one for images, where the source is none of MQTT", f"one for {media}s")
