"""Average precision of found boxes by the COCO protocol, on any of the images.

Boxes are matched once per image; a resample then only counts again, with each image as often as it was drawn.

Source: Lin et al. 2014, "Microsoft COCO: Common objects in context", and the evaluation that its authors published
(ten IoU limits, 101 recall points, at most 100 boxes of a class per image, crowds, areas); tests hold it equal to that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

LIMITS = np.linspace(0.5, 0.95, 10)
"""Intersection over union from which a box counts as found."""
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Boxes of a class that count per image."""
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Range of areas in square pixels, both ends inside."""

KEPT = 2048
"""Samples whose tables are kept."""

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is in one image, and what a model says is there; boxes are (x, y, width, height) in pixels."""

    truth: Floats
    """Shape ``(things, 4)``."""
    truth_class: Whole
    is_crowd: NDArray[np.bool_]
    """Whether a box stands for a crowd: finding it again and again is neither right nor wrong."""
    area: Floats
    """Of the thing itself, in square pixels."""
    boxes: Floats
    """Shape ``(boxes, 4)``."""
    scores: Floats
    box_class: Whole


def overlaps(boxes: Floats, truth: Floats, is_crowd: NDArray[np.bool_]) -> Floats:
    """Intersection over union, shape ``(boxes, things)``; of a crowd, over the box alone."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], truth[None, :, :2] + truth[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    inner = sides[..., 0] * sides[..., 1]
    own = (boxes[:, 2] * boxes[:, 3])[:, None]
    outer = np.where(is_crowd[None, :], own, own + (truth[:, 2] * truth[:, 3])[None, :] - inner)
    return np.asarray(np.divide(inner, outer, out=np.zeros_like(inner), where=inner > 0))


class Precision:
    """Average precision of one set of images, within one range of areas."""

    def __init__(self, found: Sequence[Found], classes: int, area: str = "all") -> None:
        """Match the boxes of every image; at least one."""
        self._images = len(found)
        self._classes = classes
        parts = [_matched(place, one, AREAS[area]) for place, one in enumerate(found)]
        self._truth = np.concatenate([part.truth for part in parts])
        image, label = (np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "label"))
        score = np.concatenate([part.score for part in parts])
        # By class, then score; ties in the order of the images, as the protocol has it.
        order = np.lexsort((np.arange(len(score)), -score, label))
        self._image, self._label, self._score = image[order], label[order], score[order]
        self._first = np.searchsorted(self._label, np.arange(classes + 1))
        self._hits = self._entries(np.concatenate([part.hit for part in parts])[order])
        self._voids = self._entries(np.concatenate([part.void for part in parts])[order])
        self._tables: dict[bytes, Floats] = {}

    def best_cut(self) -> float:
        """Score to cut at so that F1 at the first limit is best, all classes together; 0.5 where nothing is found."""
        hit, void = (np.zeros(len(self._score), np.bool_) for _ in range(2))
        for marks, (box, segment) in ((hit, self._hits), (void, self._voids)):
            marks[box[segment % len(LIMITS) == 0]] = True
        order = np.argsort(-self._score, kind="stable")
        right, said = np.cumsum(hit[order]), np.cumsum(~void[order])
        if not hit.any():
            return 0.5
        best = int(np.argmax(2 * right / (said + len(self._truth))))
        below = self._score[order[best + 1]] if best + 1 < len(order) else 0.0
        return float((self._score[order[best]] + below) / 2)

    def _entries(self, marks: NDArray[np.bool_]) -> tuple[Whole, Whole]:
        """Of marks ``(boxes, limits)`` the boxes and their segment (class and limit), segment by segment."""
        box, limit = np.nonzero(marks)
        segment = self._label[box] * len(LIMITS) + limit
        order = np.lexsort((box, segment))
        return box[order], segment[order]

    @property
    def count(self) -> int:
        """Things that are to be found."""
        return len(self._truth)

    @cached_property
    def _before(self) -> Whole:
        """How many entries of ``_voids`` lie before each hit: in earlier segments, or higher in its own."""
        (hit, hit_segment), (void, void_segment) = self._hits, self._voids
        size = len(self._label) + 1
        return np.searchsorted(void_segment * size + void, hit_segment * size + hit)

    def table(self, at: Whole) -> Floats:
        """Average precision by class and limit, shape ``(classes, 10)``; NaN for classes that ``at`` has none of.

        Kept, because a bootstrap asks for one sample once per metric.
        """
        key = np.asarray(at, np.intp).tobytes()
        if key not in self._tables:
            if len(self._tables) >= KEPT:
                self._tables.clear()
            self._tables[key] = self._table(at)
        return self._tables[key]

    def _table(self, at: Whole) -> Floats:
        times = np.bincount(at, minlength=self._images)
        wanted = np.bincount(self._truth[:, 1], weights=times[self._truth[:, 0]], minlength=self._classes)
        wanted = wanted.astype(np.intp)
        weight = times[self._image]
        given = _sums(weight)
        hit, segment = self._hits
        void, void_segment = self._voids
        ends = np.searchsorted(segment, np.arange(self._classes * len(LIMITS) + 1))
        voids = _sums(weight[void])
        void_first = voids[np.searchsorted(void_segment, segment)]
        said = given[hit + 1] - given[self._first[segment // len(LIMITS)]] - (voids[self._before] - void_first)
        right = _sums(weight[hit])
        right = right[1:] - right[ends[segment]]
        # The best precision from here on: segments are kept apart by a step that is larger than any precision.
        step = 2.0 * (self._classes * len(LIMITS) - segment)
        precision = np.divide(right, said, out=np.zeros(len(hit)), where=said > 0)
        best = np.maximum.accumulate((precision + step)[::-1])[::-1] - step
        needed = _needed(wanted)[:, None, :]  # hits for each recall, (classes, 1, recalls)
        size = int(max(right.max(initial=0), wanted.max(initial=0))) + 2
        rows = np.arange(self._classes * len(LIMITS)).reshape(self._classes, len(LIMITS), 1)
        place = np.searchsorted(segment * size + right, rows * size + needed)
        is_reached = place < ends[1:].reshape(self._classes, len(LIMITS), 1)
        reached = np.where(is_reached, np.append(best, 0.0)[np.where(is_reached, place, len(best))], 0.0)
        out: Floats = reached.mean(axis=2)
        out[wanted == 0] = np.nan
        return out

    def mean(self, at: Whole, limits: slice = slice(None)) -> float:
        """Mean over the classes that occur and the limits; 0 where nothing is to be found."""
        rows = self.table(at)[:, limits]
        rows = rows[~np.isnan(rows[:, 0])]
        return float(rows.mean()) if rows.size else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One image's boxes after matching."""

    truth: Whole
    """(image, class) of what is to be found."""
    image: Whole
    label: Whole
    score: Floats
    hit: NDArray[np.bool_]
    """By box and limit: found something that counts."""
    void: NDArray[np.bool_]
    """By box and limit: neither right nor wrong."""


