"""Rows to ask a tabular model about, from files: read as the data stage reads them, their cells still text."""

import json
import tempfile
from pathlib import Path
from typing import Any

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import Problem
from loopworks.data.tables.intake import Options, open_reader

KINDS = {"text/csv": ".csv", "text/tab-separated-values": ".tsv", "application/x-ndjson": ".jsonl"}
"""Content type -> ending of a file of that kind."""


def read(path: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The rows of a file, column -> cell (text; of a JSON file as it is), and what of it cannot be read.

    Raises: NotFound, Invalid: no file of rows, or one without a row that can be read.
    """
    if not path.is_file():
        raise NotFound("file", str(path), hint="check the path")
    if path.suffix.lower() == ".json":
        return _json(path), []
    reader = open_reader(path, Options(header=True))
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = list(reader.layout.problems)
    for block in reader.blocks():
        rows += block.cells.to_pylist()
        problems += block.problems
    if not rows:
        raise Invalid(str(path), "a table with a row that can be read", problems[0].message if problems else "no row")
    return rows, problems


def _json(path: Path) -> list[dict[str, Any]]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Invalid(str(path), "JSON in UTF-8", str(error)) from None
    listed = told if isinstance(told, list) else [told]
    if not listed or not all(isinstance(row, dict) for row in listed):
        raise Invalid(str(path), "an object (column -> value) or a list of them", type(told).__name__)
    return listed


def parse(data: bytes, kind: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The rows in the body of a request.

    Args:
        data: the body.
        kind: its content type, one of ``KINDS``.
    Raises: Invalid: no row that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="loopworks-rows-") as folder:
        path = Path(folder) / f"rows{KINDS[kind]}"
        path.write_bytes(data)
        try:
            return read(path)
        except Invalid as error:
            raise Invalid("rows", "a table with a header and rows", error.message.replace(f"{folder}/", "")) from None
