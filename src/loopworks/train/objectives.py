"""What networks on images learn: one objective per task kind; see ``loop.Objective``."""
# ruff: noqa: TID253 - this file is imported inside functions only

from typing import Any, Protocol

from torch import Tensor, nn

from loopworks.tasks.classes import OUTPUT


class Changes(Protocol):
    """How a batch is prepared, see ``augment.Augment``: changed at random, or as it will be asked."""

    def seed(self, seed: int) -> None:
        """Begin the random draws of an epoch."""

    def share(self, first: int, total: int) -> None:
        """The next batch is a part of one of ``total`` items, from ``first`` on; see ``team``."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Changed at random."""

    def normalize(self, images: Tensor, /) -> Tensor:
        """As they will be asked."""


class Classes:
    """Class scores: cross entropy for one class per image, binary cross entropy for any number of them."""

    def __init__(self, augment: Changes, *, is_multi: bool, smoothing: float) -> None:
        """Targets are multi-hot rows; ``smoothing`` is the share of a single label given to the other classes."""
        self.augment = augment
        self.is_multi = is_multi
        self._loss: nn.Module = nn.BCEWithLogitsLoss() if is_multi else nn.CrossEntropyLoss(label_smoothing=smoothing)

    def seed(self, seed: int) -> None:
        """Begin the random draws of an epoch."""
        self.augment.seed(seed)

    def prepare(self, images: Tensor, targets: Tensor, *, is_training: bool) -> tuple[Tensor, Any]:
        """Classes stay what they are however the image is moved."""
        return (self.augment(images) if is_training else self.augment.normalize(images)), targets

    def loss(self, raw: Any, targets: Any) -> Tensor:
        """Mean over the batch."""
        loss: Tensor = self._loss(raw, targets)
        return loss

    def answer(self, raw: Any) -> dict[str, Tensor]:
        """Chances in 0..1."""
        return {OUTPUT: raw.sigmoid() if self.is_multi else raw.softmax(1)}
