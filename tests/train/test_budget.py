"""The clock: what follows the loop takes longer where the machine is busy."""

import time

import pytest

from loopworks.train import budget
from loopworks.train.budget import Budget


class Clock:
    """Time as this thread sees it: of each second of the clock it computes for ``core``."""

    def __init__(self) -> None:
        self.now = self.computed = 100.0

    def go(self, seconds: float, core: float) -> None:
        self.now += seconds
        self.computed += seconds * core


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    monkeypatch.setattr(time, "thread_time", lambda: made.computed)
    return made


def ended_at(one: Budget, clock: Clock, core: float) -> float:
    """When the loop has no time left, and what follows begins."""
    began = clock.now
    while one.share() < 1:
        clock.go(0.3, core)
    return clock.now - began


@pytest.mark.parametrize("core", [1.0, 0.5, 0.25])
def test_export_and_scoring_end_in_time_however_little_of_a_core_is_left(clock: Clock, core: float) -> None:
    one = Budget(30.0, after_s=3.0)
    one.reserve(1.0)
    assert 26 < ended_at(one, clock, core) + 1.0 + 3.0 / core < 33
    assert one.slow == pytest.approx(1 / core, rel=0.05)


def test_a_machine_that_becomes_free_again_gives_its_time_back(clock: Clock) -> None:
    one = Budget(60.0, after_s=3.0)
    for _ in range(20):
        clock.go(1.0, 0.2)
        one.share()
    assert one.kept_s() == pytest.approx(15, rel=0.05)
    for _ in range(20):
        clock.go(1.0, 1.0)
        one.share()
    assert one.kept_s() == pytest.approx(3, rel=0.1)


def test_at_most_half_is_kept_and_a_thread_that_waits_is_not_taken_for_slow(clock: Clock) -> None:
    one = Budget(10.0, after_s=9.0)
    assert ended_at(one, clock, 0.0) == pytest.approx(5, abs=0.4)
    assert one.slow <= budget.SLOWEST


def test_without_a_limit_no_time_is_over(clock: Clock) -> None:
    one = Budget(None, after_s=3.0)
    clock.go(1e6, 0.1)
    assert one.share() == 0.0


def test_a_resumed_training_goes_on_counting(clock: Clock) -> None:
    one = Budget(10.0)
    one.resume(4.0)
    clock.go(1.0, 1.0)
    assert one.share() == pytest.approx(0.5)
