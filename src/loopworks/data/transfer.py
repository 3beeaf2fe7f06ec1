"""Pushing and pulling frozen versions between workspaces: missing blobs alone, then the rows that lead to them.

Blobs go first, so that a transfer which is cut off leaves nothing in the catalog, and finds them when it runs again.
``Workspace`` inherits ``Exchange``; nothing else does.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loopworks.core import settings
from loopworks.core.errors import Conflict, Damaged, Invalid, NotFound
from loopworks.core.values import LabelSchema
from loopworks.data import media, merging
from loopworks.data.tables.version import TASKS, TableManifest
from loopworks.store import datasets, erasing, events, items, lineage, parts, segments, sending, versions
from loopworks.store.datasets import DatasetRow
from loopworks.store.frozen import FORMAT, Manifest, read_leaves
from loopworks.store.home import Home, open_home
from loopworks.store.ids import batches
from loopworks.store.lineage import Node
from loopworks.store.segments import Segment, State
from loopworks.store.sending import Progress
from loopworks.store.versions import VersionRow

ROWS = 5000  # items inserted at once


class Placed(Protocol):
    """What has a workspace's storage: a ``Workspace``."""

    @property
    def home(self) -> Home:
        """Settings, catalog and blobs."""


Other = Placed | str | Path
"""Another workspace: opened, or its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What a push or pull did."""

    dataset: str
    """Its name where the version went."""
    version: str
    number: int
    """Of the version there."""
    is_new: bool
    """Whether the version was not there before."""
    items: int
    blobs_sent: int
    blobs_known: int
    """Blobs that were there already, and were not read again; those of items that an earlier version brought there
    unchanged are not counted."""
    size_bytes: int
    """Of the blobs that were sent."""
    seconds: float
    references: int
    """Items whose bytes lie in neither workspace but where their URI says; they were not copied. Counted as
    ``blobs_known`` is."""
    tags: tuple[str, ...]
    """Tags of the version that mean it there, too."""
    tags_kept: dict[str, str] = field(default_factory=dict)
    """Tags of the version that mean another one there, and still do: tag -> id of that version."""

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.size_bytes / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**told, "tags": list(self.tags), "bytes_per_second": round(self.rate)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parcel:
    """A version as its workspace knows it."""

    source: DatasetRow
    row: VersionRow
    schema: LabelSchema
    keys: set[str]
    layout: list[tuple[str, int]]
    """Packs, of a version of items."""
    segments: list[Segment]
    """Of a table, or of a version of format 1."""
    contents: set[str]
    """SHA-256 of the items' bytes, of ``leaves``."""
    references: int
    tags: tuple[str, ...]
    meta: dict[str, Any]
    earlier: tuple[str, ...]
    """Versions of the dataset up to this one, newest first."""
    behind: tuple[Node, ...]
    """What the version was made from, but for its dataset."""
    leaves: NDArray[np.int64] | None
    """Those that the other side may not have yet; ``None``: all."""


class Exchange:
    """What a workspace takes from another one."""

    home: Home

    def pull(
        self,
        dataset: str,
        version: str,
        source: Other,
        *,
        name: str = "",
        author: str = "",
        progress: Progress | None = None,
    ) -> TransferReport:
        """Bring a frozen version here from another workspace; only blobs that are missing here are sent.

        A dataset that is new here begins as the version. One that is here gets the version beside its own; its live
        set stays as it is, until ``Dataset.restore`` makes it the version. Pulled under another name, the dataset is
        a branch of the one here that has a version in common with it, and can be merged.

        Args:
            dataset: its name there.
            version: id, its beginning, or a tag.
            source: the other workspace, opened or its folder.
            name: of the dataset here; default its name there.
            author: who does it.
            progress: takes the number of blobs done and of all, and the bytes sent.
        Raises:
            NotFound: no such workspace, dataset or version.
            Conflict: the dataset here is of another task, or the version holds what was erased here.
            Damaged: a blob is gone there, or not what its key says; nothing of the version is seen here then.
        """
        with other(source) as found:
            return send(found, self.home, dataset, version, name=name, author=author, progress=progress)


@contextlib.contextmanager
def other(place: Other) -> Iterator[Home]:
    """The storage of another workspace; one that was given as a folder is closed at the end."""
    if not isinstance(place, str | Path):
        yield place.home
        return
    folder = Path(place).expanduser()
    with open_home(folder, settings.own(folder)) as home:
        yield home


