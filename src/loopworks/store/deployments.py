"""Rows of deployments: a name under which a model answers. Each change is a new revision; the old ones stay."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, NotFound
from loopworks.store import models, tables
from loopworks.store.ids import now

_table = tables.deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One revision of a deployment; it is live while ``ended_at`` is empty."""

    name: str
    revision: int
    model: str
    number: int
    variant: str
    author: str
    created_at: datetime
    ended_at: datetime | None

    @property
    def ref(self) -> str:
        """``name/revision``, as lineage writes it."""
        return f"{self.name}/{self.revision}"

    def prediction(self, item: str) -> str:
        """Id of what this revision says of an item: enough to find everything behind it, without storing anything."""
        return f"{self.ref}/{item}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "revision": self.revision,
            "model": self.model,
            "number": self.number,
            "variant": self.variant,
            "author": self.author,
            "created_at": self.created_at.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
        }


def add(tx: Connection, name: str, *, model: str, number: int, variant: str, author: str = "") -> Deployment:
    """Let ``name`` answer with this model and variant from now on; ``NotFound`` where the model does not exist."""
    if not models.NAME.fullmatch(name):
        raise Invalid("deployment name", "1 to 64 letters, digits, - or _", repr(name))
    models.get(tx, f"{model}:{number}")
    moment = now()
    _end(tx, name, moment)
    last = tx.execute(select(func.max(_table.c.revision)).where(_table.c.name == name)).scalar()
    row = Deployment(
        name=name,
        revision=(last or 0) + 1,
        model=model,
        number=number,
        variant=variant,
        author=author,
        created_at=moment,
        ended_at=None,
    )
    tx.execute(insert(_table).values({column.name: getattr(row, column.name) for column in _table.c}))
    return row


def get(tx: Connection, name: str, revision: int | None = None) -> Deployment:
    """The live revision, or an earlier one; ``NotFound`` lists what there is."""
    if revision is not None:
        earlier = {row.revision: row for row in history(tx, name)}
        if revision not in earlier:
            raise NotFound("deployment", f"{name}/{revision}", [row.ref for row in earlier.values()])
        return earlier[revision]
    query = select(_table).where(_table.c.name == name, _table.c.ended_at.is_(None))
    if found := tx.execute(query).first():
        return Deployment(**found._mapping)
    raise NotFound("deployment", name, [row.name for row in every(tx)])


def every(tx: Connection) -> list[Deployment]:
    """What is live, by name."""
    query = select(_table).where(_table.c.ended_at.is_(None)).order_by(_table.c.name)
    return [Deployment(**row._mapping) for row in tx.execute(query)]


def history(tx: Connection, name: str) -> list[Deployment]:
    """All revisions, oldest first."""
    query = select(_table).where(_table.c.name == name).order_by(_table.c.revision)
    return [Deployment(**row._mapping) for row in tx.execute(query)]


def end(tx: Connection, name: str) -> Deployment:
    """Take ``name`` out of use and give what was live; ``NotFound`` where nothing was."""
    row = get(tx, name)
    _end(tx, name, now())
    return row


def _end(tx: Connection, name: str, moment: datetime) -> None:
    tx.execute(update(_table).where(_table.c.name == name, _table.c.ended_at.is_(None)).values(ended_at=moment))
