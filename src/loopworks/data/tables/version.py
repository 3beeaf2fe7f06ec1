"""Frozen tables: a manifest of segments whose id is their content's, whatever the order and number of imports."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Rule
from loopworks.core.errors import Damaged, Invalid, TooNew
from loopworks.core.values import LabelSchema, Problem
from loopworks.data.tables import segments
from loopworks.data.tables.pages import counts
from loopworks.data.version import Author, Progress, Version
from loopworks.store import datasets, events, lineage, versions
from loopworks.store import segments as rows
from loopworks.store.home import Home
from loopworks.store.ids import canonical, sha256
from loopworks.store.lineage import Node
from loopworks.store.segments import Segment, State

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.rows import TableSource
    from loopworks.data.tables.table import Schema, Table

FORMAT = 1
TASKS = frozenset({"tabular-classification", "tabular-regression"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TableManifest:
    """All that a frozen table is."""

    task: str
    schema: LabelSchema
    digits: int
    parts: tuple[Segment, ...]
    counts: Mapping[str, Any]
    body: Mapping[str, Any]
    is_by_reference: bool = False

    @classmethod
    def read(cls, home: Home, version: str) -> "TableManifest":
        """The manifest of a version.

        Raises:
            Damaged: its bytes are not those of its id.
            TooNew: written by a newer Loopworks.
        """
        data = home.blobs.read(version)
        if sha256(data) != version:
            raise Damaged(f"manifest of version {version[:12]} must have that SHA-256", "restore a backup")
        told = json.loads(data)
        if told["format"] > FORMAT:
            raise TooNew(f"table version {version[:12]} must be of format {FORMAT}; got {told['format']}")
        with home.catalog.read() as tx:
            files = rows.files(tx, [part["digest"] for part in told["parts"]])
        lost = [part["number"] for part in told["parts"] if part["digest"] not in files]
        if lost:
            raise Damaged(f"segment {lost[0]} of version {version[:12]} must be there; got nothing", "restore a backup")
        parts = [
            Segment(
                number=part["number"],
                blob=files[part["digest"]],
                digest=part["digest"],
                rows=part["rows"],
                stats={},
            )
            for part in told["parts"]
        ]
        return cls(
            task=told["task"],
            schema=LabelSchema.from_json(told["schema"]),
            digits=told["digits"],
            parts=tuple(parts),
            counts=told["counts"],
            body=told["table"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDiff:
    """What changed from one version to another; ids as shown, the first thousand of each."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    """Rows with the same id and other cells, or in another split."""
    added_ids: tuple[str, ...] = ()
    removed_ids: tuple[str, ...] = ()
    changed_ids: tuple[str, ...] = ()
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()
    by_class: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "added": list(self.added_ids),
            "removed": list(self.removed_ids),
            "changed": list(self.changed_ids),
            "counts": {"added": self.added, "removed": self.removed, "changed": self.changed},
            "columns": {"added": list(self.columns_added), "removed": list(self.columns_removed)},
            "by_class": {name: {"before": pair[0], "after": pair[1]} for name, pair in self.by_class.items()},
        }


class TableVersion(Version):
    """A table frozen for ever; its rows are read as a stream."""

    def __init__(self, home: Home, dataset: str, row: versions.VersionRow) -> None:
        """Read the manifest of ``row``, of the dataset called ``dataset``."""
        self._home = home
        self._row = row
        self._table = TableManifest.read(home, row.id)
        self._manifest = self._table  # type: ignore[assignment]
        self.dataset = dataset

    @property
    def manifest(self) -> TableManifest:
        """All that it is."""
        return self._table

    @property
    def columns(self) -> "Schema":
        """Columns with their types, target, id and time when it was frozen."""
        from loopworks.data.tables.table import schema_of

        told = self._table
        return schema_of(State(clock=0, digits=told.digits, rows=told.counts["items"], body=told.body, op=""))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What training on it will suffer from: a rare class, an empty split."""
        found = []
        for name, count in self.counts["by_class"].items():
            if count < 2:
                message = f"class {name!r} should have two rows or more; got {count}"
                found.append(Problem(where=f"class {name}", error="invalid", message=message))
        for split in ("train", "val", "test"):
            if not self.counts["by_split"].get(split):
                message = f"split {split} should have a row or more; got 0"
                found.append(Problem(where=f"split {split}", error="invalid", message=message))
        return tuple(found)

    def cells(self, split: str | None, columns: Sequence[str]) -> "Iterator[pa.Table]":
        """The rows of a split (or all) as text cells under a colon and their column's name, a segment at a time."""
        import pyarrow.compute as pc

        for part in segments.scan(self._home.blobs, self._table.parts, columns):
            wanted = part if split is None else part.filter(pc.equal(part.column("_split"), split))
            if wanted.num_rows:
                yield wanted

    def tables(self, split: str | None = None, columns: Sequence[str] | None = None) -> "Iterator[pa.Table]":
        """The rows as Arrow tables, a segment at a time, in order of their keys.

        Columns are typed and carry their names; ``_key`` and ``_split`` stand before them.
        """
        from loopworks.data.tables.pages import typed_part

        told = self.columns
        names = [column.name for column in told.columns] if columns is None else list(columns)
        for part in self.cells(split, names):
            yield typed_part(part, told, names, "").drop_columns(["_hash", "_order"])

    def source(self) -> "TableSource":
        """The rows as the stages after ``data`` read them."""
        from loopworks.data.tables.rows import TableSource

        return TableSource(self)

    def authors(self) -> list[Author]:
        """The targets came with the rows: all of them by import."""
        return [Author(author="", source="import", count=self.counts["labeled"])]

    def targets(self, split: str | None = None) -> "NDArray[Any]":
        """The targets of the rows of a split that have one, as the task kind's training target."""
        return self.source().targets(split or "train")

    def inputs(self, rule: Rule, split: str | None = None, progress: Progress | None = None) -> Arrays:
        """The rows of a split that have a target, packed by a model's rule, in the order of ``targets``."""
        return self.source().inputs(rule, split or "train")


