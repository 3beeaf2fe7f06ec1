"""Tracks of "CVAT for video" as shapes of frames.

A file lists tracks, and each track lists what its object is like frame by frame; an item is a frame. So the text of a
track's elements is kept beside the frames that they speak of, and what stands around them in the meta of the set.

Source: "XML annotation format", version 1.1, in CVAT's documentation (docs.cvat.ai, "Interpolation").
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from loopworks.core.errors import Invalid
from loopworks.core.image import SUFFIXES
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats import xmltext
from loopworks.data.formats.contract import Record
from loopworks.data.formats.cvat_image import Rules
from loopworks.data.formats.cvat_shapes import TAGS, read_shape
from loopworks.data.formats.inputs import Tally, inside, is_outside, measure, split_of
from loopworks.data.formats.sheet import Sheet, lead_of

KEY = "cvat"
_NUMBERED = re.compile(r"frame_(\d{1,9})", re.IGNORECASE)
_STEP = re.compile(r"step\s*=\s*(\d{1,9})")
HEAD = ("label", "source", "group_id")
"""What a track says of all its frames, as facts of each shape."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which frames a task has, and how large they are in pixels; 0 where it does not say."""

    frames: range | None = None
    width: int = 0
    height: int = 0

    def has(self, frame: int) -> bool:
        """Whether it is a frame of the task, as far as the task says which these are."""
        return self.frames is None or frame in self.frames

    @property
    def step(self) -> int:
        """From one frame to the next."""
        return self.frames.step if self.frames else 1


@dataclass(slots=True)
class Piece:
    """An element of a track: what it says of one frame."""

    track: int
    at: int
    """Its place in the track."""
    lead: str
    """What stands before it."""
    text: str
    line: int

    def to_json(self) -> list[Any]:
        """As plain JSON."""
        return [self.track, self.at, self.lead, self.text]


@dataclass(slots=True)
class Video:
    """A file of tracks, cut into pieces."""

    name: str
    sheet: Sheet
    timeline: Timeline
    rules: Rules
    tracks: list[dict[str, Any]] = field(default_factory=list)
    """``open`` and ``close`` (text around the pieces), ``attributes``, ``count`` of pieces, ``lead`` where unusual."""
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    """Frame -> what the tracks say of it."""
    rest: list[Piece] = field(default_factory=list)
    """What is of no frame."""
    key: str = ""
    """Which file it is, whatever its name: two exports are both called ``annotations.xml``."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for ``Content.meta``."""
        frames = self.timeline.frames
        return {
            "sheet": self.sheet.to_json(),
            "rules": self.rules.to_json(),
            "tracks": self.tracks,
            "rest": [piece.to_json() for piece in self.rest],
            "frames": [frames.start, frames.stop, frames.step] if frames is not None else None,
        }


def timeline(meta: Element | None, where: str, problems: list[Problem]) -> Timeline:
    """What ``<meta>`` says of the frames: start, stop, filter, size."""
    if meta is None:
        return Timeline()
    found: dict[str, int] = {}
    for name in ("size", "start_frame", "stop_frame", "original_size/width", "original_size/height"):
        text = (meta.findtext(f".//{name}") or "").strip()
        if text.isascii() and text.isdigit() and len(text) < 10:
            found[name] = int(text)
        elif text:
            problems.append(Problem(where=where, error="invalid", message=f"{name} must be a whole number; got {text}"))
    step = _step((meta.findtext(".//frame_filter") or "").strip(), where, problems)
    start, frames = found.get("start_frame", 0), None
    stop = found.get("stop_frame", start + (found["size"] - 1) * step if "size" in found else None)
    if stop is not None and stop < start - 1:
        problems.append(
            Problem(where=where, error="invalid", message=f"stop_frame must be {start} or more; got {stop}")
        )
    elif stop is not None:
        frames = range(start, stop + 1, step)
    return Timeline(frames, found.get("original_size/width", 0), found.get("original_size/height", 0))


def _step(text: str, where: str, problems: list[Problem]) -> int:
    match = _STEP.fullmatch(text)
    if match and int(match[1]):
        return int(match[1])
    if text:
        problems.append(Problem(where=where, error="invalid", message=f"frame_filter must be step=N; got {text!r}"))
    return 1


