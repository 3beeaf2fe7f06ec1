"""``format.jsonl``: our own lossless form, one line per item, and the JSON lines of others by their column names."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Problem, Shape, dump
from loopworks.data.files import problem
from loopworks.data.formats import inputs, rows
from loopworks.data.formats.columns import Cells, Columns, Row, beyond, guess, locate
from loopworks.data.formats.contract import Content, Put, Record

MARK = "loopworks"
VERSION = 1
FILE = "data.jsonl"


@plugins.add("format.jsonl")
@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLines:
    """JSON lines: everything Loopworks knows of each item, or the columns of other tools."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    name: ClassVar[str] = "jsonl"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")
    is_signed: ClassVar[bool] = True

    form: Literal["auto", "full", "plain"] = "auto"
    """How to write. full: all that is known, a header line first; plain: one object of columns per item or box; auto:
    as the data came in, else full."""
    path: str = ""
    """Column with the path of the image, of the plain form."""
    text: str = ""
    """Column with the text, of the plain form."""
    label: str = ""
    """Column with the class, of the plain form."""
    split: str = ""
    """Column with train, val or test, of the plain form."""

    def detect(self, root: Path) -> float:
        """0.98 for our own form; 0.7 where lines name a path or text and a label, 0.4 where only a path or text."""
        best = 0.0
        for path in rows.files_of(root, self.suffixes)[:8]:
            first = _object(inputs.peek(path).split("\n", 1)[0])
            if first is None:
                continue
            if MARK in first:
                return 0.98
            if (columns := guess(list(first), Columns())) is not None:
                best = max(best, 0.7 if columns.label or "objects" in first else 0.4)
        return best

    def read(self, root: Path) -> Content:
        """Our own file, or all files of lines directly in ``root``."""
        for path in rows.files_of(root, self.suffixes):
            first = _object(inputs.peek(path).split("\n", 1)[0])
            if first is not None and MARK in first:
                return _read(path)
        wanted = Columns(path=self.path, text=self.text, label=self.label, split=self.split)
        return rows.read(self, root, wanted)

    def write(self, content: Content, folder: Path, put: Put) -> Iterator[Problem]:
        """``data.jsonl`` with images beside it under their names; or the plain files that the rows came from."""
        kept = content.meta.get(self.name)
        is_plain = isinstance(kept, Mapping) and "files" in kept
        if self.form == "plain" or (self.form == "auto" and is_plain):
            yield from rows.write(self, content, folder, put, {"newline": "\n", "tail": ""})
        else:
            yield from _write(content, folder, put)

    def open(self, text: str, file: str, problems: list[Problem]) -> rows.Sheet:
        """Take a file apart."""
        style: dict[str, Any] = {"newline": "\r\n" if "\r\n" in text[:100_000] else "\n", "tail": ""}
        found = self._rows(text, file, style, problems)
        ahead = list(islice(found, 100))
        names = dict.fromkeys(name for row in ahead for name in row.cells)

        def every() -> Iterator[Row]:
            yield from ahead
            yield from found

        return rows.Sheet(list(names), every(), style)

    def _rows(self, text: str, file: str, style: dict[str, Any], problems: list[Problem]) -> Iterator[Row]:
        before = ""
        for number, line in enumerate(text.splitlines(keepends=True) if "\n" in text else [text], 1):
            if not line.strip():
                before += line
                continue
            cells = _object(line)
            if cells is None:
                where = f"{file} line {number}"
                message = f"{where} must be a JSON object; got {line.strip()[:60]!r}"
                problems.append(Problem(where=where, error="invalid", message=message))
                continue
            yield Row(number, before + line, cells)
            before = ""
        style["tail"] = before

    def head(self, style: Mapping[str, Any], names: Sequence[str]) -> str:
        """Nothing stands before the first line."""
        return ""

    def cells(self, raw: str, style: Mapping[str, Any]) -> Cells | None:
        """A line as it was read."""
        return _object(raw)

    def line(self, cells: Cells, style: Mapping[str, Any], names: Sequence[str]) -> str:
        """A new line; cells that say nothing are left out."""
        said = {name: value for name, value in cells.items() if value not in ("", None)}
        return json.dumps(said, ensure_ascii=False) + str(style["newline"])


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _write(content: Content, folder: Path, put: Put) -> Iterator[Problem]:
    schema = content.schema
    head: dict[str, Any] = {MARK: VERSION, **schema.to_json()}
    meta = {name: value for name, value in content.meta.items() if name != JsonLines.name}
    if meta:
        head["meta"] = meta
    records = sorted(content.records, key=lambda record: _place(record))
    with (folder / FILE).open("w", encoding="utf-8", newline="\n") as out:
        out.write(_line(head))
        for record in records:
            extra = {name: value for name, value in record.extra.items() if name != JsonLines.name}
            said: dict[str, Any] = {"name": record.name}
            if record.text is not None:
                said["text"] = record.text
            else:
                try:
                    put(record, inputs.clean_name(record.name))
                except Invalid as error:
                    yield problem(record.name, error)
            for key, value in (("width", record.width), ("height", record.height), ("split", record.split)):
                if value:
                    said[key] = value
            if record.tags:
                said["tags"] = list(record.tags)
            if record.attributes:
                said["attributes"] = dict(record.attributes)
            if record.is_labeled:
                said["labels"] = [shape.to_json() for shape in record.shapes]
            if extra:
                said["extra"] = extra
            out.write(_line(said))


