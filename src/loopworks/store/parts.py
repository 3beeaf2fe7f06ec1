"""Frozen versions on disk: sorted Parquet parts, hash-partitioned by item id, and a canonical manifest.

The id of a version is the SHA-256 of its manifest, and the manifest names each part by the digest of its *rows*, not of
its Parquet bytes. So the same state has the same id on every machine and under every release of pyarrow; a part that
did not change is found by its digest and never written again; and a diff skips it without reading it.
"""

import functools
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, NotFound, TooNew
from loopworks.core.values import LabelSchema, Shape
from loopworks.store import items, tables, tallies
from loopworks.store.blobs import SYNC_THREADS, BlobStore
from loopworks.store.catalog import Catalog
from loopworks.store.ids import canonical

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
WIDE = 65_536
"""From so many items on, parts are cut by two digits of the item id (256 parts) instead of one (16)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenRow:
    """One item of a version."""

    item_id: str
    name: str
    blob: str
    uri: str
    mime: str
    width: int
    height: int
    split: str
    shapes: tuple[Shape, ...]

    def canonical(self) -> bytes:
        """The row as one line of JSON: what digests are taken of."""
        shapes = [[shape.label, shape.source, shape.author] for shape in self.shapes]
        line = [
            self.item_id,
            self.name,
            self.blob,
            self.uri,
            self.mime,
            self.width,
            self.height,
            self.split,
            shapes,
        ]
        return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of a version: the items whose id begins with ``prefix``."""

    prefix: str
    digest: str
    """SHA-256 over the canonical lines of its rows, in order."""
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that a version is; when and by whom it was frozen is in the catalog, because that is not its content."""

    task: str
    schema: LabelSchema
    digits: int
    parts: tuple[Part, ...]
    counts: Mapping[str, Any]
    """``items``, ``by_split``, ``by_class`` and ``by_split_class`` (split -> class -> items)."""
    is_by_reference: bool
    """Whether some bytes are not in the blob store but where ``uri`` says, so that they may change or vanish."""

    def to_bytes(self) -> bytes:
        """The canonical JSON; its SHA-256 is the id."""
        return canonical({
            "format": FORMAT,
            "task": self.task,
            "schema": self.schema.to_json(),
            "digits": self.digits,
            "parts": [{"prefix": part.prefix, "digest": part.digest, "rows": part.rows} for part in self.parts],
            "counts": self.counts,
            "is_by_reference": self.is_by_reference,
        })

    @property
    def id(self) -> str:
        """The id of the version."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An item that is in both versions, with another label or split."""

    item_id: str
    name: str
    before: FrozenRow
    after: FrozenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What another version has that this one has not, and the other way round."""

    added: tuple[FrozenRow, ...]
    removed: tuple[FrozenRow, ...]
    changed: tuple[Change, ...]
    by_class: Mapping[str, tuple[int, int]]
    """Class -> number of items before and after, of the classes whose number differs."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "added": [row.item_id for row in self.added],
            "removed": [row.item_id for row in self.removed],
            "changed": [
                {"item": c.item_id, "name": c.name, "before": _said(c.before), "after": _said(c.after)}
                for c in self.changed
            ],
            "by_class": {name: {"before": pair[0], "after": pair[1]} for name, pair in self.by_class.items()},
        }


def write(catalog: Catalog, blobs: BlobStore, tx: Connection, dataset: str, task: str, schema: LabelSchema) -> Manifest:
    """Freeze the labelled items that ``tx`` sees; parts and manifest are in ``blobs`` when this returns.

    Args:
        catalog: takes down which blob holds which part.
        blobs: where parts and manifest go.
        tx: a reading transaction, so that all parts show one state.
        dataset: its id.
        task: name of the task kind.
        schema: the classes at this state.
    """
    digits = 2 if tallies.read(tx, dataset)["labeled"] >= WIDE else 1
    parts: list[Part] = []
    tally = _Tally(schema)
    fresh: dict[str, tuple[Future[str], int]] = {}
    with blobs.writer() as writer, ThreadPoolExecutor(SYNC_THREADS) as pool:
        for prefix, low, high in _ranges(digits):
            rows = [_frozen(item) for item in items.labeled_between(tx, dataset, low, high)]
            if not rows:
                continue
            for row in rows:
                tally.add(row)
            digest = _digest(rows)
            parts.append(Part(prefix=prefix, digest=digest, rows=len(rows)))
            if not _has_part(tx, blobs, digest):
                fresh[digest] = (pool.submit(writer.add, _parquet(rows)), len(rows))
        manifest = Manifest(
            task=task,
            schema=schema,
            digits=digits,
            parts=tuple(parts),
            counts=tally.counts(),
            is_by_reference=tally.is_by_reference,
        )
        writer.add(manifest.to_bytes())
        for sent, _ in fresh.values():
            sent.result()
    _record(catalog, {digest: (sent.result(), count) for digest, (sent, count) in fresh.items()})
    return manifest


