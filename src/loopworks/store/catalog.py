"""The catalog: the SQL database of a workspace, on SQLite or PostgreSQL, with one way to write and one to read."""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.url import URL, make_url

from loopworks.core.errors import (
    Busy,
    Damaged,
    Denied,
    Invalid,
    LoopworksError,
    Missing,
    NoSpace,
    NotFound,
    Unreachable,
)
from loopworks.store import upgrade

log = logging.getLogger(__name__)

WRITER_LOCK = 0x6C6F6F70
"""PostgreSQL advisory lock of the one writer, so that both databases give the same order of writes."""


class Catalog:
    """An open database. Safe to share between threads; a child process opens its own."""

    def __init__(self, engine: Engine) -> None:
        """Wrap ``engine``; ``open_catalog`` makes one that is set up and up to date."""
        self._engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.url = engine.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write: committed at the end of the block, rolled back on any error.

        One writer at a time, on both databases: keep the block short, and do file work before it.

        Raises:
            Busy: another writer held the database for longer than the busy timeout.
            NoSpace: the disk is full; nothing of the block was kept.
            Unreachable: PostgreSQL does not answer.
        """
        with self._transaction("write") as tx:
            if not self.is_sqlite:
                tx.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
            yield tx

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, and sees one state of the database however long it takes."""
        with self._transaction("read") as tx:
            yield tx

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Like ``begin``, with SQLite's foreign keys checked at the end instead of on each statement."""
        with self._transaction("migrate") as tx:
            if not self.is_sqlite:
                tx.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
            yield tx
            if self.is_sqlite and (broken := tx.exec_driver_sql("PRAGMA foreign_key_check").first()):
                raise Damaged(f"rows of table {broken[0]} must point to rows that exist; got one that does not")

    def back_up(self, target: Path) -> None:
        """Copy a SQLite catalog as it is now to ``target``, while others go on reading and writing."""
        with _translated(self.url), self._engine.connect() as connection:
            source: Any = connection.connection.driver_connection
            copy = sqlite3.connect(target)
            try:
                source.backup(copy)
            finally:
                copy.close()

    def scrub(self) -> bool:
        """Clear the database's files of what deleted rows leave behind in them, and of copies made before migrations.

        SQLite: the file is written anew. PostgreSQL: VACUUM, which lets the server write over it.
        Returns: whether it was done; another process that reads or writes for longer than the busy timeout prevents it.
        """
        if self.is_sqlite:
            with self.begin() as tx:
                tx.exec_driver_sql("INSERT INTO search_index (search_index) VALUES ('optimize')")  # drops deleted words
        try:
            with _translated(self.url), self._engine.connect() as connection:
                raw: Any = connection.connection.driver_connection
                if not self.is_sqlite:
                    connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM")
                    return True
                raw.execute("PRAGMA query_only=OFF")
                raw.execute("VACUUM")
                is_busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except (Busy, sqlite3.OperationalError) as error:
            log.warning("catalog was not scrubbed: %s", error)
            return False
        file = Path(str(self._engine.url.database))
        for copy in file.parent.glob(f"{file.name}.*.bak"):
            copy.unlink()
        return not is_busy

    def close(self) -> None:
        """Close all connections; calling it twice is harmless."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self, kind: str) -> Iterator[Connection]:
        options: dict[str, Any] = {"loopworks": kind}
        if not self.is_sqlite:
            is_read = kind == "read"
            options["isolation_level"] = "REPEATABLE READ" if is_read else "READ COMMITTED"
            options["postgresql_readonly"] = is_read
        with _translated(self.url), self._engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin():
                yield connection


def open_catalog(url: str, *, busy_timeout_s: float) -> Catalog:
    """Open the database at ``url``, make or migrate its tables where needed.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user@host/name``.
        busy_timeout_s: how long to wait for another writer, in seconds.
    Raises:
        Invalid: not such a URL, or a database that holds something else.
        TooNew: written by a newer Loopworks.
        Missing: PostgreSQL without psycopg.
        Busy, NoSpace, Denied, Damaged, Unreachable: see ``Catalog.begin``.
    """
    catalog = Catalog(_engine(url, busy_timeout_s))
    try:
        with _translated(catalog.url):
            upgrade.bring_up_to_date(catalog)
    except BaseException:
        catalog.close()
        raise
    return catalog


def _engine(url: str, busy_timeout_s: float) -> Engine:
    hint = "use sqlite:///path or postgresql://user@host/name"
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        # The URL may hold a password, so it is not repeated here.
        raise Invalid("catalog URL", "a database URL", "text that is none", hint) from None
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, busy_timeout_s)
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return _postgres(parsed, busy_timeout_s)
    raise Invalid("catalog URL", "of SQLite or PostgreSQL", parsed.drivername, hint)


def _sqlite(url: URL, busy_timeout_s: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise Invalid("catalog URL", "a file (sqlite:///path)", url.render_as_string())
    folder = Path(url.database).parent
    if not folder.is_dir():
        raise NotFound("folder of the catalog", str(folder), hint="make the folder first")
    engine = sa.create_engine(url, connect_args={"timeout": busy_timeout_s}, pool_timeout=max(busy_timeout_s, 0.001))

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # Without this, Python's driver begins transactions by itself, and only before some statements.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=NORMAL",
            "PRAGMA foreign_keys=ON",
            "PRAGMA cache_size=-16000",
        ):
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("loopworks", "read")
        run = connection.exec_driver_sql
        run(f"PRAGMA query_only={'ON' if kind == 'read' else 'OFF'}")
        run(f"PRAGMA foreign_keys={'OFF' if kind == 'migrate' else 'ON'}")
        # IMMEDIATE: take the write lock now and wait for it here, not in the middle of the block, where SQLite
        # cannot wait and gives up at once.
        run("BEGIN" if kind == "read" else "BEGIN IMMEDIATE")

    return engine


def _postgres(url: URL, busy_timeout_s: float) -> Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise Missing("psycopg", "postgres", "a catalog on PostgreSQL") from None
    wait_ms = max(1, round(busy_timeout_s * 1000))
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={"connect_timeout": 5, "options": f"-c lock_timeout={wait_ms} -c timezone=UTC"},
        pool_pre_ping=True,
        pool_timeout=max(busy_timeout_s, 0.001),
    )


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn a database's faults into our errors; faults of our own making (SQL that is wrong) pass as they are."""
    try:
        yield
    except LoopworksError:
        raise
    except exc.TimeoutError:
        raise Busy("a free database connection must be there; got none in time", "try again") from None
    except exc.DBAPIError as error:
        found = _meaning(error.orig, url, is_lost=error.connection_invalidated)
        if found is None:
            raise
        raise found from None
    except sqlite3.Error as error:
        found = _meaning(error, url, is_lost=False)
        if found is None:
            raise
        raise found from None


