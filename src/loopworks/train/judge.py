"""The honest evaluation of a finished model: on val and test, from the answers of the file that will be deployed.

It is made after every choice and chooses nothing: ``train.stage`` calls it once, when recipe, parameters and epoch are
settled, and until then the test split is sealed (``train.sealed``).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Chances, Learnable, Told
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import LabelSchema, Score
from loopworks.tasks import scores
from loopworks.train import curves
from loopworks.train.slices import LEAST, slices

FILE = "evaluation.json"
FORMAT = 1
MISTAKES = 24
SURE = 1 - 1e-6
"""Quality above which an answer is no mistake, however many are shown."""
CLASSES = 200
"""Classes that are listed, the most frequent first."""
LARGEST_BYTES = 1 << 20
"""What one evaluation may take; a test holds it to that."""


def evaluate(
    task: Learnable,
    schema: LabelSchema,
    targets: NDArray[Any],
    outputs: Arrays,
    facts: Sequence[Mapping[str, Any]],
    *,
    seed: int,
) -> tuple[dict[str, Score], dict[str, Any]]:
    """Everything about a model's answers on one split.

    Args:
        task: gives metrics and quality; and, where it can, chances and words.
        schema: the classes.
        targets: the truth.
        outputs: the answers, in the same order.
        facts: what else is known of each item: ``name``, ``item`` (its id), tags, attributes, columns.
        seed: of resampling.
    Returns: the metrics with intervals, and the rest as plain JSON: ``count``, ``metrics``, ``by_class``, ``slices``
        (worst first), ``mistakes`` (the least right first), and for chances ``calibration``, ``curves`` and, where an
        item is of exactly one class, ``confusion``.
    """
    if not len(targets):
        raise Invalid("items to judge by", "at least one", 0)
    found = task.metrics(targets, outputs, schema)
    metrics = {name: scores.bootstrap(metric, len(targets), seed=seed) for name, metric in found.items()}
    quality = task.quality(targets, outputs, schema)
    by_class = task.by_class(targets, outputs, schema)
    body: dict[str, Any] = {
        "count": len(targets),
        "metrics": {name: score.to_json() for name, score in metrics.items()},
        "by_class": {name: dict(values) for name, values in list(by_class.items())[:CLASSES]},
        "slices": [one.to_json() for one in slices(facts, quality, found[task.headline], seed=seed)],
        "mistakes": _mistakes(task, schema, targets, outputs, facts, quality),
    }
    if isinstance(task, Chances):
        odds = task.odds(targets, outputs, schema)
        body["calibration"] = curves.calibration(odds, seed=seed)
        body["curves"] = curves.curves(odds, schema.classes)
        if odds.is_exclusive:
            body["confusion"] = curves.confusion(odds, schema.classes)
    return metrics, body


def seconds(counts: Mapping[str, int]) -> float:
    """About how long evaluating val and test takes, for budgets: measured on two cores, 10 classes, cheap metrics."""
    return 0.5 + 0.0006 * sum(counts.get(split, 0) for split in ("val", "test"))


def _mistakes(
    task: Learnable,
    schema: LabelSchema,
    targets: NDArray[Any],
    outputs: Arrays,
    facts: Sequence[Mapping[str, Any]],
    quality: NDArray[np.float64],
) -> list[dict[str, Any]]:
    at = np.argsort(quality, kind="stable")[:MISTAKES]
    at = at[quality[at] < SURE]
    if not len(at):
        return []
    some = {name: values[at] for name, values in outputs.items()}
    words = task.tell(targets[at], some, schema) if isinstance(task, Told) else [("", "")] * len(at)
    found = []
    for place, (truth, answer) in zip(at, words, strict=True):
        known = facts[place] if place < len(facts) else {}
        found.append({
            "item": str(known.get("item", "")),
            "name": str(known.get("name", ""))[:200],
            "truth": truth[:80],
            "answer": answer[:80],
            "quality": float(quality[place]),
        })
    return found


def write(task: Learnable, splits: Mapping[str, Any], learning: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write ``evaluation.json`` into the folder of a bundle: numbers and names alone, no content of any item.

    Args:
        task: whose headline it is.
        splits: split -> what ``evaluate`` gave.
        learning: name of a curve of the training -> pairs of step and value.
        folder: of the bundle.
    """
    body = {
        "format": FORMAT,
        "task": task.name,
        "headline": task.headline,
        "lower_is_better": sorted(scores.LOWER),
        "splits": dict(splits),
        "learning": dict(learning),
        "least_slice": LEAST,
    }
    text = json.dumps(_rounded(body), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(text.encode()) > LARGEST_BYTES:
        raise Invalid(FILE, f"of at most {LARGEST_BYTES} bytes", len(text.encode()), "fewer or shorter class names")
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    return body


def read(bundle: Bundle) -> dict[str, Any]:
    """What ``write`` wrote into a bundle.

    Raises: NotFound: the bundle has none, e.g. it was not trained here.
    """
    path = bundle.path(FILE)
    if FILE not in bundle.sha256 or not path.is_file():
        raise NotFound("evaluation", bundle.recipe, hint="models that are trained or scored here have one")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _rounded(value: Any) -> Any:
    """Six digits are more than any of these figures has; infinite ones (a curve of a diverged loss) are left out."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


class Learning:
    """The curves of a training as it goes on, kept in a file so that a killed training goes on with them."""

    MOST = 120
    """Points of a curve that are told in the end."""

    def __init__(self, path: Path, key: str) -> None:
        """Go on with the points in ``path``, if they are of the training that ``key`` tells."""
        self._path = path
        self._points: dict[str, dict[int, float]] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines[:1] == [key]:
            for line in lines[1:]:
                name, _, rest = line.partition("\t")
                step, _, value = rest.partition("\t")
                if value:  # the last line of a killed training may be half of one
                    self._points.setdefault(name, {})[int(step)] = float(value)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(key + "\n", encoding="utf-8")

    def __call__(self, name: str, step: int, value: float) -> None:
        """Keep a point; a step that is told again counts as the later time."""
        self._points.setdefault(name, {})[step] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{name}\t{step}\t{value!r}\n")

    def to_json(self) -> dict[str, list[list[float]]]:
        """Each curve, thinned out evenly; its last point stays."""
        found = {}
        for name, points in sorted(self._points.items()):
            steps = sorted(points)
            at = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), self.MOST)).round().astype(int))
            found[name] = [[steps[i], points[steps[i]]] for i in at]
        return found
