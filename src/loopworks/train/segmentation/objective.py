"""What networks learn that say of which class every pixel is; see ``loop.Objective``."""
# ruff: noqa: TID253 - this file is imported inside functions only

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from loopworks.core.values import LabelSchema
from loopworks.tasks import segmentation as task
from loopworks.train.augment import Augment

COARSE = 2
"""The loss looks at every second pixel along each axis: a quarter of the work, the same weights within noise."""
MOST_WEIGHT = 10.0


class Masks:
    """Cross entropy of every known pixel, rare classes weighing more, and the overlap of each class."""

    def __init__(
        self, augment: Augment, schema: LabelSchema, weights: NDArray[np.float32], size: tuple[int, int], overlap: float
    ) -> None:
        """Targets are as ``tasks.segmentation`` makes them.

        Args:
            augment: the random changes; masks follow where pixels move.
            schema: the classes.
            weights: of each of ``answerable(schema)`` in the loss.
            size: height and width of the images.
            overlap: weight of the Dice loss beside the cross entropy.
        """
        self.augment, self.size, self.overlap = augment, size, overlap
        self._weights = torch.from_numpy(weights)
        rows = task.answerable(schema)
        channels = channel_count(schema)
        self._keep = None if len(rows) == channels else torch.tensor(rows)
        names = [task.NOTHING if row == len(schema.classes) else row for row in rows]
        self._names = torch.tensor(names, dtype=torch.uint8)
        self._slots = torch.full((256,), task.IGNORED, dtype=torch.int64)
        self._slots[torch.tensor(rows)] = torch.arange(len(rows))

    def seed(self, seed: int) -> None:
        """Begin the random draws of an epoch."""
        self.augment.seed(seed)

    def prepare(self, images: Tensor, targets: Tensor, *, is_training: bool) -> tuple[Tensor, Any]:
        """What comes in from outside the picture is not known."""
        height, width = (max(1, side // COARSE) for side in self.size)
        rows, columns = (
            torch.from_numpy(task.places(old, new)).to(targets.device)
            for old, new in ((targets.shape[1], height), (targets.shape[2], width))
        )
        masks = targets[:, rows][:, :, columns]
        x = self.augment.normalize(images)
        if is_training:
            if (moves := self.augment.moves(x)) is not None:
                x = self.augment.moved(x, moves)
                # One more than the target, so that the zeros that come in from outside stand for nothing else.
                shifted = self.augment.moved(
                    masks.unsqueeze(1).to(x.dtype) + 1, moves, mode="nearest", padding="zeros"
                ).squeeze(1)
                masks = torch.where(shifted < 0.5, task.IGNORED, shifted.round() - 1)
            x = self.augment.lit(x)
        return x, self._slots.to(masks.device)[masks.to(torch.int64)]

    def loss(self, raw: Any, targets: Any) -> Tensor:
        """Mean over the known pixels of the batch."""
        logits = functional.interpolate(self._kept(raw).float(), size=targets.shape[-2:], mode="bilinear")
        known = targets != task.IGNORED
        weights = self._weights.to(logits.device)
        each = functional.cross_entropy(logits, targets, weights, ignore_index=task.IGNORED, reduction="sum")
        total = weights[targets.clamp(max=len(weights) - 1)][known].sum()
        loss: Tensor = each / total.clamp(min=1e-6)
        return loss + self.overlap * dice(logits, targets, known) if self.overlap else loss

    def answer(self, raw: Any) -> dict[str, Tensor]:
        """Classes on the images' grid; their chances on the network's own, which is coarser."""
        logits = self._kept(raw)
        fine = functional.interpolate(logits, size=self.size, mode="bilinear")
        classes = self._names.to(raw.device)[fine.argmax(1)]
        return {task.OUTPUT: classes, task.SURE: logits.softmax(1).amax(1)}

    def _kept(self, raw: Any) -> Tensor:
        """The channels of what may be answered."""
        found: Tensor = raw if self._keep is None else raw.index_select(1, self._keep.to(raw.device))
        return found


def dice(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """1 minus the overlap of each class that occurs in the batch, the mean over them.

    Source: Milletari et al. 2016, "V-Net: fully convolutional neural networks for volumetric segmentation".
    """
    chances = logits.softmax(1) * known.unsqueeze(1)
    truth = functional.one_hot(targets.where(known, 0), logits.shape[1]).permute(0, 3, 1, 2) * known.unsqueeze(1)
    both = (chances * truth).sum((0, 2, 3))
    either = chances.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    seen = truth.sum((0, 2, 3)) > 0
    each = 1 - 2 * both / either.clamp(min=1e-6)
    return (each * seen).sum() / seen.sum().clamp(min=1)


def channel_count(schema: LabelSchema) -> int:
    """Outputs of a network's last layer: the classes in their order, then nothing where pixels may be that."""
    return len(schema.classes) + (len(schema.classes) in task.answerable(schema))


def class_weights(targets: NDArray[np.uint8], schema: LabelSchema, balance: float) -> NDArray[np.float32]:
    """Weight of each of ``answerable(schema)``: its share of the pixels to the power of ``-balance``, at most 10.

    Args:
        targets: of the training items.
        schema: the classes.
        balance: 0 weighs every pixel alike, 1 every class.
    """
    counts = np.zeros(256, np.int64)
    for row in targets:
        counts += np.bincount(row.ravel(), minlength=256)
    found = counts[[*task.answerable(schema)]].astype(np.float64)
    shares = found / max(1.0, found.sum())
    seen = shares > 0
    weights = np.ones(len(shares))
    weights[seen] = shares[seen] ** -balance
    weights /= (weights * shares).sum() or 1.0  # the mean over the pixels is 1
    return np.minimum(weights, MOST_WEIGHT).astype(np.float32)
