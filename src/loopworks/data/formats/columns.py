"""Rows with named columns as records: which column is the path, the text, the label, the split, the box."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.files import SPLITS, problem
from loopworks.data.formats.contract import Record
from loopworks.data.formats.inputs import inside, is_outside, measure

Cells = Mapping[str, Any]
PATHS = ("file_name", "filename", "path", "file_path", "filepath", "image_path", "image", "file", "img", "img_path")
TEXTS = ("text", "sentence", "utterance", "content", "body", "review", "comment", "question", "title")
LABELS = ("labels", "label", "category", "class", "class_name", "intent", "target", "species", "tag")
SPLIT_NAMES = ("split", "subset", "partition", "usage", "set")
XYXY = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x_min", "y_min", "x_max", "y_max"))
XYWH = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("bbox_x", "bbox_y", "bbox_width", "bbox_height"))
BETWEEN = "|"
"""Stands between the classes in a column called ``labels``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What each column is; an empty name: there is none."""

    path: str = ""
    text: str = ""
    label: str = ""
    split: str = ""
    box: tuple[str, ...] = ()
    """Four columns, in pixels."""
    is_corners: bool = False
    """Whether the box is given by two corners; otherwise by corner, width and height."""
    size: tuple[str, ...] = ()
    """Columns of the image's width and height."""
    between: str = ""
    """Stands between the classes of an item that has several."""

    @property
    def named(self) -> set[str]:
        """Columns with a meaning of their own; all others are attributes."""
        return {self.path, self.text, self.label, self.split, *self.box, *self.size} - {""}