def read_manifest(blobs: Blobs, version: str) -> Manifest:
    """The manifest of a version.

    Raises:
        NotFound: it is not among the blobs.
        Damaged: its bytes are not those of its id.
        TooNew: written by a newer Loopworks.
    """
    data = blobs.read(version)
    if (actual := hashlib.sha256(data).hexdigest()) != version:
        raise Damaged(f"manifest of version {version[:12]} must have that SHA-256; got {actual}", "restore a backup")
    body = json.loads(data)
    if body["format"] > FORMAT:
        raise TooNew(f"version {version[:12]} must be of format {FORMAT} or older; got {body['format']}")
    return Manifest(
        task=body["task"],
        schema=LabelSchema.from_json(body["schema"]),
        digits=body["digits"],
        parts=tuple(Part(**part) for part in body["parts"]),
        counts=body["counts"],
        is_by_reference=body["is_by_reference"],
    )


def read(tx: Connection, blobs: Blobs, manifest: Manifest, split: str | None = None) -> Iterator["pa.Table"]:
    """The parts as Arrow tables, in order of item id, of one split or of all.

    Raises: Damaged: a part is missing, or its bytes are not what was written.
    """
    for part in manifest.parts:
        table = _load(tx, blobs, part)
        if split is not None:
            import pyarrow.compute as pc  # a tenth of a second that reading whole versions need not pay

            table = table.filter(pc.equal(table["split"], split))
        if table.num_rows:
            yield table


def rows(tx: Connection, blobs: Blobs, manifest: Manifest, split: str | None = None) -> Iterator[FrozenRow]:
    """The items in order of their id, of one split or of all."""
    for table in read(tx, blobs, manifest, split):
        yield from _rows(table)


def part_rows(tx: Connection, blobs: Blobs, part: Part) -> Iterator[FrozenRow]:
    """The items of one part, in order of their id."""
    return _rows(_load(tx, blobs, part))


def diff(tx: Connection, blobs: Blobs, before: Manifest, after: Manifest) -> Diff:
    """What changed from one version to another; parts that are the same are not read."""
    same = {part.digest for part in before.parts} & {part.digest for part in after.parts}
    old = _changed_rows(tx, blobs, before, same)
    new = _changed_rows(tx, blobs, after, same)
    classes = sorted({*before.counts["by_class"], *after.counts["by_class"]})
    pairs = {name: (before.counts["by_class"].get(name, 0), after.counts["by_class"].get(name, 0)) for name in classes}
    return Diff(
        added=tuple(row for key, row in new.items() if key not in old),
        removed=tuple(row for key, row in old.items() if key not in new),
        changed=tuple(
            Change(item_id=key, name=row.name, before=old[key], after=row)
            for key, row in new.items()
            if key in old and old[key] != row
        ),
        by_class={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
    )


def keys(tx: Connection, manifest: Manifest) -> set[str]:
    """Blobs that the version needs: its parts and manifest, not its media (garbage collection keeps them all)."""
    digests = [part.digest for part in manifest.parts]
    found = tx.execute(select(tables.part.c.blob).where(tables.part.c.digest.in_(digests))).scalars()
    return {manifest.id, *found}


class _Tally:
    """Counts while rows pass by, so that no version is read twice to be counted."""

    def __init__(self, schema: LabelSchema) -> None:
        self._classes = schema.classes
        self._splits: dict[str, dict[str, int]] = {}
        self._items: dict[str, int] = {}
        self.is_by_reference = False

    def add(self, row: FrozenRow) -> None:
        self._items[row.split] = self._items.get(row.split, 0) + 1
        classes = self._splits.setdefault(row.split, dict.fromkeys(self._classes, 0))
        for label in {shape.label for shape in row.shapes}:
            classes[label] += 1
        self.is_by_reference |= bool(row.uri)

    def counts(self) -> dict[str, Any]:
        return {
            "items": sum(self._items.values()),
            "by_split": dict(self._items),
            "by_class": {name: sum(split[name] for split in self._splits.values()) for name in self._classes},
            "by_split_class": self._splits,
        }


def _ranges(digits: int) -> Iterator[tuple[str, str, str]]:
    """Prefix, and the half-open range of ids that begin with it ("g" sorts after every hex digit)."""
    names = [f"{number:0{digits}x}" for number in range(16**digits)]
    for name, following in zip(names, [*names[1:], "g"], strict=True):
        yield name, name, following


def _frozen(item: items.Item) -> FrozenRow:
    return FrozenRow(
        item_id=item.id,
        name=item.name,
        blob=item.blob,
        uri=item.uri,
        mime=item.mime,
        width=item.width,
        height=item.height,
        split=item.split,
        shapes=item.labels,
    )


def _digest(found: Iterable[FrozenRow]) -> str:
    sha = hashlib.sha256()
    for row in found:
        sha.update(row.canonical())
    return sha.hexdigest()


@functools.cache
def _schema() -> Any:
    import pyarrow as pa

    shape = pa.struct([pa.field(name, pa.string(), nullable=False) for name in ("label", "source", "author")])
    return pa.schema([
        *(pa.field(name, pa.string(), nullable=False) for name in ("item_id", "name", "blob", "uri", "mime")),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("width", "height")),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.field("element", shape, nullable=False)), nullable=False),
    ])