def send(
    source: Home,
    target: Home,
    dataset: str,
    version: str,
    *,
    name: str = "",
    author: str = "",
    progress: Progress | None = None,
) -> TransferReport:
    """Bring a version from one workspace to another; see ``Exchange.pull``."""
    begun = time.monotonic()
    if source.id == target.id:
        raise Invalid("the other workspace", "another one than this", str(target.folder))
    name = name or dataset
    parcel = _packed(source, dataset, version, _known(target, name))
    _check(target, name, parcel)
    sent = sending.send(source.blobs, target.blobs, parcel.keys, str(source.folder), progress)
    row, is_new, tags, kept = _received(source, target, name, parcel, author)
    return TransferReport(
        dataset=name,
        version=row.id,
        number=row.number,
        is_new=is_new,
        items=row.items,
        blobs_sent=sent.blobs,
        blobs_known=sent.known,
        size_bytes=sent.size_bytes,
        seconds=round(time.monotonic() - begun, 3),
        references=parcel.references,
        tags=tags,
        tags_kept=kept,
    )


def _known(target: Home, name: str) -> set[str]:
    """Versions that a dataset there has already."""
    with target.catalog.read() as tx:
        found = next((one.id for one in datasets.every(tx) if one.name == name), "")
        return {one.id for one in versions.every(tx, found)}


def _packed(home: Home, dataset: str, version: str, known: set[str]) -> _Parcel:
    """All that a version needs, but for its rows, which are read again when they are written.

    What the newest earlier version that is ``known`` at the other side has brought there is not looked at again.
    """
    with home.catalog.read() as tx:
        source = datasets.get(tx, dataset)
        row = versions.get(tx, version, source.id)
        tags = tuple(tag for tag, means in versions.tags(tx, source.id).items() if means == row.id)
        meta = datasets.meta(tx, source.id)
        earlier = tuple(one.id for one in reversed(versions.every(tx, source.id)) if one.number <= row.number)
        behind = tuple(node for node in lineage.sources(tx, Node("version", row.id)) if node.kind != "dataset")
    contents: set[str] = set()
    references = 0
    layout: list[tuple[str, int]] = []
    held: list[Segment] = []
    leaves: NDArray[np.int64] | None = None
    if row.task in TASKS:
        told = TableManifest.read(home, row.id)
        schema, held = told.schema, list(told.parts)
        keys = {row.id, *(segment.blob for segment in held)}
    else:
        manifest = parts.read_manifest(home.blobs, row.id)
        schema = manifest.schema
        with home.catalog.read() as tx:
            keys = parts.keys(tx, home.blobs, manifest)
            layout = parts.layout_of(tx, row.id)
            files = segments.files(tx, [part.digest for part in manifest.parts])
            for part in manifest.parts:  # of format 1; reading them tells those that are lost
                if blob := files.get(part.digest):
                    held.append(Segment(number=0, blob=blob, digest=part.digest, rows=part.rows, stats={}))
            base = next((one for one in earlier if one in known and one != row.id), "")
            leaves = _differing(home, base, manifest) if base else None
            for table in parts.read(tx, home.blobs, manifest, leaves=leaves):
                keys.update(blob for blob in table["blob"].to_pylist() if blob)
                references += sum(bool(uri) for uri in table["uri"].to_pylist())
                contents.update(map(media.content_of, table["item_id"].to_pylist()))
    return _Parcel(
        source=source,
        row=row,
        schema=schema,
        keys=keys,
        layout=layout,
        segments=held,
        contents=contents,
        references=references,
        tags=tags,
        meta=meta,
        earlier=earlier,
        behind=behind,
        leaves=leaves,
    )


def _differing(home: Home, base: str, manifest: Manifest) -> NDArray[np.int64] | None:
    """Leaves that are not as in an earlier version; ``None``: all of them may differ."""
    try:
        before = parts.read_manifest(home.blobs, base)
        if not before.format == manifest.format == FORMAT or before.digits != manifest.digits:
            return None
        differ = (read_leaves(home.blobs, before) != read_leaves(home.blobs, manifest)).any(axis=1)
    except (Damaged, NotFound):  # of the earlier version: this one can be sent whole
        return None
    return np.flatnonzero(differ)


def _check(target: Home, name: str, parcel: _Parcel) -> None:
    """Refuse before anything is sent."""
    from loopworks.data.timeline import NAME

    if not NAME.fullmatch(name):
        raise Invalid("dataset name", "1 to 64 letters, digits, - or _", repr(name))
    with target.catalog.read() as tx:
        _check_rows(tx, target, name, parcel)


def _check_rows(tx: Any, target: Home, name: str, parcel: _Parcel) -> DatasetRow | None:
    """The dataset that the version goes to, if it is there; what must not come in is told."""
    if gone := erasing.refused(tx, sorted(parcel.contents)):
        raise Conflict(
            f"version {parcel.row.id[:12]} must hold nothing that was erased from {target.folder}; "
            f"got {len(gone)} such items, as {min(gone)[:12]}",
            "erase them from the other workspace, too, and take the version that is issued there",
        )
    found = next((one for one in datasets.every(tx) if one.name == name), None)
    if found and (found.task, found.schema.is_multi) != (parcel.row.task, parcel.schema.is_multi):
        kinds = [f"{task}{' (several classes an item)' if many else ''}" for task, many in (
            (parcel.row.task, parcel.schema.is_multi), (found.task, found.schema.is_multi),
        )]  # fmt: skip
        raise Conflict(f"dataset {name!r} must be of task {kinds[0]}; got {kinds[1]}", "choose another name for it")
    return found


