"""Has what a model is asked, or what it answers, moved away from the data that it learnt from?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.infer.watch import statistics
from loopworks.infer.watch.reference import Reference
from loopworks.infer.watch.rules import Drift
from loopworks.infer.watch.traits import Traits

LEAST = 50
"""Items below which nothing is said."""
PERMUTATIONS = 999


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of inputs or answers, compared with the training data."""

    name: str
    of: Literal["inputs", "answers"]
    test: Literal["ks", "chi2", "mmd", "fisher"]
    value: float
    """Of the test: the largest distance of two distribution functions, chi-squared, the squared discrepancy, or the
    difference of two shares."""
    p: float
    psi: float | None
    """Population stability index; ``None`` of points."""
    is_drift: bool
    before: str
    """The training data in a few words."""
    now: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "of": self.of,
            "test": self.test,
            "value": round(self.value, 6),
            "p": float(f"{self.p:.4g}"),
            "psi": None if self.psi is None else round(self.psi, 4),
            "is_drift": self.is_drift,
            "before": self.before,
            "now": self.now,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One window of live items against the training data."""

    items: int
    version: str
    alpha: float
    columns: tuple[Column, ...]

    @property
    def is_drift(self) -> bool:
        """Whether anything moved."""
        return any(column.is_drift for column in self.columns)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, what moved most first."""
        ordered = sorted(self.columns, key=lambda c: (not c.is_drift, c.p, -(c.psi or 0.0), c.name))
        return {
            "items": self.items,
            "version": self.version,
            "alpha": self.alpha,
            "is_drift": self.is_drift,
            "columns": [column.to_json() for column in ordered],
        }


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    of: Literal["inputs", "answers"]
    test: Literal["ks", "chi2", "mmd", "fisher"]
    value: float
    p: float
    psi: float | None
    before: str
    now: str


def compare(reference: Reference, inputs: Traits, answers: Traits, rules: Drift, *, seed: int = 0) -> Report:
    """A window of live items against the training data.

    A column has drifted where its test is certain (Holm's correction over all columns) and its stability index is at
    least ``rules.psi``. The points of whole items (MMD) are one more test, and of texts the shares that have each piece
    of words (Fisher): a topic that is new in a tenth of the texts moves its own words and hardly the whole. Columns and
    these get half of ``rules.alpha`` each, where there are both.

    Raises: Invalid: fewer than 50 items.
    """
    count = max(inputs.count, answers.count)
    if count < LEAST:
        raise Invalid("items to compare", f"at least {LEAST}", count, "wait for more")
    found: list[_Found] = []
    for part, before, now in (("inputs", reference.inputs, inputs), ("answers", reference.answers, answers)):
        for name, values in now.numbers.items():
            if name in before.numbers and name not in rules.ignore:
                found.append(_numbers(name, part, before.numbers[name], values))  # type: ignore[arg-type]
        for name, told in now.categories.items():
            if name in before.categories and name not in rules.ignore:
                found.append(_categories(name, part, before.categories[name], told))  # type: ignore[arg-type]
    whole = [one for one in (_points(reference, inputs, seed), _words(reference, inputs)) if one is not None]
    alpha = rules.alpha / 2 if whole and found else rules.alpha
    certain = statistics.holm([one.p for one in found], alpha)
    columns = [_column(one, sure and (one.psi or 0.0) >= rules.psi) for one, sure in zip(found, certain, strict=True)]
    columns += [_column(one, one.p <= alpha / len(whole)) for one in whole]
    return Report(items=count, version=reference.version, alpha=rules.alpha, columns=tuple(columns))


def _column(one: _Found, is_drift: bool) -> Column:
    return Column(is_drift=is_drift, **{name: getattr(one, name) for name in _Found.__dataclass_fields__})


def _numbers(
    name: str, of: Literal["inputs", "answers"], before: NDArray[np.float64], now: NDArray[np.float64]
) -> _Found:
    """Kolmogorov-Smirnov of what is known, chi-squared of how much is missing; the smaller p-value counts double."""
    known = [values[np.isfinite(values)] for values in (before, now)]
    gaps = [{"known": len(k), "missing": len(v) - len(k)} for k, v in zip(known, (before, now), strict=True)]
    value, p = 0.0, 1.0
    if len(known[0]) and len(known[1]):
        value, p = statistics.ks(*known)
    if any(gap["missing"] for gap in gaps):
        p = min(1.0, 2 * min(p, statistics.chi2(*gaps)[1]))
    bounds = statistics.edges(known[0]) if len(known[0]) else np.zeros(0)
    bins = [
        np.append(statistics.binned(k, bounds), gap["missing"]).astype(np.float64)
        for k, gap in zip(known, gaps, strict=True)
    ]
    told = [_told_numbers(k, gap["missing"]) for k, gap in zip(known, gaps, strict=True)]
    return _Found(name, of, "ks", value, p, statistics.psi(bins[0], bins[1]), told[0], told[1])


