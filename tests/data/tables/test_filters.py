"""Filters on rows in the language of all queries: what Arrow finds is what plain Python finds."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loopworks as lw
from loopworks.core.errors import Invalid
from loopworks.data.tables import segments
from loopworks.data.tables.table import Table

ODD = "a.b `c` 街"
HEAD = f'n,x,city,day,seen,at,"{ODD}",paid,count\n'
ROWS: tuple[dict[str, Any], ...] = tuple(
    {
        "n": None if i % 7 == 3 else i - 4,
        "x": None if i % 5 == 1 else i / 4,
        "city": None if i % 6 == 5 else ("Oslo", "Rome", "街道", "a%b", "oslo")[i % 5],
        "day": None if i % 8 == 7 else f"2024-01-{i % 28 + 1:02d}",
        "seen": f"2024-02-{i % 9 + 1:02d} {i % 24:02d}:30:00",
        "at": f"{i % 24:02d}:15",
        ODD: i % 3 + 0.5,
        "paid": None if i % 9 == 4 else ("yes", "no")[i % 2],
        "count": i % 4,
    }
    for i in range(40)
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("filters")
    lines = [",".join("" if cell is None else str(cell) for cell in row.values()) for row in ROWS]
    (folder / "rows.csv").write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, lw.open(folder / "space") as space:
        patch.setattr(segments, "TARGET", 4)  # several segments
        found = space.dataset("t", task="tabular-classification").table
        assert found.add(folder / "rows.csv", quote='"').added == len(ROWS)
        assert len(found.live().segments) > 1
        yield found


def found(table: Table, query: str) -> list[int]:
    """Places of the rows in the order of import."""
    rows = table.find(query, limit=100).rows
    keys = [(row["cells"]["seen"], row["cells"]["at"]) for row in table.find("", limit=100).rows]
    return [keys.index((row["cells"]["seen"], row["cells"]["at"])) for row in rows]


def where(test: Any) -> list[int]:
    return [i for i, row in enumerate(ROWS) if test(row)]


@pytest.mark.parametrize(
    ("query", "test"),
    [
        ("n > 30 and city = 'Oslo'", lambda r: (r["n"] or 0) > 30 and r["city"] == "Oslo"),
        ("n != 3", lambda r: r["n"] is not None and r["n"] != 3),
        ("not n = 3", lambda r: r["n"] != 3),
        ("n in (1, 2.5, 7)", lambda r: r["n"] in (1, 7)),
        ("x between 1 and 2.25", lambda r: r["x"] is not None and 1 <= r["x"] <= 2.25),
        ("city like '_slo'", lambda r: r["city"] in ("Oslo", "oslo")),
        ("city like 'a\\%b'", lambda r: r["city"] == "a%b"),
        ("city not in ('Oslo', '街道')", lambda r: r["city"] not in (None, "Oslo", "街道")),
        ("city in ('Oslo', '')", lambda r: r["city"] in (None, "Oslo")),
        ("city > 'P'", lambda r: r["city"] is not None and r["city"] > "P"),
        ("city is missing or x is missing", lambda r: r["city"] is None or r["x"] is None),
        ("day <= '2024-01-05'", lambda r: r["day"] is not None and r["day"] <= "2024-01-05"),
        ("day = '2024-01-05'", lambda r: r["day"] == "2024-01-05"),
        ("seen = '2024-02-03'", lambda r: r["seen"].startswith("2024-02-03")),
        ("seen > '2024-02-08T10:00:00'", lambda r: r["seen"] > "2024-02-08 10:00:00"),
        ("at >= '20:15'", lambda r: r["at"] >= "20:15"),
        ("paid = 'yes'", lambda r: r["paid"] == "yes"),
        ("paid = true and n > 0", lambda r: r["paid"] == "yes" and (r["n"] or 0) > 0),
        ("paid != 'yes'", lambda r: r["paid"] == "no"),
        ("paid = ''", lambda r: r["paid"] is None),
        ("`a.b ``c`` 街` = 1.5", lambda r: r[ODD] == 1.5),
        ("`count` = 2", lambda r: r["count"] == 2),
        ("n > x", lambda r: None not in (r["n"], r["x"]) and r["n"] > r["x"]),
        ("seen > day", lambda r: r["day"] is not None),
        ("city = 'nowhere'", lambda r: False),
        ("city in ('nowhere', 'Rome')", lambda r: r["city"] == "Rome"),
        ("true", lambda r: True),
        ("split is missing", lambda r: True),
    ],
)
def test_rows_that_a_query_finds(table: Table, query: str, test: Any) -> None:
    assert found(table, query) == where(test)
    assert table.find(query, limit=1).count == len(where(test))


LEAVES = st.sampled_from((
    ("n > 5", lambda r: r["n"] is not None and r["n"] > 5), ("x < 4", lambda r: r["x"] is not None and r["x"] < 4),
    ("city = 'Rome'", lambda r: r["city"] == "Rome"), ("city is missing", lambda r: r["city"] is None),
    ("paid = 'no'", lambda r: r["paid"] == "no"), ("city = 'nowhere'", lambda r: False), ("true", lambda r: True),
))  # fmt: skip
QUERIES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(lambda a, b: (f"({a[0]} and {b[0]})", lambda r: a[1](r) and b[1](r)), parts, parts),
        st.builds(lambda a, b: (f"({a[0]} or {b[0]})", lambda r: a[1](r) or b[1](r)), parts, parts),
        st.builds(lambda a: (f"not ({a[0]})", lambda r: not a[1](r)), parts),
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=QUERIES)
def test_combinations_agree_with_plain_python(table: Table, asked: tuple[str, Any]) -> None:
    assert found(table, asked[0]) == where(asked[1]), asked[0]


def test_pages_in_an_order_are_the_whole_in_pieces(table: Table) -> None:
    def ns(**how: Any) -> list[Any]:
        return [row["cells"]["n"] for row in table.page(query="x is not missing", **how).rows]

    for down in (False, True):
        whole = ns(sort="n", descending=down, limit=100)
        there = sorted((n for n in whole if n is not None), reverse=down)
        assert whole == there + [None] * (len(whole) - len(there))
        assert sum((ns(sort="n", descending=down, limit=7, offset=at) for at in range(0, 42, 7)), []) == whole


def test_what_no_row_can_be_reads_nothing(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "load", lambda *_, **__: pytest.fail("a segment was read"))
    assert table.find("city = 'nowhere' and n > 1").count == 0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "cyti = 'Oslo'",
            "did you mean city? columns: split, n, x, city, day, seen, at, `a.b ``c`` 街`, paid, `count`",
        ),
        ("CITY = 'Oslo'", "did you mean city?"),
        ("n = 'three'", "a number, because n is one"),
        ("city = 3", "text in quotes, because city is text"),
        ("paid = 'maybe'", "true, false, 'yes' or 'no', because paid is one of these"),
        ("paid > true", "= or != for true and false"),
        ("at = '25:00'", "a time of day such as '08:30'"),
        ("day > 'soon'", "a date such as '2026-01-31'"),
        ("n > city", "a field of number, as n is"),
        ("match('x')", "a column of that name goes in backquotes"),
        ("count(a) > 1", "`count`"),
        ("n >", "a value"),
    ],
)
def test_one_clear_error(table: Table, query: str, expected: str) -> None:
    with pytest.raises(Invalid) as caught:
        table.find(query)
    assert expected in f"{caught.value}\n{caught.value.hint}"


def test_items_of_a_table_are_rows(tmp_path: Path) -> None:
    with lw.open(tmp_path) as space:
        dataset = space.dataset("t", task="tabular-classification")
        assert dataset.table.find("true").count == 0
        with pytest.raises(Invalid, match="a table"):
            dataset.find("true")
