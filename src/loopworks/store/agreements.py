"""How often a canary or shadow said what the live revision said: counts that several servers add to."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from loopworks.store import tables

_table = tables.agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What was compared of two revisions of a deployment."""

    name: str
    revision: int
    """The canary or shadow."""
    live: int
    """The live revision that it was compared with."""
    rows: int = 0
    """Items that both answered."""
    agreed: float = 0.0
    """Of these, on how many both gave the same label; of detectors a part of an item may agree."""
    dropped: int = 0
    """Items that were not compared, because too many waited."""
    failed: int = 0
    """Items that one of the two could not answer."""

    @property
    def share(self) -> float | None:
        """Part of the compared items on which both agree, in 0..1; ``None`` before the first."""
        return self.agreed / self.rows if self.rows else None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "revision": self.revision,
            "live": self.live,
            "rows": self.rows,
            "agreed": round(self.agreed, 6),
            "share": None if self.share is None else round(self.share, 6),
            "dropped": self.dropped,
            "failed": self.failed,
        }


def count(tx: Connection, more: Agreement) -> None:
    """Add what was compared since."""
    key = {"name": more.name, "revision": more.revision, "live": more.live}
    added = {name: getattr(more, name) for name in ("rows", "agreed", "dropped", "failed")}
    values = {name: _table.c[name] + value for name, value in added.items()}
    if not tx.execute(update(_table).filter_by(**key).values(values)).rowcount:
        tx.execute(insert(_table).values(**key, **added))


def of(tx: Connection, name: str) -> list[Agreement]:
    """Everything that was compared under a name, newest revision first."""
    query = select(_table).where(_table.c.name == name).order_by(_table.c.revision.desc(), _table.c.live.desc())
    return [Agreement(**row._mapping) for row in tx.execute(query)]
