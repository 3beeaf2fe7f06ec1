"""Task kinds that ask what an item is, out of a fixed list of classes: of an image, a text or a table's row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import lettering
from loopworks.core.contracts import Arrays, Metric, Odds, Sizes
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape, TensorSpec
from loopworks.tasks.scores import auc, macro_f1

OUTPUT = "scores"
THRESHOLD = 0.5
LEAST_CHANCE = 1e-7
"""Chances below it count as this much in the log loss, so that one sure mistake is not infinitely bad."""


@dataclass(frozen=True, slots=True)
class Classes:
    """What an item is: exactly one class, or any number of them (multi-label).

    ``targets``: multi-hot rows, float32 ``(items, classes)``.
    """

    name: str
    media: str
    headline: str = "accuracy"
    """accuracy: share of items whose whole label is right (multi-label: the exact set); auc: area under the ROC
    curve, the mean over the classes (each against the rest)."""
    kinds: frozenset[str] = frozenset({"class"})

    def check(self, shapes: Sequence[Shape], schema: LabelSchema) -> tuple[Shape, ...]:
        """Sorted shapes, one per class; single label: exactly one."""
        for shape in shapes:
            if shape.kind != "class":
                raise Invalid(f"label of {self._article()}", "a class", shape.kind)
            _known(shape, schema)
        unique = {shape.label: shape for shape in sorted(shapes)}
        if not schema.is_multi and len(unique) != 1:
            raise Invalid(f"label of {self._article()}", "exactly one class", sorted(unique) or "none")
        return tuple(unique[name] for name in sorted(unique))

    def targets(self, labels: Sequence[Sequence[Shape]], schema: LabelSchema, sizes: Sizes = ()) -> NDArray[np.float32]:
        """Multi-hot rows, shape ``(items, classes)``."""
        place = {name: i for i, name in enumerate(schema.classes)}
        out = np.zeros((len(labels), len(schema.classes)), np.float32)
        for row, shapes in zip(out, labels, strict=True):
            for shape in shapes:
                _known(shape, schema)
                row[place[shape.label]] = 1.0
        return out

    def teachable(self, targets: NDArray[Any], schema: LabelSchema) -> None:
        """Two classes must occur; any number of classes will do for multi-label."""
        if schema.is_multi:
            if not schema.classes:
                raise Invalid("classes", "at least one", 0, "label some items, then freeze again")
            return
        seen = [name for name, count in zip(schema.classes, targets.sum(axis=0), strict=True) if count]
        if len(seen) < 2:
            raise Invalid(
                "labels of the train split",
                "of at least two classes",
                f"only {', '.join(seen) or 'none'}",
                "label items of another class, then freeze again",
            )

    def outputs(self, schema: LabelSchema) -> tuple[TensorSpec, ...]:
        """``scores``: chances in 0..1, summing to 1 for single label, independent for multi-label."""
        return (TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, len(schema.classes))),)

    def decode(self, outputs: Arrays, schema: LabelSchema, sizes: Sizes = ()) -> list[dict[str, Any]]:
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

    def labels(
        self, outputs: Arrays, schema: LabelSchema, author: str, sizes: Sizes = ()
    ) -> list[tuple[tuple[Shape, float], ...]]:
        """Proposals: the most likely class, or all above one half for multi-label; by the class's name."""
        scores = self._scores(outputs, schema)
        return [
            tuple(
                (Shape(label=schema.classes[i], source="model", author=author), float(row[i]))
                for i in sorted(np.flatnonzero(picks), key=lambda i: schema.classes[i])
            )
            for row, picks in zip(scores, self._chosen(scores, schema), strict=True)
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

    def features(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float32]:
        """The scores."""
        return np.asarray(self._scores(outputs, schema), np.float32)

    def metrics(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, Metric]:
        """``accuracy`` and ``macro_f1``; where the headline is ``auc``, it and ``log_loss`` too."""
        truth = targets > THRESHOLD
        scores = self._scores(outputs, schema)
        given = self._chosen(scores, schema)
        if truth.shape != given.shape:
            raise Invalid("targets", f"of shape {given.shape}, like the model's answer", truth.shape)
        right = (truth == given).all(axis=1)
        found: dict[str, Metric] = {
            "accuracy": lambda at: float(right[at].mean()),
            "macro_f1": _macro_f1(truth, given),
        }
        if self.headline == "auc":
            found = {"auc": _mean_auc(scores, truth, schema.is_multi), **found, "log_loss": _log_loss(scores, truth)}
        return found

    def by_class(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, dict[str, float]]:
        """``f1``, ``precision``, ``recall`` and ``count`` (items that are of the class)."""
        truth = targets > THRESHOLD
        given = self._chosen(self._scores(outputs, schema), schema)
        hits, real, said = (x.sum(axis=0).astype(float) for x in (truth & given, truth, given))
        return {
            name: {
                "f1": 2 * hits[i] / (real[i] + said[i]),
                "precision": hits[i] / said[i] if said[i] else 0.0,
                "recall": hits[i] / real[i] if real[i] else 0.0,
                "count": real[i],
            }
            for i, name in enumerate(schema.classes)
            if real[i] + said[i]
        }

    def quality(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """Chance that the model gave to the true class; multi-label: to the answer of the worst class."""
        truth = targets > THRESHOLD
        scores = np.clip(self._scores(outputs, schema).astype(np.float64), 0.0, 1.0)
        if schema.is_multi:
            return np.asarray(np.where(truth, scores, 1.0 - scores).min(axis=1, initial=1.0))
        return np.asarray((scores * truth).sum(axis=1))

    def taught(
        self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema, *, share: float, seed: int
    ) -> NDArray[np.float32]:
        """The teacher's chances, of classes that exclude each other drawn together (temperature 2); nothing is drawn.

        Source: Hinton et al. 2015, "Distilling the knowledge in a neural network".
        """
        soft = np.asarray(outputs[OUTPUT], np.float64)
        if not schema.is_multi:
            soft = np.maximum(soft, 1e-9) ** 0.5
            soft /= soft.sum(axis=1, keepdims=True)
        return np.asarray(share * soft + (1 - share) * targets, np.float32)

    def odds(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> Odds:
        """The scores beside the truth."""
        scores = np.clip(np.nan_to_num(self._scores(outputs, schema).astype(np.float64)), 0.0, 1.0)
        chosen = self._chosen(scores, schema)
        return Odds(chances=scores, truth=targets > THRESHOLD, is_exclusive=not schema.is_multi, answers=chosen)

    def tell(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> list[tuple[str, str]]:
        """Names of the classes, with the chances of those that the model gave."""
        scores = self._scores(outputs, schema)
        chosen = self._chosen(scores, schema)
        return [
            (
                ", ".join(schema.classes[i] for i in np.flatnonzero(real > THRESHOLD)) or "none",
                ", ".join(f"{schema.classes[i]} {row[i]:.2f}" for i in np.flatnonzero(picks)) or "none",
            )
            for real, row, picks in zip(targets, scores, chosen, strict=True)
        ]

    def translate(self, outputs: Arrays, before: LabelSchema, now: LabelSchema) -> dict[str, NDArray[Any]]:
        """The columns by the classes' names; a class that the model does not know has no chance."""
        scores = self._scores(outputs, before)
        found = np.zeros((len(scores), len(now.classes)), scores.dtype)
        for column, name in enumerate(now.classes):
            if name in before.classes:
                found[:, column] = scores[:, before.classes.index(name)]
        return {OUTPUT: found}

    def agreement(self, left: Arrays, right: Arrays, schema: LabelSchema) -> float:
        """Share of items with the same label from both."""
        ours, theirs = (self._chosen(self._scores(outputs, schema), schema) for outputs in (left, right))
        if len(ours) != len(theirs) or not len(ours):
            raise Invalid("answers to compare", "of the same items, at least one", f"{len(ours)} and {len(theirs)}")
        return float((ours == theirs).all(axis=1).mean())

    def draw(self, image: NDArray[np.uint8], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
        """The image with its classes in a bar below it, a tiny one larger; ``Invalid`` for texts and rows."""
        if self.media != "image":
            raise Invalid("item to draw", "an image", self._article())
        from PIL import Image, ImageDraw

        scale = lettering.enlargement(image.shape[1], image.shape[0])
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        size = lettering.letter_size(*picture.size)
        lines = _lines([shape.label for shape in shapes] or ["-"], picture.width - 4, size)
        step = round(size * 1.4)
        canvas = Image.new("RGB", (picture.width, picture.height + step * len(lines)), "white")
        canvas.paste(picture, (0, 0))
        pen = ImageDraw.Draw(canvas)
        for row, line in enumerate(lines):
            text, font = lettering.fitted(line, picture.width - 4, size)
            pen.text((2, picture.height + step * row + step / 2), text, font=font, fill="black", anchor="lm")
        return np.asarray(canvas)

    def _article(self) -> str:
        return f"an {self.media}" if self.media == "image" else f"a {self.media}"

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
        weighed = scores * np.asarray(schema.costs) if schema.costs else scores
        picks[np.arange(len(scores)), weighed.argmax(axis=1)] = True
        return picks


def _known(shape: Shape, schema: LabelSchema) -> None:
    if shape.label not in schema.classes:
        raise NotFound("class", shape.label, schema.classes)


def _mean_auc(scores: NDArray[Any], truth: NDArray[np.bool_], is_multi: bool) -> Metric:
    """Mean of the classes' areas; of two classes that exclude each other both areas are the same one."""
    columns = range(1) if truth.shape[1] == 2 and not is_multi else range(truth.shape[1])
    parts = [(auc(scores[:, i], truth[:, i]), truth[:, i]) for i in columns]

    def at(places: NDArray[np.intp]) -> float:
        seen = [area(places) for area, real in parts if 0 < real[places].sum() < len(places)]
        return float(np.mean(seen)) if seen else 0.5

    return at


def _macro_f1(truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> Metric:
    """``scores.macro_f1``; where each item has one class, by counting class ids: ten times as fast with 100 classes."""
    if not truth.shape[1] or not (truth.sum(axis=1) == 1).all() or not (given.sum(axis=1) == 1).all():
        return lambda at: macro_f1(truth[at], given[at])
    real, said, classes = truth.argmax(axis=1), given.argmax(axis=1), truth.shape[1]

    def at(places: NDArray[np.intp]) -> float:
        ours, theirs = real[places], said[places]
        hits = np.bincount(ours[ours == theirs], minlength=classes)
        total = np.bincount(ours, minlength=classes) + np.bincount(theirs, minlength=classes)
        seen = total > 0
        return float((2 * hits[seen] / total[seen]).mean()) if seen.any() else 1.0

    return at


def _log_loss(scores: NDArray[Any], truth: NDArray[np.bool_]) -> Metric:
    chances = np.clip(scores.astype(np.float64), LEAST_CHANCE, 1.0)
    each = -(np.log(chances) * truth).sum(axis=1)
    return partial(_mean_of, each)


def _mean_of(values: NDArray[np.float64], at: NDArray[np.intp]) -> float:
    return float(values[at].mean())


plugins.add("task.image-classification")(Classes("image-classification", "image"))
plugins.add("task.text-classification")(Classes("text-classification", "text"))
plugins.add("task.tabular-classification")(Classes("tabular-classification", "row", headline="auc"))


def _lines(names: Sequence[str], width: int, size: int) -> list[str]:
    """Names beside each other as far as they have room."""
    lines = [names[0]]
    for name in names[1:]:
        together = f"{lines[-1]}, {name}"
        font = lettering.font(together, size)
        if font is not None and font.getlength(together) <= width:
            lines[-1] = together
        else:
            lines.append(name)
    return lines
