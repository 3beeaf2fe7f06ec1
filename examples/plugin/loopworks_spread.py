"""An outside package of one file: a sampler that also asks about items the model is fairly sure of.

A model that is wrong and sure of it is never corrected by samplers that look at uncertain items alone.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.registry import plugins


@plugins.add("label.spread")
@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadSampler:
    """Most uncertain items first, with a share taken evenly from the whole range of uncertainty."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    sure: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the picks that come from the whole range, in 0..1; 0 takes the most uncertain alone."""

    def pick(
        self, uncertainty: NDArray[np.float64], features: NDArray[np.float32], count: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Positions, shape ``(min(count, items),)``: the most uncertain, then those spread over the rest."""
        count = min(count, len(uncertainty))
        tie = np.random.default_rng(seed).permutation(len(uncertainty))
        order = np.lexsort((tie, -uncertainty))
        top = count - round(count * self.sure)
        rest = order[top:]
        spread = np.linspace(0, len(rest) - 1, count - top).round().astype(int)
        return np.concatenate([order[:top], rest[spread]]).astype(np.int64)
