"""Results in databases: a table is made, rows are added, and what is in the way is said."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from loopworks.core.errors import Invalid, Unreachable
from loopworks.store.results import Results

COLUMNS: dict[str, type] = {"name": str, "frame": int, "score": float}


def test_rows_are_added_to_a_table_that_is_made(catalog_url: str) -> None:
    for frame in range(2):
        with Results(catalog_url, "results", COLUMNS) as results:
            results.add([{"name": "a", "frame": frame, "score": 0.5}, {"name": "b", "frame": frame, "score": None}])
            results.add([])
    engine = sa.create_engine(catalog_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as tx:
        found = tx.execute(sa.text("SELECT name, frame, score FROM results ORDER BY frame, name")).all()
    engine.dispose()
    assert [tuple(row) for row in found] == [("a", 0, 0.5), ("b", 0, None), ("a", 1, 0.5), ("b", 1, None)]
    with (
        pytest.raises(Invalid, match=r"none of \['place'\]"),
        Results(catalog_url, "results", {**COLUMNS, "place": str}),
    ):
        pass


def test_a_database_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no database, but a text of more than a few bytes" * 100)
    with pytest.raises(Unreachable, match="must take results"), Results(f"sqlite:///{tmp_path}/file", "t", COLUMNS):
        pass
    with pytest.raises(Unreachable) as caught, Results("postgresql://a:secret@127.0.0.1:1/x", "t", COLUMNS):
        pass
    assert "secret" not in str(caught.value)
