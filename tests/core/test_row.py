"""The rule of rows: values to tensors to features."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from loopworks.core import rules
from loopworks.core.errors import Invalid
from loopworks.core.row import FEATURES, LARGEST, Column, Part, RowRule, terms_of
from loopworks.core.values import TensorSpec

PARTS: tuple[Part, ...] = ("year", "month", "day", "weekday", "hour", "minute", "yearday", "days")
RULE = RowRule(
    columns=(
        Column(name="age", kind="number", missing=("", "na")),
        Column(name="city", kind="category", missing=("", "?"), values=("Köln", "Bonn")),
        Column(name="paid", kind="bool"),
        Column(name="at", kind="moment", is_day_first=True, parts=PARTS),
        Column(name="price", kind="number", decimal=",", thousands="."),
        Column(name="clock", kind="time"),
        Column(name="said", kind="text", terms=("big dog", "dog", "中")),
    )
)
ROW = {
    "age": 41, "city": "Bonn", "paid": True, "at": "2024-02-29T13:05:00", "price": "1.234,5", "clock": "13:45",
    "said": "A big DOG, a dog", "unknown": object(),
}  # fmt: skip
FEATURE_ROW = [
    41, 1, 1, 2024, 2, 29, 3, 13, 5, 60, 19782 + 785 / 1440, 1234.5, 49500, math.log1p(1), math.log1p(2), 0,
]  # fmt: skip


def encode(rows: Sequence[Mapping[str, Any]], rule: RowRule = RULE) -> Any:
    return rule.encode(rule.pack(rows))[FEATURES]


def test_a_row_becomes_one_tensor_per_column() -> None:
    assert RULE.inputs()[:2] == (
        TensorSpec(name="age", datatype="FP64", shape=(-1, 1)),
        TensorSpec(name="city", datatype="BYTES", shape=(-1, 1)),
    )
    packed = RULE.pack([ROW, {"age": None, "paid": "no"}])
    assert list(packed) == [spec.name for spec in RULE.inputs()]
    assert {name: (x.dtype.kind, x.shape) for name, x in packed.items()} == {
        spec.name: ("O" if spec.datatype == "BYTES" else "f", (2, 1)) for spec in RULE.inputs()
    }
    assert packed["city"].tolist() == [[b"Bonn"], [b""]]
    assert packed["at"].tolist() == [[b"2024-02-29T13:05:00"], [b""]]
    np.testing.assert_array_equal(packed["age"], [[41.0], [math.nan]])
    np.testing.assert_array_equal(packed["paid"], [[1.0], [0.0]])


def test_features_are_worked_out_by_hand() -> None:
    found = encode([ROW])
    assert found.dtype == np.float32
    assert RULE.features[:4] == ("age", "city", "paid", "at.year")
    assert found.shape == (1, RULE.width) == (1, len(RULE.features))
    np.testing.assert_array_equal(found, np.asarray([FEATURE_ROW], np.float32))


def test_missing_and_unseen_values_are_told_apart() -> None:
    found = encode([{"city": "?"}, {"city": "Rom"}, {"city": None}, {"city": " Bonn "}, {"age": " NA "}])[:, :2]
    np.testing.assert_array_equal(found[:, 1], [math.nan, 2, math.nan, 1, math.nan])
    assert np.isnan(found[:, 0]).all()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("age", "old", "column 'age' must be a number, or missing; got old"),
        ("age", True, "column 'age' must be a number, or missing; got True"),
        ("age", [1], r"column 'age' must be a number, or missing; got \[1\]"),
        ("age", "1_000", "column 'age' must be a number"),
        ("age", 10**400, "column 'age' must be a number"),
        ("city", 1.5, "column 'city' must be text or a whole number, or missing; got 1.5"),
        ("city", b"\xff", "column 'city' must be text"),
        ("paid", "perhaps", "column 'paid' must be true or false, or missing; got perhaps"),
        ("at", "30.2.2024", "column 'at' must be a date or time"),
        ("at", 20240229, "column 'at' must be a date or time"),
        ("clock", "25 o'clock", "column 'clock' must be a time of day"),
        ("said", 7, "column 'said' must be text, or missing; got 7"),
    ],
)
def test_a_wrong_value_is_one_error_that_names_column_and_row(column: str, value: object, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        RULE.pack([{column: value}])
    with pytest.raises(Invalid, match=f"column '{column}' of row 2 must"):
        RULE.pack([ROW, {column: value}])
    with pytest.raises(Invalid, match=f"column '{column}' of line 9 must"):
        RULE.pack([ROW, {column: value}], names=["line 8", "line 9"])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "rows must be at least one"),
        ([{"Age": 3}], r"columns of the row must be some of the model's \(age, at"),
        ([{}], "columns of the row must be some of"),
        (["age"], "row must be an object: column -> value; got str"),
        ([ROW, 3], "row 2 must be an object"),
        (pa.table({"x": [1]}), "table must be of columns that the model knows"),
        (pa.table({"age": pa.array([], pa.int64())}), "rows must be at least one"),
    ],
)
def test_what_is_no_row_is_refused(rows: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        RULE.pack(rows)


def test_moments_come_in_many_forms() -> None:
    forms = [
        "2024-02-29 13:05:00", "29.02.2024 13:05", "29/2/2024 13:05", datetime(2024, 2, 29, 13, 5, tzinfo=UTC),  # noqa: DTZ001
        "2024-02-29T15:05:00+02:00", "2024-02-29T13:05:00Z",
    ]  # fmt: skip
    packed = RULE.pack([{"at": form} for form in forms])["at"]
    assert set(packed[:, 0].tolist()) == {b"2024-02-29T13:05:00"}
    assert RULE.pack([{"at": date(2024, 2, 29)}])["at"].tolist() == [[b"2024-02-29T00:00:00"]]
    raw = np.asarray([[form.encode()] for form in forms if isinstance(form, str)], object)
    column = RowRule(columns=(RULE.columns[3],))
    for batch in (raw, np.concatenate([raw] * 10)):  # as clients send them that do not pack, few and many
        np.testing.assert_array_equal(
            column.encode({"at": batch})[FEATURES], np.asarray([FEATURE_ROW[3:11]] * len(batch), np.float32)
        )
    with pytest.raises(Invalid, match="column 'at' must be a date"):
        column.encode({"at": np.asarray([[b"soon"]] * 40, object)})


def test_a_number_that_float32_cannot_hold_is_the_largest_one() -> None:
    found = encode([{"age": "inf"}, {"age": -1e300}, {"age": 16777217}])[:, 0]
    np.testing.assert_array_equal(found, np.asarray([LARGEST, -LARGEST, 16777216], np.float32))


def test_an_arrow_table_gives_what_its_rows_give() -> None:
    rows = [{k: v for k, v in ROW.items() if k != "unknown"}, dict.fromkeys(list(ROW)[:-1]), ROW | {"city": "Rom"}]
    told = pa.table({
        "age": [41, None, 41],
        "city": pa.array(["Bonn", None, "Rom"]).dictionary_encode(),
        "paid": [True, None, True],
        "at": pa.array([datetime(2024, 2, 29, 13, 5), None] + [datetime(2024, 2, 29, 13, 5)], pa.timestamp("us")),  # noqa: DTZ001
        "price": ["1.234,5", None, "1.234,5"],
        "clock": [49500.0, None, 49500.0],
        "said": ["A big DOG, a dog", None, "A big DOG, a dog"],
        "more": [1, 2, 3],
    })
    for table in (told, pa.concat_tables([told.slice(0, 1), told.slice(1)])):
        by_table, by_rows = RULE.pack(table), RULE.pack(rows)
        for name, values in by_rows.items():
            np.testing.assert_array_equal(by_table[name], values)
    part = RULE.pack(told.select(["age"]))
    assert part["city"].tolist() == [[b""]] * 3
    assert np.isnan(part["clock"]).all()


values = st.none() | st.floats(allow_nan=False) | st.integers(-(10**20), 10**20)
words = st.none() | st.text(max_size=8) | st.sampled_from(["Köln", "Bonn", "?", "big dog", "中文 dog"])
rows = st.fixed_dictionaries(
    {"age": values},
    optional={
        "city": words, "said": words, "paid": st.sampled_from([True, False, None, "yes", "F"]),
        "at": st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001
        "price": values, "clock": st.none() | st.floats(0, 86400),
    },
)  # fmt: skip


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@example([{"age": None, "at": datetime(1970, 1, 1, 0, 0, 0, 1)}], 20)  # noqa: DTZ001 - less than a second is kept
@given(st.lists(rows, min_size=1, max_size=5), st.sampled_from([1, 20]))
def test_a_row_alone_is_encoded_as_in_a_batch(some: list[dict[str, Any]], times: int) -> None:
    batch = some * times  # many moments are taken apart in another way than few
    alone = np.concatenate([encode([row]) for row in batch])
    np.testing.assert_array_equal(encode(batch), alone)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
marks = {"decimal": st.sampled_from([".", ","]), "thousands": st.sampled_from(["", "."]), "is_day_first": st.booleans()}
columns = st.one_of(
    st.builds(Column, name=names, kind=st.sampled_from(["number", "bool", "time"]), **marks),
    st.builds(Column, name=names, kind=st.just("category"), values=st.lists(names, unique=True, max_size=4).map(tuple)),
    st.builds(Column, name=names, kind=st.just("moment"), parts=st.permutations(PARTS).map(lambda p: tuple(p[:3]))),
    st.builds(Column, name=names, kind=st.just("text"), terms=st.lists(names, unique=True, max_size=4).map(tuple)),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(columns, min_size=1, max_size=5, unique_by=lambda c: c.name))
def test_a_rule_comes_back_from_json(listed: list[Column]) -> None:
    rule = RowRule(columns=tuple(listed))
    assert rules.read(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda body: body["columns"][0].update(kind="thing"),
            r"preprocessing.columns\[0\].kind must be one of number",
        ),
        (lambda body: body["columns"][0].update(more=1), "preprocessing.columns.more must be absent"),
        (lambda body: body.update(scale=1), "preprocessing.scale must be absent"),
        (lambda body: body["columns"][1].update(values=["a", "a"]), "values of column 'city' must be different ones"),
        (
            lambda body: body["columns"][0].update(values=["a"]),
            "values of column 'age' must be different ones, of a cat",
        ),
        (lambda body: body["columns"][3].update(parts=["week"]), "parts of column 'at' must be year"),
        (lambda body: body["columns"].append(body["columns"][0]), "columns of a row rule must be at least one, each"),
        (lambda body: body["columns"].clear(), "columns of a row rule must be at least one"),
        (lambda body: body["columns"][0].pop("missing"), r"columns\[0\].missing must be given"),
    ],
)
def test_a_rule_that_is_not_as_written_is_refused(change: Any, words: str) -> None:
    body = json.loads(json.dumps(RULE.to_json()))
    change(body)
    with pytest.raises(Invalid, match=words):
        rules.read(body)


def test_terms_are_words_pairs_and_chinese_signs() -> None:
    assert terms_of("Don't stop_now") == ["don", "t", "stop", "now", "don t", "t stop", "stop now"]
    assert terms_of("路灯a坏") == ["路", "灯", "a", "坏", "路 灯", "灯 a", "a 坏"]
