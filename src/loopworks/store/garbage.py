"""Garbage collection: blobs that nothing leads to any more. Mark and sweep, cautious on purpose.

Marked is every key that the catalog names anywhere, and every key that a JSON blob marked before names (manifests,
bundles, states of tables), and the masks of marked packs. So a new kind of row or manifest is kept before anybody has
taught this module about it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import String, Text, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import NotFound
from loopworks.store import packs, tables
from loopworks.store.blobs import BlobStore
from loopworks.store.catalog import Catalog

_KEY = re.compile(rb"[0-9a-f]{64}")
_SILENT = frozenset(
    {"annotation", "event", "prediction", "item_tag", "tombstone", "lease", "tally", "lineage"}
    | {"captured", "truth", "watch_event", "watch_count"}
)
"""Tables that name no blob which is not named elsewhere."""
_ITEM = ("blob", "attributes", "extra")
_JSON_BYTES = 64 << 20  # a JSON blob larger than this would be nothing of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a collection found, and whether it removed it."""

    is_dry_run: bool
    blobs: int
    """Blobs that nothing leads to, older than the grace period."""
    size_bytes: int
    spared: int
    """Blobs that nothing leads to as yet, but too young: an import may be writing their rows."""
    kept: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def collect(catalog: Catalog, blobs: BlobStore, *, grace_s: float, dry_run: bool = True) -> Sweep:
    """Remove blobs that nothing leads to and that are older than ``grace_s`` seconds; with ``dry_run`` only count."""
    limit = datetime.now(UTC) - timedelta(seconds=grace_s)
    found = list(blobs.listing())  # before the marking: what is written after it is not looked at
    with catalog.read() as tx:
        live = mark(tx, blobs)
    dead = [one for one in found if one[0] not in live]
    old = [(key, size) for key, size, modified in dead if modified <= limit]
    if not dry_run:
        for key, _ in old:
            blobs.delete(key)
        catalog.scrub()
    return Sweep(
        is_dry_run=dry_run,
        blobs=len(old),
        size_bytes=sum(size for _, size in old),
        spared=len(dead) - len(old),
        kept=len(found) - len(dead),
    )


def mark(tx: Connection, blobs: BlobStore) -> set[str]:
    """Every key that something leads to."""
    live = set(_named(tx))
    packed = set(tx.execute(select(tables.pack.c.blob).distinct()).scalars())
    media = set(tx.execute(select(tables.item.c.blob).distinct()).scalars())
    front = live - packed - media  # media and packs are large, and name nothing in words
    while front:
        more = {key for one in front for key in _inside(blobs, one)}
        front = more - live
        live |= more
    for key in packed:
        try:
            live.update(packs.masks(blobs, key))
        except NotFound:
            continue  # damage, which reading the version tells; there is nothing to mark in it
    return live


def _named(tx: Connection) -> Iterator[str]:
    for table in tables.metadata.sorted_tables:
        if table.name in _SILENT:
            continue
        texts = [c for c in table.columns if isinstance(c.type, String | Text | tables.Json) and not c.foreign_keys]
        columns = [c for c in texts if table.name != "item" or c.name in _ITEM]
        if not columns:
            continue
        for row in tx.execution_options(yield_per=1000).execute(select(*(c.cast(Text) for c in columns))):
            for value in row:
                if value and len(value) >= 64:
                    yield from (key.decode() for key in _KEY.findall(value.encode()))


def _inside(blobs: BlobStore, key: str) -> list[str]:
    try:
        if blobs.size(key) > _JSON_BYTES:
            return []
        with blobs.open(key) as file:
            if file.read(1) != b"{":
                return []
            return [one.decode() for one in _KEY.findall(file.read())]
    except NotFound:
        return []
