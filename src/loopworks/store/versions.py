"""Rows of frozen versions. What a version holds is in its manifest (``parts.py``); a row says when and by whom."""

import re
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, NotFound
from loopworks.store import events, tables
from loopworks.store.ids import now

_table = tables.version
_TAG = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """A version as the catalog knows it."""

    dataset: str
    id: str
    """SHA-256 of the manifest, and the manifest's key among the blobs."""
    number: int
    """1, 2, 3 ... within the dataset, in the order of freezing."""
    task: str
    message: str
    author: str
    parent: str
    items: int
    created_at: datetime


def add(
    tx: Connection, dataset: str, version: str, *, task: str, message: str, author: str, count: int
) -> tuple[VersionRow, bool]:
    """Record a version; the same state frozen again gives the row that is there. Also says whether it is new."""
    query = select(_table).where(_table.c.dataset == dataset, _table.c.id == version)
    if found := tx.execute(query).first():
        return VersionRow(**found._mapping), False
    last = latest(tx, dataset)
    row = VersionRow(
        dataset=dataset,
        id=version,
        number=last.number + 1 if last else 1,
        task=task,
        message=message,
        author=author,
        parent=last.id if last else "",
        items=count,
        created_at=now(),
    )
    tx.execute(insert(_table).values({column.name: getattr(row, column.name) for column in _table.c}))
    return row, True


def receive(tx: Connection, dataset: str, told: VersionRow) -> tuple[VersionRow, bool]:
    """Record a version that another workspace froze, with its message, author and time; says whether it is new here.

    It keeps its number where that is free, so that versions that come one by one stand in the order of freezing.
    """
    query = select(_table).where(_table.c.dataset == dataset, _table.c.id == told.id)
    if found := tx.execute(query).first():
        return VersionRow(**found._mapping), False
    is_taken = select(_table.c.id).where(_table.c.dataset == dataset, _table.c.number == told.number)
    last = latest(tx, dataset)
    number = last.number + 1 if last and tx.execute(is_taken).first() else told.number
    row = replace(told, dataset=dataset, number=number)
    tx.execute(insert(_table).values({column.name: getattr(row, column.name) for column in _table.c}))
    return row, True


def latest(tx: Connection, dataset: str) -> VersionRow | None:
    """The version frozen last."""
    number = select(func.max(_table.c.number)).where(_table.c.dataset == dataset).scalar_subquery()
    found = tx.execute(select(_table).where(_table.c.dataset == dataset, _table.c.number == number)).first()
    return VersionRow(**found._mapping) if found else None


def every(tx: Connection, dataset: str) -> list[VersionRow]:
    """All versions of a dataset, oldest first."""
    query = select(_table).where(_table.c.dataset == dataset).order_by(_table.c.number)
    return [VersionRow(**row._mapping) for row in tx.execute(query)]


def set_tag(tx: Connection, dataset: str, tag: str, version: str, *, author: str) -> str:
    """Let ``tag`` mean a version, and no other of the dataset any more; gives the version that it meant before."""
    if not _TAG.fullmatch(tag) or _is_hex(tag):
        raise Invalid("tag", "1 to 64 letters, digits, . - or _, and no beginning of an id", repr(tag))
    table = tables.version_tag
    mine = (table.c.dataset == dataset, table.c.tag == tag)
    before = tx.execute(select(table.c.version).where(*mine)).scalar() or ""
    if before != version:
        tx.execute(delete(table).where(*mine))
        row = {"dataset": dataset, "tag": tag, "version": version, "author": author, "created_at": now()}
        tx.execute(insert(table).values(**row))
        moved = {"tag": tag, "version": version}
        logged = events.make(
            "version.tag", dataset=dataset, author=author, before={**moved, "version": before}, after=moved
        )
        events.add(tx, [logged])
    return before


def tags(tx: Connection, dataset: str) -> dict[str, str]:
    """Tag -> id of the version that it means, by name."""
    table = tables.version_tag
    query = select(table.c.tag, table.c.version).where(table.c.dataset == dataset).order_by(table.c.tag)
    return {row[0]: row[1] for row in tx.execute(query)}


def get(tx: Connection, version: str, dataset: str | None = None) -> VersionRow:
    """A version by its id or the beginning of it, of one dataset or of any; within a dataset also by its tag.

    Raises:
        NotFound: no such version.
        Invalid: several versions begin like that.
    """
    if dataset is not None:
        version = tags(tx, dataset).get(version, version)
    query = select(_table).where(_table.c.id >= version, _table.c.id <= version + "g").order_by(_table.c.created_at)
    if dataset is not None:
        query = query.where(_table.c.dataset == dataset)
    rows = [VersionRow(**row._mapping) for row in tx.execute(query)] if _is_hex(version) else []
    if not rows:
        _check_erased(tx, version)
        known = select(_table.c.id).order_by(_table.c.created_at.desc()).limit(12)
        if dataset is not None:
            known = known.where(_table.c.dataset == dataset)
        raise NotFound("version", version, [key[:12] for key in tx.execute(known).scalars()])
    if len({row.id for row in rows}) > 1:
        raise Invalid("version id", "the beginning of one id", f"{version}, which begins several", "give more digits")
    return rows[0]


def _check_erased(tx: Connection, version: str) -> None:
    """Say which version came after one that held an item which was erased."""
    for moved in tx.execute(select(tables.tombstone.c.versions)).scalars():
        for old, new in moved.items():
            if _is_hex(version) and len(version) >= 8 and old.startswith(version):
                raise NotFound(
                    "version", version, hint=f"an item of it was erased; now {new or 'nothing is left of it'}"
                )


def _is_hex(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789abcdef")
