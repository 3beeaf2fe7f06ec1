"""The standard library's JSON says what orjson says, so that a bundle without orjson answers alike."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.infer import wire

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def read(load: Any, data: bytes) -> str:
    try:
        return repr(load(data))
    except ValueError:
        return "refused"


@given(VALUES)
def test_both_read_alike(value: Any) -> None:
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert read(wire._loads, data) == read(orjson.loads, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1,]",
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"18446744073709551615",
        b"18446744073709551616",
        b"-9223372036854775808",
        b"-9223372036854775809",
        b"1" * 400,
        b'"\\ud800"',
        b'"\\ud83d\\ude00"',
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'{"a":1,"a":2}',
        b"-0",
        b"1.0",
        b'"a\nb"',
        b" [ ] ",
        b"[" * 100_000,
    ],
)
def test_both_refuse_alike(data: bytes) -> None:
    assert read(wire._loads, data) == read(orjson.loads, data)
    assert read(wire._loads, data) == read(lambda one: wire._loads(memoryview(one)), data)


@given(VALUES.filter(lambda value: "\\ud" not in ascii(value)))
def test_both_write_the_same_values(value: Any) -> None:
    try:
        expected = orjson.loads(wire.dumps(value))
    except TypeError:  # orjson writes whole numbers of up to 64 bits alone; we never write others
        return
    assert repr(orjson.loads(wire._dumps(value))) == repr(expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8, np.bool_])
def test_arrays_become_the_same_numbers(kind: type[np.generic]) -> None:
    rng = np.random.default_rng(0)
    array = (rng.standard_normal((40, 50)) * 10.0 ** rng.integers(-6, 6, (40, 50))).astype(kind)
    body = {"data": array, "one": array[0, 0]}
    assert json.loads(wire._dumps(body)) == json.loads(wire.dumps(body))


def test_numbers_that_json_does_not_know_are_null_in_both() -> None:
    body = {"a": [float("nan"), {"b": float("-inf")}], "c": np.array([1.5, np.nan])}
    assert json.loads(wire._dumps(body)) == json.loads(wire.dumps(body)) == {"a": [None, {"b": None}], "c": [1.5, None]}
