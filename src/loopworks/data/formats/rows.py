"""Files of rows (CSV, JSONL) as records and back: a row that did not change is written exactly as it was."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data.files import problem
from loopworks.data.formats import inputs
from loopworks.data.formats.columns import Cells, Columns, Reading, Row, guess, parse, same
from loopworks.data.formats.contract import Content, Put, Record

NEW = "data"
"""Stem of the file that is written where the data came from no file of this format."""


@dataclass(slots=True)
class Sheet:
    """A file taken apart."""

    names: list[str]
    rows: Iterator[Row]
    style: dict[str, Any]
    """What the codec needs to write the file again, as plain JSON."""


class Codec(Protocol):
    """How rows stand in a file."""

    @property
    def name(self) -> str:
        """Of the format, without ``format.``."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of its files; the first is written."""

    def open(self, text: str, file: str, problems: list[Problem]) -> Sheet:
        """Take a file's text apart; what is wrong with single rows goes to ``problems``."""

    def head(self, style: Mapping[str, Any], names: Sequence[str]) -> str:
        """What stands before the first row."""

    def cells(self, raw: str, style: Mapping[str, Any]) -> Cells | None:
        """A row as it was read; ``None`` where it is none."""

    def line(self, cells: Cells, style: Mapping[str, Any], names: Sequence[str]) -> str:
        """A new row."""


