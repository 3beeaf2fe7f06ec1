"""Freezing, reading and comparing versions: the canonical part is in ``frozen.py``, the bytes lie in ``packs.py``."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, LoopworksError
from loopworks.core.values import LabelSchema, Shape
from loopworks.store import first, frozen, packs, snapshot, tables, tallies
from loopworks.store.blobs import BlobStore
from loopworks.store.catalog import Catalog
from loopworks.store.frozen import FrozenRow, Manifest, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Change", "Diff", "FrozenRow", "Manifest", "diff", "find", "keys", "read", "read_manifest", "rows", "write"]

PACKS = 64
"""A version that would lie in more packs is written anew as one."""
_CHUNK = 4096  # rows that are read from the catalog at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An item that is in both versions, and not the same."""

    item_id: str
    name: str
    before: FrozenRow
    after: FrozenRow

    @property
    def shapes(self) -> tuple[list[Shape], list[Shape], list[tuple[Shape, Shape]]]:
        """Its annotations that were added, removed and changed (before and after, of one kind each)."""
        old = list((Counter(self.before.shapes) - Counter(self.after.shapes)).elements())
        new = list((Counter(self.after.shapes) - Counter(self.before.shapes)).elements())
        pairs = []
        for shape in list(old):
            same = [other for other in new if other.kind == shape.kind]
            if found := next((other for other in same if other.label == shape.label), same[0] if same else None):
                pairs.append((shape, found))
                old.remove(shape)
                new.remove(found)
        return new, old, pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What another version has that this one has not, and the other way round."""

    added: tuple[FrozenRow, ...]
    removed: tuple[FrozenRow, ...]
    changed: tuple[Change, ...]
    by_class: Mapping[str, tuple[int, int]]
    """Class -> number of items before and after, of the classes whose number differs."""

    @property
    def annotations(self) -> dict[str, dict[str, int]]:
        """Class -> how many annotations of it were ``added``, ``removed``, ``changed`` (by their class before)."""
        found: dict[str, Counter[str]] = {}

        def count(what: str, shapes: Iterable[Shape]) -> None:
            for shape in shapes:
                found.setdefault(shape.label, Counter(added=0, removed=0, changed=0))[what] += 1

        count("added", (shape for row in self.added for shape in row.shapes))
        count("removed", (shape for row in self.removed for shape in row.shapes))
        for change in self.changed:
            new, old, pairs = change.shapes
            count("added", new)
            count("removed", old)
            count("changed", (before for before, _ in pairs))
        return {name: dict(found[name]) for name in sorted(found)}

    @property
    def moves(self) -> dict[str, int]:
        """``BEFORE>AFTER`` -> number of items that moved between these splits."""
        pairs = Counter(f"{c.before.split}>{c.after.split}" for c in self.changed if c.before.split != c.after.split)
        return dict(sorted(pairs.items()))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        annotations = self.annotations
        return {
            "added": [row.item_id for row in self.added],
            "removed": [row.item_id for row in self.removed],
            "changed": [
                {"item": c.item_id, "name": c.name, "before": frozen.said(c.before), "after": frozen.said(c.after)}
                for c in self.changed
            ],
            "by_class": {name: {"before": pair[0], "after": pair[1]} for name, pair in self.by_class.items()},
            "annotations": {
                **{what: sum(one[what] for one in annotations.values()) for what in ("added", "removed", "changed")},
                "by_class": annotations,
            },
            "moves": self.moves,
        }


@dataclass(frozen=True, slots=True)
class _Base:
    """The version frozen last, and what it can spare the next one."""

    manifest: Manifest
    packs: list[tuple[str, int]]
    clock: int


def write(catalog: Catalog, blobs: BlobStore, tx: Connection, dataset: str, task: str, schema: LabelSchema) -> Manifest:
    """Freeze the labelled items that ``tx`` sees; rows and manifest are in ``blobs`` when this returns.

    Only leaves with items that changed since the last freeze are read. What they lead to is the same as if all were
    read: the id depends on the state alone.

    Args:
        catalog: takes down where the rows lie, and up to which change they go.
        blobs: where rows and manifest go.
        tx: a reading transaction, so that all rows show one state.
        dataset: its id.
        task: name of the task kind.
        schema: the classes at this state.
    """
    counts = tallies.frozen(tx, dataset, schema.classes)
    digits = frozen.digits(counts["items"])
    table = tables.dataset
    clock = int(tx.execute(select(table.c.clock).where(table.c.id == dataset)).scalar_one())
    base = _base(tx, blobs, dataset, digits)
    done = _delta(tx, blobs, dataset, base) if base else None
    leaves, layout = done or _whole(tx, blobs, dataset, digits)
    manifest = Manifest(
        task=task,
        schema=schema,
        digits=digits,
        leaves=blobs.put_bytes(leaves.tobytes()),
        counts={name: value for name, value in counts.items() if name != "by_reference"},
        is_by_reference=counts["by_reference"] > 0,
    )
    blobs.put_bytes(manifest.to_bytes())
    with catalog.begin() as writing:
        record(writing, manifest.id, layout, replace=done is None)
        set_base(writing, dataset, manifest.id, clock)
    return manifest


def record(tx: Connection, version: str, layout: Iterable[tuple[str, int]], *, replace: bool = False) -> None:
    """Write down in which packs (key, rows; oldest first) the rows of a version lie, unless that is known."""
    table = tables.pack
    known = layout_of(tx, version)
    if known and not replace:
        return
    if known:
        tx.execute(table.delete().where(table.c.version == version))
    rows = [{"version": version, "place": at, "blob": key, "rows": n} for at, (key, n) in enumerate(layout)]
    if rows:
        tx.execute(insert(table), rows)


def set_base(tx: Connection, dataset: str, version: str, clock: int) -> None:
    """Let the next freeze begin from ``version``, which is the dataset's state at ``clock``."""
    table = tables.dataset
    later = table.c.frozen_clock <= clock  # two freezes at once: the one that saw more stays
    tx.execute(update(table).where(table.c.id == dataset, later).values(frozen=version, frozen_clock=clock))


