"""Rows of what is watched: rules of deployments, captured inputs, truth, events, counts, where the log lies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection

from loopworks.store import tables
from loopworks.store.ids import batches, new_id, now

_watch, _captured, _logged = tables.watch, tables.captured, tables.logged
_truth, _event, _count = tables.truth, tables.watch_event, tables.watch_count
_removed = tables.removed
INBOX, RETURNED = "inbox", "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """An input of a deployment that a rule chose."""

    deployment: str
    item: str
    dataset: str
    """Id of the dataset that it went to; empty where the input itself was not kept."""
    stored: str
    """Id of the dataset's item; empty for rows, and where the input was not kept."""
    model: str
    revision: int
    reasons: tuple[str, ...]
    count: int
    """How often it was chosen."""
    label: str
    score: float
    content: Any
    """A row of a table, which waits here for its truth; ``None`` for media, which the dataset holds."""
    state: str
    """inbox; returned: it is labelled."""
    is_ours: bool
    """Whether it came to the dataset by being captured."""
    first_at: datetime
    last_at: datetime

    @property
    def id(self) -> str:
        """Id of the prediction."""
        return f"{self.deployment}/{self.revision}/{self.item}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "item": self.item,
            "stored": self.stored,
            "model": self.model,
            "reasons": list(self.reasons),
            "count": self.count,
            "label": self.label,
            "score": round(self.score, 6),
            "content": self.content,
            "state": self.state,
            "first_at": self.first_at.isoformat(),
            "last_at": self.last_at.isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """Something that watching found or decided."""

    id: str
    deployment: str
    kind: str
    at: datetime
    body: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"id": self.id, "kind": self.kind, "at": self.at.isoformat(), **self.body}


# ---- rules


def set_rules(tx: Connection, deployment: str, rules: Mapping[str, Any], *, author: str = "") -> int:
    """Put rules in place of those before; gives their revision."""
    rev = int(tx.execute(select(_watch.c.rev).where(_watch.c.deployment == deployment)).scalar() or 0) + 1
    tx.execute(delete(_watch).where(_watch.c.deployment == deployment))
    row = {"deployment": deployment, "rules": dict(rules), "rev": rev, "author": author, "created_at": now()}
    tx.execute(insert(_watch), [row])
    add_event(tx, deployment, "rules", {"rev": rev, "author": author, "rules": dict(rules)})
    return rev


def rules(tx: Connection) -> dict[str, tuple[int, dict[str, Any]]]:
    """Deployment -> revision and rules."""
    found = tx.execute(select(_watch.c.deployment, _watch.c.rev, _watch.c.rules).order_by(_watch.c.deployment))
    return {name: (rev, body) for name, rev, body in found}


def forget_rules(tx: Connection, deployment: str, *, author: str = "") -> bool:
    """Watch no more; what was captured stays."""
    gone = tx.execute(delete(_watch).where(_watch.c.deployment == deployment)).rowcount > 0
    if gone:
        add_event(tx, deployment, "rules", {"rev": 0, "author": author, "rules": {}})
    return gone


# ---- captured inputs


def known(tx: Connection, deployment: str, items: Iterable[str]) -> dict[str, Captured]:
    """Those of the items that were captured before."""
    found: dict[str, Captured] = {}
    for batch in batches(items):
        query = select(_captured).where(_captured.c.deployment == deployment, _captured.c.item.in_(batch))
        found.update({row.item: _of(row) for row in tx.execute(query)})
    return found


def keep(tx: Connection, rows: Sequence[Captured]) -> None:
    """Write captured inputs, in place of the rows of the same deployment and item."""
    for deployment in {row.deployment for row in rows}:
        mine = [row for row in rows if row.deployment == deployment]
        for batch in batches(row.item for row in mine):
            tx.execute(delete(_captured).where(_captured.c.deployment == deployment, _captured.c.item.in_(batch)))
        told = [{c.name: getattr(row, c.name) for c in _captured.c} | {"reasons": list(row.reasons)} for row in mine]
        tx.execute(insert(_captured), told)


