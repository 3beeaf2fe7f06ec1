"""JSON lines and Parquet as blocks of text cells."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Invalid
from loopworks.core.values import Problem
from loopworks.data.tables.block import Block, Layout
from loopworks.data.tables.text import TextFile

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 65_536
LONGEST = 64 << 20
"""Bytes of a line of JSON."""


class JsonLinesReader:
    """A file with one JSON object a line; a line that is none is left out and told."""

    def __init__(self, file: TextFile) -> None:
        """Read ``file``."""
        self._file = file
        self._text: set[str] = set()

    @property
    def layout(self) -> Layout:
        """What was seen so far: columns whose values are JSON text stay text."""
        return Layout(declared=dict.fromkeys(self._text, "text"))

    def blocks(self, position: int = 0, line: int = 0) -> Iterator[Block]:
        """The rows; positions are bytes of the text as UTF-8."""
        line = line or 1
        buffer = b""
        for chunk in self._file.blocks(position):
            buffer += chunk
            end = buffer.rfind(b"\n") + 1
            if end:
                block = self._block(buffer[:end], position, line)
                position, line = block.position, block.line
                yield block
                buffer = buffer[end:]
            elif len(buffer) > LONGEST:
                raise Invalid(f"{self._file.path}:{line}", f"a line below {LONGEST >> 20} MB", "a longer one")
        if buffer:
            yield self._block(buffer, position, line)

    def _block(self, data: bytes, position: int, line: int) -> Block:
        import pyarrow as pa

        columns: dict[str, list[str | None]] = {}
        problems: list[Problem] = []
        runs: list[tuple[int, int]] = []
        rows = 0
        texts = data.split(b"\n")
        if not texts[-1]:
            texts.pop()
        for at, text in enumerate(texts):
            if not text.strip():
                continue
            try:
                body = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
                if not isinstance(body, dict):
                    raise ValueError("not an object")
            except (ValueError, RecursionError) as error:
                where = f"{self._file.path}:{line + at}"
                message = f"{where} must be a JSON object; got: {str(error).split(': line')[0]}"
                problems.append(Problem(where=where, error="invalid", message=message, hint="the rest is kept"))
                continue
            if not runs or runs[-1][1] + rows - runs[-1][0] != line + at:
                runs.append((rows, line + at))
            for name, value in body.items():
                column = columns.setdefault(name, [])
                column.extend([None] * (rows - len(column)))
                if type(value) is str and value:
                    self._text.add(name)
                column.append(_cell(value))
            rows += 1
        for column in columns.values():
            column.extend([None] * (rows - len(column)))
        table = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
        return Block(cells=table, position=position + len(data), line=line + len(texts), runs=runs, problems=problems)


class ParquetReader:
    """A Parquet file; its numbers, dates and the like become the text that says exactly them."""

    def __init__(self, path: Path) -> None:
        """Open ``path``; ``Invalid`` where it is no Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=False)
        except (pa.ArrowException, OSError) as error:
            raise Invalid(str(path), "a Parquet file", str(error).split("\n")[0]) from None

    @property
    def layout(self) -> Layout:
        """Columns; those of text stay text."""
        import pyarrow as pa

        schema = self._file.schema_arrow
        kinds = {field.name: field.type for field in schema}
        declared = {
            name: "text"
            for name, kind in kinds.items()
            if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
        }
        return Layout(names=tuple(kinds), declared=declared)

    def blocks(self, position: int = 0, line: int = 0) -> Iterator[Block]:
        """The rows; positions and lines are numbers of rows."""
        import pyarrow as pa

        at = 0
        try:
            for group in range(self._file.num_row_groups):
                size = self._file.metadata.row_group(group).num_rows
                if at + size <= position:
                    at += size
                    continue
                for batch in self._file.iter_batches(batch_size=ROWS, row_groups=[group], use_threads=False):
                    start, at = at, at + batch.num_rows
                    if at <= position:
                        continue
                    batch = batch.slice(max(0, position - start))
                    names = batch.schema.names
                    cells = pa.table({name: _written(batch.column(i)) for i, name in enumerate(names)})
                    first = at - batch.num_rows + 1
                    yield Block(cells=cells, position=at, line=at + 1, runs=[(0, first)])
        except (pa.ArrowException, OSError) as error:
            hint = "it may be cut off; the rows before are kept"
            raise Invalid(f"{self._path}, row {at + 1}", "sound Parquet", str(error).split("\n")[0], hint) from None


class _Number(str):
    """A number of JSON as it was written."""


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _written(column: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_timestamp(kind) and kind.tz:
        texts = pc.strftime(pc.cast(column, pa.timestamp(kind.unit, "UTC")), "%Y-%m-%dT%H:%M:%S")
        return pc.binary_join_element_wise(texts, "Z", "")
    try:
        return pc.cast(column, pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.array([None if v is None else _plain(v) for v in column.to_pylist()], pa.string())


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
