"""Rows from files, with the standard library alone: CSV and TSV with a header line, JSON, and JSON lines.

Cells of CSV and TSV stay text; the model's own rule reads numbers, dates and missing values from them. Files of other
dialects are for the server, which knows more of them.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopworks.core.content import read_file
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import Problem
from loopworks.infer import items, wire

Rows = tuple[list[dict[str, Any]], list[Problem]]
KINDS = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/x-ndjson": ".jsonl",
    "application/json": ".json",
}
"""Content type -> ending of a file of that kind."""


def read(path: Path) -> Rows:
    """The rows of a file, column -> cell, and what of it cannot be read.

    Raises: NotFound, Invalid: no file of rows, or one without a row that can be read.
    """
    return parse(read_file(path), path.suffix.lower(), str(path))


def parse(data: bytes, ending: str, name: str = "rows") -> Rows:
    """The rows in a file's content, which is of the kind that ``ending`` says; as ``read``."""
    if ending not in _READERS:
        raise Invalid(name, f"a file of rows ({', '.join(_READERS)})", ending or "no ending")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(name, "text in UTF-8", str(error)) from None
    found, problems = _READERS[ending](text, name)
    if not found:
        raise Invalid(name, "a table with a row that can be read", problems[0].message if problems else "no row")
    return found, problems


def _csv(text: str, name: str) -> Rows:
    return _table(text, name, ",")


def _tsv(text: str, name: str) -> Rows:
    return _table(text, name, "\t")


def _table(text: str, name: str, delimiter: str) -> Rows:
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for cells in lines:
            if not cells:
                continue  # an empty line
            if header is None:
                header = cells
                if len(set(header)) != len(header) or not all(header):
                    raise Invalid(f"header of {name}", "one different name per column", ", ".join(header))
            elif len(cells) == len(header):
                found.append(dict(zip(header, cells, strict=True)))
            else:
                where = f"{name} line {lines.line_num}"
                problems.append(items.problem(Invalid(where, f"{len(header)} cells, as the header", len(cells)), where))
    except csv.Error as error:
        where = f"{name} line {lines.line_num}"
        problems.append(items.problem(Invalid(where, "a line of cells", str(error)), where))
    return found, problems


def _json(text: str, name: str) -> Rows:
    told = _value(text, name)
    listed = told if isinstance(told, list) else [told]
    if not all(isinstance(row, dict) for row in listed):
        raise Invalid(name, "an object (column -> value) or a list of them", type(told).__name__)
    return listed, []


def _lines(text: str, name: str) -> Rows:
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for place, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{name} line {place}"
        try:
            row = _value(line, where)
            if not isinstance(row, dict):
                raise Invalid(where, "an object (column -> value)", type(row).__name__)
            found.append(row)
        except LoopworksError as error:
            problems.append(items.problem(error, where))
    return found, problems


def _value(text: str, name: str) -> Any:
    try:
        return wire.loads(text.encode())
    except ValueError as error:
        raise Invalid(name, "JSON in UTF-8", str(error)) from None


_READERS: dict[str, Callable[[str, str], Rows]] = {".csv": _csv, ".tsv": _tsv, ".json": _json, ".jsonl": _lines}