def guess(names: Sequence[str], wanted: Columns) -> Columns | None:
    """The columns by their usual names, where ``wanted`` does not name them; ``None``: neither path nor text.

    Raises: Invalid: a column that is wanted is not there.
    """
    lower = {name.strip().lower(): name for name in reversed(names)}

    def first(given: str, known: Iterable[str]) -> str:
        if given:
            if given not in names:
                raise Invalid("column", f"one of {', '.join(names)}", given)
            return given
        return next((lower[one] for one in known if one in lower), "")

    box, is_corners = wanted.box, wanted.is_corners
    for one in box:
        first(one, ())
    if not box:
        for known, corners in [*((one, True) for one in XYXY), *((one, False) for one in XYWH)]:
            if all(one in lower for one in known):
                box, is_corners = tuple(lower[one] for one in known), corners
                break
    path = first(wanted.path, () if wanted.text else PATHS)
    text = first(wanted.text, () if path else TEXTS)
    if not path and not text:
        return None
    label = first(wanted.label, LABELS)
    size = tuple(lower[one] for one in ("width", "height") if one in lower and lower[one] not in box)
    return Columns(
        path=path,
        text=text,
        label=label,
        split=first(wanted.split, SPLIT_NAMES),
        box=box if path else (),
        is_corners=is_corners,
        size=size if path and len(size) == 2 and box else (),
        between=wanted.between or (BETWEEN if label.strip().lower() == "labels" else ""),
    )


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands in the place of a class whose number no name has."""

    number: Any
    expected: str


@dataclass(slots=True)
class Row:
    """One row on its way to a record."""

    number: int
    """Position in its file, from 1, the header not counted."""
    raw: str
    """As it stands in the file, line end included."""
    cells: Cells


@dataclass(slots=True)
class Reading:
    """Rows of one file, put together to records: rows of one path are one image."""

    format: str
    file: str
    root: Path
    columns: Columns
    split: str
    problems: list[Problem]
    found: dict[str, Record] = field(default_factory=dict)
    _raws: dict[str, list[list[Any]]] = field(default_factory=dict)
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        """Add a row."""
        where = f"{self.file} row {row.number}"
        try:
            said = parse(row.cells, self.columns, where, self.problems)
        except Invalid as error:
            self.problems.append(problem(where, error))
            return
        name = self._name(said.name, row.number)
        if self.columns.path:
            place = locate(self.root, name)
            if isinstance(place, Problem):
                if name not in self._raws:
                    self.problems.append(replace(place, where=where))
                self._raws.setdefault(name, [])
                return
            said = replace(said, path=place)
            if any(shape.kind == "box" for shape in said.shapes):
                if place not in self._sizes:
                    self._sizes[place] = measure(place)
                self.problems += beyond(said.shapes, self._sizes[place], where)
        split = said.split or self.split
        old = self.found.get(name)
        kept = self._raws.setdefault(name, [])
        kept.append([row.number, row.raw])
        if old is None:
            extra = {self.format: {"file": self.file, "rows": kept, "split": said.split}}
            self.found[name] = replace(said, name=name, split=split, extra=extra)
            return
        merged = {**old.attributes, **said.attributes}
        if {**said.attributes, **old.attributes} != merged:
            message = f"{where} must say of {name} what the rows before it say; got other attributes"
            hint = "the row's attributes are kept over those before"
            self.problems.append(Problem(where=where, error="conflict", message=message, hint=hint))
        labeled = old.is_labeled or said.is_labeled
        self.found[name] = replace(old, shapes=(*old.shapes, *said.shapes), attributes=merged, is_labeled=labeled)

    def _name(self, name: str, number: int) -> str:
        return name if self.columns.path else f"{self.file}#{number}"


def parse(cells: Cells, columns: Columns, where: str, problems: list[Problem]) -> Record:
    """One row as a record without place; ``Invalid`` where its box is none.

    Of the column ``objects`` only the bad ones are left out, and told in ``problems``.
    """
    label = cells.get(columns.label) if columns.label else None
    classes = _classes(label, columns.between)
    rest = {name: value for name, value in cells.items() if name not in columns.named and value is not None}
    split = str(cells.get(columns.split) or "").strip() if columns.split else ""
    box = _box(cells, columns, classes, rest, where) if columns.box else None
    if box is not None:
        shapes: tuple[Shape, ...] = (box,)
        rest = {}
    else:
        shapes = tuple(Shape(label=name, source="import") for name in dict.fromkeys(classes))
    shapes += _objects(rest.pop("objects", None), where, problems) if isinstance(rest.get("objects"), Mapping) else ()
    text = cells.get(columns.text) if columns.text else None
    width, height = (_whole(cells.get(name)) for name in columns.size) if columns.size else (0, 0)
    known = split.lower() in SPLITS
    if split and not known:
        rest[columns.split] = split
    json.loads(dump(rest, where))
    return Record(
        name=_normal(str(cells.get(columns.path) or "")) if columns.path else "",
        text=str(text or "") if columns.text else None,
        width=width,
        height=height,
        split=SPLITS[split.lower()] if known else "",
        attributes=rest,
        shapes=shapes,
        is_labeled=bool(shapes) or bool(columns.box and columns.label == ""),
    )


def beyond(shapes: Iterable[Shape], size: tuple[int, int], where: str) -> list[Problem]:
    """One problem for each shape that leaves an image of this size (width, height)."""
    found = []
    for shape in shapes:
        if is_outside(shape, *size):
            error = Invalid(
                f"box of {where}", f"inside {size[0]} x {size[1]}", list(shape.bounds or ()), "kept as it is"
            )
            found.append(problem(where, error))
    return found


def locate(root: Path, name: str) -> str | Problem:
    """Where the media ``name`` lies below ``root``, or why it is not there."""
    try:
        path = inside(root, name)
        if path.is_file():
            return str(path)
    except (Invalid, OSError) as error:
        message = error.message if isinstance(error, Invalid) else str(error)
        return Problem(where=name, error="invalid", message=message)
    message = f"image {name} must be below {root}; got no such file"
    return Problem(where=name, error="not_found", message=message, hint="put the file there and add it again")


def same(one: Shape, other: Shape) -> bool:
    """Whether two shapes say the same, whoever says it."""
    return (one.label, one.kind, one.points, one.mask, one.attributes) == (
        other.label,
        other.kind,
        other.points,
        other.mask,
        other.attributes,
    )


def _classes(label: Any, between: str) -> list[str]:
    if label is None or label == "":
        return []
    if isinstance(label, list):
        return [str(one).strip() for one in label if str(one).strip()]
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return []
    names = str(label).split(between) if between else [str(label)]
    return [name.strip() for name in names if name.strip()]


def _box(cells: Cells, columns: Columns, classes: list[str], rest: dict[str, Any], where: str) -> Shape | None:
    given = [cells.get(name) for name in columns.box]
    if all(value is None or value == "" for value in given):
        return None
    numbers = [number(value, f"{name} of {where}") for name, value in zip(columns.box, given, strict=True)]
    x, y, a, b = numbers
    width, height = (a - x, b - y) if columns.is_corners else (a, b)
    if width < 0 or height < 0:
        raise Invalid(f"size of the box in {where}", "0 or more", f"{width:g} x {height:g}")
    if not classes:
        raise Invalid(f"class of the box in {where}", "given", "nothing")
    return Shape(
        label=classes[0], source="import", kind="box", points=((x, y, width, height),), attributes=dump(rest, where)
    )


def _objects(objects: Any, where: str, problems: list[Problem]) -> tuple[Shape, ...]:
    """The column that data sets on the Hub have: ``{"bbox": [[x, y, width, height], ...], "category": [...]}``."""
    boxes = objects.get("bbox") or objects.get("boxes") or []
    key = next((one for one in ("category", "categories", "label", "labels", "class") if one in objects), "")
    names = objects.get(key) or []
    if not isinstance(boxes, list) or not isinstance(names, list) or len(boxes) != len(names):
        raise Invalid(f"objects of {where}", "as many boxes as categories", f"{len(boxes)} and {len(names)}")
    rest = {k: v for k, v in objects.items() if k not in ("bbox", "boxes", key)}
    found = []
    for i, (box, name) in enumerate(zip(boxes, names, strict=True)):
        try:
            if isinstance(name, Unknown):
                raise Invalid(f"class of bbox {i} of {where}", name.expected, name.number)
            if not isinstance(box, list) or len(box) != 4:
                raise Invalid(f"bbox {i} of {where}", "four numbers", box)
            numbers = tuple(number(value, f"bbox {i} of {where}") for value in box)
            if min(numbers[2:]) < 0:
                raise Invalid(f"size of bbox {i} of {where}", "0 or more", numbers)
            facts = {
                k: v[i] for k, v in rest.items() if isinstance(v, list) and len(v) == len(boxes) and v[i] is not None
            }
            found.append(
                Shape(label=str(name), source="import", kind="box", points=(numbers,), attributes=dump(facts, where))
            )
        except LoopworksError as error:
            problems.append(problem(where, error))
    return tuple(found)


def number(value: Any, where: str) -> float:
    """A finite number from a cell; ``Invalid`` otherwise."""
    try:
        found = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise Invalid(where, "a number", value)
    return found


def _whole(value: Any) -> int:
    try:
        return max(0, int(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def _normal(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/").strip())) if name.strip() else ""
