"""Rows of chains: graphs of models under one name, as facts of the workspace. What was once is kept."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.store import deployments, info, models, tables
from loopworks.store.ids import now

_PREFIX = "chain:"
_BEFORE = "chain-revision:"
"""Then NAME:REVISION: every revision, so that any of them can be shown and brought back."""
_key = tables.info.c.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One revision of a chain; ``revision`` counts the changes of its name."""

    name: str
    revision: int
    graph: dict[str, Any]
    author: str = ""
    """Who made it so."""
    created_at: str = ""
    """When, in UTC; empty where it was made before this was noted."""
    change: str = ""
    """add, change, rollback N; empty as above."""

    @property
    def ref(self) -> str:
        """NAME/REVISION."""
        return f"{self.name}/{self.revision}"

    def prediction(self, item: str) -> str:
        """Id of what it says of an item."""
        return f"{self.ref}/{item}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "revision": self.revision,
            "graph": self.graph,
            "author": self.author,
            "created_at": self.created_at,
            "change": self.change,
        }


def put(tx: Connection, name: str, graph: dict[str, Any], *, author: str = "", change: str = "") -> Chain:
    """Add a chain, or change it; the same graph again changes nothing.

    Raises: Invalid: no name. Conflict: a deployment has it.
    """
    if not models.NAME.fullmatch(name):
        raise Invalid("chain name", "1 to 64 letters, digits, - or _", repr(name))
    if name in {row.name for row in deployments.every(tx)}:
        raise Conflict(f"chain {name!r} must have a name of its own; got that of a deployment", "choose another")
    before = find(tx, name)
    if before is not None and before.graph == graph:
        return before
    last = max((one.revision for one in history(tx, name)), default=0)
    found = Chain(
        name=name,
        revision=last + 1,
        graph=graph,
        author=author,
        created_at=f"{now():%Y-%m-%dT%H:%M:%SZ}",
        change=change or ("change" if before else "add"),
    )
    if before is not None:
        _write(tx, f"{_BEFORE}{name}:{before.revision}", before)  # of a time when none were kept
    _write(tx, _PREFIX + name, found)
    _write(tx, f"{_BEFORE}{name}:{found.revision}", found)
    return found


def rollback(tx: Connection, name: str, revision: int | None = None, *, author: str = "") -> Chain:
    """Let the graph before, or that of ``revision``, be the chain's again, as a revision of its own.

    Raises: NotFound: no such chain or revision.
    """
    used = get(tx, name)
    if revision is None:
        earlier = [
            one.revision for one in history(tx, name) if one.graph != used.graph and one.revision < used.revision
        ]
        if not earlier:
            raise NotFound(f"revision of chain {name!r} before", used.revision, hint="it was never changed")
        revision = earlier[-1]
    return put(tx, name, get(tx, name, revision).graph, author=author, change=f"rollback {revision}")


def find(tx: Connection, name: str) -> Chain | None:
    """The chain called ``name``, if there is one."""
    text = info.get(tx, _PREFIX + name)
    return Chain(**json.loads(text)) if text else None


def get(tx: Connection, name: str, revision: int | None = None) -> Chain:
    """The chain called ``name`` as it is, or one of its revisions; ``NotFound`` lists those that exist."""
    if revision is not None:
        earlier = {one.revision: one for one in history(tx, name)}
        if revision not in earlier:
            raise NotFound("chain", f"{name}/{revision}", [one.ref for one in earlier.values()])
        return earlier[revision]
    if (found := find(tx, name)) is None:
        raise NotFound("chain", name, [chain.name for chain in every(tx)])
    return found


def history(tx: Connection, name: str) -> list[Chain]:
    """All revisions of a chain, oldest first; those of a chain that was removed too."""
    found = {one.revision: one for one in _under(tx, f"{_BEFORE}{name}:")}
    if (used := find(tx, name)) is not None:
        found[used.revision] = used
    return [found[revision] for revision in sorted(found)]


def every(tx: Connection) -> list[Chain]:
    """All chains, by name."""
    return sorted(_under(tx, _PREFIX), key=lambda chain: chain.name)


def using(tx: Connection, ref: str) -> list[Chain]:
    """The chains with a node that is the deployment ``ref``, or the model ``ref`` (NAME:NUMBER)."""
    return [chain for chain in every(tx) if ref in chain.graph["nodes"].values()]


def check_free(tx: Connection, name: str) -> None:
    """``Conflict`` where a chain is called ``name``: a deployment may not be."""
    if find(tx, name) is not None:
        raise Conflict(f"deployment {name!r} must have a name of its own; got that of a chain", "choose another")


def check_unused(tx: Connection, deployment: str) -> None:
    """``Conflict`` where a chain asks a deployment: it must stay."""
    if users := using(tx, deployment):
        names = ", ".join(chain.name for chain in users)
        hint = "change these chains, or remove them first: loopworks chain rm"
        raise Conflict(f"deployment {deployment!r} must be asked by no chain; got {names}", hint)


def remove(tx: Connection, name: str) -> Chain:
    """Take a chain away, its revisions stay on record; ``NotFound`` where there is none."""
    found = get(tx, name)
    _write(tx, f"{_BEFORE}{name}:{found.revision}", found)
    tx.execute(delete(tables.info).where(_key == _PREFIX + name))
    return found


def _under(tx: Connection, prefix: str) -> list[Chain]:
    query = select(tables.info.c.value).where(_key.startswith(prefix, autoescape=True)).order_by(_key)
    return [Chain(**json.loads(text)) for text in tx.execute(query).scalars()]


def _write(tx: Connection, key: str, chain: Chain) -> None:
    tx.execute(delete(tables.info).where(_key == key))
    tx.execute(insert(tables.info).values(key=key, value=json.dumps(chain.to_json(), ensure_ascii=False)))
