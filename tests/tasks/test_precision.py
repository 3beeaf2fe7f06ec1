"""Average precision by the COCO protocol: equal to its authors' code, and on any of the images."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from loopworks.tasks.precision import Found, Precision

ALL = np.arange


def pictures(seed: int, count: int, classes: int, dense: int, *, ties: bool = True) -> list[Found]:
    """Images with things, crowds, and boxes near them, elsewhere, doubled, and of wrong classes."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        things, said = int(rng.integers(0, dense)), int(rng.integers(0, 3 * dense))
        truth = np.concatenate([rng.uniform(0, 300, (things, 2)), rng.uniform(4, 150, (things, 2))], axis=1)
        labels = rng.integers(0, classes, things)
        if things:
            of = rng.integers(0, things, said)
            boxes = np.abs(truth[of] + rng.normal(0, 6, (said, 4)) * (rng.random((said, 1)) > 0.1))
            said_of = np.where(rng.random(said) < 0.8, labels[of], rng.integers(0, classes, said))
        else:
            boxes = np.concatenate([rng.uniform(0, 300, (said, 2)), rng.uniform(4, 150, (said, 2))], axis=1)
            said_of = rng.integers(0, classes, said)
        scores = rng.random(said)
        found.append(
            Found(
                truth=truth,
                truth_class=labels,
                is_crowd=rng.random(things) < 0.15,
                area=truth[:, 2] * truth[:, 3] * rng.uniform(0.5, 1, things),
                boxes=boxes,
                scores=np.round(scores, 2) if ties else scores,
                box_class=said_of,
            )
        )
    return found


def authors(found: Sequence[Found], classes: int) -> NDArray[np.float64]:
    """AP, AP50, AP75, small, medium, large by pycocotools; -1 where nothing is to be found."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for image, one in enumerate(found, 1):
        for box, label, crowd, area in zip(one.truth, one.truth_class, one.is_crowd, one.area, strict=True):
            truth.append({
                "id": len(truth) + 1,
                "image_id": image,
                "category_id": int(label) + 1,
                "bbox": box.tolist(),
                "iscrowd": int(crowd),
                "area": float(area),
            })
        for box, score, label in zip(one.boxes, one.scores, one.box_class, strict=True):
            said.append({
                "image_id": image,
                "category_id": int(label) + 1,
                "bbox": box.tolist(),
                "score": float(score),
            })
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "images": [{"id": image} for image in range(1, len(found) + 1)],
            "annotations": truth,
            "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
        }
        known.createIndex()
        judged = COCOeval(known, known.loadRes(said), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return np.asarray(judged.stats[:6], np.float64)


def ours(found: Sequence[Found], classes: int) -> list[float]:
    every = ALL(len(found))
    whole = Precision(found, classes)
    parts = [Precision(found, classes, area).mean(every) for area in ("small", "medium", "large")]
    return [whole.mean(every), whole.mean(every, slice(0, 1)), whole.mean(every, slice(5, 6)), *parts]


@pytest.mark.parametrize("seed", range(12))
def test_it_is_what_the_authors_of_coco_compute(seed: int) -> None:
    classes, dense = 1 + seed % 5, 3 + 4 * (seed % 4)  # up to 45 boxes of a class per image
    found = pictures(seed, 25, classes, dense)
    np.testing.assert_allclose(ours(found, classes), np.maximum(authors(found, classes), 0), rtol=0, atol=1e-9)


def test_no_more_than_100_boxes_of_a_class_count_per_image() -> None:
    found = pictures(3, 3, 1, 120)
    assert max(len(one.boxes) for one in found) > 100
    np.testing.assert_allclose(ours(found, 1), authors(found, 1), rtol=0, atol=1e-9)


def test_a_sample_is_scored_like_the_images_drawn() -> None:
    found = pictures(7, 30, 3, 12, ties=False)
    at = np.random.default_rng(1).integers(0, 30, 30)
    assert len(np.unique(at)) < 30
    whole = Precision(found, 3)
    np.testing.assert_allclose(whole.mean(at), Precision([found[i] for i in at], 3).mean(ALL(30)), atol=1e-12)
    assert whole.mean(at) != whole.mean(ALL(30))
    assert whole.mean(at) == whole.mean(at)  # kept, and the same


def test_one_thing_and_three_boxes_by_hand() -> None:
    """Boxes by score: a miss, a hit of overlap 0.81 (limits 0.5 to 0.8), the same thing again: precision 1/2."""
    one = Found(
        truth=np.array([[0.0, 0, 100, 100]]),
        truth_class=np.array([0]),
        is_crowd=np.array([False]),
        area=np.array([10_000.0]),
        boxes=np.array([[200.0, 200, 10, 10], [0, 0, 90, 90], [0, 0, 99, 99]]),
        scores=np.array([0.9, 0.8, 0.7]),
        box_class=np.array([0, 0, 0]),
    )
    table = Precision([one], 1).table(ALL(1))[0]
    np.testing.assert_allclose(table, [1 / 2] * 7 + [1 / 3] * 3)  # above 0.8 the third box is the one that finds it


def test_nothing_to_find_is_zero_and_not_a_number_by_class() -> None:
    found = pictures(2, 4, 1, 5)
    assert np.isnan(Precision(found, 2).table(ALL(4))[1]).all()
    empty = Precision([pictures(2, 1, 1, 1)[0]], 1)
    assert empty.count == 0
    assert empty.mean(ALL(1)) == 0.0