def _told_numbers(known: NDArray[np.float64], missing: int) -> str:
    gap = f", {missing / (len(known) + missing):.1%} missing" if missing else ""
    if not len(known):
        return "all missing"
    return f"mean {known.mean():.4g}, sd {known.std():.3g}{gap}"


def _categories(name: str, of: Literal["inputs", "answers"], before: Sequence[str], now: Sequence[str]) -> _Found:
    counts = Counter(before), Counter(now)
    value, p = statistics.chi2(*counts)
    names = sorted(set(counts[0]) | set(counts[1]))
    frequent = [n for n in names if counts[0][n] >= 0.01 * len(before) or counts[1][n] >= 0.01 * len(now)]
    bins = [np.array([c[n] for n in frequent] + [c.total() - sum(c[n] for n in frequent)], np.float64) for c in counts]
    moved = sorted(frequent, key=lambda n: -abs(counts[1][n] / len(now) - counts[0][n] / len(before)))[:3]
    told = [", ".join(f"{n or '(missing)'} {c[n] / c.total():.1%}" for n in moved) for c in counts]
    return _Found(name, of, "chi2", value, p, statistics.psi(bins[0], bins[1]), told[0], told[1])


def _points(reference: Reference, inputs: Traits, seed: int) -> _Found | None:
    if reference.scale is None or reference.inputs.points is None or inputs.points is None:
        return None
    live = reference.scale.apply(inputs.points)
    value, p = statistics.mmd(reference.inputs.points, live, permutations=PERMUTATIONS, seed=seed)
    far = (statistics.nearest(live, reference.inputs.points) > reference.limit(0.99)).mean()
    return _Found("whole items", "inputs", "mmd", value, p, None, "1.0% far", f"{far:.1%} far")


def _words(reference: Reference, inputs: Traits) -> _Found | None:
    """The piece of words whose share of the texts moved most certainly; the p-value counts all pieces (Bonferroni)."""
    before, now = reference.inputs.marks, inputs.marks
    if before is None or now is None:
        return None
    counts = before.sum(axis=0), now.sum(axis=0)
    at, chances = statistics.shares(counts[0], len(before), counts[1], len(now))
    was, is_ = counts[0][at] / len(before), counts[1][at] / len(now)
    p = min(1.0, float(chances[at]) * len(chances))
    told = (f"a piece of words in {share:.1%}" for share in (was, is_))
    return _Found("words", "inputs", "fisher", float(is_ - was), p, None, *told)


class Window:
    """The live items since the last comparison, up to as many as a window holds."""

    def __init__(self, size: int) -> None:
        """An empty window for ``size`` items."""
        self.size = size
        self.count = 0
        self._parts: list[tuple[Traits, Traits]] = []

    def add(self, inputs: Traits, answers: Traits) -> None:
        """More items; those that the window has no room for are left out."""
        self._parts.append((inputs, answers))
        self.count += max(inputs.count, answers.count)

    def seen(self) -> tuple[Traits, Traits]:
        """All of it so far."""
        found = joined([one for one, _ in self._parts]), joined([one for _, one in self._parts])
        self._parts = [found] if self._parts else []
        return found


def joined(parts: Sequence[Traits]) -> Traits:
    """Several lots of items as one; columns that some of them lack are left out."""
    if not parts:
        return Traits()
    numbers = {
        name: np.concatenate([part.numbers[name] for part in parts])
        for name in parts[0].numbers
        if all(name in part.numbers for part in parts)
    }
    categories: dict[str, Sequence[str]] = {
        name: [value for part in parts for value in part.categories[name]]
        for name in parts[0].categories
        if all(name in part.categories for part in parts)
    }
    points = [part.points for part in parts if part.points is not None]
    marks = [part.marks for part in parts if part.marks is not None]
    return Traits(
        numbers,
        categories,
        np.concatenate(points) if len(points) == len(parts) else None,
        np.concatenate(marks) if len(marks) == len(parts) else None,
    )


def sentence(deployment: str, report: Mapping[str, Any]) -> str:
    """What moved, in one line, from a report's JSON."""
    moved = [column for column in report["columns"] if column["is_drift"]]
    if not moved:
        return f"{deployment}: no drift in {report['items']} items"
    first = ", ".join(f"{c['name']} ({c['before']} -> {c['now']})" for c in moved[:3])
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    return f"{deployment}: drift in {report['items']} items: {first}{more}"
