"""Erasing for good: rows, bytes, what the history says, and every frozen version that holds the item.

Versions never change, so those that hold an erased item are issued again without it, under a new id; the old id stays
known in the tombstone, and says which one came after it.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy import Table, delete, insert, or_, select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid
from loopworks.store import frozen, packs, parts, shapes, tables, tallies, videos, watching, words
from loopworks.store.frozen import FrozenRow, Manifest
from loopworks.store.home import Home
from loopworks.store.ids import batches, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was erased."""

    items: tuple[str, ...]
    datasets: tuple[str, ...]
    """Names of those that held one of them."""
    versions: dict[str, str]
    """Old id of a version -> the id that it was issued again under; empty where nothing was left of it."""
    videos: tuple[str, ...]
    """SHA-256 of videos that an erased frame is of: removed with their tables of frames; other frames stay."""
    size_bytes: int
    """Of blobs that were deleted."""
    is_scrubbed: bool
    """Whether the database's files were cleared of what deleted rows leave behind, too."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "items": list(self.items),
            "datasets": list(self.datasets),
            "versions": dict(self.versions),
            "videos": list(self.videos),
            "size_bytes": self.size_bytes,
            "is_scrubbed": self.is_scrubbed,
        }


@dataclass(frozen=True, slots=True)
class _Issue:
    """A version, and how it is stored without the items."""

    old: str
    manifest: Manifest | None
    layout: list[tuple[str, int]]


def erase(home: Home, contents: Iterable[str], *, reason: str, author: str) -> Erased:
    """Erase all items with these bytes (SHA-256) from every dataset and version of the workspace.

    Of a frame of a video, the same frame that another import encoded in another way is erased too, and so is the video.

    Raises: Invalid: no reason is given.
    """
    wanted = sorted(set(contents))
    if not reason.strip():
        raise Invalid("reason", "given, because it stays when the data is gone", "nothing")
    with home.catalog.read() as tx:
        frames, films = videos.frames_of(tx, wanted)
        wanted = sorted({*wanted, *videos.same(tx, frames)})
        rows = _rows(tx, wanted)
        ids = {row.id for row in rows}
        issues = [issue for issue in (_issue(tx, home, version, ids) for version in _versions(tx, home)) if issue]
        old_keys = {
            key for issue in issues for key in parts.keys(tx, home.blobs, parts.read_manifest(home.blobs, issue.old))
        }
        names = {row.id: row.name for row in tx.execute(select(tables.dataset.c.id, tables.dataset.c.name))}
    moved = {
        one.old: one.manifest.id if one.manifest else ""
        for one in issues
        if not one.manifest or one.manifest.id != one.old
    }
    with home.catalog.begin() as tx:
        for issue in issues:
            _reissue(tx, issue)
        for dataset in sorted({row.dataset for row in rows}):
            _remove(tx, dataset, [row.id for row in rows if row.dataset == dataset])
        gone = videos.forget(tx, films)
        watching.forget(tx, wanted)
        _bury(tx, [*wanted, *sorted(films)], rows, moved, reason, author)
        tx.execute(update(tables.dataset).values(frozen="", frozen_clock=0))
        kept = {key for version in _versions(tx, home) for key in _keys(tx, home, version)}
    size = 0
    for key in sorted((old_keys - kept) | set(wanted) | gone):
        if home.blobs.has(key):
            size += home.blobs.size(key)
            home.blobs.delete(key)
    for made in home.cache.iterdir() if home.cache.is_dir() else ():
        if made.name == "bundles":
            continue
        if made.is_dir():  # pixels, features, frames, exports: whatever was made of the items
            shutil.rmtree(made, ignore_errors=True)
        else:
            made.unlink(missing_ok=True)
    is_scrubbed = home.catalog.scrub()
    held = tuple(sorted({names[row.dataset] for row in rows}))
    return Erased(
        items=tuple(sorted(ids)),
        datasets=held,
        versions=moved,
        videos=tuple(sorted(films)),
        size_bytes=size,
        is_scrubbed=is_scrubbed,
    )


def every(tx: Connection) -> list[str]:
    """All SHA-256s whose bytes were erased."""
    return list(tx.execute(select(tables.tombstone.c.item).order_by(tables.tombstone.c.item)).scalars())


def refused(tx: Connection, keys: Iterable[str]) -> set[str]:
    """Those of the SHA-256s whose bytes were erased, and are not to come back."""
    table = tables.tombstone
    found: set[str] = set()
    for batch in batches(keys):
        found.update(tx.execute(select(table.c.item).where(table.c.item.in_(batch))).scalars())
    return found


def _rows(tx: Connection, contents: list[str]) -> list[Any]:
    table = tables.item
    same = [or_(table.c.id == key, (table.c.id > key + "-") & (table.c.id < key + ".")) for key in contents]
    return list(tx.execute(select(table.c.dataset, table.c.id).where(or_(*same))))


def _versions(tx: Connection, home: Home) -> list[str]:
    """Versions of items; those of table rows have manifests of another kind."""
    found = sorted(set(tx.execute(select(tables.version.c.id)).scalars()))
    return [version for version in found if b'"kind":"table"' not in home.blobs.read(version)]


def _keys(tx: Connection, home: Home, version: str) -> set[str]:
    return parts.keys(tx, home.blobs, parts.read_manifest(home.blobs, version))


def _issue(tx: Connection, home: Home, version: str, ids: set[str]) -> _Issue | None:
    """How a version is stored without the items; ``None`` where no pack of it ever held one."""
    manifest = parts.read_manifest(home.blobs, version)
    holds = any(parts.find(tx, home.blobs, manifest, item) for item in ids)
    keys = [key for key, _ in parts.layout_of(tx, version)]
    numbers = np.array(sorted({frozen.leaf_of(item, manifest.digits) for item in ids}))
    stale = any(  # rows that a later pack replaced are still in the file
        item in ids
        for key in keys
        for table in packs.read(home.blobs, [key], manifest.digits, leaves=numbers)
        for item in table["item_id"].to_pylist()
    )
    if not holds and not stale:
        return None
    left = (row for row in parts.rows(tx, home.blobs, manifest) if row.item_id not in ids)
    lines = [_line(row) for row in left]
    counts = _counts(lines, manifest) if holds else manifest.counts
    digits = frozen.digits(len(lines))
    leaves = np.zeros((16**digits, frozen.DIGEST), np.uint8)
    packer = packs.Packer(home.blobs, digits)
    grouped = {leaf: list(group) for leaf, group in groupby(lines, key=lambda line: frozen.leaf_of(line[0], digits))}
    for leaf in range(len(leaves)):
        held = grouped.get(leaf, [])
        packer.add(leaf, held)
        leaves[leaf] = np.frombuffer(frozen.digest(held), np.uint8)
    layout = [(packer.finish(), packer.rows)]
    if not holds:
        return _Issue(version, manifest, layout)
    made = replace(
        manifest,
        format=frozen.FORMAT,
        parts=(),
        digits=digits,
        leaves=home.blobs.put_bytes(leaves.tobytes()),
        counts=counts,
        is_by_reference=any(line[3] for line in lines),
    )
    home.blobs.put_bytes(made.to_bytes())
    return _Issue(version, made if lines else None, layout)


def _line(row: FrozenRow) -> frozen.Line:
    said = []
    for shape in row.shapes:
        columns = shapes.columns(shape, 0)
        said.append([columns[name] for name in frozen.SHAPE])
    return [*(getattr(row, name) for name in frozen.COLUMNS[:10]), list(row.tags), row.attributes, row.extra, said]


def _counts(lines: list[frozen.Line], manifest: Manifest) -> dict[str, Any]:
    classes = manifest.schema.classes
    by_split: dict[str, int] = {}
    placed: dict[str, dict[str, int]] = {}
    for line in lines:
        split = line[8]
        by_split[split] = by_split.get(split, 0) + 1
        inside = placed.setdefault(split, dict.fromkeys(classes, 0))
        for label in {shape[0] for shape in line[13]} & set(classes):
            inside[label] += 1
    by_class = {name: sum(split[name] for split in placed.values()) for name in classes}
    return {"items": len(lines), "by_split": by_split, "by_class": by_class, "by_split_class": placed}


def _reissue(tx: Connection, issue: _Issue) -> None:
    if issue.manifest and issue.manifest.id == issue.old:
        parts.record(tx, issue.old, issue.layout, replace=True)
        return
    new = issue.manifest.id if issue.manifest else ""
    table, tag = tables.version, tables.version_tag
    olds = [dict(row._mapping) for row in tx.execute(select(table).where(table.c.id == issue.old))]
    tags = [dict(row._mapping) for row in tx.execute(select(tag).where(tag.c.version == issue.old))]
    tx.execute(delete(tag).where(tag.c.version == issue.old))
    tx.execute(delete(table).where(table.c.id == issue.old))
    tx.execute(delete(tables.pack).where(tables.pack.c.version == issue.old))
    if new:
        parts.record(tx, new, issue.layout, replace=True)
        for row in olds:
            mine = (table.c.dataset == row["dataset"], table.c.id == new)
            if not tx.execute(select(table.c.id).where(*mine)).first():
                count = issue.manifest.counts["items"] if issue.manifest else 0
                tx.execute(insert(table).values({**row, "id": new, "items": count}))
        for row in tags:
            tx.execute(insert(tag).values({**row, "version": new}))
    for place, name in ((table, "parent"), (tables.dataset, "base"), (tables.model, "version")):
        _point(tx, place, name, issue.old, new)
    for side in ("from", "to"):
        _relink(tx, side, issue.old, new)


def _point(tx: Connection, table: Table, name: str, old: str, new: str) -> None:
    tx.execute(update(table).where(table.c[name] == old).values({name: new}))


def _relink(tx: Connection, side: str, old: str, new: str) -> None:
    table = tables.lineage
    mine = (table.c[f"{side}_kind"] == "version", table.c[f"{side}_id"] == old)
    edges = [dict(row._mapping) for row in tx.execute(select(table).where(*mine))]
    tx.execute(delete(table).where(*mine))
    for edge in edges:
        moved = {**edge, f"{side}_id": new}
        key = {name: value for name, value in moved.items() if name != "at"}
        if new and not tx.execute(select(table.c.at).filter_by(**key)).first():
            tx.execute(insert(table).values(moved))


def _remove(tx: Connection, dataset: str, ids: list[str]) -> None:
    """Every row of the items; of the history what happened and when, without what it was."""
    said = tables.event
    words.forget(tx, dataset, ids)
    with tallies.kept(tx, dataset, ids):
        for table in (tables.annotation, tables.item_tag, tables.prediction, tables.lease):
            tx.execute(delete(table).where(table.c.dataset == dataset, table.c.item.in_(ids)))
        tx.execute(delete(tables.item).where(tables.item.c.dataset == dataset, tables.item.c.id.in_(ids)))
    blank = update(said).where(said.c.dataset == dataset, said.c.item.in_(ids))
    tx.execute(blank.values(before=None, after=None, kind="item.erase"))
    table = tables.finding
    for key, found in tx.execute(select(table.c.id, table.c["items"]).where(table.c.dataset == dataset)).all():
        if set(found) & set(ids):
            tx.execute(delete(table).where(table.c.id == key))


def _bury(
    tx: Connection, contents: list[str], rows: list[Any], moved: dict[str, str], reason: str, author: str
) -> None:
    table = tables.tombstone
    tx.execute(delete(table).where(table.c.item.in_(contents)))
    held = {row.id[:64]: row.dataset for row in rows}
    made = {"reason": reason, "author": author, "versions": moved, "created_at": now()}
    tx.execute(insert(table), [{**made, "item": key, "dataset": held.get(key, "")} for key in contents])
