"""Saved views: queries with a name."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import NotFound
from loopworks.store import tables
from loopworks.store.ids import now

_table = tables.view


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A query and its order under a name."""

    name: str
    query: str
    sort: str
    author: str
    created_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "query": self.query,
            "sort": self.sort,
            "author": self.author,
            "created_at": self.created_at.isoformat(),
        }


def save(tx: Connection, dataset: str, name: str, query: str, sort: str, author: str) -> View:
    """Keep a view, in place of one with the same name."""
    view = View(name=name, query=query, sort=sort, author=author, created_at=now())
    tx.execute(delete(_table).where(_table.c.dataset == dataset, _table.c.name == name))
    row = {field: getattr(view, field) for field in View.__dataclass_fields__}
    tx.execute(insert(_table).values(dataset=dataset, **row))
    return view


def every(tx: Connection, dataset: str) -> list[View]:
    """All views, by name."""
    names = [_table.c[field] for field in View.__dataclass_fields__]
    rows = tx.execute(select(*names).where(_table.c.dataset == dataset).order_by(_table.c.name))
    return [View(**row._mapping) for row in rows]


def find(tx: Connection, dataset: str, name: str) -> View | None:
    """The view called so."""
    names = [_table.c[field] for field in View.__dataclass_fields__]
    row = tx.execute(select(*names).where(_table.c.dataset == dataset, _table.c.name == name)).first()
    return None if row is None else View(**row._mapping)


def remove(tx: Connection, dataset: str, name: str) -> None:
    """Forget a view; ``NotFound`` lists those that exist."""
    known = [view.name for view in every(tx, dataset)]
    if name not in known:
        raise NotFound("view", name, known)
    tx.execute(delete(_table).where(_table.c.dataset == dataset, _table.c.name == name))