def layout_of(tx: Connection, version: str) -> list[tuple[str, int]]:
    """Packs of a version (key, rows), oldest first; none where it is not known here, or of format 1."""
    table = tables.pack
    query = select(table.c.blob, table.c.rows).where(table.c.version == version).order_by(table.c.place)
    return [(row[0], row[1]) for row in tx.execute(query)]


def read(
    tx: Connection, blobs: Blobs, manifest: Manifest, split: str | None = None, leaves: NDArray[np.int64] | None = None
) -> Iterator["pa.Table"]:
    """The rows as Arrow tables, in order of item id, of one split or of all.

    Raises: Damaged: rows are missing, or their bytes are not what was written.
    """
    if manifest.format == 1:
        yield from first.read(tx, blobs, manifest, split)
        return
    layout = layout_of(tx, manifest.id)
    if not layout and manifest.counts["items"]:
        raise Damaged(f"rows of version {manifest.id[:12]} must be there; got nothing", "restore a backup")
    yield from packs.read(blobs, [key for key, _ in layout], manifest.digits, split=split, leaves=leaves)


def rows(
    tx: Connection, blobs: Blobs, manifest: Manifest, split: str | None = None, leaves: NDArray[np.int64] | None = None
) -> Iterator[FrozenRow]:
    """The items in order of their id, of one split or of all, or of some leaves alone."""
    for table in read(tx, blobs, manifest, split, leaves):
        yield from first.rows(table) if manifest.format == 1 else packs.rows(blobs, table)


def find(tx: Connection, blobs: Blobs, manifest: Manifest, item: str) -> FrozenRow | None:
    """One item of a version; ``None`` where it does not hold it."""
    if manifest.format == 1:
        found = first.part_rows(tx, blobs, manifest, item)
    else:
        found = rows(tx, blobs, manifest, leaves=np.array([frozen.leaf_of(item, manifest.digits)]))
    return next((row for row in found if row.item_id == item), None)