def _allowed(tx: Any, meta: dict[str, Any]) -> dict[str, Any]:
    """What the formats know, without videos that were erased here with one of their frames."""
    gone = erasing.refused(tx, meta.get("video", {}))
    left = {key: facts for key, facts in meta.get("video", {}).items() if key not in gone}
    return {**meta, "video": left} if left else {name: value for name, value in meta.items() if name != "video"}


def _received(
    source: Home, target: Home, name: str, parcel: _Parcel, author: str
) -> tuple[VersionRow, bool, tuple[str, ...], dict[str, str]]:
    """Write the rows, in one transaction: all of it is there, or nothing."""
    manifest = None if parcel.row.task in TASKS else parts.read_manifest(target.blobs, parcel.row.id)
    with target.catalog.begin() as tx:
        found = _check_rows(tx, target, name, parcel)
        made = found or datasets.add(tx, name, parcel.row.task, parcel.schema)
        dataset = made.id
        if found:
            _grow(tx, found, parcel.schema, author)
        datasets.set_meta(tx, dataset, {**_allowed(tx, parcel.meta), **datasets.meta(tx, dataset)})
        is_damaged = not all(target.blobs.has(key) for key, _ in parts.layout_of(tx, parcel.row.id))
        parts.record(tx, parcel.row.id, parcel.layout, replace=is_damaged)
        segments.keep(tx, parcel.segments)
        if manifest is not None:
            known = set(items.every(tx, dataset)) if found else set()
            fresh = (
                row for row in parts.rows(tx, target.blobs, manifest, leaves=parcel.leaves) if row.item_id not in known
            )
            for batch in batches(fresh, ROWS):
                merging.insert(tx, dataset, batch, author, hidden=found is not None)
            if not found:
                parts.set_base(tx, dataset, parcel.row.id, items.tick(tx, dataset))
                _branch_off(tx, dataset, parcel)
        elif not found:
            _fill(tx, source, dataset, parcel, author)
        row, is_new = versions.receive(tx, dataset, parcel.row)
        if is_new:
            told = {"version": row.id, "number": row.number, "message": row.message, "from": source.folder.name}
            events.add(tx, [events.make("version.pull", dataset=dataset, author=author, after=told)])
        for node in (Node("dataset", name), *parcel.behind):
            lineage.link(tx, node, Node("version", row.id))
        means = versions.tags(tx, dataset)
        kept = {tag: means[tag] for tag in parcel.tags if means.get(tag, row.id) != row.id}
        tags = tuple(tag for tag in parcel.tags if tag not in kept)
        for tag in tags:
            versions.set_tag(tx, dataset, tag, row.id, author=author)
    return row, is_new, tags, kept


def _grow(tx: Any, found: DatasetRow, schema: LabelSchema, author: str) -> None:
    """Classes of the version that the dataset has not, after its own."""
    fresh = tuple(name for name in schema.classes if name not in found.schema.classes)
    if fresh:
        grown = LabelSchema(classes=found.schema.classes + fresh, is_multi=found.schema.is_multi)
        datasets.set_classes(tx, found.id, grown.classes)
        before, after = list(found.schema.classes), list(grown.classes)
        events.add(tx, [events.make("dataset.classes", dataset=found.id, author=author, before=before, after=after)])


def _branch_off(tx: Any, dataset: str, parcel: _Parcel) -> None:
    """Let a dataset that came under another name be a branch of its own kin here, so that it can be merged."""
    kin = next((one for one in datasets.every(tx) if one.name == parcel.source.name and one.id != dataset), None)
    if kin is None or kin.task != parcel.row.task:
        return
    here = {one.id for one in versions.every(tx, kin.id)}
    if base := next((version for version in parcel.earlier if version in here), ""):
        datasets.set_origin(tx, dataset, kin.id, base)


def _fill(tx: Any, source: Home, dataset: str, parcel: _Parcel, author: str) -> None:
    """Let a new table begin as the version, where its workspace still has the state that was frozen."""
    digests = [segment.digest for segment in parcel.segments]
    with source.catalog.read() as there:
        for state in segments.states(there, parcel.source.id):
            if [one.digest for one in segments.at(there, parcel.source.id, state.clock, with_stats=False)] == digests:
                held = segments.at(there, parcel.source.id, state.clock)
                break
        else:
            return
    begun = State(clock=1, digits=state.digits, rows=state.rows, body=state.body, op="pull", author=author)
    segments.advance(tx, dataset, 0, begun, (), held)
