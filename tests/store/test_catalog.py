"""The catalog on SQLite and PostgreSQL: transactions, migrations, and what every fault of a database is called."""

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from loopworks.core.errors import (
    Busy,
    Damaged,
    Denied,
    Invalid,
    LoopworksError,
    Missing,
    NoSpace,
    NotFound,
    TooNew,
    Unreachable,
)
from loopworks.store import deployments, models, tables, upgrade
from loopworks.store.catalog import Catalog, open_catalog


def put(catalog: Catalog, key: str, value: str = "") -> None:
    with catalog.begin() as tx:
        tx.execute(sa.insert(tables.info).values(key=key, value=value))


def keys(catalog: Catalog) -> list[str]:
    with catalog.read() as tx:
        return list(tx.execute(sa.select(tables.info.c.key).order_by(tables.info.c.key)).scalars())


def test_what_a_transaction_writes_is_kept(catalog: Catalog) -> None:
    put(catalog, "a")
    assert keys(catalog) == ["a"]


def test_an_error_in_the_block_keeps_nothing(catalog: Catalog) -> None:
    def fail() -> None:
        with catalog.begin() as tx:
            tx.execute(sa.insert(tables.info).values(key="a", value=""))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert keys(catalog) == []


def test_a_reader_sees_one_state_while_others_write(catalog: Catalog) -> None:
    put(catalog, "a")
    count = sa.select(sa.func.count()).select_from(tables.info)
    with catalog.read() as tx:
        assert tx.execute(count).scalar() == 1
        put(catalog, "b")
        assert tx.execute(count).scalar() == 1
    assert keys(catalog) == ["a", "b"]


def test_a_reader_cannot_write(catalog: Catalog) -> None:
    with pytest.raises((LoopworksError, sa.exc.DBAPIError)), catalog.read() as tx:
        tx.execute(sa.insert(tables.info).values(key="a", value=""))
    assert keys(catalog) == []
    put(catalog, "b")  # and the connection is fit to write afterwards


def test_writers_go_one_after_the_other_and_lose_nothing(catalog: Catalog) -> None:
    """Read, add one, write: without one writer at a time, two threads would count the same number."""
    put(catalog, "count", "0")
    is_count = tables.info.c.key == "count"

    def work() -> None:
        for _ in range(10):
            with catalog.begin() as tx:
                value = int(tx.execute(sa.select(tables.info.c.value).where(is_count)).scalar_one())
                tx.execute(sa.update(tables.info).where(is_count).values(value=str(value + 1)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with catalog.read() as tx:
        assert tx.execute(sa.select(tables.info.c.value).where(is_count)).scalar() == "40"


def test_a_locked_database_is_busy(catalog_url: str) -> None:
    first, second = (open_catalog(catalog_url, busy_timeout_s=0.05) for _ in range(2))
    try:
        with first.begin(), pytest.raises(Busy) as caught, second.begin():
            pass
        assert "must be free to write" in caught.value.message
        assert "busy_timeout_s" in caught.value.hint
        put(second, "a")
        assert keys(first) == ["a"]
    finally:
        first.close()
        second.close()


def test_rows_must_point_to_rows_that_exist(catalog: Catalog) -> None:
    with pytest.raises(sa.exc.IntegrityError), catalog.begin() as tx:
        tx.execute(sa.insert(tables.alias).values(model="none", alias="champion", number=1))


def test_text_sorts_by_code_point_on_both(catalog: Catalog) -> None:
    names = ["a", "B", "_", "é", "z", "Z", "ä", "0", "-"]
    for name in names:
        put(catalog, name)
    assert keys(catalog) == sorted(names)


def test_times_come_back_in_utc_and_sort(catalog: Catalog) -> None:
    early = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=8)))
    late = datetime(2024, 5, 1, 5, 0, tzinfo=UTC)
    with catalog.begin() as tx:
        for at, key in ((late, "late"), (early, "early")):
            edge = {"from_kind": "a", "from_id": key, "to_kind": "b", "to_id": "x", "at": at}
            tx.execute(sa.insert(tables.lineage).values(**edge))
    with catalog.read() as tx:
        rows = tx.execute(sa.select(tables.lineage.c.at).order_by(tables.lineage.c.at)).scalars().all()
    assert rows == [early, late]
    assert [row.tzinfo for row in rows] == [UTC, UTC]


def test_a_time_without_a_zone_is_refused(catalog: Catalog) -> None:
    edge = {"from_kind": "a", "from_id": "a", "to_kind": "b", "to_id": "x", "at": datetime(2024, 1, 1)}  # noqa: DTZ001
    with pytest.raises(sa.exc.StatementError, match="must have a zone"), catalog.begin() as tx:
        tx.execute(sa.insert(tables.lineage).values(**edge))


