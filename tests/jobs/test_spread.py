"""One function over many items, in threads; on a cluster in ``tests/data/test_cluster.py``."""

import pytest

from loopworks.core.errors import Invalid, Missing
from loopworks.core.settings import Settings
from loopworks.jobs.spread import spread


def double(batch: list[int]) -> list[int]:
    return [2 * one for one in batch]


def refuse(batch: list[int]) -> list[int]:
    raise Invalid("item", "another", batch[0])


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(spread(double, range(1000), Settings(), batch=7)) == [2 * one for one in range(1000)]
    assert list(spread(double, [], Settings())) == []


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> "object":
        for one in range(10_000):
            taken.append(one)
            yield one

    found = spread(double, items(), Settings(), batch=10)  # type: ignore[arg-type]
    assert next(found) == 0
    assert len(taken) < 100


def test_what_the_function_raises_is_raised() -> None:
    with pytest.raises(Invalid, match="item must be another; got 0"):
        list(spread(refuse, range(10), Settings()))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(Missing) as caught:
        list(spread(double, [1], Settings(runner="ray")))
    assert "loopworks[ray]" in caught.value.hint