def _parquet(found: Sequence[FrozenRow]) -> bytes:
    """The rows as a Parquet file.

    All settings are given, none left to pyarrow's defaults, which change between releases: the same rows must give the
    same bytes (under one pyarrow), so that two machines that share a blob store share the parts too. zstd reads fast
    and is a third of the size; one row group, because a part is read whole; no Arrow schema inside, which would make
    the file larger by half at a few hundred rows and says nothing that Parquet's own types do not.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in found]
        for name in ("item_id", "name", "blob", "uri", "mime", "width", "height", "split")
    }
    columns["labels"] = [[shape.to_json() for shape in row.shapes] for row in found]
    out = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=_schema()),
        out,
        version="2.6",
        data_page_version="1.0",
        data_page_size=1 << 20,
        row_group_size=1 << 30,
        compression="zstd",
        compression_level=3,
        use_dictionary=["mime", "split"],
        write_statistics=True,
        use_byte_stream_split=False,
        store_schema=False,
        write_page_index=False,
        write_page_checksum=False,
    )
    return out.getvalue()


def _load(tx: Connection, blobs: Blobs, part: Part) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = tx.execute(select(tables.part.c.blob).where(tables.part.c.digest == part.digest)).scalar()
    try:
        if key is None:
            raise NotFound("part", part.digest)
        data = blobs.read(key)
    except NotFound:
        raise Damaged(f"part {part.prefix} of a version must be there; got nothing", "restore a backup") from None
    if (actual := hashlib.sha256(data).hexdigest()) != key:
        raise Damaged(f"part {part.prefix} of a version must have SHA-256 {key}; got {actual}", "restore a backup")
    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    if table.num_rows != part.rows:
        raise Damaged(f"part {part.prefix} of a version must have {part.rows} rows; got {table.num_rows}")
    return table


def _rows(table: "pa.Table") -> Iterator[FrozenRow]:
    for row in table.to_pylist():
        labels = row.pop("labels")
        yield FrozenRow(**row, shapes=tuple(Shape(**shape) for shape in labels))


def _changed_rows(tx: Connection, blobs: Blobs, manifest: Manifest, same: set[str]) -> dict[str, FrozenRow]:
    found: dict[str, FrozenRow] = {}
    for part in manifest.parts:
        if part.digest not in same:
            found |= {row.item_id: row for row in _rows(_load(tx, blobs, part))}
    return found


def _has_part(tx: Connection, blobs: Blobs, digest: str) -> bool:
    key = tx.execute(select(tables.part.c.blob).where(tables.part.c.digest == digest)).scalar()
    return key is not None and blobs.has(key)


def _record(catalog: Catalog, fresh: Mapping[str, tuple[str, int]]) -> None:
    if not fresh:
        return
    with catalog.begin() as tx:
        # A row may be there already: somebody froze the same rows meanwhile, or its blob was lost.
        tx.execute(delete(tables.part).where(tables.part.c.digest.in_(list(fresh))))
        rows = [{"digest": digest, "blob": blob, "rows": count} for digest, (blob, count) in fresh.items()]
        tx.execute(insert(tables.part), rows)


def _said(row: FrozenRow) -> dict[str, Any]:
    return {"split": row.split, "labels": [shape.label for shape in row.shapes]}
