"""Facts of the workspace itself, by key."""

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import TooNew
from loopworks.store import tables
from loopworks.store.catalog import Catalog
from loopworks.store.ids import new_id

FORMAT = 1
"""Layout of the workspace folder."""


def get(tx: Connection, key: str) -> str:
    """A fact, or empty text."""
    found = tx.execute(select(tables.info.c.value).where(tables.info.c.key == key)).scalar()
    return str(found or "")


def prepare(catalog: Catalog) -> None:
    """Give a new catalog its id; refuse one whose layout is newer than ours."""
    with catalog.read() as tx:
        layout = get(tx, "format")
    if not layout:
        with catalog.begin() as tx:
            if not get(tx, "format"):
                rows = [{"key": "format", "value": str(FORMAT)}, {"key": "workspace", "value": new_id()}]
                tx.execute(insert(tables.info), rows)
    elif int(layout) > FORMAT:
        raise TooNew(f"the workspace must be of format {FORMAT} or older; got {layout}", "update loopworks")