def diff(tx: Connection, blobs: Blobs, before: Manifest, after: Manifest) -> Diff:
    """What changed from one version to another; leaves that are the same are not read."""
    old_leaves: NDArray[np.int64] | None = None
    if before.format == after.format == frozen.FORMAT and before.digits == after.digits:
        differ = (frozen.read_leaves(blobs, before) != frozen.read_leaves(blobs, after)).any(axis=1)
        old_leaves = np.flatnonzero(differ)
    is_same = old_leaves is not None and not len(old_leaves)
    old = {} if is_same else {row.item_id: row for row in rows(tx, blobs, before, leaves=old_leaves)}
    new = {} if is_same else {row.item_id: row for row in rows(tx, blobs, after, leaves=old_leaves)}
    by_first = 1 in (before.format, after.format)
    classes = sorted({*before.counts["by_class"], *after.counts["by_class"]})
    pairs = {name: (before.counts["by_class"].get(name, 0), after.counts["by_class"].get(name, 0)) for name in classes}
    return Diff(
        added=tuple(row for key, row in new.items() if key not in old),
        removed=tuple(row for key, row in old.items() if key not in new),
        changed=tuple(
            Change(item_id=key, name=row.name, before=old[key], after=row)
            for key, row in new.items()
            if key in old and (first.part_of(old[key]) != first.part_of(row) if by_first else old[key] != row)
        ),
        by_class={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
    )


def keys(tx: Connection, blobs: Blobs, manifest: Manifest) -> set[str]:
    """Blobs that the version needs, but for its media: manifest, leaves, packs and large masks."""
    if manifest.format == 1:
        return {manifest.id, *first.keys(tx, manifest)}
    found = [key for key, _ in layout_of(tx, manifest.id)]
    return {manifest.id, manifest.leaves, *found, *(mask for key in found for mask in packs.masks(blobs, key))}


def _base(tx: Connection, blobs: BlobStore, dataset: str, digits: int) -> _Base | None:
    table = tables.dataset
    last, clock = tx.execute(select(table.c.frozen, table.c.frozen_clock).where(table.c.id == dataset)).one()
    layout = layout_of(tx, last) if last else []
    if not layout:
        return None
    try:
        manifest = read_manifest(blobs, last)
    except LoopworksError:  # lost or damaged: freezing anew mends it
        return None
    is_there = manifest.digits == digits and all(blobs.has(key) for key in (manifest.leaves, *(k for k, _ in layout)))
    return _Base(manifest, layout, clock) if is_there else None


def _delta(
    tx: Connection, blobs: BlobStore, dataset: str, base: _Base
) -> tuple[NDArray[np.uint8], list[tuple[str, int]]] | None:
    """Leaves and packs of now, from those of the base; ``None`` where it is better to write all of it anew."""
    digits = base.manifest.digits
    begins = snapshot.changed(tx, dataset, base.clock, digits)
    live = base.manifest.counts["items"]
    if len(base.packs) >= PACKS or sum(n for _, n in base.packs) > 2 * live + _CHUNK:
        return None
    if len(begins) > 16**digits // 2 and live > _CHUNK:
        return None
    leaves = frozen.read_leaves(blobs, base.manifest).copy()
    found: dict[int, list[frozen.Line]] = {int(begin, 16): [] for begin in begins}
    for line in snapshot.lines(tx, dataset, _spans(begins)):
        found[frozen.leaf_of(line[0], digits)].append(line)
    fresh = {leaf: np.frombuffer(frozen.digest(lines), np.uint8) for leaf, lines in found.items()}
    differ = [leaf for leaf, digest in fresh.items() if (leaves[leaf] != digest).any()]
    if not differ:
        return leaves, base.packs
    packer = packs.Packer(blobs, digits)
    for leaf in differ:
        packer.add(leaf, found[leaf])
        leaves[leaf] = fresh[leaf]
    return leaves, [*base.packs, (packer.finish(), packer.rows)]


def _whole(
    tx: Connection, blobs: BlobStore, dataset: str, digits: int
) -> tuple[NDArray[np.uint8], list[tuple[str, int]]]:
    """Leaves and the one pack of the whole state, read from the catalog a piece at a time."""
    leaves = np.zeros((16**digits, frozen.DIGEST), np.uint8)
    packer = packs.Packer(blobs, digits)
    cut = min(digits, 2 if digits > 3 else 1)  # pieces of some thousand rows
    empty = 0
    for piece in range(16**cut):
        begin = f"{piece:0{cut}x}"
        lines = snapshot.lines(tx, dataset, _spans([begin]))
        for leaf, group in groupby(lines, key=lambda line: frozen.leaf_of(line[0], digits)):
            for number in range(empty, leaf):
                packer.add(number, [])
            held = list(group)
            packer.add(leaf, held)
            leaves[leaf] = np.frombuffer(frozen.digest(held), np.uint8)
            empty = leaf + 1
    for number in range(empty, len(leaves)):
        packer.add(number, [])
    return leaves, [(packer.finish(), packer.rows)]


def _spans(begins: Iterable[str]) -> list[tuple[str, str]]:
    """The ids that begin so, as ranges ("g" sorts after every hex digit)."""
    return [(begin, begin + "g") for begin in begins]
