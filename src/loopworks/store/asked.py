"""How often deployments were asked in a day, by all and by each token: counts that several servers add to."""

from collections.abc import Mapping

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection

from loopworks.store import tables

_table = tables.asked


def add(tx: Connection, day: str, more: Mapping[tuple[str, str], int]) -> None:
    """Count on: (deployment, id of a token or empty for all) -> requests of ``day``; days before it are forgotten."""
    tx.execute(delete(_table).where(_table.c.day < day))
    for (deployment, token), count in sorted(more.items()):
        mine = (_table.c.deployment == deployment, _table.c.token == token, _table.c.day == day)
        if not tx.execute(update(_table).where(*mine).values(count=_table.c.count + count)).rowcount:
            tx.execute(insert(_table), [{"deployment": deployment, "token": token, "day": day, "count": count}])


def counts(tx: Connection, day: str) -> dict[tuple[str, str], int]:
    """What ``add`` was told of a day, by every server."""
    query = select(_table.c.deployment, _table.c.token, _table.c.count).where(_table.c.day == day)
    return {(row[0], row[1]): row[2] for row in tx.execute(query)}
