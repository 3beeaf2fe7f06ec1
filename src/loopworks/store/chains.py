"""Rows of chains: graphs of models under one name, as facts of the workspace."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.store import deployments, info, models, tables

_PREFIX = "chain:"
_key = tables.info.c.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One chain as it is now; ``revision`` counts the changes of its name."""

    name: str
    revision: int
    graph: dict[str, Any]

    def prediction(self, item: str) -> str:
        """Id of what it says of an item."""
        return f"{self.name}/{self.revision}/{item}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"name": self.name, "revision": self.revision, "graph": self.graph}


def put(tx: Connection, name: str, graph: dict[str, Any]) -> Chain:
    """Add a chain, or change it.

    Raises: Invalid: no name. Conflict: a deployment has it.
    """
    if not models.NAME.fullmatch(name):
        raise Invalid("chain name", "1 to 64 letters, digits, - or _", repr(name))
    if name in {row.name for row in deployments.every(tx)}:
        raise Conflict(f"chain {name!r} must have a name of its own; got that of a deployment", "choose another")
    before = find(tx, name)
    found = Chain(name=name, revision=before.revision + 1 if before else 1, graph=graph)
    tx.execute(delete(tables.info).where(_key == _PREFIX + name))
    tx.execute(insert(tables.info).values(key=_PREFIX + name, value=json.dumps(found.to_json(), ensure_ascii=False)))
    return found


def find(tx: Connection, name: str) -> Chain | None:
    """The chain called ``name``, if there is one."""
    text = info.get(tx, _PREFIX + name)
    return Chain(**json.loads(text)) if text else None


def get(tx: Connection, name: str) -> Chain:
    """The chain called ``name``; ``NotFound`` lists those that exist."""
    if (found := find(tx, name)) is None:
        raise NotFound("chain", name, [chain.name for chain in every(tx)])
    return found


def every(tx: Connection) -> list[Chain]:
    """All chains, by name."""
    query = select(tables.info.c.value).where(_key.startswith(_PREFIX, autoescape=True)).order_by(_key)
    return sorted((Chain(**json.loads(text)) for text in tx.execute(query).scalars()), key=lambda chain: chain.name)


def remove(tx: Connection, name: str) -> Chain:
    """Take a chain away; ``NotFound`` where there is none."""
    found = get(tx, name)
    tx.execute(delete(tables.info).where(_key == _PREFIX + name))
    return found