def test_the_migrations_give_the_tables_that_the_code_knows(catalog: Catalog) -> None:
    with catalog.read() as tx:
        # The index of words and what FTS5 keeps for it are no tables of the ORM's kind.
        def ours(_object: object, name: str | None, *_: object) -> bool:
            return not (name or "").startswith("search_index")

        context = MigrationContext.configure(tx, opts={"compare_type": True, "include_object": ours})
        assert compare_metadata(context, tables.metadata) == []
        assert upgrade.stored_revision(tx) == tables.REVISION
    assert ScriptDirectory.from_config(upgrade.config()).get_current_head() == tables.REVISION


def test_opening_again_keeps_what_is_there(catalog_url: str) -> None:
    for key in ("a", "b"):
        catalog = open_catalog(catalog_url, busy_timeout_s=1)
        put(catalog, key)
        catalog.close()
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    assert keys(catalog) == ["a", "b"]
    catalog.close()
    catalog.close()


def test_an_up_to_date_catalog_opens_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    open_catalog(url, busy_timeout_s=1).close()
    code = (
        "import sys; from loopworks.store.catalog import open_catalog; "
        f"open_catalog({url!r}, busy_timeout_s=1).close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_two_processes_may_make_the_same_catalog_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    code = (
        "import sys; from loopworks.store.catalog import open_catalog; sys.stdin.readline(); "
        f"open_catalog({url!r}, busy_timeout_s=20).close()"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60) and process.returncode for process in started] == [0, 0, 0]


NOW = tables.REVISION
NEXT = f"{int(NOW) + 1:04}"
LATER = ("watch", "captured", "logged", "truth", "watch_event", "watch_count", "removed", "asked")
"""Tables that came after the roles of deployments."""


