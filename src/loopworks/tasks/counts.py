"""Pixels counted class by class and item by item: what the figures of a segmentation are sums of."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Per item and class, shape ``(items, classes)`` each; pixels not known are in none of them."""

    hits: NDArray[np.int64]
    """Of the class, and said to be."""
    real: NDArray[np.int64]
    """Of the class."""
    said: NDArray[np.int64]
    """Said to be of the class."""
    known: NDArray[np.int64]
    """Pixels whose truth is known, shape ``(items,)``."""
    right: NDArray[np.int64]
    """Of these, those that are right, also where the truth is no class; shape ``(items,)``."""

    @classmethod
    def of(
        cls, targets: NDArray[np.uint8], answers: Iterable[NDArray[np.uint8]], classes: int, ignored: int
    ) -> "Counts":
        """Compare.

        Args:
            targets: ``(items, height, width)``; ``classes`` stands for no class, ``ignored`` for not known.
            answers: one of the same height and width for each item; numbers of ``classes`` and above are no class.
            classes: how many there are.
            ignored: target of the pixels to leave out.
        """
        hits, real, said = (np.zeros((len(targets), classes + 1), np.int64) for _ in range(3))
        for row, (truth, given) in enumerate(zip(targets, answers, strict=True)):
            known = truth != ignored
            wanted, found = truth[known], np.minimum(given[known], classes)
            real[row] = np.bincount(wanted, minlength=classes + 1)
            said[row] = np.bincount(found, minlength=classes + 1)
            hits[row] = np.bincount(wanted[wanted == found], minlength=classes + 1)
        return cls(
            hits=hits[:, :classes],
            real=real[:, :classes],
            said=said[:, :classes],
            known=real.sum(axis=1),
            right=hits.sum(axis=1),
        )

    def miou(self, at: NDArray[np.intp]) -> float:
        """Mean intersection over union of the classes that occur in the items' truth, of all their pixels together.

        Where none occurs: 1 if none was said either, else 0.
        Source: Everingham et al. 2010, "The Pascal visual object classes challenge".
        """
        hits, real, said = self._sums(at)
        seen = real > 0
        if not seen.any():
            return float(not said.any())
        return float((hits[seen] / (real[seen] + said[seen] - hits[seen])).mean())

    def mean_accuracy(self, at: NDArray[np.intp]) -> float:
        """Share of each class's pixels that were found, the mean over the classes that occur; none: 1."""
        hits, real, _ = self._sums(at)
        seen = real > 0
        return float((hits[seen] / real[seen]).mean()) if seen.any() else 1.0

    def pixel_accuracy(self, at: NDArray[np.intp]) -> float:
        """Share of the known pixels that are right; none known: 1."""
        known = int(self.known[at].sum())
        return float(self.right[at].sum() / known) if known else 1.0

    def by_class(self) -> dict[int, dict[str, float]]:
        """Class -> ``iou``, ``accuracy``, ``share``, of those that occur or were said."""
        hits, real, said = self._sums(np.arange(len(self.hits)))
        either, all_ = real + said - hits, max(1, int(self.known.sum()))
        return {
            int(i): {
                "iou": float(hits[i] / either[i]),
                "accuracy": float(hits[i] / real[i]) if real[i] else 0.0,
                "share": float(real[i] / all_),
            }
            for i in np.flatnonzero(either)
        }

    def right_share(self) -> NDArray[np.float64]:
        """Share of each item's known pixels that are right, shape ``(items,)``; none known: 1."""
        return np.where(self.known > 0, self.right / np.maximum(self.known, 1), 1.0)

    def _sums(self, at: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        return self.hits[at].sum(axis=0), self.real[at].sum(axis=0), self.said[at].sum(axis=0)
