"""How right answers with places (boxes, masks) were, by the labels that captured images got since."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loopworks.core.contracts import Learnable, Recalled
from loopworks.core.values import LabelSchema, Shape
from loopworks.store import items, predictions, watching
from loopworks.store.home import Home
from loopworks.tasks.scores import bootstrap

MOST = 1_000
"""Images that are judged, the newest."""
ROUNDS = 200
"""Resamples: an interval's end to about a percentage point."""
FAIR = "labels of images captured by chance"
CHOSEN = "labels of images that rules chose: no fair sample, as these are the hard ones"


@dataclass(frozen=True, slots=True)
class Judged:
    """One image: what was said of it when it was asked, and what is true."""

    said: Sequence[tuple[Shape, float]]
    truth: Sequence[Shape]
    size: tuple[int, int]


def found(home: Home, deployment: str, model: str) -> tuple[list[Judged], str]:
    """Captured images that ``model`` answered and somebody has labelled since, and what sample they are."""
    with home.catalog.read() as tx:
        rows = watching.inbox(tx, deployment, state=watching.RETURNED, limit=100 * MOST)
        rows = [row for row in rows if row.model == model and row.dataset and row.stored]
        by_chance = [row for row in rows if "random" in row.reasons]
        chosen = (by_chance or rows)[:MOST]
        judged = []
        for dataset in dict.fromkeys(row.dataset for row in chosen):
            mine = [row for row in chosen if row.dataset == dataset]
            known = items.among(tx, dataset, [row.stored for row in mine])
            said = predictions.of_items(tx, dataset, known, [model])
            for row in mine:
                item, answer = known.get(row.stored), said.get(row.stored, ())
                if item is None or item.state != "labeled" or (row.label and not answer):
                    continue  # what was said could not be kept in the places of the image that was
                judged.append(
                    Judged([(one.shape, one.score) for one in answer], item.labels, (item.width, item.height))
                )
    return judged, FAIR if by_chance else CHOSEN


def measured(judged: Sequence[Judged], task: Learnable, schema: LabelSchema, source: str) -> dict[str, Any] | None:
    """The task kind's own metrics, as a training has them.

    Returns: ``metric`` (its headline), ``value``, ``low``, ``high`` (95 %, bootstrap), ``count``, ``source``, ``more``
        (other metrics); ``None`` where nothing can be judged.
    """
    if not judged or not isinstance(task, Recalled):
        return None
    sizes = [one.size for one in judged]
    targets = task.targets([_known(one.truth, schema) for one in judged], schema, sizes)
    metrics = task.metrics(targets, task.recall([one.said for one in judged], schema, sizes), schema)
    score = bootstrap(metrics[task.headline], len(judged), rounds=ROUNDS)
    every = np.arange(len(judged))
    return {
        "metric": task.headline,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "count": score.count,
        "source": source,
        "more": {name: float(metric(every)) for name, metric in metrics.items() if name != task.headline},
    }


def _known(shapes: Sequence[Shape], schema: LabelSchema) -> list[Shape]:
    """Without classes that came after the model: it could not say them."""
    return [shape for shape in shapes if not shape.label or shape.label in schema.classes]
