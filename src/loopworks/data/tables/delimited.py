"""CSV and its kin: cut into whole records without loading the file, parsed by Arrow, with each fault's line told.

A block is cut at the last line end outside quotes. Where quotes do not pair up as they should, the record is looked at
alone: what can be read as its writer meant it is kept, and a quote that is never closed costs its own line, not the
rest of the file.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.errors import Invalid
from loopworks.core.values import Problem
from loopworks.data.tables.block import Block, Layout
from loopworks.data.tables.text import TextFile

if TYPE_CHECKING:
    import pyarrow as pa

SIZE = 1 << 23
"""Bytes of a block."""
LONGEST = 1 << 20
"""Bytes that a record of several lines may have; a single line may have 64 times as much."""
_SLOW = 5_000  # records looked at one by one before the quick way is tried again
DELIMITERS = ",;\t|"
_NEWLINE = 10
_PLAIN_NUMBER = re.compile(r"^\s*[-+]?\d[\d.,]*\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How the cells are told apart."""

    delimiter: str = ","
    quote: str = '"'
    has_header: bool = True
    names: tuple[str, ...] = ()
    line_end: str = "\n"
    skip: int = 0
    """Bytes before the first row, header included."""
    line: int = 1
    """Line of the first row."""
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Part:
    """Rows cut from the front of a buffer."""

    table: Any
    used: int
    lines: int
    runs: list[tuple[int, int]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class DelimitedReader:
    """One delimited file."""

    def __init__(
        self, file: TextFile, *, delimiter: str = "", quote: str = "", header: bool | None = None, size: int = SIZE
    ) -> None:
        """Look at the beginning of ``file``.

        Args:
            file: the text.
            delimiter: one character; empty: find out.
            quote: one character; empty: find out.
            header: whether the first line names the columns; ``None``: find out.
            size: bytes of a block.
        Raises: Invalid: nothing in it, or no sensible first line.
        """
        self._file = file
        self._size = size
        self._where = str(file.path)
        self.dialect = _detect(file, delimiter, quote, header)
        self._delimiter = ord(self.dialect.delimiter)
        self._quote = ord(self.dialect.quote)

    @property
    def layout(self) -> Layout:
        """Columns and dialect."""
        told = self.dialect
        facts = {
            "delimiter": told.delimiter,
            "quote": told.quote,
            "line_end": told.line_end,
            "encoding": self._file.encoding,
            "bom": bool(self._file.bom),
            "has_header": told.has_header,
        }
        return Layout(names=told.names, dialect=facts, problems=told.problems)

    def blocks(self, position: int = 0, line: int = 0) -> Iterator[Block]:
        """The rows; positions are bytes of the text as UTF-8."""
        position, line = position or self.dialect.skip, line or self.dialect.line
        source = self._file.blocks(position, self._size)
        buffer, is_last = b"", False
        while True:
            if not is_last and len(buffer) < self._size:
                chunk = next(source, b"")
                is_last = not chunk
                buffer += chunk
            if not buffer:
                return
            part = self._next(buffer, line, is_last)
            if part is None:
                if is_last or len(buffer) > 64 * LONGEST:
                    raise Invalid(f"{self._where}:{line}", f"a line below {64 * LONGEST >> 20} MB", "a longer one")
                chunk = next(source, b"")
                is_last = not chunk
                buffer += chunk
                continue
            buffer = buffer[part.used :]
            position, line = position + part.used, line + part.lines
            yield Block(cells=part.table, position=position, line=line, runs=part.runs, problems=part.problems)

    def _next(self, buffer: bytes, line: int, is_last: bool) -> _Part | None:
        """The next rows; ``None`` where the buffer holds no whole record yet."""
        end = self._cut(buffer, is_last)
        if end:
            return self._quick(buffer[:end], line)
        return self._slow(buffer, line, is_last)

    def _cut(self, buffer: bytes, is_last: bool) -> int:
        """The end of the last record before which all quotes are as they should be; 0 where there is none."""
        if self._quote not in buffer:
            return len(buffer) if is_last else buffer.rfind(b"\n") + 1
        data = np.frombuffer(buffer, np.uint8)
        quotes = np.flatnonzero(data == self._quote)
        lines = np.flatnonzero(data == _NEWLINE)
        outside = lines[np.searchsorted(quotes, lines) % 2 == 0]
        opening, closing = quotes[0::2], quotes[1::2]
        before = data[np.maximum(opening - 1, 0)]
        is_open = (opening == 0) | np.isin(before, (self._delimiter, _NEWLINE, self._quote))
        after = data[np.minimum(closing + 1, len(data) - 1)]
        is_closed = (closing == len(data) - 1) | np.isin(after, (self._delimiter, _NEWLINE, 13, self._quote))
        limit = len(data)
        if not is_open.all():
            limit = int(opening[np.argmin(is_open)])
        if not is_closed.all():
            limit = min(limit, int(opening[np.argmin(is_closed)]))
        if limit == len(data) and is_last and len(quotes) % 2 == 0:
            return limit
        place = int(np.searchsorted(outside, limit))
        return int(outside[place - 1]) + 1 if place else 0

    def _quick(self, block: bytes, line: int) -> _Part:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        faults: list[tuple[int, int]] = []

        def skip(row: Any) -> str:
            faults.append((row.number, row.actual_columns))
            return "skip"

        told = self.dialect
        names = [f"{place}" for place in range(len(told.names))]  # our own: the file's may come twice
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(block),
                read_options=arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(block) + 16),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=told.delimiter,
                    quote_char=told.quote,
                    newlines_in_values=True,
                    ignore_empty_lines=True,
                    invalid_row_handler=skip,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:
            return self._slow(block, line, is_last=True, most=1 << 62) or _Part(_empty(told.names), len(block), 0)
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if table.num_rows + len(faults) == lines:
            places = [number - 1 for number, _ in faults]
        else:
            places = self._lines(block, [number for number, _ in faults])
        problems = [self._ragged(line + at, got) for at, (_, got) in zip(places, faults, strict=True)]
        runs = [(0, line)]
        for gone, (at, (number, _)) in enumerate(zip(places, faults, strict=True)):
            runs.append((number - 1 - gone, line + at + 1))
        return _Part(table.rename_columns(list(told.names)).combine_chunks(), len(block), lines, runs, problems)

    def _lines(self, block: bytes, numbers: list[int]) -> list[int]:
        """The line (from 0) of each record given by its number (from 1), where lines and records are not the same."""
        wanted = set(numbers)
        found: dict[int, int] = {}
        at = number = line = 0
        while at < len(block) and wanted - found.keys():
            end = self._record(block, at, True) or len(block)
            if block[at:end].strip(b"\r\n"):
                number += 1
                if number in wanted:
                    found[number] = line
            line += block.count(b"\n", at, end)
            at = end
        return [found.get(number, line) for number in numbers]

    def _slow(self, buffer: bytes, line: int, is_last: bool, most: int = _SLOW) -> _Part | None:
        """Record by record, each fault told by itself."""
        rows: list[list[str]] = []
        problems: list[Problem] = []
        runs: list[tuple[int, int]] = []
        at, now = 0, line
        for _ in range(most):
            if at >= len(buffer):
                break
            end = self._record(buffer, at, is_last)
            if end == 0 and not is_last and len(buffer) - at < LONGEST:
                break
            if end is None or end == 0:
                end = buffer.find(b"\n", at) + 1 or (len(buffer) if is_last else 0)
                if not end:
                    break
                problems.append(self._problem(now, "a quote that is closed again", "one that is not"))
            else:
                fault = self._take(buffer[at:end], now, rows)
                if fault is not None:
                    problems.append(fault)
                elif len(rows) and (not runs or runs[-1][1] + len(rows) - 1 - runs[-1][0] != now):
                    runs.append((len(rows) - 1, now))
            now += buffer.count(b"\n", at, end) + (not buffer.endswith(b"\n", at, end))
            at = end
        if not at:
            return None
        return _Part(_table(rows, self.dialect.names), at, now - line, runs, problems)

    def _take(self, record: bytes, line: int, rows: list[list[str]]) -> Problem | None:
        try:
            text = record.decode("utf-8")
        except UnicodeDecodeError as error:
            got = f"byte {record[error.start]:#04x} at byte {error.start + 1} of it"
            return self._problem(line, f"{self._file.encoding} text", got, "give the file's encoding")
        if not text.strip("\r\n"):
            return None
        csv.field_size_limit(64 * LONGEST)
        told = self.dialect
        row = next(csv.reader([text], delimiter=told.delimiter, quotechar=told.quote), [])
        if len(row) != len(told.names):
            return self._ragged(line, len(row))
        rows.append(row)
        return None

    def _record(self, buffer: bytes, at: int, is_last: bool) -> int | None:
        """The end of the record at ``at``; 0: the buffer ends before it does; ``None``: it has a bad quote."""
        quote, mark = bytes([self._quote]), bytes([self._delimiter])
        size = len(buffer)
        line_end = buffer.find(b"\n", at)
        line_end = size if line_end < 0 else line_end
        while True:
            if buffer.startswith(quote, at):
                seek = at + 1
                while True:
                    close = buffer.find(quote, seek, at + LONGEST)
                    if close < 0:
                        return 0 if not is_last and size - at < LONGEST else None
                    if not buffer.startswith(quote, close + 1):
                        break
                    seek = close + 2
                if close > line_end:
                    line_end = buffer.find(b"\n", close)
                    line_end = size if line_end < 0 else line_end
                    if buffer[close + 1 : close + 2] not in (mark, b"\n", b"\r", b""):
                        return None  # text after the closing quote, lines later: it was never closed
                at = close + 1
            step = buffer.find(mark, at, line_end)
            if step < 0:
                return line_end + 1 if line_end < size else (size if is_last else 0)
            at = step + 1

    def _ragged(self, line: int, got: int) -> Problem:
        return self._problem(line, f"{len(self.dialect.names)} cells, as in the header", f"{got}")

    def _problem(self, line: int, expected: str, got: str, hint: str = "the rest is kept") -> Problem:
        where = f"{self._where}:{line}"
        return Problem(where=where, error="invalid", message=f"{where} must have {expected}; got {got}", hint=hint)


