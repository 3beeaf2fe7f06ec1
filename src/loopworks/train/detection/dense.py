"""The objective of networks that guess at every place of an image: class scores and a box each."""
# ruff: noqa: TID253 - this file is imported inside functions only

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from loopworks.tasks import detection as task
from loopworks.train.augment import Augment
from loopworks.train.detection.assign import assign
from loopworks.train.detection.boxes import corners, generalized, moved, suppressed

BOX_WEIGHT = 2.5
NEGATIVE_WEIGHT, NEGATIVE_POWER = 0.75, 2.0
LEAST_LEFT = 0.3
"""Share of a thing that must still be in the changed image; one of which less is left is no longer taught."""

Raw = tuple[Tensor, Tensor]
"""Logits ``(n, places, classes)``, and boxes ``(n, places, 4)`` as left, top, right, bottom in 0..1."""


class Dense:
    """Boxes and classes, learnt by the guesses that come closest."""

    def __init__(self, augment: Augment, places: Tensor, reach: float) -> None:
        """See ``assign`` for ``places`` and ``reach``."""
        self.augment = augment
        self.places = places
        self.reach = reach
        self.power = 1.0
        """What scores are raised to in an answer, so that one half is the best place to cut."""

    def seed(self, seed: int) -> None:
        """Begin the random draws of an epoch."""
        self.augment.seed(seed)

    def prepare(self, images: Tensor, targets: Tensor, *, is_training: bool) -> tuple[Tensor, Any]:
        """Boxes are moved as their image is."""
        return prepare(self.augment, images, targets, is_training=is_training)

    def loss(self, raw: Raw, targets: Any) -> Tensor:
        """Varifocal loss of the scores and generalized overlap of the boxes, both over the sum of wanted scores.

        Source: Zhang et al. 2021, "VarifocalNet: An IoU-aware dense object detector".
        """
        logits, boxes = raw
        truth = corners(targets)
        labels = targets[..., task.LABEL].long()
        is_crowd = (targets[..., task.CROWD] > 0) & (labels >= 0)
        is_thing = (labels >= 0) & ~is_crowd
        labels = labels.clamp(min=0)
        places = self.places.to(logits.device)
        chances = logits.sigmoid()
        with torch.no_grad():
            found = assign(boxes.detach(), chances.detach(), places, self.reach, truth, labels, is_thing)
            negative = NEGATIVE_WEIGHT * chances.pow(NEGATIVE_POWER)
            weight = torch.where(found.share > 0, found.share, negative)
            if is_crowd.any():
                weight = weight * ~(self._in_crowd(truth, labels, is_crowd, logits.shape[2]) & (found.share == 0))
            total = found.share.sum().clamp(min=1.0)
        scores_loss = functional.binary_cross_entropy_with_logits(logits, found.share, weight, reduction="sum")
        wanted = truth.gather(1, found.thing[..., None].expand(-1, -1, 4))
        box_loss = ((1 - generalized(boxes, wanted)) * found.share.sum(dim=2)).sum()
        loss: Tensor = (scores_loss + BOX_WEIGHT * box_loss) / total
        return loss

    def answer(self, raw: Raw) -> dict[str, Tensor]:
        """The best boxes, nothing said twice."""
        logits, boxes = raw
        found = suppressed(boxes, logits.sigmoid())
        if self.power != 1.0:
            found[task.SCORES] = found[task.SCORES].pow(self.power)
        return found

    def settle(self, answers: Mapping[str, NDArray[Any]], targets: NDArray[Any]) -> None:
        """Set the scores so that one half is where boxes for these items are best cut."""
        self.power *= task.sharpening(answers, targets)

    def _in_crowd(self, truth: Tensor, labels: Tensor, is_crowd: Tensor, classes: int) -> Tensor:
        """Places that lie in a crowd of a class, ``(n, places, classes)``: nobody knows what should be said there."""
        places = self.places.to(truth.device)
        inside = ((places >= truth[:, :, None, :2]) & (places <= truth[:, :, None, 2:])).all(dim=3)
        inside &= is_crowd[..., None]
        of_class = functional.one_hot(labels, classes) > 0
        return (inside[..., None] & of_class[:, :, None]).any(dim=1)


def prepare(augment: Augment, images: Tensor, targets: Tensor, *, is_training: bool) -> tuple[Tensor, Tensor]:
    """A batch for the network; where ``is_training`` changed at random, and the boxes of its targets alike."""
    x = augment.normalize(images)
    if not is_training:
        return x, targets
    if (moves := augment.moves(x)) is not None:
        x = augment.moved(x, moves, padding="zeros")
        boxes, left = moved(corners(targets), moves)
        targets = targets.clone()
        targets[..., task.X : task.Y + 1] = boxes[..., :2]
        targets[..., task.WIDTH : task.HEIGHT + 1] = boxes[..., 2:] - boxes[..., :2]
        targets[..., task.LABEL] = torch.where(left >= LEAST_LEFT, targets[..., task.LABEL], -1.0)
    return augment.lit(x), targets
