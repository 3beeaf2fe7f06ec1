"""Rows of deployments: a name under which models answer. What answers is a revision; the old ones stay on record.

Of one name at most one revision is *live* and one a *canary*, which answers a share of the requests; any number are
*shadows*, which answer after the live one, to be compared with it. Each change is also a row of ``rollout``.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.store import lineage, models, tables
from loopworks.store.ids import new_id, now
from loopworks.store.lineage import Node

_table = tables.deployment
Role = Literal["live", "canary", "shadow"]
Action = Literal["deploy", "canary", "shadow", "promote", "rollback", "follow", "end"]
_ORDER = {"live": 0, "canary": 1, "shadow": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One revision of a deployment; it is in use while ``ended_at`` is empty."""

    name: str
    revision: int
    model: str
    number: int
    variant: str
    author: str
    created_at: datetime
    ended_at: datetime | None
    role: Role = "live"
    share: float = 0.0
    """Of a canary: the part of the requests that it answers, in percent."""
    alias: str = ""
    """The alias of the model that it follows; empty where it stays with its number."""
    before: int = 0
    """The revision that was live before this one; 0 where none was, or while it is not live yet."""

    @property
    def ref(self) -> str:
        """``name/revision``, as lineage writes it."""
        return f"{self.name}/{self.revision}"

    @property
    def key(self) -> tuple[str, str, float]:
        """What a server must change for: the revision, what it does, and how much of it."""
        return self.ref, self.role, self.share

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
            "role": self.role,
            "share": self.share,
            "alias": self.alias,
            "author": self.author,
            "created_at": self.created_at.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One change of what answers under a name."""

    id: str
    name: str
    revision: int
    action: Action
    share: float
    author: str
    at: datetime

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "revision": self.revision,
            "action": self.action,
            "share": self.share,
            "author": self.author,
            "at": self.at.isoformat(),
        }


def add(
    tx: Connection,
    name: str,
    *,
    model: str,
    number: int,
    variant: str,
    author: str = "",
    role: Role = "live",
    share: float = 0.0,
    alias: str = "",
) -> Deployment:
    """Let a model and variant answer under ``name`` from now on, in the place of what had this role.

    A shadow takes nobody's place; a new live one ends the canary too, which was compared with the live one before.
    Raises:
        NotFound: the model does not exist; for a canary or shadow, nothing is live.
        Conflict: the model is in use there already.
    """
    if not models.NAME.fullmatch(name):
        raise Invalid("deployment name", "1 to 64 letters, digits, - or _", repr(name))
    if name == "stats":
        raise Invalid("deployment name", "another than 'stats'", repr(name), "/v2/models/stats tells of all models")
    models.get(tx, f"{model}:{number}")
    used = in_use(tx, name)
    if role != "live":
        get(tx, name)
        if twin := [row for row in used if (row.model, row.number, row.variant) == (model, number, variant)]:
            if twin[0].role != role or role == "shadow":
                raise Conflict(
                    f"a {role} must be another model or variant than what is in use; "
                    f"got {model}:{number} as {variant}, the {twin[0].role} already",
                    "deployments shows what is in use",
                )
            changed = replace(twin[0], share=share, alias=alias)  # the same canary with another share
            _set(tx, changed, share=share, alias=alias)
            _note(tx, changed, "canary", author)
            return changed
    for row in used:
        if row.role == role != "shadow" or (role == "live" and row.role == "canary"):
            _end(tx, row)
    row = _insert(tx, name, used, model, number, variant, author, role, share, alias)
    _note(tx, row, "deploy" if role == "live" else role, author)
    return row


def promote(tx: Connection, name: str, revision: int | None = None, *, author: str = "") -> Deployment:
    """Let the canary (or the shadow of that number) answer all requests; the live one ends.

    Raises: Conflict: there is no canary, or no such canary or shadow.
    """
    used = in_use(tx, name)
    live = get(tx, name)
    found = [r for r in used if r.role != "live" and (r.revision == revision if revision else r.role == "canary")]
    if not found:
        others = ", ".join(f"{row.revision} ({row.role})" for row in used if row.role != "live") or "none"
        raise Conflict(
            f"deployment {name!r} must have a canary, or a canary or shadow of the given revision; it has {others}",
            "deploy a model with a canary share first",
        )
    for row in used:
        if row.role != "shadow":
            _end(tx, row)
    done = replace(found[0], role="live", share=0.0, before=live.revision, ended_at=None)
    _set(tx, done, role="live", share=0.0, before=live.revision, ended_at=None)
    _note(tx, done, "promote", author)
    return done


def rollback(tx: Connection, name: str, revision: int | None = None, *, author: str = "") -> Deployment:
    """Take the canary back; where there is none, or a revision is named, let an earlier revision be live again.

    Returns: what is live afterwards.
    Raises: Conflict: there is nothing to go back to. NotFound: no such revision.
    """
    live = get(tx, name)
    used = in_use(tx, name)
    canaries = [row for row in used if row.role == "canary"]
    for row in canaries:
        _end(tx, row)
    if canaries and revision is None:
        _note(tx, canaries[0], "rollback", author)
        return live
    target = live.before if revision is None else revision
    if not target or target == live.revision:
        raise Conflict(
            f"deployment {name!r} must have a revision before the live one; it has none"
            if revision is None
            else f"revision must be another than the live one; got {revision}",
            "deployments NAME shows all revisions",
        )
    earlier = get(tx, name, target)
    _end(tx, live)
    done = replace(earlier, role="live", share=0.0, alias="", ended_at=None)
    # It no longer follows its alias: the alias points to what was just taken back.
    _set(tx, done, role="live", share=0.0, alias="", ended_at=None)
    _note(tx, done, "rollback", author)
    return done


def follow(tx: Connection, model: str, alias: str, *, author: str = "") -> list[Deployment]:
    """Bring every deployment that follows ``model@alias`` to where it points now, each in its role."""
    target = models.get(tx, f"{model}@{alias}")
    query = select(_table).where(_table.c.model == model, _table.c.alias == alias, _table.c.ended_at.is_(None))
    done: list[Deployment] = []
    for found in tx.execute(query).all():
        row = Deployment(**found._mapping)
        if row.number == target.number:
            continue
        used = in_use(tx, row.name)
        _end(tx, row)
        meant = (model, target.number)
        twins = [one for one in used if one.revision != row.revision and (one.model, one.number) == meant]
        if row.role == "live":
            for one in twins:  # such as the challenger that became champion: it would be compared with itself
                _end(tx, one)
        elif twins:
            _note(tx, row, "end", author)
            continue
        fresh = _insert(
            tx, row.name, used, model, target.number, target.variant, author, row.role, row.share, row.alias
        )
        _note(tx, fresh, "follow", author)
        done.append(fresh)
    return done


def end(tx: Connection, name: str, revision: int | None = None, *, author: str = "") -> Deployment:
    """Take ``name`` out of use, or only its canary or shadow of that number; ``NotFound`` where it is not in use."""
    if revision is None:
        row = get(tx, name)
        ended = in_use(tx, name)
    else:
        found = {one.revision: one for one in in_use(tx, name)}
        if revision not in found:
            raise NotFound("revision in use", f"{name}/{revision}", [one.ref for one in found.values()])
        row = found[revision]
        if row.role == "live":
            raise Conflict(
                f"the live revision must be replaced, or the whole deployment ended; got {row.ref}",
                "promote or roll back first, or end the deployment without naming a revision",
            )
        ended = [row]
    for one in ended:
        _end(tx, one)
    _note(tx, row, "end", author)
    return row


def get(tx: Connection, name: str, revision: int | None = None) -> Deployment:
    """The live revision, or any other by its number; ``NotFound`` lists what there is."""
    if revision is not None:
        earlier = {row.revision: row for row in history(tx, name)}
        if revision not in earlier:
            raise NotFound("deployment", f"{name}/{revision}", [row.ref for row in earlier.values()])
        return earlier[revision]
    query = select(_table).where(_table.c.name == name, _table.c.role == "live", _table.c.ended_at.is_(None))
    if found := tx.execute(query).first():
        return Deployment(**found._mapping)
    raise NotFound("deployment", name, [row.name for row in every(tx)])


def every(tx: Connection) -> list[Deployment]:
    """What is live, by name."""
    query = select(_table).where(_table.c.role == "live", _table.c.ended_at.is_(None)).order_by(_table.c.name)
    return [Deployment(**row._mapping) for row in tx.execute(query)]


def in_use(tx: Connection, name: str = "") -> list[Deployment]:
    """What is live, then canary, then shadow; of one name or of all."""
    query = select(_table).where(_table.c.ended_at.is_(None)).order_by(_table.c.name, _table.c.revision)
    if name:
        query = query.where(_table.c.name == name)
    found = [Deployment(**row._mapping) for row in tx.execute(query)]
    return sorted(found, key=lambda row: (row.name, _ORDER[row.role], row.revision))


def history(tx: Connection, name: str) -> list[Deployment]:
    """All revisions, oldest first."""
    query = select(_table).where(_table.c.name == name).order_by(_table.c.revision)
    return [Deployment(**row._mapping) for row in tx.execute(query)]


def rollouts(tx: Connection, name: str) -> list[Rollout]:
    """Every change, newest first."""
    table = tables.rollout
    query = select(table).where(table.c.name == name).order_by(table.c.id.desc())
    return [Rollout(**row._mapping) for row in tx.execute(query)]


def _insert(
    tx: Connection,
    name: str,
    used: list[Deployment],
    model: str,
    number: int,
    variant: str,
    author: str,
    role: Role,
    share: float,
    alias: str,
) -> Deployment:
    last = tx.execute(select(func.max(_table.c.revision)).where(_table.c.name == name)).scalar()
    live = next((row.revision for row in used if row.role == "live"), 0)
    row = Deployment(
        name=name,
        revision=(last or 0) + 1,
        model=model,
        number=number,
        variant=variant,
        author=author,
        created_at=now(),
        ended_at=None,
        role=role,
        share=share,
        alias=alias,
        before=live if role == "live" else 0,
    )
    tx.execute(insert(_table).values({column.name: getattr(row, column.name) for column in _table.c}))
    lineage.link(tx, Node("model", f"{model}:{number}"), Node("deployment", row.ref))
    return row


def _end(tx: Connection, row: Deployment) -> None:
    _set(tx, row, ended_at=now())


def _set(tx: Connection, row: Deployment, **values: Any) -> None:
    tx.execute(update(_table).where(_table.c.name == row.name, _table.c.revision == row.revision).values(**values))


def _note(tx: Connection, row: Deployment, action: Action, author: str) -> None:
    values = {"name": row.name, "revision": row.revision, "action": action, "share": row.share, "author": author}
    tx.execute(insert(tables.rollout).values(id=new_id(), at=now(), **values))