def cut_tracks(video: Video, text: str, parts: Sequence[xmltext.Part], problems: list[Problem]) -> None:
    """Fill ``video`` with the tracks that lie at ``parts`` of the file's text."""
    spans = [(part.start, part.end) for part in parts]
    digest = hashlib.sha256()
    gaps, tally, beyond = Gaps(video.timeline), Tally(), list[str]()
    for number, part in enumerate(parts):
        body = text[part.start : part.end]
        digest.update(body.encode("utf-8", "replace"))
        inner = xmltext.outline(body)
        track_id, last = part.attributes.get("id", ""), inner.inner[0]
        track: dict[str, Any] = {"open": body[:last], "attributes": dict(part.attributes), "count": len(inner.parts)}
        unusual = lead_of(text, spans, number, video.sheet.between)
        if unusual is not None:
            track["lead"] = unusual
        for at, child in enumerate(inner.parts):
            lead, raw = body[last : child.start], body[child.start : child.end]
            piece = Piece(number, at, lead, raw, part.line + child.line - 1)
            last = child.end
            where = f"{video.name}: line {piece.line}, track {track_id}, {child.tag} {at + 1}"
            frame = _frame(child.attributes.get("frame", ""))
            if child.tag == "track":
                tally.add("a joint's own track inside a track was left out; the skeleton's own points were taken")
            elif frame is None:
                message = f"frame must be a whole number; got {child.attributes.get('frame', 'none')}; left out"
                problems.append(Problem(where=where, error="invalid", message=message))
            elif not video.timeline.has(frame):
                beyond.append(f"{where}, frame {frame}")
            if child.tag == "track" or frame is None or not video.timeline.has(frame):
                video.rest.append(piece)
                continue
            gaps.add(track_id, frame, child.attributes.get("outside") == "1", is_first=at == 0)
            video.pieces.setdefault(frame, []).append(piece)
        track["close"] = body[last:]
        video.tracks.append(track)
    digest.update(video.sheet.head.encode("utf-8", "replace"))
    video.key = digest.hexdigest()[:16]
    problems += _beyond(beyond, video.timeline.frames)
    problems += tally.problems(video.name)
    problems += gaps.problems(video.name)


