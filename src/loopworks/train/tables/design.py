"""Features as a linear model wants them: numbers filled and scaled, what is missing marked, one column per category."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.row import RowRule
from loopworks.train.tables.graph import Graph

MOST_HOT = 50
"""Columns of one category; its rarer values share the one of all others."""
_LIMIT = 10.0
"""Scaled numbers beyond so many standard deviations are cut off, so that one wild cell does not decide alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What turns features into a dense matrix: scaled numbers, then marks of missing cells, then hot categories."""

    numbers: tuple[int, ...]
    """Places of the features that are numbers."""
    middle: tuple[float, ...]
    """Their medians, which stand in for what is missing."""
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    marks: tuple[int, ...]
    """Of ``numbers``, the places of those that get a mark where they are missing."""
    hot: tuple[int, ...]
    """Feature behind each hot column."""
    codes: tuple[float, ...]
    """Code that makes the column 1."""

    @property
    def features(self) -> tuple[int, ...]:
        """The feature behind each column."""
        return (*self.numbers, *(self.numbers[i] for i in self.marks), *self.hot)

    def matrix(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features as the matrix, shape ``(rows, columns)``."""
        cells = features[:, self.numbers].astype(np.float64)
        lost = np.isnan(cells)
        scaled = (np.where(lost, self.middle, cells) - self.mean) / np.asarray(self.spread)
        hot = features[:, self.hot] == np.asarray(self.codes, np.float32)
        return np.concatenate([scaled.clip(-_LIMIT, _LIMIT), lost[:, self.marks], hot], axis=1)

    def add(self, graph: Graph) -> str:
        """The same in a graph; gives the name of the matrix."""

        def places(found: tuple[int, ...]) -> str:
            return graph.constant(np.asarray(found, np.int64))

        cells = graph.node("Gather", graph.features, places(self.numbers), axis=1)
        lost = graph.node("IsNaN", cells)
        filled = graph.node("Where", lost, graph.constant(np.asarray([self.middle])), cells)
        moved = graph.node("Sub", filled, graph.constant(np.asarray([self.mean])))
        scaled = graph.node("Div", moved, graph.constant(np.asarray([self.spread])))
        low, high = (graph.constant(np.asarray(limit)) for limit in (-_LIMIT, _LIMIT))
        parts = [graph.node("Clip", scaled, low, high)]
        if self.marks:
            parts.append(graph.cast(graph.node("Gather", lost, places(self.marks), axis=1), np.float64))
        if self.hot:
            told = graph.node("Gather", graph.features, places(self.hot), axis=1)
            parts.append(graph.cast(graph.node("Equal", told, graph.constant(np.asarray([self.codes]))), np.float64))
        return graph.node("Concat", *parts, axis=1)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: list(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Design":
        """What ``to_json`` wrote."""
        return cls(**{name: tuple(body[name]) for name in cls.__slots__})


def learn(rule: RowRule, features: NDArray[np.float32]) -> Design:
    """The design for rows like these."""
    kinds = [column for column in rule.columns for _ in column.features]
    numbers = [place for place, column in enumerate(kinds) if column.kind != "category"]
    hot: list[int] = []
    codes: list[float] = []
    for place, column in enumerate(kinds):
        if column.kind == "category":
            count = min(len(column.values), MOST_HOT)
            is_more = len(column.values) > count or bool((features[:, place] >= count).any())
            hot += [place] * (count + is_more)
            codes += [float(code) for code in range(count + is_more)]
    cells = features[:, numbers].astype(np.float64)
    lost = np.isnan(cells)
    middle = np.array([np.median(x[~gone]) if not gone.all() else 0.0 for x, gone in zip(cells.T, lost.T, strict=True)])
    cells = np.where(lost, middle, cells)
    spread = cells.std(axis=0)
    return Design(
        numbers=tuple(numbers),
        middle=tuple(middle.tolist()),
        mean=tuple(cells.mean(axis=0).tolist()),
        spread=tuple(np.where(spread > 0, spread, 1.0).tolist()),
        marks=tuple(np.flatnonzero(lost.any(axis=0)).tolist()),
        hot=tuple(hot),
        codes=tuple(codes),
    )
