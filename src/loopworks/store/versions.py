"""Rows of frozen versions. What a version holds is in its manifest (``parts.py``); a row says when and by whom."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, NotFound
from loopworks.store import tables
from loopworks.store.ids import now

_table = tables.version


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


def latest(tx: Connection, dataset: str) -> VersionRow | None:
    """The version frozen last."""
    number = select(func.max(_table.c.number)).where(_table.c.dataset == dataset).scalar_subquery()
    found = tx.execute(select(_table).where(_table.c.dataset == dataset, _table.c.number == number)).first()
    return VersionRow(**found._mapping) if found else None


def every(tx: Connection, dataset: str) -> list[VersionRow]:
    """All versions of a dataset, oldest first."""
    query = select(_table).where(_table.c.dataset == dataset).order_by(_table.c.number)
    return [VersionRow(**row._mapping) for row in tx.execute(query)]


def get(tx: Connection, version: str, dataset: str | None = None) -> VersionRow:
    """A version by its id or the beginning of it, of one dataset or of any.

    Raises:
        NotFound: no such version.
        Invalid: several versions begin like that.
    """
    query = select(_table).where(_table.c.id >= version, _table.c.id <= version + "g").order_by(_table.c.created_at)
    if dataset is not None:
        query = query.where(_table.c.dataset == dataset)
    rows = [VersionRow(**row._mapping) for row in tx.execute(query)] if _is_hex(version) else []
    if not rows:
        known = select(_table.c.id).order_by(_table.c.created_at.desc()).limit(12)
        if dataset is not None:
            known = known.where(_table.c.dataset == dataset)
        raise NotFound("version", version, [key[:12] for key in tx.execute(known).scalars()])
    if len({row.id for row in rows}) > 1:
        raise Invalid("version id", "the beginning of one id", f"{version}, which begins several", "give more digits")
    return rows[0]


def _is_hex(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789abcdef")
