"""What a sampler promises."""

from typing import ClassVar

import numpy as np

from loopworks.core.contracts import Sampler
from loopworks.testing.snapshot import difference, snapshot
from loopworks.testing.step import PluginContract


class SamplerContract(PluginContract):
    """A sampler picks different items, as many as asked for, the same ones for the same seed, and changes nothing.

    Set ``plugin`` and, where needed, ``params`` and ``refused``.
    """

    items: ClassVar[int] = 60
    """How many items the tests offer."""

    def sampler(self) -> Sampler:
        """The sampler under test."""
        built: Sampler = self.build()
        return built

    def test_picks_are_different_positions_of_the_pool(self) -> None:
        for count in (1, 7, self.items):
            found = self._pick(count)
            assert found.shape == (count,), f"must pick {count} items; got shape {found.shape}"
            assert found.dtype == np.int64, f"positions must be int64; got {found.dtype}"
            assert len(np.unique(found)) == count, "no item may be picked twice"
            assert found.min() >= 0, "positions must be those of the pool"
            assert found.max() < self.items, "positions must be those of the pool"

    def test_more_than_there_are_gives_all(self) -> None:
        found = self._pick(self.items + 5)
        assert sorted(found.tolist()) == list(range(self.items)), "must give every item once"

    def test_none_asked_for_gives_none(self) -> None:
        assert self._pick(0).shape == (0,), "count 0 must pick nothing"

    def test_an_empty_pool_gives_none(self) -> None:
        found = self.sampler().pick(np.zeros(0), np.zeros((0, 3), np.float32), 5, seed=0)
        assert found.shape == (0,), "an empty pool must give an empty pick"

    def test_the_same_seed_gives_the_same_pick(self) -> None:
        apart = difference(self._pick(9, seed=3), self._pick(9, seed=3))
        assert not apart, f"the same seed and input must give the same pick; they differ at {apart}"

    def test_works_before_any_model_exists(self) -> None:
        found = self.sampler().pick(np.zeros(self.items), np.zeros((self.items, 1), np.float32), 9, seed=1)
        assert len(np.unique(found)) == 9, "equal items must be picked once each"

    def test_inputs_are_left_untouched(self) -> None:
        uncertainty, features = self._pool()
        before = snapshot([uncertainty, features])
        self.sampler().pick(uncertainty, features, 9, seed=0)
        apart = difference(before, snapshot([uncertainty, features]))
        assert not apart, f"the inputs must stay as they were; they changed at {apart}"

    def _pool(
        self,
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
        rng = np.random.default_rng(0)
        return rng.random(self.items), rng.random((self.items, 3), np.float32)

    def _pick(self, count: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        found: np.ndarray[tuple[int], np.dtype[np.int64]] = self.sampler().pick(*self._pool(), count, seed=seed)
        return found
