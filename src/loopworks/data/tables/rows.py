"""The rows of a frozen table as the stages after ``data`` read them: typed columns and a target, split by split."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Rule, learnable
from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema
from loopworks.data.tables import schema as schemas

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.version import TableVersion

READING = b"loopworks"
"""Key of the metadata that says as JSON, of a field, how the column's text is read (type, missing, decimal ...) and, of
the table, ``left_out``: split -> rows without a target."""
_TARGET, _NAME = "_target", "_name"


class TableSource:
    """A frozen table; rows whose target is missing are left out, and counted. What was read once is kept."""

    def __init__(self, version: "TableVersion") -> None:
        """Wrap ``version``; nothing is read yet."""
        self._version = version
        self._kept: dict[str, pa.Table] = {}
        self._counts: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    @property
    def id(self) -> str:
        """Id of the version."""
        return self._version.id

    @property
    def task(self) -> Learnable:
        """Its task kind."""
        return learnable(self._version.task)

    @property
    def schema(self) -> LabelSchema:
        """Its classes."""
        return self._version.schema

    @property
    def counts(self) -> Mapping[str, int]:
        """Split -> rows with a target."""
        self._count()
        return dict(self._counts)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Split -> rows without a target, which nobody sees."""
        self._count()
        return dict(self._left_out)

    def rows(self, split: str) -> "pa.Table":
        """The rows of a split that have a target: typed columns without target and id, in the order of keys.

        A field's metadata says how its text is read (see ``READING``); the table's own says how many rows were left
        out.
        """
        left_out = {name: count for name, count in self.left_out.items() if count}
        told = {READING: json.dumps({"left_out": left_out}).encode()}
        return self._read(split).drop_columns([_TARGET, _NAME]).replace_schema_metadata(told)

    def targets(self, split: str) -> NDArray[Any]:
        """What ``rows`` should be answered with: multi-hot float32, or numbers float64 ``(rows, 1)``."""
        target = self._read(split).column(_TARGET)
        classes = self.schema.classes
        if not self._has_classes:
            return np.asarray(target.to_numpy(), np.float64).reshape(-1, 1)
        import pyarrow as pa
        import pyarrow.compute as pc

        places = pc.index_in(target, value_set=pa.array(classes, pa.string()))
        if places.null_count:
            stranger = target.filter(pc.is_null(places))[0].as_py()
            raise Invalid("target of the version", f"one of its classes ({', '.join(classes[:12])})", stranger)
        found = np.zeros((len(target), len(classes)), np.float32)
        found[np.arange(len(target)), places.to_numpy().astype(np.int64)] = 1.0
        return found

    def inputs(self, rule: Rule, split: str, progress: Callable[[float, str], None] | None = None) -> Arrays:
        """A split's rows by the rule."""
        if progress is not None:
            progress(0.0, f"reading {split}")
        return rule.pack(self.rows(split))  # a row rule takes Arrow tables too

    def facts(self, split: str) -> list[dict[str, Any]]:
        """Each row's cells, and its id as ``item`` and ``name`` (columns of these names are left out)."""
        from loopworks.data.tables.pages import plain

        rows = self._read(split).drop_columns([_TARGET])
        found = []
        for row in rows.to_pylist():
            key = row.pop(_NAME)
            found.append({**{name: plain(value) for name, value in row.items()}, "item": key, "name": key})
        return found

    @property
    def _has_classes(self) -> bool:
        return "class" in self.task.kinds

    def _goal(self) -> schemas.Column:
        """The target, read as its classes were (their text) or as numbers."""
        told = self._version.columns
        column = told.column(told.target)
        return replace(column, type="category") if self._has_classes else column

    def _count(self) -> None:
        if self._counts:
            return
        import pyarrow.compute as pc

        goal = self._goal()
        for part in self._version.cells(None, [goal.name]):
            has = pc.is_valid(schemas.typed(part.column(":" + goal.name).combine_chunks(), goal))
            for split, count in _tally(part.column("_split")).items():
                labeled = _tally(part.column("_split").filter(has)).get(split, 0)
                self._counts[split] = self._counts.get(split, 0) + labeled
                self._left_out[split] = self._left_out.get(split, 0) + count - labeled

    def _read(self, split: str) -> "pa.Table":
        if split in self._kept:
            return self._kept[split]
        import pyarrow as pa
        import pyarrow.compute as pc

        told, goal = self._version.columns, self._goal()
        columns = [c for c in told.columns if c.name not in (told.target, told.id)]
        names = [c.name for c in columns]
        fields: list[pa.Field] = []
        parts: list[pa.Table] = []
        for part in self._version.cells(split, [*names, goal.name, *([told.id] if told.id else [])]):
            target = schemas.typed(part.column(":" + goal.name).combine_chunks(), goal)
            has = pc.is_valid(target)
            arrays = [schemas.typed(part.column(":" + c.name).combine_chunks(), c).filter(has) for c in columns]
            fields = [_field(c, array) for c, array in zip(columns, arrays, strict=True)]
            shown = (
                part.column(":" + told.id).to_pylist()
                if told.id
                else [k.hex() for k in part.column("_key").to_pylist()]
            )
            arrays += [target.filter(has), pa.array(shown, pa.string()).filter(has)]
            ends = [pa.field(_TARGET, target.type), pa.field(_NAME, pa.string())]
            parts.append(pa.Table.from_arrays(arrays, schema=pa.schema([*fields, *ends])))
        if not parts:
            raise Invalid(f"{split} split", "at least one row", "none", "freeze a version with that split")
        self._kept[split] = pa.concat_tables(parts)
        return self._kept[split]


def _field(column: schemas.Column, array: "pa.Array") -> "pa.Field":
    import pyarrow as pa

    reading = {
        "type": column.type,
        "missing": list(column.tokens),
        "decimal": column.decimal,
        "thousands": column.thousands,
        "is_day_first": column.is_day_first,
    }
    return pa.field(column.name, array.type, metadata={READING: json.dumps(reading).encode()})


def _tally(splits: "pa.ChunkedArray") -> dict[str, int]:
    import pyarrow.compute as pc

    return {pair["values"]: pair["counts"] for pair in pc.value_counts(splits).to_pylist()}
