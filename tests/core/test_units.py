"""Durations and sizes as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core.errors import Invalid
from loopworks.core.units import bytes_text, seconds, seconds_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("5min", 300),
        ("1.5h", 5400),
        ("2d", 172800),
        (" 7 s ", 7),
        (12, 12),
        (0.5, 0.5),
    ],
)
def test_durations_are_read(text: str | float, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-5m", "5 parsecs", "m", "1h30m", "1e3", "nan", "٥m٥", 0, -1, math.nan, math.inf, "9" * 400]
)
def test_anything_else_is_refused(text: str | float) -> None:
    with pytest.raises(Invalid, match="must be a duration above zero such as 30s, 5m or 1.5h"):
        seconds(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (12, "12 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (1500, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_200_000, "3.2 MB"),
        (5e9, "5.0 GB"),
        (5e12, "5000.0 GB"),
    ],
)
def test_sizes_are_written(size: float, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.85, "850 ms"),
        (0.9999, "1.0 s"),
        (4.2, "4.2 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations_are_written(value: float, text: str) -> None:
    assert seconds_text(value) == text


@given(st.integers(1, 10**5), st.sampled_from(["s", "m", "h"]))
def test_a_longer_duration_reads_as_more(count: int, unit: str) -> None:
    assert seconds(f"{count}{unit}") < seconds(f"{count + 1}{unit}")


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_one_clear_error(text: str) -> None:
    found: float | Invalid
    try:
        found = seconds(text)
    except Invalid as error:
        found = error
    assert "duration" in found.message if isinstance(found, Invalid) else found > 0
