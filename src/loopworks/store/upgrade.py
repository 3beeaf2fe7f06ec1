"""Bringing a catalog's tables to what this Loopworks knows, in process, when it is opened."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, TooNew
from loopworks.store import tables

if TYPE_CHECKING:
    from alembic.config import Config

    from loopworks.store.catalog import Catalog

log = logging.getLogger(__name__)


def bring_up_to_date(catalog: "Catalog") -> None:
    """Create or migrate the tables where that is needed; an up-to-date catalog costs one query.

    Everything happens in one transaction, so a migration that fails leaves the old catalog in use. A SQLite file that
    holds a catalog is copied to ``NAME.REVISION.bak`` beside it first.

    Raises:
        TooNew: written by a newer Loopworks.
        Invalid: the database holds other tables than ours.
    """
    with catalog.read() as tx:
        found = stored_revision(tx)
    if found == tables.REVISION:
        return
    with catalog.migrating() as tx:
        found = stored_revision(tx)  # another process may have been first
        if found == tables.REVISION:
            return
        _check(tx, found, catalog.url)
        if found and catalog.is_sqlite:
            file = Path(str(tx.engine.url.database))
            catalog.back_up(file.with_name(f"{file.name}.{found}.bak"))
        migrate(tx)
        log.info("catalog migrated from=%s to=%s", found or "nothing", tables.REVISION)


def stored_revision(tx: Connection) -> str:
    """Revision of the catalog; empty where it has no tables of ours."""
    if not sa.inspect(tx).has_table("alembic_version"):
        return ""
    return str(tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or "")


def migrate(tx: Connection, target: str = "head") -> None:
    """Run the migrations up to ``target`` inside the open transaction."""
    from alembic import command

    settings = config()
    settings.attributes["connection"] = tx
    command.upgrade(settings, target)


def config() -> "Config":
    """Alembic's settings; there is no alembic.ini, because nothing but this file runs it."""
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.set_main_option("path_separator", "os")
    return settings


def _check(tx: Connection, found: str, url: str) -> None:
    if not found:
        if others := sa.inspect(tx).get_table_names():
            raise Invalid(url, "an empty database or a Loopworks catalog", f"tables {', '.join(sorted(others)[:5])}")
        return
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if found not in known:
        raise TooNew(
            f"{url} must be of catalog revision {tables.REVISION} or older; got {found}",
            "update loopworks: a newer one wrote this workspace",
        )