def opened(home: Home, dataset: str, row: versions.VersionRow) -> Version:
    """The version of ``row``, of a table or of items."""
    return TableVersion(home, dataset, row) if row.task in TASKS else Version(home, dataset, row)


def freeze(table: "Table", message: str, *, author: str, seed: int) -> TableVersion:
    """See ``Table.freeze``."""
    from loopworks.data.tables.table import schema_of

    live = table.live()
    told = schema_of(live.state)
    if not live.state.rows:
        raise Invalid(f"dataset {table.name!r}", "filled to be frozen", "no rows", "add a file first")
    if not told.target:
        hint = "loopworks data table choose NAME --target COLUMN"
        raise Invalid(f"dataset {table.name!r}", "given a target to be frozen", "none chosen", hint)
    if live.state.body.get("splits", {}).get("", 0):
        table.split(seed=seed, author=author)
    live = table.live()
    body = live.state.body
    with table.home.catalog.read() as tx:
        known = datasets.by_id(tx, table.dataset).schema
    # What differs between two ways to the same rows (import numbers, first examples) is not part of the id.
    kept = {name: body[name] for name in ("declared", "types", "target", "id", "time") if body.get(name)}
    kept["names"] = sorted(live.names)
    kept["census"] = {name: {**body["census"][name], **_ORDERLESS} for name in sorted(live.names)}
    kept["dialect"] = {"delimiter": body.get("dialect", {}).get("delimiter", "")}
    with table.home.blobs.writer() as writer:
        key = writer.add(
            canonical({
                "kind": "table",
                "format": FORMAT,
                "task": table.task,
                "schema": LabelSchema(classes=tuple(sorted(known.classes)), is_multi=known.is_multi).to_json(),
                "digits": live.state.digits,
                "parts": [{"number": s.number, "digest": s.digest, "rows": s.rows} for s in live.segments],
                "counts": counts(table),
                "table": kept,
            })
        )
    with table.home.catalog.begin() as tx:
        count = live.state.rows
        row, is_new = versions.add(tx, table.dataset, key, task=table.task, message=message, author=author, count=count)
        rows.keep(tx, live.segments)
        lineage.link(tx, Node("dataset", table.name), Node("version", row.id))
        if is_new:
            made = {"version": row.id, "number": row.number, "message": message}
            events.add(tx, [events.make("version.freeze", dataset=table.dataset, author=author, after=made)])
    return TableVersion(table.home, table.name, row)