def inbox(
    tx: Connection, deployment: str, *, state: str = INBOX, limit: int = 100, before: datetime | None = None
) -> list[Captured]:
    """Captured inputs of a state (empty: all), the newest first; ``before``: last seen before then."""
    query = select(_captured).where(_captured.c.deployment == deployment)
    if state:
        query = query.where(_captured.c.state == state)
    if before is not None:
        query = query.where(_captured.c.last_at < before)
    return [_of(row) for row in tx.execute(query.order_by(_captured.c.last_at.desc(), _captured.c.item).limit(limit))]


def states(tx: Connection, deployment: str) -> dict[str, int]:
    """State -> captured inputs."""
    query = select(_captured.c.state, func.count()).where(_captured.c.deployment == deployment)
    return {row[0]: row[1] for row in tx.execute(query.group_by(_captured.c.state).order_by(_captured.c.state))}


def labeled(tx: Connection, deployment: str) -> list[str]:
    """Captured items that wait in the inbox, and that somebody has labelled in their dataset meanwhile."""
    item = tables.item
    query = select(_captured.c.item).join(
        item, (item.c.dataset == _captured.c.dataset) & (item.c.id == _captured.c.stored)
    )
    query = query.where(_captured.c.deployment == deployment, _captured.c.state == INBOX, item.c.state == "labeled")
    return list(tx.execute(query.order_by(_captured.c.item)).scalars())


def set_state(tx: Connection, deployment: str, items: Iterable[str], state: str) -> None:
    """Move captured inputs on."""
    for batch in batches(items):
        query = update(_captured).where(_captured.c.deployment == deployment, _captured.c.item.in_(batch))
        tx.execute(query.values(state=state))


def remove(tx: Connection, deployment: str, items: Iterable[str]) -> None:
    """Forget captured inputs of one deployment whose time is over; that and when they were removed stays known."""
    moment = now()
    for batch in batches(items):
        tx.execute(delete(_captured).where(_captured.c.deployment == deployment, _captured.c.item.in_(batch)))
        tx.execute(delete(_removed).where(_removed.c.deployment == deployment, _removed.c.item.in_(batch)))
        tx.execute(insert(_removed), [{"deployment": deployment, "item": item, "at": moment} for item in batch])


def removed(tx: Connection, deployment: str, items: Iterable[str]) -> dict[str, datetime]:
    """Those of the items that were removed because their time was over, and are not here again: when."""
    found: dict[str, datetime] = {}
    for batch in batches(items):
        query = select(_removed.c.item, _removed.c.at).where(_removed.c.deployment == deployment)
        found |= {row[0]: row[1] for row in tx.execute(query.where(_removed.c.item.in_(batch)))}
    return {item: found[item] for item in found.keys() - known(tx, deployment, found).keys()}


def _of(row: Any) -> Captured:
    told = dict(row._mapping)
    return Captured(**{**told, "reasons": tuple(told["reasons"])})


# ---- the log


def add_log(tx: Connection, deployment: str, *, blob: str, rows: int, since: datetime, until: datetime) -> None:
    """A blob holds more predictions."""
    row = {"deployment": deployment, "id": new_id(), "blob": blob, "rows": rows, "since": since, "until": until}
    tx.execute(insert(_logged), [row])


def log_parts(tx: Connection, deployment: str, *, since: datetime | None = None) -> list[dict[str, Any]]:
    """The blobs of the log, oldest first: ``id``, ``blob``, ``rows``, ``since``, ``until``."""
    query = select(_logged).where(_logged.c.deployment == deployment)
    if since is not None:
        query = query.where(_logged.c.until >= since)
    return [dict(row._mapping) for row in tx.execute(query.order_by(_logged.c.since, _logged.c.id))]


