"""Image classification: one class per image, or any number of them (multi-label)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Score, Shape, TensorSpec
from loopworks.tasks.scores import bootstrap, macro_f1

OUTPUT = "scores"
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class ImageClassification:
    """What is in the picture, out of a fixed list of classes."""

    name: str = "image-classification"
    media: str = "image"
    kinds: frozenset[str] = frozenset({"class"})
    headline: str = "accuracy"
    """Share of images whose whole label is right; for multi-label that is the exact set (subset accuracy)."""

    def check(self, shapes: Sequence[Shape], schema: LabelSchema) -> tuple[Shape, ...]:
        """Sorted shapes, one per class; single label: exactly one."""
        for shape in shapes:
            _known(shape, schema)
        unique = {shape.label: shape for shape in sorted(shapes)}
        if not schema.is_multi and len(unique) != 1:
            raise Invalid("label of an image", "exactly one class", sorted(unique) or "none")
        return tuple(unique[name] for name in sorted(unique))

    def targets(self, labels: Sequence[Sequence[Shape]], schema: LabelSchema) -> NDArray[np.float32]:
        """Multi-hot rows, shape ``(items, classes)``."""
        place = {name: i for i, name in enumerate(schema.classes)}
        out = np.zeros((len(labels), len(schema.classes)), np.float32)
        for row, shapes in zip(out, labels, strict=True):
            for shape in shapes:
                _known(shape, schema)
                row[place[shape.label]] = 1.0
        return out

    def outputs(self, schema: LabelSchema) -> tuple[TensorSpec, ...]:
        """``scores``: chances in 0..1, summing to 1 for single label, independent for multi-label."""
        return (TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, len(schema.classes))),)

    def decode(self, outputs: Arrays, schema: LabelSchema) -> list[dict[str, Any]]:
        """``{"labels": [{"label", "score"}, ...]}``, the chosen ones first, and ``"chosen"``: their names."""
        scores = self._scores(outputs, schema)
        chosen = self._chosen(scores, schema)
        found = []
        for row, picks in zip(scores, chosen, strict=True):
            order = np.argsort(-row, kind="stable")
            found.append({
                "chosen": [schema.classes[i] for i in order if picks[i]],
                "labels": [{"label": schema.classes[i], "score": round(float(row[i]), 6)} for i in order],
            })
        return found

    def labels(self, outputs: Arrays, schema: LabelSchema, author: str) -> list[tuple[Shape, ...]]:
        """Proposals: the most likely class, or all above one half for multi-label."""
        return [
            tuple(
                Shape(label=schema.classes[i], source="model", author=author)
                for i in sorted(np.flatnonzero(row), key=lambda i: schema.classes[i])
            )
            for row in self._chosen(self._scores(outputs, schema), schema)
        ]

    def uncertainty(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """1 minus the margin between the two likeliest classes; multi-label: closeness of any class to one half.

        Source: Scheffer et al. 2001, "Active hidden Markov models for information extraction" (margin sampling).
        """
        scores: NDArray[np.float64] = self._scores(outputs, schema).astype(np.float64)
        if schema.is_multi:
            return np.asarray(np.clip((1.0 - 2.0 * np.abs(scores - THRESHOLD)).max(axis=1), 0.0, 1.0))
        if scores.shape[1] < 2:
            return np.zeros(len(scores))
        top = np.sort(scores, axis=1)[:, -2:]
        return np.clip(1.0 - (top[:, 1] - top[:, 0]), 0.0, 1.0)

    def score(
        self, targets: NDArray[np.float32], outputs: Arrays, schema: LabelSchema, *, seed: int = 0, rounds: int = 1000
    ) -> dict[str, Score]:
        """``accuracy`` and ``macro_f1``."""
        truth = targets > THRESHOLD
        given = self._chosen(self._scores(outputs, schema), schema)
        if truth.shape != given.shape:
            raise Invalid("targets", f"of shape {given.shape}, like the model's answer", truth.shape)
        right = (truth == given).all(axis=1)
        return {
            "accuracy": bootstrap(lambda at: float(right[at].mean()), len(right), seed=seed, rounds=rounds),
            "macro_f1": bootstrap(lambda at: macro_f1(truth[at], given[at]), len(right), seed=seed, rounds=rounds),
        }

    def agreement(self, left: Arrays, right: Arrays, schema: LabelSchema) -> float:
        """Share of images with the same label from both."""
        ours, theirs = (self._chosen(self._scores(outputs, schema), schema) for outputs in (left, right))
        if len(ours) != len(theirs) or not len(ours):
            raise Invalid("answers to compare", "of the same items, at least one", f"{len(ours)} and {len(theirs)}")
        return float((ours == theirs).all(axis=1).mean())

    def draw(self, image: NDArray[np.uint8], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
        """The image with its classes in a bar below it."""
        from PIL import Image, ImageDraw

        picture = Image.fromarray(image)
        bar = 14
        canvas = Image.new("RGB", (picture.width, picture.height + bar), "white")
        canvas.paste(picture, (0, 0))
        text = ", ".join(shape.label for shape in shapes) or "-"
        ImageDraw.Draw(canvas).text((2, picture.height + 1), text, fill="black")
        return np.asarray(canvas)

    def _scores(self, outputs: Arrays, schema: LabelSchema) -> NDArray[Any]:
        """The model's answer, refused where it cannot be one of ``schema``: numpy would stretch it silently."""
        scores = outputs.get(OUTPUT)
        expected = f"of shape (items, {len(schema.classes)}), one column per class"
        if scores is None:
            raise Invalid(f"output {OUTPUT!r} of the model", expected, f"outputs {', '.join(outputs) or 'none'}")
        if scores.ndim != 2 or scores.shape[1] != len(schema.classes):
            raise Invalid(f"output {OUTPUT!r} of the model", expected, scores.shape)
        return scores

    def _chosen(self, scores: NDArray[Any], schema: LabelSchema) -> NDArray[np.bool_]:
        if schema.is_multi:
            return np.asarray(scores > THRESHOLD)
        picks = np.zeros(scores.shape, np.bool_)
        picks[np.arange(len(scores)), scores.argmax(axis=1)] = True
        return picks


def _known(shape: Shape, schema: LabelSchema) -> None:
    if shape.label not in schema.classes:
        raise NotFound("class", shape.label, schema.classes)


plugins.add("task.image-classification")(ImageClassification())
