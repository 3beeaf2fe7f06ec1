"""What a tabular model is made of: members that give raw scores, each in Python, as ONNX nodes and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Damaged
from loopworks.train.tables.design import Design
from loopworks.train.tables.graph import Graph
from loopworks.train.tables.trees import add_trees


class Member(Protocol):
    """One learnt function from features to raw scores: log-odds (two classes: one column), or the scaled number."""

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw scores, shape ``(rows, columns)``."""

    def parts(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Raw scores taken apart: ``(rows, features, columns)``, and what is left for every row, ``(columns,)``."""

    def add(self, graph: Graph) -> str:
        """The same in a graph; gives the name of the raw scores."""

    def save(self, folder: Path, place: int) -> dict[str, Any]:
        """What ``load`` makes it of; files go into ``folder``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """A LightGBM model."""

    text: str
    """As LightGBM writes it."""
    booster: Any

    @classmethod
    def of(cls, text: str) -> "Trees":
        """From LightGBM's text."""
        from lightgbm import Booster

        return cls(text=text, booster=Booster(model_str=text))

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The sum of the leaves."""
        return np.asarray(self.booster.predict(features, raw_score=True), np.float64).reshape(len(features), -1)

    def parts(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Exact Shapley values of the trees. Source: Lundberg et al. 2020, "Explainable AI for trees"."""
        found = np.asarray(self.booster.predict(features, pred_contrib=True), np.float64)
        split = found.reshape(len(features), -1, features.shape[1] + 1).transpose(0, 2, 1)
        return split[:, :-1], split[0, -1]

    def add(self, graph: Graph) -> str:
        """One tree operator."""
        return add_trees(graph, self.booster.dump_model())

    def save(self, folder: Path, place: int) -> dict[str, Any]:
        """A text file."""
        name = f"trees-{place}.txt"
        (folder / name).write_text(self.text, encoding="utf-8")
        return {"kind": "trees", "file": name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A weighted sum of the design's columns."""

    design: Design
    weights: NDArray[np.float64]
    """Shape ``(design columns, columns)``."""
    bias: NDArray[np.float64]
    means: NDArray[np.float64]
    """Of the design's columns over the training rows."""

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The sum."""
        return np.asarray(self.design.matrix(features) @ self.weights + self.bias)

    def parts(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Each column's weight times how far it is from its mean: the exact Shapley values of a sum."""
        found = np.zeros((len(features), features.shape[1], self.weights.shape[1]))
        away = (self.design.matrix(features) - self.means)[:, :, None] * self.weights
        for column, feature in enumerate(self.design.features):
            found[:, feature] += away[:, column]
        return found, self.means @ self.weights + self.bias

    def add(self, graph: Graph) -> str:
        """One matrix product."""
        found = graph.node("MatMul", self.design.add(graph), graph.constant(self.weights))
        return graph.node("Add", found, graph.constant(self.bias[None]))

    def save(self, folder: Path, place: int) -> dict[str, Any]:
        """Numbers alone."""
        return {
            "kind": "linear",
            "design": self.design.to_json(),
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
            "means": self.means.tolist(),
        }


def load(told: Mapping[str, Any], folder: Path) -> Member:
    """The member that ``save`` wrote."""
    if told.get("kind") == "trees":
        return Trees.of((folder / told["file"]).read_text(encoding="utf-8"))
    if told.get("kind") == "linear":
        weights, bias, means = (np.asarray(told[name], np.float64) for name in ("weights", "bias", "means"))
        return Linear(design=Design.from_json(told["design"]), weights=weights, bias=bias, means=means)
    raise Damaged(f"member of a model must be trees or linear; got {told.get('kind')}", "train it again")