def _matched(place: int, one: Found, area: tuple[float, float]) -> _Part:
    parts = []
    is_void = one.is_crowd | (one.area < area[0]) | (one.area > area[1])
    for label in np.union1d(one.truth_class, one.box_class):
        mine = np.flatnonzero(one.box_class == label)
        mine = mine[np.argsort(-one.scores[mine], kind="stable")][:MOST]
        theirs = np.flatnonzero(one.truth_class == label)
        theirs = theirs[np.argsort(is_void[theirs], kind="stable")]
        boxes = one.boxes[mine]
        hit, void = _match(
            overlaps(boxes, one.truth[theirs], one.is_crowd[theirs]), is_void[theirs], one.is_crowd[theirs]
        )
        size = boxes[:, 2] * boxes[:, 3]
        outside = (size < area[0]) | (size > area[1])
        void |= ~hit & outside[:, None]
        parts.append((mine, hit, void))
    mine = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.intp)
    none = np.zeros((0, len(LIMITS)), np.bool_)
    kept = one.truth_class[~is_void]
    return _Part(
        truth=np.stack((np.full(len(kept), place), kept), axis=1),
        image=np.full(len(mine), place),
        label=one.box_class[mine],
        score=one.scores[mine],
        hit=np.concatenate([none, *(part[1] for part in parts)]),
        void=np.concatenate([none, *(part[2] for part in parts)]),
    )


def _match(
    shares: Floats, is_void: NDArray[np.bool_], is_crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Give each box, best first, what it overlaps most and no better one has taken; by box and limit.

    Args:
        shares: overlaps ``(boxes, things)``; the things that do not count come last.
        is_void: whether a thing does not count.
        is_crowd: whether a thing may be taken any number of times.
    Returns: whether a box hit what counts, and whether it hit what does not.
    """
    hit, void = (np.zeros((len(shares), len(LIMITS)), np.bool_) for _ in range(2))
    free = np.ones((len(LIMITS), shares.shape[1]), np.bool_)
    least = np.minimum(LIMITS, 1 - 1e-10)[:, None]
    counted = int((~is_void).sum())
    for box in np.flatnonzero(shares.max(axis=1, initial=0.0) >= least[0]):
        is_open = (shares[box] >= least) & (free | is_crowd)
        for start, stop, said in ((0, counted, hit), (counted, len(is_void), void)):
            if start == stop:
                continue
            seen = np.where(is_open[:, start:stop], shares[box, start:stop], -1.0)
            pick = seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)  # of equal ones the last
            ok = np.flatnonzero((seen[np.arange(len(seen)), pick] >= 0) & ~hit[box])
            said[box, ok] = True
            free[ok, start + pick[ok]] = False
    return hit, void


def _sums(values: NDArray[np.intp]) -> Whole:
    """Sums of the first 0, 1, 2 ... values."""
    return np.concatenate((np.zeros(1, np.intp), np.cumsum(values, dtype=np.intp)))


def _needed(wanted: Whole) -> Whole:
    """The fewest hits whose share of ``wanted`` reaches each recall, shape ``(classes, 101)``."""
    total = np.maximum(wanted, 1)[:, None]
    hits = np.maximum(np.floor(RECALLS * total) - 1, 0)
    for _ in range(3):
        hits += hits / total < RECALLS
    return np.asarray(hits, np.intp)
