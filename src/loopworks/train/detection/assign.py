"""Which of a network's guesses is to learn which thing: those that already come closest to it."""
# ruff: noqa: TID253 - this file is imported inside functions only

from dataclasses import dataclass

import torch
from torch import Tensor

from loopworks.train.detection.boxes import overlap

GUESSES = 10
"""Guesses that learn one thing, at most."""
POWER_SCORE, POWER_OVERLAP = 0.5, 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """What each guess is to say."""

    share: Tensor
    """Wanted score by class, ``(n, places, classes)``: how well the guess fits; 0 for all classes that it is not."""
    thing: Tensor
    """Row of the thing that a guess learns, ``(n, places)``; 0 where it learns none."""
    is_taught: Tensor
    """Whether it learns one, ``(n, places)``."""


def assign(
    boxes: Tensor, scores: Tensor, places: Tensor, reach: float, truth: Tensor, labels: Tensor, is_thing: Tensor
) -> Assigned:
    """Task-aligned assignment.

    Args:
        boxes: guesses, ``(n, places, 4)``; no gradient is taken.
        scores: by class in 0..1, ``(n, places, classes)``.
        places: where in the image each guess stands, ``(places, 2)``.
        reach: half the side that the smallest thing counts as, so that some place lies in it.
        truth: boxes of things, ``(n, things, 4)``.
        labels: their classes, ``(n, things)``, whatever where there is no thing.
        is_thing: ``(n, things)``.
    Source: Feng et al. 2021, "TOOD: Task-aligned one-stage object detection".
    """
    middle, half = (truth[..., :2] + truth[..., 2:]) / 2, ((truth[..., 2:] - truth[..., :2]) / 2).clamp(min=reach)
    is_inside = ((places - middle[:, :, None]).abs() < half[:, :, None]).all(dim=3) & is_thing[..., None]
    shared = overlap(truth, boxes) * is_inside  # (n, things, places)
    of_class = scores.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, scores.shape[1]))
    fit = of_class.pow(POWER_SCORE) * shared.pow(POWER_OVERLAP)
    best, place = fit.topk(min(GUESSES, fit.shape[2]), dim=2)
    is_picked = torch.zeros_like(fit).scatter_(2, place, (best > 0).to(fit.dtype)) > 0
    # A guess that several things want learns the one that it overlaps most.
    thing = torch.where(is_picked, shared, -1.0).argmax(dim=1)
    is_picked &= torch.zeros_like(fit).scatter_(1, thing[:, None], 1.0) > 0
    most_fit = (fit * is_picked).amax(dim=2, keepdim=True)
    most_shared = (shared * is_picked).amax(dim=2, keepdim=True)
    level = (fit * is_picked / (most_fit + 1e-12) * most_shared).amax(dim=1)  # (n, places)
    is_taught = is_picked.any(dim=1)
    label = labels.gather(1, thing)
    share = torch.zeros_like(scores).scatter_(2, label[..., None], (level * is_taught)[..., None])
    return Assigned(share=share, thing=thing, is_taught=is_taught)
