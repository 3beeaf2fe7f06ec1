"""The tools behind the contracts: a recording context, and snapshots that see every change."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopworks.core.errors import Cancelled
from loopworks.testing import Recorder, context, difference, snapshot


def test_a_recorder_keeps_ticks_and_metrics(tmp_path: Path) -> None:
    recorder = Recorder()
    ctx = context(tmp_path, 5, recorder=recorder)
    ctx.tick(0.5, "half")
    ctx.part(0.5, 1.0).tick(0.5, "three quarters")
    ctx.metric("loss", 1, 0.25)
    assert recorder.ticks == [(0.5, "half"), (0.75, "three quarters")]
    assert recorder.metrics == [("loss", 1, 0.25)]
    assert (ctx.seed, ctx.scratch) == (5, tmp_path)


def test_a_context_stops_after_the_ticks_it_was_given(tmp_path: Path) -> None:
    recorder = Recorder(stop_after=2)
    ctx = context(tmp_path, recorder=recorder)
    ctx.tick(0.1)
    ctx.tick(0.2)
    for _ in range(3):
        with pytest.raises(Cancelled):
            ctx.tick(0.3)
    assert len(recorder.ticks) == 2
    assert recorder.asked_after_stop == 2, "the first question after the stop is the one that tells"
    with pytest.raises(Cancelled):
        context(tmp_path, stop_after=0).tick(0.0)


def test_a_context_that_never_stops_lets_all_ticks_pass(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    for _ in range(100):
        ctx.tick(0.5)


@dataclass
class Holder:
    name: str = "a"
    cache: int = field(default=0, compare=False)


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("left", "right", "where"),
    [
        (1, 2, "value: 1 is not 2"),
        (1, True, "value: 1 is not True"),
        ({"a": [1, 2]}, {"a": [1, 3]}, ".a[1]: 2 is not 3"),
        ({"a": 1}, {"b": 1}, ".a: only on the left"),
        ({}, {"b": 1}, ".b: only on the right"),
        ([1], [1, 2], "value: 1 members are not 2"),
        (0.1 + 0.2, 0.3, "value: 'float 0.30000000000000004' is not 'float 0.3'"),
        (Holder("a"), Holder("b"), ".name: 'a' is not 'b'"),
        (Plain([1]), Plain([2]), ".value[0]: 1 is not 2"),
        ({1, 2}, {1, 3}, "value[1]: 2 is not 3"),
        (np.zeros(2, np.float32), np.zeros(2), ".dtype: 'float32' is not 'float64'"),
        (np.zeros((2, 1)), np.zeros((1, 2)), ".shape[0]: 2 is not 1"),
        (np.array([{"a": 1}]), np.array([{"a": 2}]), "value[0].a: 1 is not 2"),
    ],
)
def test_a_difference_is_named_with_its_place(left: Any, right: Any, where: str) -> None:
    assert difference(left, right) == where


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (float("nan"), float("nan")),
        (np.array([np.nan]), np.array([np.nan])),
        (Holder("a", 1), Holder("a", 2)),
        ({2, 1}, {1, 2}),
        (Plain({"a": (1,)}), Plain({"a": [1]})),
    ],
)
def test_equal_values_have_no_difference(left: Any, right: Any) -> None:
    assert difference(left, right) == ""


def test_one_changed_bit_deep_in_an_array_is_seen() -> None:
    array = np.zeros((100, 100))
    before = snapshot(array)
    array[99, 99] = np.nextafter(0, 1)
    assert difference(before, snapshot(array)).startswith(".sha256")


def test_folders_are_compared_by_their_files(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "f").write_text("x", encoding="utf-8")
    assert difference(tmp_path / "left", tmp_path / "right") == ""
    (tmp_path / "right" / "sub" / "f").write_text("y", encoding="utf-8")
    assert difference(tmp_path / "left", tmp_path / "right").startswith(".sub/f: ")


def test_a_value_that_holds_itself_is_fine() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert difference(loop, loop) == ""


def test_a_snapshot_shares_nothing_with_the_value() -> None:
    value = {"a": [np.zeros(2)]}
    before = snapshot(value)
    value["a"][0][0] = 1
    value["a"].append(np.zeros(1))
    assert difference(before, snapshot(value))
