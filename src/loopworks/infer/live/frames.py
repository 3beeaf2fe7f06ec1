"""What flows through a pipeline: frames, and what was found in them."""

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.values import Shape
from loopworks.infer.chains import flat


@dataclass(slots=True, kw_only=True)
class Frame:
    """One picture of a video or camera, or one message."""

    index: int
    """Place in the source since it was opened, beginning with 0; frames that are not taken count too."""
    time_s: float
    """Of the source's own clock: since a file's beginning, else since 1970."""
    total: int = 0
    """How many frames its video has, where it says so."""
    name: str = ""
    """Name of its file, where it has one."""
    came_s: float = field(default_factory=time.time)
    """When it was here, in seconds since 1970."""
    pixels: NDArray[np.uint8] | None = None
    """RGB, shape ``(height, width, 3)``, where it is decoded."""
    content: Any = None
    """Bytes of an image file, a text or a row, where it is not decoded."""
    settle: Callable[[], None] | None = None
    """Called once the frame is answered, or never will be: its source need not give it again after a restart."""

    def picture(self, max_pixels: int) -> NDArray[np.uint8]:
        """Its pixels, decoded where need be; upright."""
        if self.pixels is None:
            from loopworks.core import image

            self.pixels = image.whole(self.content, self.name or "frame", max_pixels)
        return self.pixels


@dataclass(slots=True, kw_only=True)
class Found:
    """One object in a frame, or the frame's answer where the model does not say where things are."""

    label: str
    score: float
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height in pixels."""
    track: int | None = None
    zones: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()
    """Lines that it crossed in this frame, as ``NAME:in`` or ``NAME:out``."""
    then: Mapping[str, Any] = field(default_factory=dict)
    """Of a chain: what the next models said of it, by node."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        told: dict[str, Any] = {"label": self.label, "score": round(self.score, 6)}
        if self.box is not None:
            told["box"] = [round(side, 2) for side in self.box]
        if self.track is not None:
            told["track"] = self.track
        told |= {name: list(getattr(self, name)) for name in ("zones", "crossed") if getattr(self, name)}
        return {**told, "then": self.then} if self.then else told


@dataclass(slots=True, kw_only=True)
class Result:
    """What a pipeline says of a frame."""

    pipeline: str
    frame: Frame
    model: str
    """NAME/REVISION of the deployment that answered."""
    learnt: str = ""
    """NAME:NUMBER of the model behind it."""
    objects: list[Found] = field(default_factory=list)
    answer: Mapping[str, Any] = field(default_factory=dict)
    """As ``Workspace.predict`` gives it."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """Lines and zones up to now."""
    shapes: tuple[Shape, ...] = ()
    confidences: tuple[float, ...] = ()
    uncertainty: float = 0.0

    def without_picture(self) -> "Result":
        """The same without the frame's pixels, so that many may wait in little memory."""
        return replace(self, frame=replace(self.frame, pixels=None, content=None, settle=None))

    @property
    def at(self) -> str:
        """When the frame was here, in UTC."""
        return datetime.fromtimestamp(self.frame.came_s, UTC).isoformat(timespec="milliseconds")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON: what files, webhooks and MQTT get."""
        told = {
            "pipeline": self.pipeline,
            "frame": self.frame.index,
            "time_s": round(self.frame.time_s, 4),
            "at": self.at,
            "name": self.frame.name,
            "model": self.model,
            "objects": [one.to_json() for one in self.objects],
        }
        if "labels" not in self.answer or not any(one.box for one in self.objects):
            told["answer"] = dict(self.answer)
        return {**told, "counts": dict(self.counts)} if self.counts else told

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each object: what tables get; columns are those of ``COLUMNS``.

        What the next models of a chain said follows its object: ``NODE/LABEL`` as the label, and the object's track.
        """
        value = self.answer.get("value")
        common = {
            "pipeline": self.pipeline,
            "frame": self.frame.index,
            "time_s": self.frame.time_s,
            "at": self.at,
            "name": self.frame.name,
            "model": self.model,
            "value": float(value) if isinstance(value, int | float) else None,
        }
        return [
            {
                **common,
                "label": one.label,
                "score": round(one.score, 6),
                **dict(zip(("x", "y", "width", "height"), one.box or (None,) * 4, strict=True)),
                "track": one.track,
                "zones": " ".join(one.zones),
                "crossed": " ".join(one.crossed),
            }
            for one in self._flat()
        ]

    def _flat(self) -> Iterator[Found]:
        for one in self.objects:
            yield one
            for row in flat.rows(one.then):
                box = tuple(round(side, 2) for side in row.box)
                yield replace(one, label=f"{row.node}/{row.label}", score=row.score, box=box, then={}, crossed=())  # type: ignore[arg-type]  # four of them


COLUMNS: dict[str, type] = {
    "pipeline": str,
    "frame": int,
    "time_s": float,
    "at": str,
    "name": str,
    "model": str,
    "label": str,
    "score": float,
    "value": float,
    "x": float,
    "y": float,
    "width": float,
    "height": float,
    "track": int,
    "zones": str,
    "crossed": str,
}
"""Columns of a table of results."""
WAITING = 8
"""Frames that may wait where none may be dropped."""


class Mailbox:
    """Hands frames from the thread that reads to the one that works; says which were dropped."""

    def __init__(self, *, is_lossless: bool) -> None:
        """``is_lossless``: ``put`` waits for room; else a new frame takes the place of one that waits."""
        self._is_lossless = is_lossless
        self._waiting: deque[Frame] = deque()
        self._changed = Condition()
        self._is_open = True
        self.dropped = 0

    def put(self, frame: Frame) -> bool:
        """Hand over a frame; ``False`` once the box is closed."""
        with self._changed:
            if self._is_lossless:
                self._changed.wait_for(lambda: len(self._waiting) < WAITING or not self._is_open)
            elif self._waiting:
                self._waiting.clear()
                self.dropped += 1
            if self._is_open:
                self._waiting.append(frame)
                self._changed.notify_all()
            return self._is_open

    def take(self, timeout_s: float) -> Frame | None:
        """The oldest frame that waits; ``None`` where none came in time, or the box is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or not self._is_open, timeout_s)
            if not self._waiting:
                return None
            frame = self._waiting.popleft()
            self._changed.notify_all()
            return frame

    @property
    def is_done(self) -> bool:
        """Closed and empty."""
        with self._changed:
            return not self._is_open and not self._waiting

    def close(self, *, drop: bool = False) -> None:
        """No more frames come; ``drop``: those that wait are not wanted either."""
        with self._changed:
            self._is_open = False
            if drop:
                self._waiting.clear()
            self._changed.notify_all()


def jpeg(pixels: NDArray[np.uint8], quality: int = 85, width: int = 0) -> bytes:
    """Pixels as a JPEG file; at most ``width`` wide where that is not 0."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if width and picture.width > width:
        picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.BOX)
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=quality)
    return kept.getvalue()