def _frame(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _beyond(places: Sequence[str], frames: range | None) -> list[Problem]:
    """One for all frames that the task does not have: where its meta is wrong, these are many."""
    if not places or frames is None:
        return []
    last = frames[-1] if frames else frames.start
    message = (
        f"frame must be one of the task's, {frames.start} to {last} by {frames.step}; "
        f"{len(places)} elements of others were left out"
    )
    return [Problem(where=places[0], error="invalid", message=message)]


@dataclass(slots=True)
class Gaps:
    """Frames that a track leaps over while its object is in sight."""

    timeline: Timeline
    tracks: Counter[str] = field(default_factory=Counter)
    first: tuple[str, int, int] | None = None
    _before: int | None = None

    def add(self, track: str, frame: int, is_gone: bool, is_first: bool) -> None:
        """The next element of a track."""
        before = None if is_first else self._before
        if before is not None and frame - before > self.timeline.step:
            self.tracks[track] += 1
            self.first = self.first or (track, before, frame)
        self._before = None if is_gone else frame

    def problems(self, where: str) -> list[Problem]:
        """One for the whole file."""
        if self.first is None:
            return []
        track, before, after = self.first
        message = (
            f"{len(self.tracks)} tracks leap over frames (first: track {track}, from frame {before} to {after}); "
            "no shapes were made for the frames between"
        )
        hint = 'export "CVAT for video" from CVAT anew: it writes every frame'
        return [Problem(where=where, error="invalid", message=message, hint=hint)]


def read_frames(base: Path, video: Video, problems: list[Problem]) -> Iterator[Record]:
    """The frames that have a picture or a shape, in their order."""
    pictures = _pictures(base, video, problems)
    parent = PurePosixPath(video.name).parent
    width, height = video.timeline.width, video.timeline.height
    for n, frame in enumerate(sorted(pictures.keys() | video.pieces.keys())):
        name, media = pictures.get(frame, (f"frame_{frame:06d}.PNG", None))
        if media is not None and not (video.timeline.width and video.timeline.height):
            width, height = measure(str(media))
        shapes: dict[int, Shape] = {}
        pieces = video.pieces.get(frame, [])
        for piece in pieces:
            track = video.tracks[piece.track]["attributes"]
            where = f"{video.name}: line {piece.line}, track {track.get('id', '')}, frame {frame}"
            try:
                if piece.track in shapes:
                    raise Invalid("frame of a track", "there once", f"{frame} again")
                shape = tracked_shape(piece.track, piece.at, piece.text, track, video.rules, (width, height))
            except Invalid as error:
                problems.append(Problem(where=where, error=error.code, message=f"{error.message}; left out"))
                continue
            if shape is None:
                continue
            if not shape.label:
                problems.append(Problem(where=where, error="invalid", message="a track must have a class; got none"))
            if is_outside(shape, width, height):
                problems.append(
                    Problem(where=where, error="invalid", message=f"lies outside the image of {width} x {height}; kept")
                )
            shapes[piece.track] = shape
        extra: dict[str, Any] = {
            "video": video.key,
            "frame": frame,
            "n": n,
            "pieces": [piece.to_json() for piece in pieces],
        }
        if media is not None:
            extra["media"] = media.relative_to(base).as_posix()
        yield Record(
            name=str(parent / name) if parent.parts else name,
            path=str(media) if media is not None else "",
            width=width,
            height=height,
            split=split_of(PurePosixPath(video.name).stem),
            attributes={"frame": frame},
            shapes=tuple(shapes.values()),
            extra={KEY: extra},
        )


def tracked_shape(
    track: int, at: int, text: str, head: Mapping[str, str], rules: Rules, size: tuple[int, int]
) -> Shape | None:
    """What an element of a track says of its frame; ``None`` where the object is out of sight.

    Raises: Invalid: an element that is not known, or numbers that no shape has.
    """
    element = xmltext.parse(text)
    if element.tag not in TAGS or element.tag == "tag":
        raise Invalid("element of a track", f"one of {', '.join(TAGS[:-1])}", element.tag)
    if is_gone(element):
        return None
    element.attrib.pop("outside", None)
    del element.attrib["frame"]
    keyframe = element.attrib.pop("keyframe", None)
    element.attrib.update({name: head[name] for name in HEAD if name in head})
    shape = read_shape(element, rules.names.add(head.get("label", "")), size, rules.types, at)
    number = head.get("id", "")
    facts: dict[str, Any] = {"track_id": int(number) if number.isdigit() and len(number) < 10 else number}
    if keyframe is not None:
        facts["keyframe"] = keyframe == "1"
    return Shape(
        label=shape.label,
        source=shape.source,
        kind=shape.kind,
        points=shape.points,
        mask=shape.mask,
        attributes=dump({**shape.facts, **facts}),
        extra=dump({KEY: {"track": track, "at": at}}),
    )


def is_gone(element: Element) -> bool:
    """Whether the object is out of sight; a skeleton is where all its joints are."""
    if element.tag != "skeleton":
        return element.get("outside") == "1"
    joints = element.findall("points")
    return bool(joints) and all(one.get("outside") == "1" for one in joints)


def _pictures(base: Path, video: Video, problems: list[Problem]) -> dict[int, tuple[str, Path]]:
    """Frame -> (name, place) of its picture: by the number in its name, else by the order of the names."""
    found = _images(base, video.name)
    matches = [_NUMBERED.fullmatch(PurePosixPath(name).stem) for name, _ in found]
    numbers = [int(match[1]) if match else -1 for match in matches]
    frames, chosen = video.timeline.frames, {}
    fits = [number >= 0 and video.timeline.has(number) for number in numbers]
    if frames is not None and not all(fits) and len(found) == len(frames):
        chosen = dict(zip(frames, found, strict=True))
    else:
        chosen = {number: one for number, one, fit in zip(numbers, found, fits, strict=True) if fit}
        left = [name for (name, _), fit in zip(found, fits, strict=True) if not fit]
        if left:
            message = f"{len(left)} pictures are of no frame of the task (first: {left[0]}); left out"
            hint = "name them frame_000000.PNG and so on, by their frame"
            problems.append(Problem(where=video.name, error="invalid", message=message, hint=hint))
    missing = sorted(video.pieces.keys() - chosen.keys())
    if missing:
        message = f"the pictures of {len(missing)} frames with shapes are missing (first: frame {missing[0]})"
        problems.append(Problem(where=video.name, error="not_found", message=message, hint=_hint(base, video.name)))
    return chosen


def _hint(base: Path, name: str) -> str:
    from loopworks.data.video import is_video

    folder = (base / name).parent
    videos = sorted(path.name for path in folder.iterdir() if is_video(path.name))
    if videos:
        return f"tracks are not joined with {videos[0]} itself: save its frames as images/frame_000000.PNG and so on"
    return 'export with "save images" from CVAT, or save the frames as images/frame_000000.PNG and so on'


def _images(base: Path, name: str) -> list[tuple[str, Path]]:
    """Image files of the first folder that has some, by name; links that lead out are not followed."""
    parent, stem = PurePosixPath(name).parent, PurePosixPath(name).stem
    for place in dict.fromkeys((parent.as_posix(), ".")):
        for inner in (f"images/{stem}", stem, "images", ""):
            folder = base / place / inner
            found = folder.rglob("*") if inner else folder.glob("*")
            images = []
            for path in sorted(found) if folder.is_dir() else ():
                if path.suffix.lower() not in SUFFIXES or not path.is_file():
                    continue
                try:
                    inside(base, path.relative_to(base).as_posix())
                except Invalid:
                    continue
                images.append((path.relative_to(folder).as_posix(), path))
            if images:
                return images
    return []
