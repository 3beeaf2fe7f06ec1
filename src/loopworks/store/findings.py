"""Rows of findings: what a check of the data found, until it is fixed or waved through."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, insert, or_, select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, NotFound
from loopworks.store import tables
from loopworks.store.ids import batches, now

_table = tables.finding
STATES = ("open", "fixed", "ignored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a dataset."""

    id: str
    dataset: str
    kind: str
    """Name of the check without ``clean.``."""
    state: str
    """open, fixed or ignored."""
    items: tuple[str, ...]
    """Ids; of copies, the one that stays first."""
    detail: Mapping[str, Any]
    """message, score (0..1), fix and facts."""
    op: str
    """The operation that fixed it; empty where none did."""
    created_at: datetime

    @property
    def message(self) -> str:
        """One sentence for people."""
        return str(self.detail["message"])

    @property
    def action(self) -> str:
        """What the fix does: delete, split, tag, relabel, shapes, or none where there is none."""
        return str(self.detail["fix"]["action"])

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "items": list(self.items),
            **self.detail,
            "op": self.op,
            "created_at": self.created_at.isoformat(),
        }


def identify(dataset: str, kind: str, items: Sequence[str], fix: Mapping[str, Any]) -> str:
    """The id of a finding: the same fault found again has the same one, whatever was measured this time."""
    text = json.dumps([dataset, kind, list(items), fix], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def replace(tx: Connection, dataset: str, kinds: Iterable[str], found: Sequence[Mapping[str, Any]]) -> None:
    """Make the findings of some kinds what a check found now.

    What is new is open; what was ignored stays ignored; what was fixed and is there again is open again. Open findings
    that are not found any more go.

    Args:
        tx: transaction.
        dataset: its id.
        kinds: that were looked for.
        found: rows with ``kind``, ``items`` and ``detail``.
    """
    fresh = {identify(dataset, row["kind"], row["items"], row["detail"]["fix"]): row for row in found}
    query = select(_table.c.id, _table.c.state).where(_table.c.dataset == dataset, _table.c.kind.in_(list(kinds)))
    known = {row[0]: row[1] for row in tx.execute(query)}
    stale = [one for one, state in known.items() if state == "open" and one not in fresh]
    for batch in batches(stale):
        tx.execute(delete(_table).where(_table.c.id.in_(batch)))
    moment = now()
    rows = [
        {"id": one, "dataset": dataset, "state": "open", "op": "", "created_at": moment, **row}
        for one, row in fresh.items()
        if one not in known
    ]
    if rows:
        tx.execute(insert(_table), rows)
    again = [
        {"key": one, "said": row["detail"], "now": "open" if known[one] == "fixed" else known[one]}
        for one, row in fresh.items()
        if one in known
    ]
    if again:
        said = bindparam("said", type_=_table.c.detail.type)
        tx.execute(
            update(_table).where(_table.c.id == bindparam("key")).values(detail=said, state=bindparam("now"), op=""),
            again,
        )


def every(tx: Connection, dataset: str, *, state: str = "open", kind: str = "") -> list[Finding]:
    """Findings by kind, the worst first; ``state`` all gives those of any state."""
    if state not in (*STATES, "all"):
        raise Invalid("state", "open, fixed, ignored or all", state)
    query = select(_table).where(_table.c.dataset == dataset)
    if state != "all":
        query = query.where(_table.c.state == state)
    if kind:
        query = query.where(_table.c.kind == kind)
    found = [_finding(row._mapping) for row in tx.execute(query)]
    return sorted(found, key=lambda one: (one.kind, -float(one.detail["score"]), one.id))


def get(tx: Connection, dataset: str, finding: str) -> Finding:
    """A finding by its id or the beginning of it; ``NotFound``, or ``Invalid`` where several begin like that."""
    inside = (_table.c.id >= finding, _table.c.id <= finding + "g") if finding else (_table.c.id == "",)
    rows = tx.execute(select(_table).where(_table.c.dataset == dataset, *inside).limit(2)).all()
    if not rows:
        raise NotFound("finding", finding, hint="loopworks data findings DATASET lists them; data check looks for them")
    if len(rows) > 1:
        raise Invalid("finding", "the beginning of one id", f"{finding}, which begins several", "give more digits")
    return _finding(rows[0]._mapping)


def set_state(tx: Connection, finding: str, state: str, op: str = "") -> None:
    """Mark a finding open, fixed (by ``op``) or ignored."""
    tx.execute(update(_table).where(_table.c.id == finding).values(state=state, op=op))


def shared(tx: Connection, dataset: str) -> dict[str, dict[str, str]]:
    """Items that other datasets hold too: dataset's name -> id -> its split there; relatives by branching left out."""
    sets = tables.dataset
    rows = {row.id: row for row in tx.execute(select(sets.c.id, sets.c.name, sets.c.origin))}
    mine = rows[dataset]
    family = {mine.id, mine.name, mine.origin} - {""}
    found: dict[str, dict[str, str]] = {}
    for other in rows.values():
        if (
            other.id == dataset
            or other.id in family
            or other.name in family
            or (other.origin and other.origin in family)
        ):
            continue
        if there := among(tx, other.id, dataset):
            found[other.name] = there
    return found


def among(tx: Connection, other: str, dataset: str) -> dict[str, str]:
    """Id -> split in ``other``, of the items that ``dataset`` holds too; either may be an id or a name."""
    sets, item = tables.dataset, tables.item
    named = select(sets.c.id).where(or_(sets.c.id == other, sets.c.name == other)).scalar_subquery()
    mine = select(item.c.id).where(item.c.dataset == dataset, item.c.deleted_at.is_(None))
    query = select(item.c.id, item.c.split).where(
        item.c.dataset == named, item.c.deleted_at.is_(None), item.c.id.in_(mine)
    )
    return {row[0]: row[1] for row in tx.execute(query)}


def _finding(row: Mapping[Any, Any]) -> Finding:
    return Finding(**{**row, "items": tuple(row["items"])})