def _place(record: Record) -> tuple[float, str]:
    kept = record.extra.get(JsonLines.name)
    number = kept.get("n") if isinstance(kept, Mapping) else None
    return (float(number), "") if isinstance(number, int) else (float("inf"), record.name)


def _line(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _read(path: Path) -> Content:
    text = inputs.read_text(path, path.name).text
    first, _, rest = text.partition("\n")
    body = json.loads(first)
    if body[MARK] != VERSION:
        raise Invalid(f"{MARK} of {path.name}", str(VERSION), body[MARK], "it was written by another Loopworks")
    schema = LabelSchema.from_json(body, f"{path.name} line 1")
    meta = body.get("meta", {})
    dump(meta, f"meta of {path.name}")
    problems: list[Problem] = []
    return Content(schema=schema, records=list(_records(path, rest, schema, problems)), meta=meta, problems=problems)


def _records(path: Path, text: str, schema: LabelSchema, problems: list[Problem]) -> Iterator[Record]:
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 2):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            record = _record(line, where, path.parent, schema, problems)
            if record.name in seen:
                raise Invalid(f"name in {where}", "used once", record.name)
        except LoopworksError as error:
            problems.append(problem(where, error))
            continue
        seen.add(record.name)
        yield replace(record, extra={**record.extra, JsonLines.name: {"n": number}})


def _record(line: str, where: str, root: Path, schema: LabelSchema, problems: list[Problem]) -> Record:
    body = _object(line)
    if body is None:
        raise Invalid(where, "a JSON object", line[:60])
    name, text = body.get("name"), body.get("text")
    if not isinstance(name, str) or not name or not isinstance(text, str | None):
        raise Invalid(f"name and text of {where}", "text", [name, text])
    path = ""
    if text is None:
        place = locate(root, name)
        if isinstance(place, Problem):
            raise Invalid(f"name in {where}", "a file beside it", place.message)
        path = place
    labels, tags = body.get("labels"), body.get("tags", [])
    if not isinstance(labels, list | None) or not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
        raise Invalid(f"labels and tags of {where}", "lists", [type(labels).__name__, type(tags).__name__])
    split = body.get("split", "")
    if split not in ("", "train", "val", "test"):
        raise Invalid(f"split of {where}", "train, val or test", split)
    sizes = [body.get(key, 0) for key in ("width", "height")]
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise Invalid(f"width and height of {where}", "whole numbers", sizes)
    for key in ("attributes", "extra"):
        dump(body.get(key, {}), f"{key} of {where}")
    shapes = _shapes(labels or [], where, schema, problems)
    if path and any(shape.kind not in ("class", "caption", "value") for shape in shapes):
        size = (sizes[0], sizes[1]) if all(sizes) else inputs.measure(path)
        problems += beyond(shapes, size, where)
    return Record(
        name=name,
        path=path,
        text=text,
        width=sizes[0],
        height=sizes[1],
        split=split,
        tags=tuple(tags),
        attributes=body.get("attributes", {}),
        shapes=shapes,
        is_labeled=labels is not None and (bool(shapes) or not labels),
        extra=body.get("extra", {}),
    )


def _shapes(labels: Sequence[Any], where: str, schema: LabelSchema, problems: list[Problem]) -> tuple[Shape, ...]:
    """The shapes of a line; each that is none is one problem, and the others are kept."""
    found = []
    for at, body in enumerate(labels):
        place = f"label {at} of {where}"
        try:
            shape = Shape.from_json(body, place)
            if shape.label and shape.label not in schema.classes:
                raise Invalid(f"class of {place}", "one of the first line of the file", shape.label)
        except LoopworksError as error:
            problems.append(problem(where, error))
            continue
        found.append(shape)
    return tuple(found)
