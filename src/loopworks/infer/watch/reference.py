"""What live inputs and answers are compared with: the frozen version that a model learnt from, and its answers to it.

Made once per version and model from the data itself, and kept in the workspace's cache, which erasing empties.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Chances, Predictor, learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.infer.watch import arrays, statistics, traits
from loopworks.infer.watch.traits import Scale, Traits
from loopworks.tasks.answers import answers as ask
from loopworks.tasks.answers import rows, size

log = logging.getLogger(__name__)
FORMAT = 2
MOST = 2_000
"""Items of the version that are looked at, chosen at random."""
POINTS = 1_000
LEAST = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """How a model's confidence relates to being right, on items that it did not learn from."""

    count: int
    right: float
    """Share of right answers."""
    mean: float
    """Mean confidence: equal to ``right`` where the model is calibrated."""
    threshold: float
    """As many answers are less sure than this as are wrong (average thresholded confidence).

    Source: Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution performance", ICLR.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A sample of the training data, and of a model's answers to items that it did not learn from."""

    version: str
    inputs: Traits
    """Of the training split; its ``points`` are scaled."""
    answers: Traits
    split: str
    """Whose items were answered: val, test, or train where there is no other."""
    scale: Scale | None
    far: NDArray[np.float64]
    """Sorted distances of the training points to their nearest neighbour among the others."""
    confidence: Confidence | None

    def distances(self, inputs: Traits) -> NDArray[np.float64]:
        """Distance of items to the nearest of the training points; zeros where there are none."""
        if self.scale is None or inputs.points is None or self.inputs.points is None:
            return np.zeros(inputs.count)
        return statistics.nearest(self.scale.apply(inputs.points), self.inputs.points)

    def limit(self, share: float) -> float:
        """The distance that this share of the training data stays below."""
        return float(np.quantile(self.far, share)) if len(self.far) else float("inf")


def make(source: Source, bundle: Bundle, predictor: Predictor, *, seed: int = 0) -> Reference:
    """Look at a version, and ask the model about the part that it did not learn from.

    Raises: Invalid: the version has too few training items to compare with.
    """
    if source.counts.get("train", 0) < LEAST:
        raise Invalid(f"version {source.id[:12]}", f"of {LEAST} training items or more", source.counts.get("train", 0))
    rng = np.random.default_rng(seed)
    found = traits.of_inputs(bundle.rule, _sample(source.inputs(bundle.rule, "train"), MOST, rng)[0])
    scale, far = None, np.zeros(0)
    if found.points is not None and found.points.shape[1]:
        scale = Scale.fit(found.points, is_scaled=bundle.rule.media != "row")
        points = scale.apply(found.points)[:POINTS]
        found = Traits(found.numbers, found.categories, points, found.marks)
        far = np.sort(statistics.nearest(points, points, is_same=True))
    split = next((name for name in ("val", "test") if source.counts.get(name, 0) >= LEAST), "train")
    asked, at = _sample(source.inputs(bundle.rule, split), MOST, rng)
    outputs = ask(predictor, asked)
    sure = None if split == "train" else _confidence(source.targets(split)[at], outputs, bundle)
    return Reference(
        version=source.id,
        inputs=found,
        answers=traits.of_answers(traits.answers(bundle, outputs, "")),
        split=split,
        scale=scale,
        far=far,
        confidence=sure,
    )


def _sample(inputs: Arrays, most: int, rng: np.random.Generator) -> tuple[Arrays, NDArray[np.intp]]:
    count = size(inputs)
    at = np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
    return rows(inputs, at), at


def _confidence(targets: NDArray[Any], outputs: Arrays, bundle: Bundle) -> Confidence | None:
    task = learnable(plugins.get(f"task.{bundle.task}"))
    if not isinstance(task, Chances) or bundle.schema.is_multi:
        return None
    odds = task.odds(targets, outputs, bundle.schema)
    if not odds.is_exclusive:
        return None
    right = (odds.truth == odds.answers).all(axis=1)
    sure = np.array([traits.confidence(said) for said in traits.answers(bundle, outputs, "")])
    return confidence_of(sure, right)


def confidence_of(sure: NDArray[np.float64], right: NDArray[np.bool_]) -> Confidence:
    """How confidence relates to being right, from answers whose truth is known."""
    wrong = float((~right).mean())
    return Confidence(
        count=len(right), right=1 - wrong, mean=float(sure.mean()), threshold=float(np.quantile(sure, wrong))
    )


# ---- keeping


def cached(folder: Path, bundle: Bundle, variant: str, make_one: Callable[[], Reference]) -> Reference:
    """The reference of a model as ``cache/watch`` has it, or a new one, which is kept there."""
    parts = (str(FORMAT), bundle.version, json.dumps(dict(sorted(bundle.sha256.items()))), bundle.variant(variant).name)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    path = folder / "watch" / f"{key}.npz"
    if path.is_file():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError) as error:
            log.warning("reference is made again path=%s error=%s", path.name, error)
    made = make_one()
    _write(path, made)
    return made


def _write(path: Path, reference: Reference) -> None:
    into: arrays.Arrays = {"far": reference.far}
    told: dict[str, Any] = {"version": reference.version, "split": reference.split, "confidence": None}
    if reference.confidence is not None:
        told["confidence"] = {name: getattr(reference.confidence, name) for name in Confidence.__dataclass_fields__}
    told |= {part: arrays.pack(getattr(reference, part), part, into) for part in ("inputs", "answers")}
    if reference.scale is not None:
        into |= {"middle": reference.scale.middle, "spread": reference.scale.spread}
    arrays.write(path, into, told)


def _read(path: Path) -> Reference:
    with np.load(path, allow_pickle=False) as there:
        told = json.loads(there[arrays.TOLD].tobytes())
        return Reference(
            version=told["version"],
            inputs=arrays.unpack(told["inputs"], "inputs", there),
            answers=arrays.unpack(told["answers"], "answers", there),
            split=told["split"],
            scale=Scale(there["middle"], there["spread"]) if "middle" in there else None,
            far=there["far"],
            confidence=Confidence(**told["confidence"]) if told["confidence"] else None,
        )
