"""Items in memory, and the shuffled batches that the training loop is fed."""
# ruff: noqa: TID253 - this file is imported inside functions only

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loopworks.train.team import ALONE, Team, part


class Inputs(Protocol):
    """Items in memory, as a tensor whose first axis they are, or what is indexed like one; see ``ragged.Ragged``."""

    def __len__(self) -> int:
        """How many items."""

    def __getitem__(self, places: Any, /) -> Tensor:
        """Those at the places (a tensor of whole numbers, or a slice) as one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Items in memory, images as uint8 ``(items, height, width, 3)``, and targets whose first axis is the items."""

    images: Inputs
    targets: Tensor

    @classmethod
    def of(cls, images: NDArray[np.uint8], targets: NDArray[Any]) -> "Split":
        """Wrap arrays; nothing is copied unless the array may not be written to."""
        with warnings.catch_warnings():
            # Tensors over read-only arrays warn; nothing here writes to them.
            warnings.simplefilter("ignore", UserWarning)
            return cls(images=torch.from_numpy(np.ascontiguousarray(images)), targets=torch.from_numpy(targets))

    def __len__(self) -> int:
        """How many items."""
        return len(self.images)

    def part(self, places: slice) -> "Split":
        """Some of the items."""
        return Split(images=self.images[places], targets=self.targets[places])


class Batches:
    """Shuffled batches of one epoch after the other, of nearly equal size (a last batch of one breaks batch norm)."""

    def __init__(self, split: Split, batch: int, seed: int, pieces: int = 1, team: Team = ALONE) -> None:
        """Serve ``split``, each batch, or a team's share, in ``pieces``; the order depends on ``seed`` and epoch."""
        self._split = split
        self._count = math.ceil(len(split) / batch)
        self._seed = seed
        self._team = team
        self.pieces = pieces
        self.epoch = 0

    def __len__(self) -> int:
        """Pieces of batches per epoch."""
        return self._count * self.pieces

    @property
    def least(self) -> int:
        """Items in the smallest piece."""
        return len(self._split) // self._count // self._team.size // self.pieces

    def place(self, index: int) -> tuple[int, int, int]:
        """Of a piece: where in its batch it begins, how many items it has, and how many the batch."""
        batch, piece = divmod(index, self.pieces)
        total = len(part(len(self._split), self._count, batch))
        share = part(total, self._team.size, self._team.rank)
        own = part(len(share), self.pieces, piece)
        return share.start + own.start, len(own), total

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of ``epoch``."""
        order = torch.randperm(len(self._split), generator=torch.Generator().manual_seed(draw(self._seed, self.epoch)))
        at = 0
        for index in range(len(self)):
            first, count, total = self.place(index)
            places = order[at + first : at + first + count]
            yield self._split.images[places], self._split.targets[places]
            if (index + 1) % self.pieces == 0:
                at += total


def draw(seed: int, epoch: int, purpose: int = 0) -> int:
    """A seed of its own for each epoch and purpose."""
    return int(np.random.SeedSequence((seed, epoch, purpose)).generate_state(1)[0])
