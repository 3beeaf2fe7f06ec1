"""KITTI object detection: ``training/image_2`` beside ``training/label_2``, one line of 15 or 16 columns per object.

Columns: type, truncated, occluded, alpha, left, top, right, bottom, height, width, length, x, y, z, rotation_y, score.
Source: the KITTI object development kit (Geiger et al. 2012, "Are we ready for autonomous driving?").
"""

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loopworks.core import mask
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import (
    SMALL_LIMIT,
    Classes,
    Losses,
    Tree,
    bad,
    encode,
    normal,
    outside,
    peek,
    read_text,
    size_of,
    split_of,
)

_FACTS = ("truncated", "occluded", "alpha", "dimensions", "location", "rotation_y", "score")
_LINE = re.compile(r"[^\s\d]\S*(?:\s+-?[\d.]+(?:[eE][-+]?\d+)?){14,15}\s*")
_LABELS = re.compile(r"(?:^|/)label_2/.*\.txt$")
_UNKNOWN = ["-1", "-1", "-10"]
_DIMENSIONS = ["-1", "-1", "-1"]
_LOCATION = ["-1000", "-1000", "-1000"]


@plugins.add("format.kitti")
@dataclass(frozen=True, slots=True, kw_only=True)
class Kitti:
    """KITTI object detection: boxes with truncation, occlusion, 3D size, place and turn as facts."""

    def detect(self, root: Path, /) -> float:
        """0.95 for a folder label_2 whose lines have KITTI's columns."""
        if root.is_file():
            return 0.0
        tree = Tree.of(root)
        files = [path for name, path in tree.files.items() if _LABELS.search(name)][:8]
        lines = [line for path in files for line in peek(Path(path)).splitlines()[:2] if line.strip()]
        if lines and all(_LINE.fullmatch(line) for line in lines):
            return 0.95
        has_folder = bool(files) or (root / "training/label_2").is_dir()
        return 0.6 if has_folder and not lines and _has_images(tree) else 0.0

    def read(self, root: Path, /) -> Content:
        """The data set of a folder that holds ``training`` (or ``label_2`` itself)."""
        tree = Tree.of(root)
        if not any(_LABELS.search(name) for name in tree.files) and not _has_images(tree):
            raise Invalid(str(root), "KITTI: a folder label_2 or image_2 with files", "none")
        problems: list[Problem] = []
        classes = Classes(problems)
        for name in sorted(_types(tree)):
            classes.add(name, "type")
        return Content(
            schema=classes.schema(),
            records=_records(tree, classes, problems),
            meta={"kitti": {}},
            problems=problems,
        )

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Write ``training/image_2`` and ``training/label_2``; a file that still says the same is written as it was."""
        losses = Losses("kitti")
        classes = Classes([])
        for label in content.schema.classes:
            classes.add(label, "type", quiet=True)
        used: set[str] = set()
        for record in content.records:
            if record.text is not None and not record.path:
                losses.add("text item", "left out")
                continue
            kept = record.extra.get("kitti", {})
            kept = kept if kept.get("name") == record.name else {}
            image = kept.get("image") or f"training/image_2/{record.name}"
            if record.path:
                put(record, image)
            if not record.is_labeled and not record.shapes:
                continue
            place = kept.get("file") or label_place(image)
            if place.casefold() in used:
                losses.add("image whose name differs from another only in its ending", "written without its labels")
                continue
            used.add(place.casefold())
            path = folder / normal(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(_text(record, kept, classes, losses), kept.get("encoding", "utf-8")))
        if not used:
            (folder / "training/label_2").mkdir(parents=True, exist_ok=True)
        yield from losses.problems()


def label_place(image: str) -> str:
    """Where the labels of an image belong."""
    before, sign, after = f"/{posixpath.splitext(image)[0]}.txt".rpartition("/image_2/")
    return f"{before}/label_2/{after}"[1:] if sign else after[1:]


def _has_images(tree: Tree) -> bool:
    return any("/image_2/" in f"/{name}" for name in tree.images())


def _types(tree: Tree) -> set[str]:
    found: set[str] = set()
    for name, path in tree.files.items():
        if _LABELS.search(name):
            try:
                text, _ = read_text(Path(path), name, SMALL_LIMIT)
            except Invalid:
                continue  # reading the record says it
            for line in text.splitlines():
                try:
                    read_line(line, "type")
                except LoopworksError:
                    continue
                found.add(line.split(None, 1)[0])
    return found


def _records(tree: Tree, classes: Classes, problems: list[Problem]) -> Iterator[Record]:
    used: set[str] = set()
    for image in tree.images():
        if "/image_2/" not in f"/{image}":
            continue
        place = label_place(image)
        used.add(place)
        yield _record(tree, image, place if place in tree.files else "", classes, problems)
    for place in tree.files:
        if _LABELS.search(place) and place not in used:
            image = posixpath.splitext(place.replace("label_2/", "image_2/"))[0] + ".png"
            problems.append(bad(place, f"image {image} of {place}", "a file below the root", "nothing"))
            yield _record(tree, image, place, classes, problems)


def _record(tree: Tree, image: str, place: str, classes: Classes, problems: list[Problem]) -> Record:
    path = tree.files.get(image, "")
    width, height = size_of(path) if path else (0, 0)
    name = image.removeprefix("training/image_2/")
    kept: dict[str, Any] = {"image": image, "name": name}
    shapes: list[Shape] = []
    is_labeled = bool(place)
    if place:
        try:
            text, encoding = read_text(Path(tree.files[place]), place, SMALL_LIMIT)
            kept |= {"file": place, "text": text, "encoding": encoding}
        except Invalid as error:
            problems.append(Problem(where=place, error=error.code, message=error.message, hint=error.hint))
            text, is_labeled = "", False
        for at, line in enumerate(text.splitlines()):
            where = f"{place} line {at + 1}"
            if not line.strip():
                continue
            try:
                shape = read_line(line, "")
            except LoopworksError as error:
                problems.append(Problem(where=where, error=error.code, message=f"{where}: {error.message}"))
                continue
            box = shape.points[0]
            if outside((box[0], box[1], box[2], box[3]), width, height):
                problems.append(bad(where, f"box of {where}", f"inside {width} x {height}", list(box), "kept as it is"))
            shapes.append(replace(shape, label=classes.add(shape.label, where), extra=dump({"kitti": {"line": at}})))
    split = split_of(*reversed(image.split("/")[:-2]))
    return Record(
        name=name,
        path=path,
        width=width,
        height=height,
        split=split,
        shapes=tuple(shapes),
        is_labeled=is_labeled,
        extra={"kitti": kept},
    )


def read_line(line: str, label: str) -> Shape:
    """The shape of a line, without its ``extra``.

    Args:
        line: 15 or 16 columns.
        label: the class; empty: the first column.
    Raises: Invalid: another number of columns, no numbers, a negative size.
    """
    words = line.split()
    if len(words) not in (15, 16):
        raise Invalid("a line", "15 or 16 columns", f"{len(words)}")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        raise Invalid("a line", "a type and numbers", line[:80]) from None
    if not all(math.isfinite(value) for value in values):
        raise Invalid("a line", "finite numbers", line[:80])
    left, top, right, bottom = values[3:7]
    if right < left or bottom < top:
        raise Invalid("right and bottom", "not below left and top", " ".join(words[4:8]))
    numbers = [_value(word) for word in words[1:]]
    facts: dict[str, Any] = {
        "truncated": numbers[0],
        "occluded": numbers[1],
        "alpha": numbers[2],
        "dimensions": numbers[7:10],
        "location": numbers[10:13],
        "rotation_y": numbers[13],
    }
    if len(numbers) == 15:
        facts["score"] = numbers[14]
    box = (left, top, right - left, bottom - top)
    return Shape(label=label or words[0], source="import", kind="box", points=(box,), attributes=dump(facts))


def write_line(shape: Shape, losses: Losses) -> str:
    """The line of a shape; empty where KITTI has none for it."""
    if shape.kind in ("class", "caption", "value"):
        losses.add(shape.kind, "left out")
        return ""
    if shape.kind == "mask":
        box: Any = mask.bounds(shape.mask, int(shape.points[0][0])) or (0, 0, 0, 0)
    else:
        box = shape.bounds or (0.0, 0.0, 0.0, 0.0)
    if shape.kind != "box":
        losses.add(shape.kind, "written as the box around it")
    facts = shape.facts
    if facts.keys() - set(_FACTS):
        losses.add("fact of a shape", "left out")
    label = "_".join(shape.label.split())
    if label != shape.label:
        losses.add("class name with a blank", "written with _")
    x, y, width, height = box
    words = [label]
    words += [_spell(facts.get(key), unknown) for key, unknown in zip(_FACTS[:3], _UNKNOWN, strict=True)]
    words += [_number(value) for value in (x, y, x + width, y + height)]
    words += _three(facts.get("dimensions"), _DIMENSIONS) + _three(facts.get("location"), _LOCATION)
    words.append(_spell(facts.get("rotation_y"), "-10"))
    if _is_number(facts.get("score")):
        words.append(_spell(facts["score"], ""))
    return " ".join(words)


def _text(record: Record, kept: Mapping[str, Any], classes: Classes, losses: Losses) -> str:
    text: str = kept.get("text", "")
    lines = text.splitlines()
    before: dict[int, Shape] = {}
    for at, line in enumerate(lines):
        try:
            name = line.split(None, 1)[0] if line.strip() else ""
            before[at] = read_line(line, (classes.find(name) or name) if name else "")
        except LoopworksError:
            continue  # a blank line, or one that was left out when the file was read
    out: list[str] = []
    places: list[int] = []
    for shape in record.shapes:
        at = shape.origin.get("kitti", {}).get("line", -1)
        old = before.get(at)
        if old is not None and (old.label, old.kind, old.points, old.attributes) == (
            shape.label,
            shape.kind,
            shape.points,
            shape.attributes,
        ):
            out.append(lines[at])
            places.append(at)
        elif line := write_line(shape, losses):
            out.append(line)
            places.append(-1)
    if kept.get("text") is not None and places == list(before):
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    return "".join(line + newline for line in out)


def _value(word: str) -> float | int:
    return int(word) if word.lstrip("-").isdecimal() and len(word) < 16 else float(word)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spell(value: Any, unknown: str) -> str:
    return repr(value) if _is_number(value) else unknown


def _three(values: Any, unknown: list[str]) -> list[str]:
    if isinstance(values, list) and len(values) == 3 and all(map(_is_number, values)):
        return [_spell(value, "") for value in values]
    return list(unknown)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
