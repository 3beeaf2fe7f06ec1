"""The task kind that asks for a number: tabular regression."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Metric, Sizes
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape, TensorSpec, dump

OUTPUT = "value"
ALIKE = 0.01
"""Two models give the same number where they are this share of the answers' spread apart, or less."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number for each row, in the unit of the target column. ``targets``: float64 ``(items, 1)``."""

    name: str = "tabular-regression"
    media: str = "row"
    headline: str = "r2"
    """Share of the target's variance that the answers explain; 0 is as good as always saying the mean."""
    kinds: frozenset[str] = frozenset({"value"})

    def check(self, shapes: Sequence[Shape], schema: LabelSchema) -> tuple[Shape, ...]:
        """Exactly one shape of kind value, whose attribute ``value`` is a finite number."""
        unique = tuple(dict.fromkeys(shapes))
        if len(unique) != 1 or unique[0].kind != "value":
            raise Invalid("label of a row", "one value", [shape.kind for shape in shapes] or "none")
        _number(unique[0])
        return unique

    def targets(self, labels: Sequence[Sequence[Shape]], schema: LabelSchema, sizes: Sizes = ()) -> NDArray[np.float64]:
        """The numbers, shape ``(items, 1)``."""
        return np.asarray([[_number(shape) for shape in self.check(shapes, schema)] for shapes in labels], np.float64)

    def teachable(self, targets: NDArray[Any], schema: LabelSchema) -> None:
        """The numbers must be finite and differ."""
        if not np.isfinite(targets).all():
            bad = int((~np.isfinite(targets)).sum())
            raise Invalid("target", "finite numbers", f"{bad} that are not", "delete or mend these rows")
        if len(np.unique(targets)) < 2:
            raise Invalid("target of the train split", "at least two different numbers", np.unique(targets).tolist())

    def outputs(self, schema: LabelSchema) -> tuple[TensorSpec, ...]:
        """``value``, in the unit of the target."""
        return (TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, 1)),)

    def decode(self, outputs: Arrays, schema: LabelSchema, sizes: Sizes = ()) -> list[dict[str, Any]]:
        """``{"value": number}``."""
        return [{"value": float(value)} for value in _values(outputs)]

    def labels(
        self, outputs: Arrays, schema: LabelSchema, author: str, sizes: Sizes = ()
    ) -> list[tuple[tuple[Shape, float], ...]]:
        """The number as a proposal; a point estimate says nothing of its confidence, so it is 1."""
        return [
            ((Shape(label="", kind="value", source="model", author=author, attributes=dump({"value": value})), 1.0),)
            for value in _values(outputs).tolist()
        ]

    def uncertainty(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """Zeros: a point estimate says nothing of it."""
        return np.zeros(len(_values(outputs)))

    def features(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float32]:
        """The number."""
        return _values(outputs).astype(np.float32)[:, None]

    def metrics(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, Metric]:
        """``r2``, ``rmse`` and ``mae``; the latter two in the unit of the target."""
        truth, given = _pair(targets, outputs)
        apart = truth - given

        def r2(at: NDArray[np.intp]) -> float:
            spread = float(((truth[at] - truth[at].mean()) ** 2).sum())
            rest = float((apart[at] ** 2).sum())
            return 1.0 - rest / spread if spread else float(rest == 0.0)

        return {
            "r2": r2,
            "rmse": lambda at: float(np.sqrt((apart[at] ** 2).mean())),
            "mae": lambda at: float(np.abs(apart[at]).mean()),
        }

    def by_class(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, dict[str, float]]:
        """Nothing: numbers have no classes."""
        return {}

    def quality(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """1 for no error, one half for an error as large as the truth's spread (standard deviation)."""
        truth, given = _pair(targets, outputs)
        scale = float(truth.std()) or 1.0
        return np.asarray(1.0 / (1.0 + np.abs(truth - given) / scale))

    def tell(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> list[tuple[str, str]]:
        """The numbers."""
        truth, given = _pair(targets, outputs)
        return [(f"{real:.6g}", f"{said:.6g}") for real, said in zip(truth, given, strict=True)]

    def agreement(self, left: Arrays, right: Arrays, schema: LabelSchema) -> float:
        """Share of rows whose two numbers are at most a hundredth of the answers' spread apart."""
        ours, theirs = _values(left), _values(right)
        if len(ours) != len(theirs) or not len(ours):
            raise Invalid("answers to compare", "of the same items, at least one", f"{len(ours)} and {len(theirs)}")
        spread = float(np.concatenate([ours, theirs]).std())
        return float((np.abs(ours - theirs) <= ALIKE * spread).mean())

    def draw(self, image: NDArray[np.uint8], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
        """Rows have no picture."""
        raise Invalid("item to draw", "an image", "a row")


def _number(shape: Shape) -> float:
    found = shape.facts.get("value")
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Invalid("value of a row", "a number", found)
    return float(found)


def _values(outputs: Arrays) -> NDArray[np.float64]:
    values = outputs.get(OUTPUT)
    expected = "of shape (items, 1)"
    if values is None:
        raise Invalid(f"output {OUTPUT!r} of the model", expected, f"outputs {', '.join(outputs) or 'none'}")
    if values.ndim != 2 or values.shape[1] != 1:
        raise Invalid(f"output {OUTPUT!r} of the model", expected, values.shape)
    return np.asarray(values[:, 0], np.float64)


def _pair(targets: NDArray[Any], outputs: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    given = _values(outputs)
    if targets.shape != (len(given), 1):
        raise Invalid("targets", f"of shape {(len(given), 1)}, like the model's answer", targets.shape)
    return np.asarray(targets[:, 0], np.float64), given


plugins.add("task.tabular-regression")(Number())
