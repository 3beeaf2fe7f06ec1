"""Frames as tracks again: what did not change keeps its text, what did is a key frame, what is new a track."""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump
from loopworks.data.formats import xmltext
from loopworks.data.formats.contract import Record
from loopworks.data.formats.cvat_image import Rules, Writer, is_same
from loopworks.data.formats.cvat_tracks import HEAD, KEY, tracked_shape
from loopworks.data.formats.inputs import clean_name, encode, split_of
from loopworks.data.formats.sheet import Sheet

_KEYFRAME = re.compile(r"""\bkeyframe=(["'])0\1""")


@dataclass(slots=True)
class VideoWriter:
    """Puts one file of tracks together again."""

    kept: Mapping[str, Any]
    """What ``Video.to_json`` wrote."""
    writer: Writer
    sheet: Sheet = field(init=False)
    _rules: Rules = field(init=False)
    _pieces: dict[int, dict[int, str]] = field(default_factory=dict)
    """Track -> place in it -> text."""
    _touched: set[tuple[int, int]] = field(default_factory=set)
    """(Track, place) of what does not say what it said."""
    _new: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sheet = Sheet.from_json(self.kept["sheet"])
        self._rules = Rules.from_json(self.kept["rules"])
        for track, at, lead, text in self.kept["rest"]:
            self._pieces.setdefault(track, {})[at] = lead + text

    def add(self, record: Record, extra: Mapping[str, Any]) -> None:
        """A frame."""
        left, seen = list(record.shapes), set[int]()
        for track, at, lead, text in extra["pieces"]:
            self._pieces.setdefault(track, {})[at] = lead + self._piece(track, at, text, record, left, seen)
        for shape in left:
            self._add_track(shape, extra["frame"])
        if record.split != split_of(PurePosixPath(self.sheet.name).stem):
            self.writer.tally.add("the split of a frame has no place in CVAT for video")
        if record.tags or dict(record.attributes) != {"frame": extra["frame"]}:
            self.writer.tally.add("tags and attributes of a frame have no place in CVAT for video")

    def _piece(self, track: int, at: int, text: str, record: Record, left: list[Shape], seen: set[int]) -> str:
        """The text of an element after what became of its shape, which is taken out of ``left``."""
        head = self.kept["tracks"][track]["attributes"]
        try:
            before = tracked_shape(track, at, text, head, self._rules, (record.width, record.height))
        except Invalid:
            return text  # what could not be read stays
        if before is None or track in seen:
            return text
        seen.add(track)
        place = {"track": track, "at": at}
        after = next((shape for shape in left if shape.origin.get(KEY) == place and _fits(before, shape)), None)
        if after is None:
            track_id = before.facts["track_id"]
            after = next((s for s in left if s.facts.get("track_id") == track_id and _fits(before, s)), None)
        if after is not None:
            left.remove(after)
            if is_same(before, after):
                return text
        self._touched.add((track, at))
        element = xmltext.parse(text)
        if after is None:
            for one in (element, *element.findall("points")):
                one.set("keyframe", "1")
                if one.tag != "skeleton":
                    one.set("outside", "1")
        else:
            first, *others = self._elements(after)
            for other in others:
                self._new.append(self._track(other, after, int(element.attrib["frame"])))
            element = _framed(first, int(element.attrib["frame"]))
        return self.writer.render(element, 2)

    def _elements(self, shape: Shape) -> list[Element]:
        facts = {name: value for name, value in shape.facts.items() if name not in ("track_id", "keyframe")}
        return self.writer.elements(replace(shape, attributes=dump(facts)))

    def _add_track(self, shape: Shape, frame: int) -> None:
        if shape.kind == "class":
            self.writer.tally.add("a class of a whole frame has no place in CVAT for video and was left out")
            return
        self._new += [self._track(element, shape, frame) for element in self._elements(shape)]

    def _track(self, element: Element, shape: Shape, frame: int) -> Element:
        """A track of one frame, as CVAT writes a shape that is of no track."""
        head = {"id": ""}
        head |= {name: element.attrib[name] for name in HEAD if name in element.attrib}
        track = Element("track", head)
        track.append(_framed(element, frame))
        frames = range(*self.kept["frames"]) if self.kept["frames"] else range(frame + 1)
        if frame + frames.step in frames:
            end = _framed(element, frame + frames.step)
            for one in (end, *end.findall("points")):
                if one.tag != "skeleton":
                    one.set("outside", "1")
            track.append(end)
        return track

    def close(self, folder: Path) -> None:
        """Write the file."""
        out: list[str] = []
        for number, track in enumerate(self.kept["tracks"]):
            pieces = self._pieces.get(number, {})
            if track["count"] and not pieces:
                continue  # none of its frames is in the data set
            if out:
                out.append(track.get("lead", self.sheet.between))
            out.append(track["open"])
            for at in range(track["count"]):
                if at in pieces:
                    out.append(self._as_key(number, at, pieces))
            out.append(track["close"])
        ids = [one["attributes"].get("id", "") for one in self.kept["tracks"]]
        first = max((int(one) for one in ids if one.isdigit() and len(one) < 18), default=-1) + 1
        for number, element in enumerate(self._new, first):
            element.set("id", str(number))
            out += [self.sheet.between] * bool(out) + [self.writer.render(element, 1)]
        sheet = self.writer.with_labels(self.sheet)
        path = folder / clean_name(sheet.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode("".join((sheet.head, *out, sheet.tail)), sheet.codec, sheet.is_marked))

    def _as_key(self, track: int, at: int, pieces: Mapping[int, str]) -> str:
        """Next to a change or a gap it is a key frame: CVAT works out all others from these."""
        count = self.kept["tracks"][track]["count"]
        beside = [one for one in (at - 1, at + 1) if 0 <= one < count]
        if any(one not in pieces or (track, one) in self._touched for one in beside):
            return _KEYFRAME.sub('keyframe="1"', pieces[at])
        return pieces[at]


def _fits(before: Shape, after: Shape) -> bool:
    """Whether one track can hold both: what it says of all its frames is the same."""
    kept = ("source", "group_id", "track_id")
    return (before.label, before.kind) == (after.label, after.kind) and all(
        before.facts.get(name) == after.facts.get(name) for name in kept
    )


def _framed(element: Element, frame: int) -> Element:
    """An element of an image as a key frame of a track."""
    rest = {k: v for k, v in element.attrib.items() if k not in (*HEAD, "outside")}
    head = {"frame": str(frame), "keyframe": "1"}
    if element.tag != "skeleton":
        head["outside"] = "0"
    out = Element(element.tag, {**head, **rest})
    out.extend(deepcopy(one) for one in element)
    for joint in out.findall("points"):
        joint.set("keyframe", "1")
    return out
