"""Videos as frames: decoded once, numbered in the order in which they are shown, timed by their own time stamps.

A frame is known by its index, and its time is the one that the file says (``pts`` times the stream's time base). It is
never worked out from a frame rate, because cameras, phones and streams do not keep one.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from loopworks.core.errors import Invalid, Missing, from_json
from loopworks.core.values import Problem
from loopworks.store.blobs import write_error

SUFFIXES = frozenset({
    ".3gp",
    ".asf",
    ".avi",
    ".flv",
    ".h264",
    ".h265",
    ".m2ts",
    ".m4v",
    ".mjpeg",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
})
THREADS = 2
WAITING = 8  # decoded frames that wait to be written: a 4K frame is 25 MB
SMALL = (48, 27)  # size at which two frames are compared
BINS = 16  # of each colour in the histograms that are compared
Told = Callable[[int, int], None]
"""Takes frames done and all frames (0: not known)."""


@checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Frames:
    """Which frames of a video become items: every N-th, those at given indices, or one for each scene."""

    every: Annotated[int, Field(ge=0)] = 0
    """Every N-th frame, beginning with the first; 0: not chosen in this way."""
    at: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices of frames, beginning with 0."""
    scenes: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The first frame of each scene: those that differ by more than this from the frame before, no unit, in 0..1
    (0.3 finds hard cuts); 0: not chosen in this way."""
    encoding: Literal["png", "jpeg"] = "png"
    """png: nothing is lost; jpeg: smaller."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Of JPEG."""

    def __post_init__(self) -> None:
        """Exactly one way to choose."""
        chosen = [name for name in ("every", "at", "scenes") if getattr(self, name)]
        if len(chosen) != 1:
            got = " and ".join(chosen) or "none of them"
            raise Invalid("frames", "chosen by one of every, at and scenes", got)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A frame that became an image file."""

    index: int
    """Place in the order of showing, beginning with 0."""
    time_s: float | None
    """Its time stamp in seconds; ``None`` where the file has none."""
    file: str
    """Name of the image file."""


@dataclass(slots=True, kw_only=True)
class FrameTable:
    """Every frame of a video, a column each; row 0 is the frame that is shown first."""

    time_base: Fraction
    """Seconds of one tick of ``pts``."""
    width: int
    height: int
    """As shown: a video that is stored lying is turned upright."""
    rotation: int
    """Degrees, counter-clockwise, by which the file says its frames must be turned."""
    pts: list[int | None] = field(default_factory=list)
    """Time stamps in ticks."""
    is_key: list[bool] = field(default_factory=list)
    difference: list[float] = field(default_factory=list)
    """To the frame before, 0..1: half the sum of the differences of their colour histograms."""

    def time_s(self, index: int) -> float | None:
        """The time stamp of a frame in seconds."""
        ticks = self.pts[index]
        return None if ticks is None else float(ticks * self.time_base)

    def to_arrow(self) -> Any:
        """As an Arrow table ``index, pts, is_key, difference``; the rest is in its metadata."""
        import pyarrow as pa

        base = f"{self.time_base.numerator}/{self.time_base.denominator}"
        facts = {"time_base": base, "width": self.width, "height": self.height, "rotation": self.rotation}
        columns = {
            "index": pa.array(range(len(self.pts)), pa.int64()),
            "pts": pa.array(self.pts, pa.int64()),
            "is_key": pa.array(self.is_key, pa.bool_()),
            "difference": pa.array(self.difference, pa.float32()),
        }
        return pa.table(columns).replace_schema_metadata({name: str(value) for name, value in facts.items()})

    @classmethod
    def from_arrow(cls, table: Any) -> "FrameTable":
        """The table that ``to_arrow`` gave."""
        facts = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
        return cls(
            time_base=Fraction(facts["time_base"]),
            width=int(facts["width"]),
            height=int(facts["height"]),
            rotation=int(facts["rotation"]),
            pts=table["pts"].to_pylist(),
            is_key=table["is_key"].to_pylist(),
            difference=table["difference"].to_pylist(),
        )


def table_bytes(table: FrameTable) -> bytes:
    """The table as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = pa.BufferOutputStream()
    pq.write_table(table.to_arrow(), out, compression="zstd")
    return bytes(out.getvalue())