def drop_log(tx: Connection, ids: Iterable[str]) -> None:
    """Forget parts of the log; garbage collection removes their blobs."""
    for batch in batches(ids):
        tx.execute(delete(_logged).where(_logged.c.id.in_(batch)))


# ---- truth


def tell(
    tx: Connection,
    deployment: str,
    told: Mapping[str, tuple[Any, bool | None]],
    *,
    source: str,
    author: str = "",
    at: datetime | None = None,
) -> None:
    """Keep what was right: item -> label (``None``: not known) and whether the answer was; the last word holds."""
    moment = at or now()
    for batch in batches(told):
        mine = (_truth.c.deployment == deployment, _truth.c.source == source)
        tx.execute(delete(_truth).where(*mine, _truth.c.item.in_(batch)))
        key = {"deployment": deployment, "source": source, "author": author, "at": moment}
        tx.execute(
            insert(_truth), [{**key, "item": item, "label": told[item][0], "is_right": told[item][1]} for item in batch]
        )


def truths(
    tx: Connection, deployment: str, *, source: str, since: datetime | None = None
) -> dict[str, tuple[Any, bool | None]]:
    """Item -> label and whether the answer was right, as ``tell`` took them."""
    query = select(_truth.c.item, _truth.c.label, _truth.c.is_right)
    query = query.where(_truth.c.deployment == deployment, _truth.c.source == source)
    if since is not None:
        query = query.where(_truth.c.at >= since)
    return {row[0]: (row[1], row[2]) for row in tx.execute(query)}


def forget(tx: Connection, items: Iterable[str]) -> None:
    """Take everything that is known of items out: captured contents and truth, of all deployments."""
    for batch in batches(items):
        tx.execute(delete(_removed).where(_removed.c.item.in_(batch)))
        tx.execute(delete(_captured).where(_captured.c.item.in_(batch) | _captured.c.stored.in_(batch)))
        tx.execute(delete(_truth).where(_truth.c.item.in_(batch)))


# ---- events and counts


def add_event(tx: Connection, deployment: str, kind: str, body: Mapping[str, Any]) -> str:
    """Write an event and give its id."""
    key = new_id()
    tx.execute(insert(_event), [{"id": key, "deployment": deployment, "kind": kind, "at": now(), "body": dict(body)}])
    return key


def events(tx: Connection, deployment: str, *kinds: str, limit: int = 100) -> list[WatchEvent]:
    """Events of some kinds (none: all), the newest first."""
    query = select(_event).where(_event.c.deployment == deployment)
    if kinds:
        query = query.where(_event.c.kind.in_(kinds))
    return [WatchEvent(**row._mapping) for row in tx.execute(query.order_by(_event.c.id.desc()).limit(limit))]


def prune_events(tx: Connection, deployment: str, kind: str, *, keep: int) -> None:
    """Keep the newest events of a kind alone."""
    mine = (_event.c.deployment == deployment, _event.c.kind == kind)
    last = tx.execute(select(_event.c.id).where(*mine).order_by(_event.c.id.desc()).offset(keep).limit(1)).scalar()
    if last is not None:
        tx.execute(delete(_event).where(*mine, _event.c.id <= last))


def add_counts(tx: Connection, deployment: str, more: Mapping[str, int]) -> None:
    """Count on."""
    for what, count in sorted(more.items()):
        mine = (_count.c.deployment == deployment, _count.c.what == what)
        if not tx.execute(update(_count).where(*mine).values(count=_count.c.count + count)).rowcount:
            tx.execute(insert(_count), [{"deployment": deployment, "what": what, "count": count}])


def counts(tx: Connection, deployment: str) -> dict[str, int]:
    """What was counted of a deployment."""
    query = select(_count.c.what, _count.c.count).where(_count.c.deployment == deployment).order_by(_count.c.what)
    return {row[0]: row[1] for row in tx.execute(query)}