def _meaning(error: BaseException | None, url: str, *, is_lost: bool) -> LoopworksError | None:
    if isinstance(error, sqlite3.Error):
        return _sqlite_meaning(error, url)
    return _postgres_meaning(error, url, is_lost=is_lost)


def _sqlite_meaning(error: sqlite3.Error, url: str) -> LoopworksError | None:
    # The low byte is the error, the rest its finer kind: https://www.sqlite.org/rescode.html
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy(
            f"{url} must be free to write; got a lock held by another process",
            "wait for the other command to end, or raise busy_timeout_s",
        )
    if code == sqlite3.SQLITE_FULL:
        return NoSpace(f"{url} must have room to grow; got a full disk", "free some space and run it again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return Denied(f"{url} must be readable and writable; got: {error}", "check the owner of the folder and file")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"{url} must be a sound SQLite file; got: {error}", "bring back a backup (*.bak beside it)")
    if code == sqlite3.SQLITE_IOERR:
        return Damaged(f"{url} must be readable; got: {error}", "check the disk")
    return None


def _postgres_meaning(error: BaseException | None, url: str, *, is_lost: bool) -> LoopworksError | None:
    state = str(getattr(error, "sqlstate", None) or "")
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if state in ("55P03", "40001", "40P01", "53300"):
        return Busy(f"{url} must be free to write; got: {first}", "try again, or raise busy_timeout_s")
    if state == "53100":
        return NoSpace(f"{url} must have room to grow; got: {first}", "free some space and run it again")
    if state == "3D000":
        return NotFound("database", url, hint="createdb makes it")
    if state.startswith("28") or state == "42501" or "authentication failed" in first:
        return Denied(f"{url} must let us in; got: {first}", "check user and password")
    if is_lost or state.startswith(("08", "57P")) or type(error).__name__ in ("OperationalError", "ConnectionTimeout"):
        if "does not exist" in first and "database" in first:
            return NotFound("database", url, hint="createdb makes it")
        return Unreachable(f"{url} must answer; got: {first}", "check that PostgreSQL runs there")
    return None