def read_table(data: bytes) -> FrameTable:
    """The table that ``table_bytes`` gave."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return FrameTable.from_arrow(pq.read_table(pa.BufferReader(data)))


def is_video(name: str) -> bool:
    """Whether a file's name says that it is a video."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def extract(
    video: Path, folder: Path, frames: Frames, *, name: str = "", max_pixels: int = 1 << 30, told: Told | None = None
) -> tuple[FrameTable, list[Picked], list[Problem]]:
    """Decode a video once: the table of all its frames, and image files of those that are wanted.

    Image files that are there already are kept, so an extraction that was killed goes on where it was. A video that
    breaks off gives the frames before the break, and a problem that says where.

    Args:
        video: the file.
        folder: where the images go, as ``000123.png``; must exist.
        frames: which ones.
        name: what to call the video in messages.
        max_pixels: the largest frame that is taken, width x height.
        told: takes the progress; may raise.
    Raises:
        Missing: PyAV is not installed.
        Invalid: no video, or frames that are too large.
        NoSpace, Denied: from writing.
    """
    name = name or str(video)
    reading = _Reading(video, name, max_pixels)
    wanted = set(frames.at)
    last = max(wanted, default=-1)
    picked: list[Picked] = []
    writing: deque[Future[None]] = deque()
    suffix = ".jpg" if frames.encoding == "jpeg" else ".png"
    with reading, ThreadPoolExecutor(THREADS) as pool:
        table = reading.table
        for index, frame in enumerate(reading.frames()):
            cut = frames.scenes and (index == 0 or table.difference[index] > frames.scenes)
            if cut or index in wanted or (frames.every and index % frames.every == 0):
                file = f"{index:06}{suffix}"
                picked.append(Picked(index=index, time_s=table.time_s(index), file=file))
                if not (folder / file).exists():
                    writing.append(pool.submit(_write, folder / file, _upright(frame, table.rotation), frames))
                    if len(writing) >= WAITING:
                        writing.popleft().result()
            if told:
                told(index + 1, reading.declared)
        for one in writing:
            one.result()
    problems = reading.problems
    if last >= len(table.pts):
        beyond = sorted(index for index in wanted if index >= len(table.pts))
        shown = ", ".join(map(str, beyond[:5])) + (" ..." if len(beyond) > 5 else "")
        problems.append(_problem(name, f"long enough for frame {shown}", f"{len(table.pts)} frames, from 0 on"))
    return table, picked, problems


