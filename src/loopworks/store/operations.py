"""Operations: what one call changed, as one thing that is listed and can be undone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.store import changes, events, tables
from loopworks.store.changes import Facts
from loopworks.store.ids import batches, new_id

_table = tables.event
KIND = "operation"
"""The kind of the one event that speaks for the whole operation; it belongs to no item."""
PARTS = {
    "item.add": "is_here",
    "item.delete": "is_here",
    "item.return": "is_here",
    "item.label": "labels",
    "item.clear": "labels",
    "item.split": "split",
    "item.tags": "tags",
    "item.attributes": "attributes",
}
"""Kind of an item's event -> the part of the item that it changes."""
SHOWN = 18
"""Digits of an operation's id that commands show: any beginning that fits one alone will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call that changed a dataset."""

    id: str
    what: str
    """label, clear, split, delete, tag, describe, restore, merge, undo ..."""
    items: int
    """How many items it changed."""
    author: str
    reason: str
    at: datetime
    undoes: str
    """Of an undo: the operation that it took back; empty otherwise."""
    is_undone: bool

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "what": self.what,
            "items": self.items,
            "author": self.author,
            "reason": self.reason,
            "at": self.at.isoformat(),
            "undoes": self.undoes,
            "is_undone": self.is_undone,
        }


def record(
    tx: Connection,
    dataset: str,
    op: str,
    what: str,
    *,
    count: int,
    author: str = "",
    reason: str = "",
    undoes: str = "",
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write down that operation ``op`` changed ``count`` items; where there is nothing to undo (0), nothing.

    Args:
        tx: the transaction that made the (last) change.
        dataset: its id.
        op: id (``ids.new_id``) that the events of the items carry.
        what: a word for people.
        count: items changed.
        author: who did it.
        reason: why, where that was said.
        undoes: the operation that this one took back.
        more: what else is worth keeping, such as the version that was restored.
    """
    if count:
        after = {**(more or {}), "what": what, "items": count, "reason": reason, "undoes": undoes}
        events.add(tx, [events.make(KIND, dataset=dataset, author=author, after=after, op=op)])


def every(tx: Connection, dataset: str, *, limit: int = 100) -> list[Operation]:
    """The newest operations of a dataset, newest first."""
    headers = _headers(tx, dataset, limit)
    undone = {header.after["undoes"] for header in headers}  # an undo is always newer than what it took back
    return [_operation(header, undone) for header in headers]


def get(tx: Connection, dataset: str, op: str) -> Operation:
    """An operation by its id or the beginning of it.

    Raises:
        NotFound: no such operation.
        Invalid: several begin like that.
    """
    where = (_table.c.op >= op, _table.c.op <= op + "g", _table.c.kind == KIND) if op else (_table.c.kind == "",)
    query = select(_table).where(_table.c.dataset == dataset, *where).limit(2)
    found = [events.Event(**row._mapping) for row in tx.execute(query)]
    if not found:
        known = [header.op[:SHOWN] for header in _headers(tx, dataset, 12)]
        raise NotFound("operation", op, known)
    if len(found) > 1:
        raise Invalid("operation", "the beginning of one id", f"{op}, which begins several", "give more digits")
    newer = [header for header in _headers(tx, dataset, None, after=found[0].id) if header.after["undoes"]]
    return _operation(found[0], {header.after["undoes"] for header in newer})


def undo(tx: Connection, dataset: str, op: str, *, author: str, force: bool = False) -> Operation:
    """Give every item that an operation changed the facts back that it had before; itself an operation.

    Items that were erased since stay away.

    Args:
        tx: transaction.
        dataset: its id.
        op: id of the operation, or the beginning of it.
        author: who undoes it.
        force: also where an item was changed since, or would leave the test set.
    Raises:
        NotFound: no such operation.
        Conflict: it is undone already; or, without ``force``, a part that it changed was changed again since, or an
            item would leave the test set.
    """
    target = get(tx, dataset, op)
    if target.is_undone:
        raise Conflict(
            f"operation {target.id[:SHOWN]} must not be undone yet; got one that is", "undo the undo instead"
        )
    before, after = _ends(tx, dataset, target.id)
    now = changes.read(tx, dataset, before)
    wanted = {key: facts for key, facts in before.items() if key in now}
    if not force:
        _check(wanted, after, now, _touched(tx, dataset, wanted, now, target.id))
    fresh = new_id()
    count = changes.apply(tx, dataset, wanted, author=author, op=fresh)
    _reopen(tx, dataset, target.id)
    # Also where nothing was left to change: the operation is undone, and the list says so.
    record(tx, dataset, fresh, "undo", count=max(count, 1), author=author, undoes=target.id)
    return get(tx, dataset, fresh)


def _check(
    wanted: Mapping[str, Facts], after: Mapping[str, Facts], now: Mapping[str, Facts], touched: Mapping[str, str]
) -> None:
    keys = list(wanted)
    changed = list(touched.items()) + [
        (key, part)
        for key in keys
        for part in wanted[key]
        if changes.to_json(part, now[key][part]) != changes.to_json(part, after[key][part])  # type: ignore[literal-required]
    ]
    if changed:
        key, part = changed[0]
        raise Conflict(
            f"items must be as the operation left them; got {len({k for k, _ in changed})} changed since, such as the "
            f"{part.replace('is_here', 'presence')} of {key[:12]}",
            "undo what came later first, or force it",
        )
    leaving = [key for key in keys if now[key]["split"] == "test" and wanted[key].get("split", "test") != "test"]
    if leaving:
        raise Conflict(
            f"items of the test set must stay there; got {len(leaving)} to move, such as {leaving[0][:12]}",
            "figures measured on them are void once they were trained on; force moves them all the same",
        )


def _ends(tx: Connection, dataset: str, op: str) -> tuple[dict[str, Facts], dict[str, Facts]]:
    """Item -> the parts that the operation changed, as they were before its first and after its last change."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    query = select(_table.c.kind, _table.c.item, _table.c.before, _table.c.after)
    query = query.where(_table.c.dataset == dataset, _table.c.op == op, _table.c.item != "").order_by(_table.c.id)
    for kind, item, old, new in tx.execute(query):
        if part := PARTS.get(kind):
            before.setdefault(item, {}).setdefault(part, changes.from_json(part, old))
            after.setdefault(item, {})[part] = changes.from_json(part, new)
    return before, after


def _touched(
    tx: Connection, dataset: str, wanted: Mapping[str, Facts], now: Mapping[str, Facts], op: str
) -> dict[str, str]:
    """Of the items that would go because the operation added them: those that somebody worked on since."""
    query = select(_table.c.item, _table.c.id).where(_table.c.dataset == dataset, _table.c.op == op)
    added = {item: event for item, event in tx.execute(query.where(_table.c.kind == "item.add")) if item in wanted}
    found: dict[str, str] = {}
    for batch in batches(added):
        later = select(_table.c.item, _table.c.kind, _table.c.before).where(
            _table.c.dataset == dataset, _table.c.item.in_(batch), _table.c.op != op, _table.c.id > min(added.values())
        )
        seen: set[tuple[str, str]] = set()
        for item, kind, before in tx.execute(later.order_by(_table.c.id)):
            part = PARTS.get(kind, "")
            if part and (item, part) not in seen and before != changes.to_json(part, now[item][part]):  # type: ignore[literal-required]
                found[item] = part
            seen.add((item, part))
    return found


def _reopen(tx: Connection, dataset: str, op: str) -> None:
    """A finding that the operation had fixed is there again."""
    table = tables.finding
    query = update(table).where(table.c.dataset == dataset, table.c.op == op)
    tx.execute(query.values(state="open", op=""))


def _headers(tx: Connection, dataset: str, limit: int | None, *, after: str = "") -> list[events.Event]:
    query = select(_table).where(_table.c.dataset == dataset, _table.c.item == "", _table.c.kind == KIND)
    query = query.where(_table.c.id > after).order_by(_table.c.id.desc()).limit(limit)
    return [events.Event(**row._mapping) for row in tx.execute(query)]


def _operation(header: events.Event, undone: Iterable[str]) -> Operation:
    body = header.after
    return Operation(
        id=header.op,
        what=body["what"],
        items=body["items"],
        author=header.author,
        reason=body["reason"],
        at=header.at,
        undoes=body["undoes"],
        is_undone=header.op in undone,
    )