def _detect(file: TextFile, delimiter: str, quote: str, header: bool | None) -> Dialect:
    for name, value in (("delimiter", delimiter), ("quote", quote)):
        if len(value) > 1 or (value and not value.isascii()):
            raise Invalid(name, "one ASCII character", value)
    head = next(file.blocks(0, 1 << 18), b"")
    if not head.strip():
        raise Invalid(str(file.path), "a table with a header", "an empty file")
    skip, line = 0, 1
    first = head.split(b"\n", 1)[0]
    if re.fullmatch(rb"(?i)sep=.\r?", first):  # a note for a spreadsheet program
        delimiter, skip, line = delimiter or chr(first[4]), len(first) + 1, 2
    while head[skip : skip + 1] in (b"\n", b"\r"):
        line += head[skip : skip + 1] == b"\n"
        skip += 1
    text = head[skip:].decode("utf-8", "replace")
    quote = quote or ("'" if text.count('"') == 0 and re.search(r"(^|[,;\t|])'[^'\n]*'([,;\t|\r\n]|$)", text) else '"')
    delimiter = delimiter or _delimiter(text, quote)
    rows = list(_rows(text, delimiter, quote))
    if not rows:
        raise Invalid(str(file.path), "a table with a header", "blank lines")
    is_header = _is_header(rows) if header is None else header
    problems: list[Problem] = []
    names = _names(rows[0] if is_header else [""] * len(rows[0]), f"{file.path}:{line}", problems)
    told = Dialect(
        delimiter=delimiter,
        quote=quote,
        has_header=is_header,
        names=names,
        line_end="\r\n" if b"\r\n" in head else "\n",
        skip=skip,
        line=line,
        problems=tuple(problems) if is_header else (),
    )
    if not is_header:
        return told
    length, lines = _first_record(head[skip:], told)
    return Dialect(**{
        **{name: getattr(told, name) for name in told.__slots__},
        "skip": skip + length,
        "line": line + lines,
    })


