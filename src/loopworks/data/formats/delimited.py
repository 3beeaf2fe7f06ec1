"""``format.csv``: rows with a path or a text, a label, a split, a box; every other column is an attribute."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.data.formats import inputs, rows
from loopworks.data.formats.columns import Cells, Columns, Row, guess
from loopworks.data.formats.contract import Content, Put

_DELIMITERS = ",;\t|"


@plugins.add("format.csv")
@dataclass(frozen=True, slots=True, kw_only=True)
class Csv:
    """CSV and TSV: one row per item, or one per box."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    name: ClassVar[str] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")

    path: str = ""
    """Column with the path of the image, relative to the file; by default file_name, path, image and the like."""
    text: str = ""
    """Column with the text, for text items; by default text, sentence and the like."""
    label: str = ""
    """Column with the class; by default label, category, class and the like."""
    split: str = ""
    """Column with train, val or test; by default split or subset; else the file's name says it."""
    box: tuple[str, ...] = ()
    """Four columns with a box in pixels; by default x, y, width, height or xmin, ymin, xmax, ymax."""
    corners: bool = False
    """Whether the box columns given are two corners, not corner, width and height."""
    between: str = ""
    """What stands between several classes in one cell; by default | in a column called labels."""
    delimiter: str = ""
    """What stands between two cells; by default the one of comma, semicolon, tab and bar that the header has most."""

    def detect(self, root: Path) -> float:
        """0.7 where a header names a path or text and a label, 0.4 where only a path or text."""
        best = 0.0
        for path in rows.files_of(root, self.suffixes)[:8]:
            head = inputs.peek(path).split("\n", 1)[0]
            if (columns := guess(self._cells(head.strip("\r"), self._between(head)), Columns())) is not None:
                best = max(best, 0.7 if columns.label else 0.4)
        return best

    def read(self, root: Path) -> Content:
        """All CSV files directly in ``root``, or the file."""
        return rows.read(self, root, self._wanted())

    def write(self, content: Content, folder: Path, put: Put) -> Iterator[Problem]:
        """The files that the rows came from, or ``data.csv``; images beside them under their names."""
        delimiter = self.delimiter or ","
        yield from rows.write(self, content, folder, put, {"delimiter": delimiter, "newline": "\n", "tail": ""})

    def _wanted(self) -> Columns:
        if self.box and len(self.box) != 4:
            raise Invalid("format.csv.box", "four columns", ", ".join(self.box))
        if len(self.delimiter) > 1:
            raise Invalid("format.csv.delimiter", "one character", self.delimiter)
        return Columns(
            path=self.path,
            text=self.text,
            label=self.label,
            split=self.split,
            box=self.box,
            is_corners=self.corners,
            between=self.between,
        )

    def open(self, text: str, file: str, problems: list[Problem]) -> rows.Sheet:
        """Take a file apart."""
        head, _, _ = text.partition("\n")
        delimiter = self._between(head)
        read = _Raw(text, delimiter)
        raw, names = next(read, ("", None))
        if not names:
            raise Invalid(file, "a CSV file with a header", read.error or "an empty file")
        style = {
            "delimiter": delimiter,
            "newline": "\r\n" if head.endswith("\r") else "\n",
            "head": raw,
            "tail": "",
        }
        if len(set(names)) != len(names):
            raise Invalid(f"header of {file}", "with each column once", ", ".join(names))
        return rows.Sheet(list(names), self._rows(read, names, file, style, problems), style)

    def _rows(
        self, read: "_Raw", names: Sequence[str], file: str, style: dict[str, Any], problems: list[Problem]
    ) -> Iterator[Row]:
        number = 0
        for raw, cells in read:
            if cells is None:
                where = f"{file} line {read.line}"
                message = f"{where} must be a row of CSV; got {read.error}"
                problems.append(Problem(where=where, error="invalid", message=message))
                return
            if not cells:
                style["tail"] = raw
                continue
            number += 1
            if len(cells) != len(names):
                where = f"{file} row {number} (line {read.line})"
                message = f"{where} must have {len(names)} cells; got {len(cells)}"
                problems.append(Problem(where=where, error="invalid", message=message))
                continue
            yield Row(number, raw, dict(zip(names, cells, strict=True)))

    def head(self, style: Mapping[str, Any], names: Sequence[str]) -> str:
        """The header as it was, or a new one."""
        found = style.get("head")
        return str(found) if found is not None else self.line(dict(zip(names, names, strict=True)), style, names)

    def cells(self, raw: str, style: Mapping[str, Any]) -> Cells | None:
        """A row as it was read."""
        names = self._cells(str(style.get("head", "")).strip("\r\n"), style["delimiter"])
        cells = next(iter([one for _, one in _Raw(raw, style["delimiter"]) if one]), None)
        return dict(zip(names, cells, strict=True)) if cells and len(cells) == len(names) else None

    def line(self, cells: Cells, style: Mapping[str, Any], names: Sequence[str]) -> str:
        """A new row: quoted where it must be."""
        delimiter = style["delimiter"]
        quoted = (_quoted(_spelled(cells.get(name, "")), delimiter, len(names) == 1) for name in names)
        return str(delimiter).join(quoted) + str(style["newline"])

    def _between(self, head: str) -> str:
        return self.delimiter or max(_DELIMITERS, key=head.count)

    def _cells(self, line: str, delimiter: str) -> list[str]:
        found = next(_Raw(line, delimiter), None)
        return list(found[1]) if found and found[1] else []


class _Raw:
    """Rows with the text that they stand in: Python's reader gives cells alone."""

    def __init__(self, text: str, delimiter: str) -> None:
        self._lines = io.StringIO(text, newline="")
        self._taken: list[str] = []
        self._reader = csv.reader(self._take(), delimiter=delimiter)
        self.line = 0
        self.error = ""

    def _take(self) -> Iterator[str]:
        for line in self._lines:
            self._taken.append(line)
            yield line

    def __iter__(self) -> "_Raw":
        return self

    def __next__(self) -> tuple[str, list[str] | None]:
        """Raw text and cells; no cells: nothing but line ends; ``None``: what follows is no CSV."""
        if self.error:
            raise StopIteration
        try:
            cells = next(self._reader)
            while not cells:
                cells = next(self._reader)
        except StopIteration:
            if not self._taken:
                raise
            cells = []
        except csv.Error as error:
            self.error = str(error)
            self.line = self._reader.line_num
            return "", None
        self.line = self._reader.line_num
        raw = "".join(self._taken)
        self._taken.clear()
        return raw, cells


def _quoted(cell: str, delimiter: str, is_alone: bool) -> str:
    """Python's own writer leaves a lone carriage return bare, which no reader takes for a part of the cell."""
    if any(mark in cell for mark in (delimiter, '"', "\r", "\n")) or (is_alone and not cell):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
