"""A frozen table as the stages after ``data`` read it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopworks.core.errors import Invalid
from loopworks.core.row import Column, RowRule
from loopworks.data.source import Rows
from loopworks.data.stage import create_dataset
from loopworks.data.tables.rows import READING, TableSource
from loopworks.store.home import Home, create_home

LINES = [
    "id;day;amount;kind;churn",
    *(f"c{i};{i % 28 + 1:02}.12.2023;1.{i:03},5;{'ab'[i % 2]};{'yes' if i % 3 else 'no'}" for i in range(90)),
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with create_home(tmp_path / "workspace") as made:
        yield made


@pytest.fixture
def source(home: Home, tmp_path: Path) -> Callable[..., TableSource]:
    """``source(target, task, lines)`` is the frozen table."""

    def make(
        target: str = "churn", task: str = "classification", lines: list[str] = LINES, **chosen: Any
    ) -> TableSource:
        path = tmp_path / "rows.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        table = create_dataset(home, f"{task}-{target}", f"tabular-{task}").table
        table.add(path)
        table.choose(target=target, **{"id": "id", **chosen})
        return table.freeze("now").source()

    return make


def test_rows_are_typed_and_without_target_and_id(source: Any) -> None:
    found = source()
    assert isinstance(found, Rows)
    rows = found.rows("train")
    assert [(field.name, str(field.type)) for field in rows.schema] == [
        ("amount", "double"), ("day", "timestamp[us]"), ("kind", "string"),
    ]  # fmt: skip
    reading = json.loads(rows.schema.field("amount").metadata[READING])
    assert (reading["type"], reading["decimal"], reading["thousands"]) == ("float", ",", ".")
    assert json.loads(rows.schema.field("day").metadata[READING])["is_day_first"] is True
    assert source("amount", "regression", time="day").rows("train").column_names == ["churn", "day", "kind"]


def test_targets_go_with_the_rows(source: Any) -> None:
    found = source()
    assert found.schema.classes == ("no", "yes")
    assert sum(found.counts.values()) == 90
    for split, count in found.counts.items():
        facts, targets = found.facts(split), found.targets(split)
        assert found.rows(split).num_rows == len(facts) == len(targets) == count
        for fact, target in zip(facts, targets, strict=True):
            place = int(fact["name"][1:])
            assert target.tolist() == ([0, 1] if place % 3 else [1, 0])
            assert fact["amount"] == 1000 + place + 0.5
            assert fact["day"].startswith(f"2023-12-{place % 28 + 1:02}")
    numbers = source("amount", "regression")
    wanted = [[1000.5 + int(fact["name"][1:])] for fact in numbers.facts("val")]
    np.testing.assert_array_equal(numbers.targets("val"), wanted)


def test_rows_without_a_target_are_left_out_and_counted(source: Any) -> None:
    lines = [line if i % 10 else line.rpartition(";")[0] + ";" for i, line in enumerate(LINES, -1)]
    found = source(lines=lines)
    assert sum(found.counts.values()) == 81
    assert sum(found.left_out.values()) == 9
    told = json.loads(found.rows("train").schema.metadata[READING])
    assert told == {"left_out": {split: count for split, count in found.left_out.items() if count}}
    assert all(targets.sum() == len(targets) for targets in map(found.targets, ("train", "val", "test")))


def test_the_version_gives_inputs_and_targets_in_one_order(source: Any, home: Home) -> None:
    found = source()
    rule = RowRule(
        columns=(Column(name="kind", kind="category", values=("a", "b")), Column(name="amount", kind="number"))
    )
    packed = found.inputs(rule, "test", lambda share, text: None)
    assert packed["kind"][:, 0].tolist() == [fact["kind"].encode() for fact in found.facts("test")]
    assert packed["amount"][:, 0].tolist() == [fact["amount"] for fact in found.facts("test")]


def test_a_table_without_targets_says_so(source: Any) -> None:
    found = source(lines=[LINES[0], *(line.rpartition(";")[0] + ";" for line in LINES[1:])])
    assert set(found.counts.values()) == {0}
    empty = next(split for split in ("train", "val", "test") if not found.counts.get(split))
    assert found.targets(empty).shape == (0, len(found.schema.classes))
    one = source("kind", lines=LINES[:2])
    (split,) = one.counts
    with pytest.raises(Invalid, match="split must be at least one row"):
        one.rows("test" if split != "test" else "val")
