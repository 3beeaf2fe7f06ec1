"""Boxes as tensors (left, top, right, bottom in 0..1 of the image's sides): overlap, moves, suppression."""
# ruff: noqa: TID253 - this file is imported inside functions only

import torch
from torch import Tensor

from loopworks.tasks import detection as task

CANDIDATES = 300
"""Boxes per image that are looked at for doubles."""
ROUNDS = 8
"""Longest chain of overlapping boxes that is followed; each box of a chain may keep the next but one."""
SAME = 0.6
"""Overlap from which the lower of two boxes of a class is dropped."""
FAINT = 0.01
"""Scores below it are no boxes."""


def overlap(left: Tensor, right: Tensor) -> Tensor:
    """Intersection over union of each with each: ``(n, a, 4)`` and ``(n, b, 4)`` give ``(n, a, b)``."""
    low = torch.maximum(left[:, :, None, :2], right[:, None, :, :2])
    high = torch.minimum(left[:, :, None, 2:], right[:, None, :, 2:])
    sides = (high - low).clamp(min=0)
    inner = sides[..., 0] * sides[..., 1]
    return inner / (_area(left)[:, :, None] + _area(right)[:, None, :] - inner + 1e-9)


def generalized(found: Tensor, wanted: Tensor) -> Tensor:
    """Generalized overlap in -1..1 of boxes side by side, ``(..., 4)`` each.

    Source: Rezatofighi et al. 2019, "Generalized intersection over union".
    """
    low, high = torch.maximum(found[..., :2], wanted[..., :2]), torch.minimum(found[..., 2:], wanted[..., 2:])
    sides = (high - low).clamp(min=0)
    inner = sides[..., 0] * sides[..., 1]
    union = _area(found) + _area(wanted) - inner + 1e-9
    hull = torch.maximum(found[..., 2:], wanted[..., 2:]) - torch.minimum(found[..., :2], wanted[..., :2])
    around = hull[..., 0] * hull[..., 1] + 1e-9
    return inner / union - (around - union) / around


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def corners(rows: Tensor) -> Tensor:
    """Left, top, right, bottom of a target's rows ``(n, most, 10)``."""
    low = rows[..., task.X : task.Y + 1]
    return torch.cat((low, low + rows[..., task.WIDTH : task.HEIGHT + 1]), dim=-1)


def moved(boxes: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes after their image was changed as ``Augment.moves`` says, cut at its edges.

    Args:
        boxes: ``(n, most, 4)``.
        moves: ``(n, 2, 3)``, from places in the changed image to places in the image as it was, in -1..1.
    Returns: the boxes, and the share of each that is still in the image, ``(n, most)``.
    """
    x, y = boxes[..., [0, 2, 2, 0]] * 2 - 1, boxes[..., [1, 1, 3, 3]] * 2 - 1
    places = torch.stack((x, y), dim=-1) - moves[:, None, None, :, 2]
    a, b, c, d = (moves[:, i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    x, y = places[..., 0], places[..., 1]
    places = torch.stack((d * x - b * y, a * y - c * x), dim=-1) / (a * d - b * c)[..., None]
    places = (places + 1) / 2
    whole = torch.cat((places.amin(dim=2), places.amax(dim=2)), dim=-1)
    cut = whole.clamp(0, 1)
    return cut, _area(cut) / (_area(whole) + 1e-9)


def suppressed(boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """The task kind's answer: per image its best boxes, of those of one class that overlap only the best.

    Pure tensor functions of fixed size, so that one graph answers any batch in any runtime. Greedy suppression is
    reached by repeating one step for all boxes at once, as often as the longest chain of boxes is long.

    Args:
        boxes: ``(n, places, 4)``, any numbers.
        scores: chances by class in 0..1, ``(n, places, classes)``.
    Source: Zheng et al. 2021, "Enhancing geometric factors in model learning and inference" (Cluster-NMS).
    """
    classes = scores.shape[2]
    flat = scores.flatten(1)
    best, place = flat.topk(min(CANDIDATES, flat.shape[1]), dim=1)
    label = place % classes
    picked = _at(boxes.clamp(0, 1), place // classes)
    is_above = torch.ones((best.shape[1], best.shape[1]), dtype=torch.float32, device=best.device).triu(1)
    is_same = (label[:, :, None] == label[:, None, :]).to(torch.float32)
    drops = (overlap(picked, picked) > SAME).to(torch.float32) * is_same * is_above
    kept = torch.ones_like(best)
    for _ in range(ROUNDS):
        kept = 1.0 - (drops * kept[:, :, None]).amax(dim=1)
    return best_of(picked, best * kept, label)


def best_of(boxes: Tensor, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The task kind's answer from one class and score per box, ``(n, boxes)`` each; those of low score are none."""
    lacking = max(0, task.MOST - scores.shape[1])
    if lacking:
        scores = torch.nn.functional.pad(scores, (0, lacking))
        labels = torch.nn.functional.pad(labels, (0, lacking))
        boxes = torch.nn.functional.pad(boxes, (0, 0, 0, lacking))
    score, place = scores.topk(task.MOST, dim=1)
    box = _at(boxes.clamp(0, 1), place)
    is_box = score > FAINT
    sides = torch.cat((box[..., :2], box[..., 2:] - box[..., :2]), dim=-1)
    return {
        task.BOXES: sides * is_box[..., None],
        task.SCORES: score * is_box,
        task.CLASSES: labels.gather(1, place) * is_box,
    }


def _at(boxes: Tensor, place: Tensor) -> Tensor:
    return boxes.gather(1, place[..., None].expand(-1, -1, 4))
