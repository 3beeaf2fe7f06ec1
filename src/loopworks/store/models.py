"""Rows of models: an index of bundles by name and number, and the aliases that point to them."""

import re
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
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as the catalog knows it; the rest is in its bundle."""

    name: str
    number: int
    bundle: str
    """Where the bundle lies: its key."""
    run: str
    version: str
    parent: str
    """``name:number`` of the model that this one was made from, or empty."""
    task: str
    variant: str
    """Name of the variant that answers by default."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime

    @property
    def ref(self) -> str:
        """``name:number``, as people and lineage write it."""
        return f"{self.name}:{self.number}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "ref": self.ref,
            "name": self.name,
            "number": self.number,
            "bundle": self.bundle,
            "run": self.run,
            "version": self.version,
            "parent": self.parent,
            "task": self.task,
            "variant": self.variant,
            "metrics": dict(self.metrics),
            "created_at": self.created_at.isoformat(),
        }


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
) -> Model:
    """Record a model under the next free number of its name."""
    if not NAME.fullmatch(name):
        raise Invalid("model name", "1 to 64 letters, digits, - or _", repr(name))
    last = tx.execute(select(func.max(_table.c.number)).where(_table.c.name == name)).scalar()
    row = Model(
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


def get(tx: Connection, ref: str) -> Model:
    """A model by ``name`` (its newest number), ``name:number`` or ``name@alias``.

    Raises: NotFound: no such model, number or alias; the hint lists those that exist.
    """
    name, mark, which = re.fullmatch(r"([^:@]*)([:@]?)(.*)", ref, re.DOTALL).groups()  # type: ignore[union-attr]
    numbers = list(tx.execute(select(_table.c.number).where(_table.c.name == name).order_by(_table.c.number)).scalars())
    if not numbers:
        known = select(_table.c.name).distinct().order_by(_table.c.name)
        raise NotFound("model", ref, tx.execute(known).scalars())
    if not mark:
        number = numbers[-1]
    elif mark == ":":
        number = int(which) if which.isdecimal() else 0
    else:
        number = aliases(tx, name).get(which, 0)
    if number not in numbers:
        known_refs = [*(f"{name}:{n}" for n in numbers), *(f"{name}@{alias}" for alias in aliases(tx, name))]
        raise NotFound("model", ref, known_refs)
    found = tx.execute(select(_table).where(_table.c.name == name, _table.c.number == number)).one()
    return Model(**found._mapping)


def every(tx: Connection, name: str | None = None) -> list[Model]:
    """All models, or all of one name, newest first."""
    query = select(_table).order_by(_table.c.created_at.desc(), _table.c.name, _table.c.number.desc())
    if name is not None:
        query = query.where(_table.c.name == name)
    return [Model(**row._mapping) for row in tx.execute(query)]


def set_alias(tx: Connection, name: str, alias: str, number: int) -> None:
    """Let ``alias`` (champion, challenger ...) point to a model, and to no other of that name."""
    if not NAME.fullmatch(alias):
        raise Invalid("alias", "1 to 64 letters, digits, - or _", repr(alias))
    get(tx, f"{name}:{number}")
    table = tables.alias
    tx.execute(delete(table).where(table.c.model == name, table.c.alias == alias))
    tx.execute(insert(table).values(model=name, alias=alias, number=number))


def aliases(tx: Connection, name: str) -> dict[str, int]:
    """Alias -> number, of one model name."""
    table = tables.alias
    query = select(table.c.alias, table.c.number).where(table.c.model == name).order_by(table.c.alias)
    return {row[0]: row[1] for row in tx.execute(query)}