def pictures(video: Path, *, every: int = 1, name: str = "", max_pixels: int = 1 << 30) -> Iterator["Picture"]:
    """Decode a video frame by frame, each ``every``-th of them upright, without writing anything.

    Raises:
        Missing: PyAV is not installed.
        Invalid: no video, frames that are too large, or (after the frames before it) one that breaks off.
    """
    reading = _Reading(video, name or str(video), max_pixels)
    with reading:
        for index, frame in enumerate(reading.frames()):
            if index % every == 0:
                yield Picture(index, reading.table.time_s(index), _upright(frame, reading.table.rotation))
    if reading.problems:
        first = reading.problems[0]
        raise from_json({"error": {"code": first.error, "message": first.message, "hint": first.hint}})


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame of a video."""

    index: int
    """From 0 on, in the order of showing."""
    time_s: float | None
    pixels: NDArray[np.uint8]
    """Shape ``(height, width, 3)``, upright."""


class _Reading:
    """A video that is being decoded; fills the table as it goes."""

    def __init__(self, video: Path, name: str, max_pixels: int) -> None:
        try:
            import av
        except ImportError:
            raise Missing("av", "video", f"frames of {name}") from None
        self._faults: Any = av.error.FFmpegError
        self.name = name
        self.problems: list[Problem] = []
        try:
            # A path with a scheme in it (http://, concat:...) would be opened as such: file: says that it is none.
            self._container: Any = av.open(f"file:{video}")
        except (self._faults, OSError, ValueError, UnicodeError) as error:
            raise _invalid(name, _said(error)) from None
        if not self._container.streams.video:
            self._container.close()
            raise _invalid(name, "a file without a picture")
        stream: Any = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self._stream = stream
        self.declared = int(stream.frames or 0)
        width, height = int(stream.codec_context.width), int(stream.codec_context.height)
        if width * height > max_pixels:
            self._container.close()
            hint = "raise max_image_pixels if it is wanted"
            raise Invalid(name, f"of frames with at most {max_pixels} pixels", f"{width} x {height}", hint)
        self._max_pixels = max_pixels
        self.table = FrameTable(time_base=stream.time_base or Fraction(1), width=width, height=height, rotation=0)

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Any]:
        """Frames in the order of showing; what is known of one is in the table before it is given."""
        table, before = self.table, None
        for frame in self._decoded():
            if frame.width * frame.height > self._max_pixels:
                self.problems.append(_problem(self.name, "of frames of one size", f"{frame.width} x {frame.height}"))
                return
            if not table.pts:
                table.rotation = int(frame.rotation or 0)
                turned = table.rotation % 180 == 90
                table.width, table.height = (frame.height, frame.width) if turned else (frame.width, frame.height)
            ticks = frame.pts if frame.pts is not None else frame.dts
            table.pts.append(None if ticks is None else int(ticks * (frame.time_base / table.time_base)))
            table.is_key.append(bool(frame.key_frame))
            now = histogram(frame.to_ndarray(format="rgb24", width=SMALL[0], height=SMALL[1]))
            table.difference.append(0.0 if before is None else difference(before, now))
            before = now
            yield frame
        if not table.pts:
            raise _invalid(self.name, "no frame that can be decoded")
        self._check_end()

    def _decoded(self) -> Iterator[Any]:
        """What the decoder gives; where it stumbles over a packet the next one is tried."""
        broken = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (self._faults, OSError) as error:
                self._tell(_said(error))
                packet = None
            try:
                yield from (packet.decode() if packet is not None else self._stream.codec_context.decode(None))
            except (self._faults, OSError):
                broken += 1
            if packet is None:
                break
        if broken:
            self._tell(f"{broken} damaged places", "whole")

    def _check_end(self) -> None:
        """Whether the frames reach as far as the file says; a file that was cut off often ends without an error."""
        table = self.table
        if any(one.where == self.name for one in self.problems):
            return
        if 0 < len(table.pts) < self.declared:
            self._tell(f"{len(table.pts)} of {self.declared} frames")
            return
        duration = self._container.duration  # in microseconds, of the longest stream
        times = [ticks for ticks in table.pts if ticks is not None]
        if not duration or len(times) < 2 or len(self._container.streams) > 1:
            return
        shown = float((max(times) - min(times)) * table.time_base)
        gap = shown / (len(times) - 1)
        if shown + 3 * gap < duration / 1e6 * 0.98:
            self._tell(f"an end after {shown:.3g} of {duration / 1e6:.3g} s")

    def _tell(self, got: str, expected: str = "whole to its end") -> None:
        after = f"{got}, after frame {len(self.table.pts) - 1}" if self.table.pts else got
        self.problems.append(_problem(self.name, expected, after, "the frames before that were kept"))


def histogram(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shares of the values of each colour of an image ``(height, width, 3)``, shape ``(3, BINS)``."""
    bins = (pixels.reshape(-1, 3).astype(np.int64) * BINS) // 256 + np.arange(3) * BINS
    return np.bincount(bins.ravel(), minlength=3 * BINS).reshape(3, BINS) / (pixels.size / 3)


def difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """How much two histograms differ, 0 (the same) to 1 (no value in common).

    Source: Zhang, Kankanhalli, Smoliar 1993, "Automatic partitioning of full-motion video", the comparison of
    histograms of neighbouring frames; here as the mean of the colours' total variation distances.
    """
    return float(np.abs(first - second).sum() / 6)


def _upright(frame: Any, rotation: int) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, rotation // 90 % 4) if rotation % 90 == 0 else pixels


def _write(target: Path, pixels: NDArray[np.uint8], frames: Frames) -> None:
    from PIL import Image

    options: dict[str, Any] = {"compress_level": 1}  # level 6 takes five times as long and saves a tenth
    if frames.encoding == "jpeg":
        options = {"quality": frames.quality, "subsampling": 0}
    temp = target.with_name(f"{target.name}.part")
    try:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temp, frames.encoding.upper(), **options)
        os.replace(temp, target)
    except OSError as error:
        raise write_error(target.parent, error) from None


def _invalid(name: str, got: str) -> Invalid:
    return Invalid(name, "a video", got, f"known endings: {', '.join(sorted(SUFFIXES))}")


def _problem(where: str, expected: str, got: str, hint: str = "") -> Problem:
    error = Invalid(where, expected, got, hint)
    return Problem(where=where, error=error.code, message=error.message, hint=error.hint)


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
