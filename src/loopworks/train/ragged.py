"""Items of different lengths as the training loop takes them: each batch is filled up to its own longest item."""
# ruff: noqa: TID253 - this file is imported inside functions only

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Ragged:
    """Rows of different lengths, one after the other in memory; indexed by places like a tensor."""

    def __init__(self, values: NDArray[Any], sizes: NDArray[np.int64], fill: int = 0) -> None:
        """Hold ``values``: all rows one after the other.

        Args:
            values: shape ``(sum of sizes, ...)``.
            sizes: of each row, shape ``(rows,)``.
            fill: what a batch's shorter rows are filled up with.
        """
        self._values = torch.from_numpy(np.ascontiguousarray(values))
        self._ends = np.cumsum(sizes)
        self._sizes = sizes
        self._fill = fill

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], fill: int = 0) -> "Ragged":
        """Rows of whole numbers."""
        sizes = np.array([len(row) for row in rows], np.int64)
        return cls(np.array([number for row in rows for number in row], np.int64), sizes, fill)

    def __len__(self) -> int:
        """How many rows."""
        return len(self._sizes)

    def __getitem__(self, places: Tensor | slice) -> Tensor:
        """The rows at ``places``, shape ``(rows, longest of them, at least 1, ...)``."""
        at = np.arange(len(self))[places if isinstance(places, slice) else places.numpy()]
        sizes = self._sizes[at]
        longest = max(1, int(sizes.max(initial=0)))
        out = torch.full((len(at), longest, *self._values.shape[1:]), self._fill, dtype=self._values.dtype)
        inside = torch.from_numpy(np.arange(longest) < sizes[:, None])
        starts = self._ends[at] - sizes
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        out[inside] = self._values[torch.from_numpy(np.repeat(starts, sizes) + within)]
        return out
