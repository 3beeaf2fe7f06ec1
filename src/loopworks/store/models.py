"""Rows of models: an index of bundles by name and number, and the aliases that point to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, NotFound
from loopworks.store import tables
from loopworks.store.ids import now

_table = tables.model


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A model as the catalog knows it; the rest is in its bundle."""

    name: str
    number: int
    bundle: str
    """Where the bundle lies: its key."""
    run: str
    version: str
    parent: str
    """``name/number`` of the model that this one was made from, or empty."""
    task: str
    variant: str
    """Name of the variant that answers by default."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime

    @property
    def id(self) -> str:
        """``name/number``, as people and lineage write it."""
        return f"{self.name}/{self.number}"


def add(
    tx: Connection,
    name: str,
    *,
    bundle: str,
    run: str,
    version: str,
    task: str,
    variant: str,
    parent: str = "",
    metrics: Mapping[str, Any] | None = None,
) -> ModelRow:
    """Record a model under the next free number of its name."""
    if not name or "/" in name:
        raise Invalid("model name", "text without a slash", repr(name))
    last = tx.execute(select(func.max(_table.c.number)).where(_table.c.name == name)).scalar()
    row = ModelRow(
        name=name,
        number=(last or 0) + 1,
        bundle=bundle,
        run=run,
        version=version,
        parent=parent,
        task=task,
        variant=variant,
        metrics=dict(metrics or {}),
        created_at=now(),
    )
    tx.execute(insert(_table).values({column.name: getattr(row, column.name) for column in _table.c}))
    return row


def get(tx: Connection, name: str, which: int | str | None = None) -> ModelRow:
    """A model by number or alias; the newest without one. ``name/3`` and ``name/champion`` are understood too.

    Raises: NotFound: no such model, number or alias; the hint lists those that exist.
    """
    if which is None and "/" in name:
        name, _, which = name.partition("/")
    numbers = list(tx.execute(select(_table.c.number).where(_table.c.name == name).order_by(_table.c.number)).scalars())
    if not numbers:
        known = select(_table.c.name).distinct().order_by(_table.c.name)
        raise NotFound("model", name, tx.execute(known).scalars())
    if which is None:
        number = numbers[-1]
    elif isinstance(which, int) or which.isdecimal():
        number = int(which)
    else:
        number = aliases(tx, name).get(which, 0)
    if number not in numbers:
        raise NotFound("model", f"{name}/{which}", [*(f"{name}/{n}" for n in numbers), *aliases(tx, name)])
    found = tx.execute(select(_table).where(_table.c.name == name, _table.c.number == number)).one()
    return ModelRow(**found._mapping)


def every(tx: Connection, name: str | None = None) -> list[ModelRow]:
    """All models, or all of one name, oldest first."""
    query = select(_table).order_by(_table.c.created_at, _table.c.name, _table.c.number)
    if name is not None:
        query = query.where(_table.c.name == name)
    return [ModelRow(**row._mapping) for row in tx.execute(query)]


def set_alias(tx: Connection, name: str, alias: str, number: int) -> None:
    """Let ``alias`` (champion, challenger ...) point to a model, and to no other of that name."""
    if not alias or "/" in alias or alias.isdecimal():
        raise Invalid("alias", "a word without a slash", repr(alias))
    get(tx, name, number)
    table = tables.alias
    tx.execute(delete(table).where(table.c.model == name, table.c.alias == alias))
    tx.execute(insert(table).values(model=name, alias=alias, number=number))


def aliases(tx: Connection, name: str) -> dict[str, int]:
    """Alias -> number, of one model name."""
    table = tables.alias
    query = select(table.c.alias, table.c.number).where(table.c.model == name).order_by(table.c.alias)
    return {row[0]: row[1] for row in tx.execute(query)}