def files_of(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """``root`` itself, or the files directly in it, by name."""
    if root.is_file():
        return [root] if root.suffix.lower() in suffixes else []
    if not root.is_dir():
        return []
    found = (path for path in root.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def read(codec: Codec, root: Path, wanted: Columns) -> Content:
    """All files as one data set.

    Raises: Invalid: no file has rows with a path or a text.
    """
    problems: list[Problem] = []
    meta: dict[str, Any] = {}
    records: dict[str, Record] = {}
    base = root.parent if root.is_file() else root
    for path in files_of(root, codec.suffixes):
        try:
            found, about = _read_file(codec, path, base, wanted, problems)
        except Invalid as error:
            problems.append(problem(path.name, error))
            continue
        meta[path.name] = about
        for name, record in found.items():
            if name in records:
                message = f"{name} must be in one file; got it in {path.name} too"
                problems.append(Problem(where=path.name, error="conflict", message=message, hint="the first is kept"))
            else:
                records[name] = record
    if not meta:
        first = f"; {problems[0].message}" if problems else ""
        what = f"a {codec.suffixes[0]} file with rows of images or texts"
        hint = "name the columns with the options path, text and label"
        raise Invalid(str(root), what, f"none that can be read{first}", hint)
    classes = dict.fromkeys(shape.label for record in records.values() for shape in record.shapes)
    try:
        schema = LabelSchema(classes=tuple(classes))
    except Invalid as error:
        raise Invalid(f"classes of {root.name}", "good names", error.message, error.hint) from None
    return Content(schema=schema, records=list(records.values()), meta={codec.name: {"files": meta}}, problems=problems)


def _read_file(
    codec: Codec, path: Path, base: Path, wanted: Columns, problems: list[Problem]
) -> tuple[dict[str, Record], dict[str, Any]]:
    text = inputs.read_text(path, path.name)
    sheet = codec.open(text.text, path.name, problems)
    columns = guess(sheet.names, wanted)
    if columns is None:
        shown = ", ".join(sheet.names)[:80] or "none"
        raise Invalid(f"columns of {path.name}", "with a path (file_name, path, image ...) or a text", shown)
    split = next((found for word in path.stem.replace("_", "-").split("-") if (found := inputs.split_of(word))), "")
    reading = Reading(codec.name, path.name, base, columns, split, problems)
    for row in sheet.rows:
        reading.take(row)
    about = {
        "names": sheet.names,
        "style": sheet.style,
        "columns": asdict(columns),
        "split": split,
        "codec": text.codec,
        "is_marked": text.is_marked,
    }
    return reading.found, about


def write(codec: Codec, content: Content, folder: Path, put: Put, style: Mapping[str, Any]) -> Iterator[Problem]:
    """Write the files that the data came from, and ``data`` for what came from elsewhere."""
    about = content.meta.get(codec.name)
    known: Mapping[str, Any] = about.get("files", {}) if isinstance(about, Mapping) else {}
    records = list(content.records)
    grouped: dict[str, list[Record]] = {}
    for record in records:
        kept = record.extra.get(codec.name)
        file = str(kept.get("file")) if isinstance(kept, Mapping) else ""
        grouped.setdefault(file if file in known else "", []).append(record)
        if record.text is None:
            put(record, inputs.clean_name(record.name))
    fresh = grouped.pop("", [])
    if len(known) == 1:
        (only,) = known
        if _takes(Columns(**known[only]["columns"]), fresh):
            grouped.setdefault(only, []).extend(fresh)
            fresh = []
    if fresh or not grouped:
        name = NEW + codec.suffixes[0]
        while name in grouped:
            name = f"{Path(name).stem}-new{codec.suffixes[0]}"
        known = {**known, name: _fresh(fresh, style)}
        grouped[name] = fresh
    lost: dict[str, int] = {}
    for file, members in grouped.items():
        sheet = _Sheet(codec, file, known[file], lost)
        (folder / file).write_bytes(sheet.bytes(members))
    for what, count in lost.items():
        hint = "export as jsonl keeps it"
        message = f"{codec.name} must have a column for each thing; got {count} times {what}"
        yield Problem(where=codec.name, error="invalid", message=message, hint=hint)


def _takes(columns: Columns, records: Iterable[Record]) -> bool:
    """Whether new records have a place in a file with these columns."""
    return all(bool(columns.text) == (record.text is not None) for record in records) and all(
        bool(columns.box) or shape.kind == "class" for record in records for shape in record.shapes
    )


def _fresh(records: Sequence[Record], style: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a file that is written for the first time."""
    has_text = any(record.text is not None for record in records)
    has_box = any(shape.bounds is not None for record in records for shape in record.shapes)
    is_multi = any(len(record.shapes) > 1 for record in records) and not has_box
    columns = Columns(
        path="" if has_text else "file_name",
        text="text" if has_text else "",
        label="labels" if is_multi else "label",
        split="split" if any(record.split for record in records) else "",
        box=("x", "y", "width", "height") if has_box else (),
        between="|" if is_multi else "",
    )
    facts: dict[str, None] = {}
    for record in records:
        if not has_box:
            facts |= dict.fromkeys(sorted(record.attributes))
        for shape in record.shapes if has_box else ():
            facts |= dict.fromkeys(sorted(shape.facts))
    first = columns.text or columns.path
    named = [name for name in (first, columns.label, columns.split, *columns.box) if name]
    return {
        "names": [*named, *(name for name in facts if name not in named)],
        "style": dict(style),
        "columns": asdict(columns),
        "split": "",
        "codec": "utf-8",
        "is_marked": False,
    }


@dataclass(slots=True)
class _Sheet:
    """One file on its way out."""

    codec: Codec
    file: str
    about: Mapping[str, Any]
    lost: dict[str, int]
    columns: Columns = field(init=False)
    lines: list[tuple[float, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = dict(self.about["columns"])
        self.columns = Columns(**{**found, "box": tuple(found["box"]), "size": tuple(found["size"])})

    def bytes(self, records: Iterable[Record]) -> bytes:
        for record in records:
            self._add(record)
        style, names = self.about["style"], self.about["names"]
        self.lines.sort(key=lambda line: line[:2])
        last = len(self.lines) - 1
        newline = str(style.get("newline", "\n"))
        body = []
        for place, (_, _, raw) in enumerate(self.lines):
            body.append(raw if place == last or raw.endswith(("\n", "\r")) else raw + newline)
        text = self.codec.head(style, names) + "".join(body) + str(style.get("tail", ""))
        return inputs.encode(text, self.about["codec"], self.about["is_marked"])

    def _add(self, record: Record) -> None:
        kept = record.extra.get(self.codec.name)
        raws = list(kept["rows"]) if isinstance(kept, Mapping) and kept.get("file") == self.file else []
        waiting = list(record.shapes)
        at = float(raws[-1][0]) if raws else float("inf")
        old: Cells = {}
        for number, raw in raws:
            cells = self.codec.cells(raw, self.about["style"])
            if cells is None:
                continue
            old = old or cells
            if self._holds(cells, record, waiting):
                self.lines.append((float(number), len(self.lines), raw))
        if waiting or not raws or not any(line[0] == at for line in self.lines):
            for cells in self._rows(record, waiting, old):
                line = self.codec.line(cells, self.about["style"], self.about["names"])
                self.lines.append((at, len(self.lines), line))

    def _holds(self, cells: Cells, record: Record, waiting: list[Shape]) -> bool:
        """Whether a row still says what holds; the shapes that it says are taken off ``waiting``."""
        try:
            said = parse(cells, self.columns, self.file, [])
        except Invalid:
            return False
        if said.text is not None and said.text != record.text:
            return False
        if self.columns.split and said.split != record.split and not (said.split == "" and self.about["split"]):
            return False
        if any(record.attributes.get(name) != value for name, value in said.attributes.items()):
            return False
        places = []
        for shape in said.shapes:
            place = next((i for i, one in enumerate(waiting) if i not in places and same(one, shape)), None)
            if place is None:
                return False
            places.append(place)
        if not said.shapes and waiting:
            return False
        if not self.columns.box and len(places) != len(waiting) and len(waiting) != len(record.shapes):
            return False
        for place in sorted(places, reverse=True):
            del waiting[place]
        return True

    def _rows(self, record: Record, shapes: Sequence[Shape], old: Cells) -> Iterator[dict[str, Any]]:
        columns, names = self.columns, self.about["names"]
        base: dict[str, Any] = dict(old)
        if columns.text:
            base[columns.text] = record.text or ""
        if columns.path:
            base[columns.path] = record.name
        if columns.split:
            base[columns.split] = record.split
        elif record.split and record.split != self.about["split"]:
            self._lose("a split")
        if record.tags:
            self._lose("tags")
        if not columns.box:
            base |= {name: value for name, value in record.attributes.items() if name in names}
            for shape in shapes:
                if shape.kind != "class":
                    self._lose(f"the place of a {shape.kind}")
            classes = [shape.label for shape in shapes]
            if columns.label:
                base[columns.label] = columns.between.join(classes) if columns.between else "".join(classes[:1])
            if len(classes) > 1 and not columns.between:
                self._lose("a second class")
            yield base
            return
        if not shapes:
            yield base | dict.fromkeys(columns.box, "") | ({columns.label: ""} if columns.label else {})
        for shape in shapes:
            yield base | self._box(shape)

    def _box(self, shape: Shape) -> dict[str, Any]:
        facts = {name: value for name, value in shape.facts.items() if name in self.about["names"]}
        bounds = shape.bounds
        if shape.kind != "box":
            self._lose(f"more than the box around a {shape.kind}" if bounds else f"a {shape.kind}")
        label = {self.columns.label: shape.label} if self.columns.label else {}
        if bounds is None:
            return facts | label | dict.fromkeys(self.columns.box, "")
        x, y, width, height = bounds
        numbers = (x, y, x + width, y + height) if self.columns.is_corners else bounds
        spelled = [int(one) if float(one).is_integer() else one for one in numbers]
        return facts | label | dict(zip(self.columns.box, spelled, strict=True))

    def _lose(self, what: str) -> None:
        self.lost[what] = self.lost.get(what, 0) + 1