@pytest.fixture
def next_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``next_release(code)``: the program now is one that has a migration NEXT with this code."""

    def install(code: str) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(Path(upgrade.__file__).parent / "migrations", folder)
        text = (
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f'revision, down_revision, branch_labels, depends_on = "{NEXT}", "{NOW}", None, None\n'
            f"def upgrade() -> None:\n    {code}\n"
        )
        (folder / "versions" / f"{NEXT}_next.py").write_text(text, encoding="utf-8")
        settings = upgrade.config()
        settings.set_main_option("script_location", str(folder))
        monkeypatch.setattr(upgrade, "config", lambda: settings)
        monkeypatch.setattr(tables, "REVISION", NEXT)

    return install


ADD_COLUMN = 'op.add_column("info", sa.Column("note", sa.String(), nullable=True))'


def test_an_older_catalog_is_migrated_with_its_rows(catalog_url: str, next_release: Callable[[str], None]) -> None:
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    put(catalog, "a", "old")
    catalog.close()
    next_release(ADD_COLUMN)
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    with catalog.read() as tx:
        assert tx.execute(sa.text("SELECT key, value, note FROM info")).all() == [("a", "old", None)]
        assert upgrade.stored_revision(tx) == NEXT
    catalog.close()


def test_deployments_from_before_roles_are_live_and_can_be_rolled_back(catalog_url: str) -> None:
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    with catalog.begin() as tx:
        models.add(tx, "a", bundle="b", run="", version="", task="t", variant="v")
        for _ in range(2):
            deployments.add(tx, "shop", model="a", number=1, variant="v")
    with catalog.begin() as tx:  # as the release before had it
        for name in ("rollout", "agreement", "token", *LATER):
            tx.execute(sa.text(f"DROP TABLE {name}"))
        for name in ("role", "share", "alias", "before"):
            tx.execute(sa.text(f"ALTER TABLE deployment DROP COLUMN {name}"))
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))
    catalog.close()
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    with catalog.begin() as tx:
        assert [(row.revision, row.role, row.before) for row in deployments.in_use(tx, "shop")] == [(2, "live", 1)]
        assert deployments.rollback(tx, "shop").revision == 1
    catalog.close()


def test_a_failed_migration_leaves_the_old_catalog_in_use(
    catalog_url: str, next_release: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    put(catalog, "a", "old")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        next_release(f'{ADD_COLUMN}; op.execute("DELETE FROM info"); raise RuntimeError("broken")')
        with pytest.raises(RuntimeError, match="broken"):
            open_catalog(catalog_url, busy_timeout_s=1)
    assert keys(catalog) == ["a"]
    with catalog.read() as tx:
        assert upgrade.stored_revision(tx) == NOW
        assert [column["name"] for column in sa.inspect(tx).get_columns("info")] == ["key", "value"]
    catalog.close()


def test_a_sqlite_file_is_backed_up_before_it_is_migrated(tmp_path: Path, next_release: Callable[[str], None]) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    catalog = open_catalog(url, busy_timeout_s=1)
    assert list(tmp_path.glob("*.bak")) == []
    put(catalog, "a", "old")
    catalog.close()
    next_release(ADD_COLUMN)
    open_catalog(url, busy_timeout_s=1).close()
    database = sqlite3.connect(tmp_path / f"catalog.db.{NOW}.bak")
    assert database.execute("SELECT * FROM info").fetchall() == [("a", "old")]
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def test_a_migration_that_breaks_references_is_taken_back(tmp_path: Path, next_release: Callable[[str], None]) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    open_catalog(url, busy_timeout_s=1).close()
    next_release("op.execute(\"INSERT INTO alias VALUES ('none', 'champion', 1)\")")
    with pytest.raises(Damaged, match="rows of table alias must point to rows that exist"):
        open_catalog(url, busy_timeout_s=1)


def test_a_catalog_of_a_newer_release_is_refused(catalog_url: str) -> None:
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    with catalog.begin() as tx:
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    catalog.close()
    with pytest.raises(TooNew, match=f"must be of catalog revision {NOW} or older; got 9999") as caught:
        open_catalog(catalog_url, busy_timeout_s=1)
    assert "update loopworks" in caught.value.hint


def test_a_database_of_something_else_is_left_alone(catalog_url: str) -> None:
    url = sa.make_url(catalog_url)
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg") if url.host else url)
    with engine.begin() as tx:
        tx.execute(sa.text("CREATE TABLE accounts (id INTEGER)"))
    with pytest.raises(Invalid, match="must be an empty database or a Loopworks catalog; got tables accounts"):
        open_catalog(catalog_url, busy_timeout_s=1)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["accounts"]
    engine.dispose()


def test_a_full_disk_keeps_nothing_of_the_block(tmp_path: Path) -> None:
    catalog = open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}", busy_timeout_s=1)

    def fill() -> None:
        with catalog.begin() as tx:
            pages = tx.exec_driver_sql("PRAGMA page_count").scalar_one()
            tx.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
            for i in range(100):
                tx.execute(sa.insert(tables.info).values(key=str(i), value="x" * 4000))

    with pytest.raises(NoSpace, match="must have room to grow; got a full disk"):
        fill()
    assert keys(catalog) == []
    catalog.close()


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"this is not a database file at all" * 40)
    with pytest.raises(Damaged, match="must be a sound SQLite file"):
        open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}", busy_timeout_s=1)


def test_a_folder_in_the_place_of_the_file_is_denied(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(Denied, match="must be readable and writable"):
        open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}", busy_timeout_s=1)


def test_a_missing_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="folder of the catalog"):
        open_catalog(f"sqlite:///{tmp_path / 'nowhere' / 'catalog.db'}", busy_timeout_s=1)


@pytest.mark.parametrize("url", ["", "no url", "mysql://me:secret@host/x", "sqlite://", "sqlite:///:memory:"])
def test_another_url_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(Invalid, match="catalog URL must be") as caught:
        open_catalog(url, busy_timeout_s=1)
    assert "secret" not in str(caught.value)


def test_a_postgres_that_does_not_answer_is_unreachable() -> None:
    with pytest.raises(Unreachable) as caught:
        open_catalog("postgresql://me:secret@127.0.0.1:9/x", busy_timeout_s=1)
    assert "must answer" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.postgres
def test_a_postgres_database_that_is_missing_is_said_so(postgres_database: str) -> None:
    with pytest.raises(NotFound, match="database"):
        open_catalog(f"{postgres_database}-nowhere", busy_timeout_s=1)


@pytest.mark.postgres
def test_a_lost_postgres_connection_is_unreachable_and_comes_back(postgres_database: str) -> None:
    catalog = open_catalog(postgres_database, busy_timeout_s=1)
    with pytest.raises(Unreachable), catalog.begin() as tx:
        tx.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    put(catalog, "a")
    assert keys(catalog) == ["a"]
    catalog.close()


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Missing) as caught:
        open_catalog("postgresql://me@127.0.0.1/x", busy_timeout_s=1)
    assert caught.value.hint == "pip install 'loopworks[postgres]'"


def test_faults_of_our_own_making_are_not_dressed_up(catalog: Catalog) -> None:
    with pytest.raises(sa.exc.DBAPIError), catalog.begin() as tx:
        tx.execute(sa.text("SELECT nonsense FROM nowhere"))
