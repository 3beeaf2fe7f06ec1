"""Leases: who has which item on the desk right now, so that two people never label the same one."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid
from loopworks.store import tables
from loopworks.store.ids import batches, now

_table = tables.lease


def take(
    tx: Connection,
    dataset: str,
    candidates: Iterable[str],
    *,
    who: str,
    count: int = 1,
    seconds: float = 300.0,
    at: datetime | None = None,
) -> list[str]:
    """Lease the first ``count`` of ``candidates`` that nobody else holds, for ``seconds`` from now.

    Items that ``who`` holds already count, and their lease is renewed.
    """
    if not who:
        raise Invalid("who", "the name of a person or program", "nothing")
    moment = at or now()
    got: list[str] = []
    for batch in batches(candidates):
        query = select(_table.c.item, _table.c.who, _table.c.until)
        query = query.where(_table.c.dataset == dataset, _table.c.item.in_(batch))
        taken = {item for item, holder, until in tx.execute(query) if until > moment and holder != who}
        got += [item for item in batch if item not in taken][: count - len(got)]
        if len(got) == count:
            break
    release(tx, dataset, got)
    if got:
        until = moment + timedelta(seconds=seconds)
        rows = [{"dataset": dataset, "item": item, "who": who, "until": until} for item in got]
        tx.execute(insert(_table), rows)
    return got


def release(tx: Connection, dataset: str, items: Iterable[str], who: str | None = None) -> None:
    """End leases, all or only those of ``who``."""
    for batch in batches(items):
        query = delete(_table).where(_table.c.dataset == dataset, _table.c.item.in_(batch))
        tx.execute(query if who is None else query.where(_table.c.who == who))


def held(tx: Connection, dataset: str, at: datetime | None = None) -> dict[str, str]:
    """Item -> who holds it now."""
    query = select(_table.c.item, _table.c.who).where(_table.c.dataset == dataset, _table.c.until > (at or now()))
    return {row[0]: row[1] for row in tx.execute(query)}
