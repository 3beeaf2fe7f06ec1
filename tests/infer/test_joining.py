"""Whether requests share a run is found by trying both, under load alone."""

import time

import pytest

from loopworks.infer import joining
from loopworks.infer.joining import Joining


def run(model: Joining, alone_ms: float, joined_ms: float, times: int, waiting: int = 7) -> list[int]:
    """So many runs of a model that answers a row in these times; the requests of each."""
    found = []
    for _ in range(times):
        many = 8 if model.is_on else 1
        model.saw(many, many, (joined_ms if many > 1 else alone_ms) * many / 1000, waiting)
        found.append(many)
    return found


@pytest.mark.parametrize(("alone_ms", "joined_ms", "joins"), [(7, 8, False), (7, 6.9, False), (7, 5, True)])
def test_the_quicker_way_is_taken_after_a_trial_of_both(alone_ms: float, joined_ms: float, joins: bool) -> None:
    model = Joining()
    assert run(model, alone_ms, joined_ms, 12) == [8, 1] * joining.TRIED
    assert set(run(model, alone_ms, joined_ms, 20)) == {8 if joins else 1}


def test_who_tried_in_vain_is_told_once() -> None:
    model = Joining()
    told = [model.saw(8, 8, 0.064, 7) or model.saw(1, 1, 0.007, 7) for _ in range(joining.TRIED + 3)]
    assert told == [False] * (joining.TRIED - 1) + [True] + [False] * 3


def test_one_slow_run_does_not_decide() -> None:
    model = Joining()
    model.saw(8, 8, 3.0, 7)
    run(model, 7, 5, 11)
    assert model.is_on


def test_without_load_there_is_no_trial() -> None:
    model = Joining()
    for _ in range(100):
        model.saw(1, 1, 0.007, 0)
    assert model.is_on
    assert run(model, 7, 8, 12) == [8, 1] * joining.TRIED


def test_requests_that_are_batches_tell_nothing() -> None:
    model = Joining()
    for _ in range(100):
        model.saw(1, 32, 0.001, 7)
    assert model.is_on


def test_a_trial_is_repeated_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Joining()
    run(model, 7, 8, 12)
    assert not model.is_on
    later = time.monotonic() + joining.AGAIN_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    run(model, 7, 3, 12)
    assert model.is_on