def every(table: "Table") -> list[TableVersion]:
    """All frozen versions, oldest first."""
    with table.home.catalog.read() as tx:
        found = versions.every(tx, table.dataset)
    return [TableVersion(table.home, table.name, row) for row in found]


def diff(table: "Table", old: str, new: str) -> TableDiff:
    """What changed; segments that are the same are not read, others one at a time."""
    with table.home.catalog.read() as tx:
        before, after = (
            TableVersion(table.home, table.name, versions.get(tx, one, table.dataset)) for one in (old, new)
        )
    return diff_of(table.home, before, after)


def diff_of(home: Home, before: TableVersion, after: TableVersion) -> TableDiff:
    """See ``diff``."""
    old, new = before.manifest, after.manifest
    digits = min(old.digits, new.digits)
    found: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
    number = dict.fromkeys(found, 0)
    for unit in range(16**digits):
        mine, other = (_of(told, unit, digits) for told in (old, new))
        if [s.digest for s in mine] == [s.digest for s in other]:
            continue
        left, right = _facts(home, before, mine), _facts(home, after, other)
        for kind, ids in (
            ("added", [right[key][0] for key in right if key not in left]),
            ("removed", [left[key][0] for key in left if key not in right]),
            ("changed", [right[key][0] for key in right if key in left and left[key][1:] != right[key][1:]]),
        ):
            number[kind] += len(ids)
            found[kind] += ids[: 1000 - len(found[kind])]
    names = [{column.name for column in one.columns.columns} for one in (before, after)]
    classes = sorted({*old.counts["by_class"], *new.counts["by_class"]})
    pairs = {name: (old.counts["by_class"].get(name, 0), new.counts["by_class"].get(name, 0)) for name in classes}
    return TableDiff(
        added=number["added"],
        removed=number["removed"],
        changed=number["changed"],
        added_ids=tuple(found["added"]),
        removed_ids=tuple(found["removed"]),
        changed_ids=tuple(found["changed"]),
        columns_added=tuple(sorted(names[1] - names[0])),
        columns_removed=tuple(sorted(names[0] - names[1])),
        by_class={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
    )


_ORDERLESS = {"first": {}, "segments": 0}


def _of(told: TableManifest, unit: int, digits: int) -> list[Segment]:
    width = 16 ** (told.digits - digits)
    return [segment for segment in told.parts if segment.number // width == unit]


def _facts(home: Home, version: TableVersion, found: Sequence[Segment]) -> dict[bytes, tuple[str, bytes, str]]:
    """Key -> (id as shown, content, split)."""
    done: dict[bytes, tuple[str, bytes, str]] = {}
    name = version.columns.id
    for part in segments.scan(home.blobs, found, [name] if name else []):
        key, content = segments.key_column(part), segments.content_column(part)
        shown = part.column(":" + name).to_pylist() if name else [bytes(one).hex() for one in key.tolist()]
        splits = part.column("_split").to_pylist()
        told = zip(key.tolist(), shown, content.tolist(), splits, strict=True)
        done |= {bytes(k): (str(s).strip(), bytes(c), now) for k, s, c, now in told}
    return done