def _first_record(head: bytes, told: Dialect) -> tuple[int, int]:
    """Bytes and lines of the header."""
    probe = DelimitedReader.__new__(DelimitedReader)
    probe._quote, probe._delimiter = ord(told.quote), ord(told.delimiter)
    end = probe._record(head, 0, True) or (head.find(b"\n") + 1) or len(head)
    return end, max(1, head.count(b"\n", 0, end))


def _rows(text: str, delimiter: str, quote: str) -> Iterator[list[str]]:
    """The first rows, for finding out."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, quotechar=quote)
    try:
        for row, _ in zip((row for row in reader if row), range(60), strict=False):
            yield row
    except csv.Error:
        return


def _delimiter(text: str, quote: str) -> str:
    """The one that cuts most of the first lines into the same number of cells, at least two."""
    best, found = (0.0, 0), ","
    for candidate in DELIMITERS:
        widths = [len(row) for row in _rows(text, candidate, quote)]
        widths = widths[:-1] if len(widths) > 2 else widths  # the last one may be cut off
        if not widths:
            continue
        common = max(set(widths), key=lambda width: (widths.count(width), width))
        if common > 1 and (score := (widths.count(common) / len(widths), common)) > best:
            best, found = score, candidate
    return found


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: no number in it, unless nothing below tells it apart."""
    first = rows[0]
    if not any(_PLAIN_NUMBER.match(cell) for cell in first):
        return True
    return len(rows) > 1 and sum(bool(_PLAIN_NUMBER.match(cell)) for cell in first) < len(first) / 2


def _names(cells: list[str], where: str, problems: list[Problem]) -> tuple[str, ...]:
    """A name for each column, each of them once."""
    names: list[str] = []
    for place, cell in enumerate(cells, 1):
        wanted = " ".join(cell.split()) or f"column_{place}"
        name, number = wanted, 2
        while name in names:
            name, number = f"{wanted}_{number}", number + 1
        if name != wanted:
            message = f"{where} must name each column once; got {wanted!r} again, which is {name!r} now"
            problems.append(Problem(where=where, error="invalid", message=message))
        names.append(name)
    return tuple(names)


def _table(rows: list[list[str]], names: tuple[str, ...]) -> "pa.Table":
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})


def _empty(names: tuple[str, ...]) -> "pa.Table":
    return _table([], names)
