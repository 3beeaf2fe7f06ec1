"""What to label next: the samplers that ship with Loopworks."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.registry import plugins


@plugins.add("label.random")
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSampler:
    """Any items, all equally likely: the baseline that every other sampler is compared to."""

    def pick(
        self, uncertainty: NDArray[np.float64], features: NDArray[np.float32], count: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Positions in a random order, shape ``(min(count, items),)``."""
        return np.random.default_rng(seed).permutation(len(uncertainty))[:count].astype(np.int64)


@plugins.add("label.uncertain")
@dataclass(frozen=True, slots=True, kw_only=True)
class UncertainSampler:
    """The items that the model is least sure of; equal ones in random order.

    Source: Lewis and Gale 1994, "A sequential algorithm for training text classifiers".
    """

    def pick(
        self, uncertainty: NDArray[np.float64], features: NDArray[np.float32], count: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Positions, the most uncertain first, shape ``(min(count, items),)``."""
        tie = np.random.default_rng(seed).permutation(len(uncertainty))
        return np.lexsort((tie, -uncertainty))[:count].astype(np.int64)


@plugins.add("label.diverse")
@dataclass(frozen=True, slots=True, kw_only=True)
class DiverseSampler:
    """Uncertain items that differ from each other: farthest-first among the most uncertain.

    Taking only the most uncertain items asks the same question many times when they look alike. This sampler keeps
    the ``width`` x ``count`` most uncertain ones and picks among them the one farthest from all picked before.
    Source: Sener and Savarese 2018, "Active learning for convolutional neural networks: a core-set approach"
    (k-center greedy), on a shortlist by uncertainty.
    """

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    width: Annotated[int, Field(ge=1, le=100)] = 4
    """Length of the shortlist as a multiple of the number to pick, in 1..100."""

    def pick(
        self, uncertainty: NDArray[np.float64], features: NDArray[np.float32], count: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Positions, first the most uncertain, then the farthest from those before, shape ``(min(count, items),)``."""
        pool = UncertainSampler().pick(uncertainty, features, count * self.width, seed=seed)
        if len(pool) <= count:
            return pool
        points = features[pool].astype(np.float64)
        nearest = np.full(len(pool), np.inf)
        picked = [0]
        for _ in range(count - 1):
            last = points[picked[-1]]
            nearest = np.minimum(nearest, ((points - last) ** 2).sum(axis=1))
            nearest[picked] = -1.0  # also where two items are equal, none is picked twice
            picked.append(int(nearest.argmax()))
        return pool[picked]
