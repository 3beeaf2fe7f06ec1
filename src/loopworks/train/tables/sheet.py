"""A table as numbers to learn from: encoded features, targets, weights, and the validation rows beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Context
from loopworks.core.errors import Failed, Invalid
from loopworks.core.row import FEATURES, RowRule
from loopworks.data.source import Rows
from loopworks.data.tables import leaks
from loopworks.data.tables.rows import READING
from loopworks.train.contracts import Lesson
from loopworks.train.tables.columns import choose

if TYPE_CHECKING:
    import pyarrow as pa

SLAB = 65_536
FEWEST_VAL = 100
"""Validation rows below which rounds and calibration are settled on folds of the training rows instead."""
FOLDS = 5
Weights = Literal["none", "balanced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows with their targets: class ids (int64), or numbers scaled to mean 0 and spread 1."""

    features: NDArray[np.float32]
    target: NDArray[Any]

    def __len__(self) -> int:
        """How many rows."""
        return len(self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """All that tabular recipes learn from."""

    rule: RowRule
    train: Part
    val: Part | None
    """Rows to settle rounds, penalties and calibration on; ``None`` where there are too few."""
    weights: NDArray[np.float64] | None
    """Of the training rows."""
    classes: tuple[str, ...]
    """Empty where a number is to be answered."""
    middle: float = 0.0
    spread: float = 1.0
    notes: tuple[str, ...] = ()
    folds: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """The fold of each training row; empty where there are too few rows for folds."""

    @property
    def columns(self) -> int:
        """Columns of the raw scores: one for a number or two classes, else one per class."""
        return len(self.classes) if len(self.classes) > 2 else 1

    @property
    def categories(self) -> list[int]:
        """Places of the features that are codes of a category."""
        kinds = [column.kind for column in self.rule.columns for _ in column.features]
        return [place for place, kind in enumerate(kinds) if kind == "category"]

    def weight(self, places: NDArray[np.intp]) -> NDArray[np.float64] | None:
        """Weights of some of the training rows."""
        return None if self.weights is None else self.weights[places]


def read(
    lesson: Lesson,
    ctx: Context,
    *,
    class_weights: Weights,
    terms: int,
    left_out: Sequence[str],
    costs: Mapping[str, float],
) -> Sheet:
    """The lesson's rows as a sheet.

    Raises: Invalid: the source has no rows of a table, or ``costs`` or ``left_out`` do not fit it.
    """
    source = lesson.source
    if not isinstance(source, Rows):
        raise Invalid("dataset", "a table", f"one for {source.task.name}", "choose another recipe")
    ctx.tick(0.0, "reading train")
    table, classes = source.rows("train"), source.schema.classes if "class" in source.task.kinds else ()
    check_costs(costs, classes)
    target, middle, spread = _target(source.targets("train"), classes)
    rule, notes = choose(table, target, terms=terms, left_out=left_out)
    more = _leaks(table.select([column.name for column in rule.columns]), target, classes, rule)
    features = encode(rule, table, ctx)
    val = None
    if source.counts.get("val", 0) >= FEWEST_VAL:
        told, _, _ = _target(source.targets("val"), classes, (middle, spread))
        val = Part(features=rule.encode(lesson.inputs.get(rule, "val", ctx))[FEATURES], target=told)
    if gone := json.loads((table.schema.metadata or {}).get(READING, b"{}")).get("left_out"):
        more += (f"rows without a target were left out: {', '.join(f'{n} of {s}' for s, n in gone.items())}",)
    if lesson.start is not None:
        more += ("tabular models do not go on from an earlier model: this one was learnt anew",)
    return Sheet(
        rule=rule,
        train=Part(features=features, target=target),
        val=val,
        weights=_balance(target, len(classes)) if class_weights == "balanced" and classes else None,
        classes=classes,
        middle=middle,
        spread=spread,
        notes=(*notes, *more),
        folds=_folds(target, bool(classes), ctx.seed),
    )


def encode(rule: RowRule, table: "pa.Table", ctx: Context) -> NDArray[np.float32]:
    """The features of an Arrow table, a slab at a time, so that texts of all rows are never in memory at once."""
    out = np.empty((table.num_rows, rule.width), np.float32)
    for at in range(0, table.num_rows, SLAB):
        ctx.tick(0.0, "encoding train")
        packed = rule.pack(table.slice(at, SLAB))
        out[at : at + SLAB] = rule.encode(packed)[FEATURES]
    return out


def check_costs(costs: Mapping[str, float], classes: Sequence[str]) -> None:
    """Costs must be of classes, above 0 and finite."""
    if not costs:
        return
    if not classes:
        raise Invalid("costs", "of classes", "a target that is a number")
    if unknown := sorted(set(costs) - set(classes)):
        raise Invalid("costs", f"of classes ({', '.join(classes[:12])})", unknown[0])
    if bad := [value for value in costs.values() if not 0 < value < 1e12]:
        raise Invalid("costs", "above 0 and finite", bad[0])


def finite(value: float) -> float:
    """A loss, which must be a number."""
    if not np.isfinite(value):
        raise Failed(f"the loss must stay a number; got {value}", "look for extreme values in the target")
    return value


def _target(
    told: NDArray[Any], classes: Sequence[str], scale: tuple[float, float] | None = None
) -> tuple[NDArray[Any], float, float]:
    if classes:
        return told.argmax(axis=1).astype(np.int64), 0.0, 1.0
    numbers = told[:, 0].astype(np.float64)
    middle, spread = scale or (float(numbers.mean()), float(numbers.std()) or 1.0)
    return (numbers - middle) / spread, middle, spread


def _balance(target: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """Weights that make all classes count alike; their mean is 1."""
    counts = np.bincount(target, minlength=classes)
    each = len(target) / np.maximum(counts, 1) / max(1, int((counts > 0).sum()))
    return np.asarray(each[target], np.float64)


def _folds(target: NDArray[Any], has_classes: bool, seed: int) -> NDArray[np.int64]:
    """Folds with the same share of every class (or of small and large numbers) in each."""
    count = FOLDS
    if has_classes:
        sizes = np.bincount(target)
        count = min(FOLDS, int(np.sort(sizes[sizes > 0])[-2]))  # at least one row of the second class in each
    count = min(count, len(target) // 2)
    if count < 2:
        return np.zeros(0, np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(target))
    order = shuffled[np.argsort(target[shuffled], kind="stable")]
    folds = np.empty(len(target), np.int64)
    folds[order] = np.arange(len(target)) % count
    return folds


def _leaks(table: "pa.Table", target: NDArray[Any], classes: Sequence[str], rule: RowRule) -> tuple[str, ...]:
    """A warning for each column that knows the target, by the data stage's own search, on a sample."""
    picks = np.sort(np.random.default_rng(0).permutation(len(target))[: leaks.SAMPLE])
    some = table.take(picks)
    columns: dict[str, tuple[str, NDArray[Any]]] = {}
    for column in rule.columns:
        alone = RowRule(columns=(column,))
        packed = alone.pack(some.select([column.name]))[column.name][:, 0]
        if column.kind == "category":
            columns[column.name] = ("word", np.array([cell.decode() or None for cell in packed], object))
        elif column.kind in ("number", "bool", "time"):
            columns[column.name] = ("number", packed.clip(-1e300, 1e300))
    answer = np.asarray(classes, object)[target[picks]] if classes else target[picks]
    found, _ = leaks.find(columns, answer, is_regression=not classes)
    return tuple(f"leak? {leak.message}" for leak in found)
