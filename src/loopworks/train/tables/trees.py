"""LightGBM's trees as an ONNX operator that decides exactly as LightGBM does, also on missing values and categories."""

from typing import Any

import numpy as np

from loopworks.train.tables.graph import Graph

_LEQ, _MEMBER = 0, 6


class _Ensemble:
    """The operator's attributes, filled node by node."""

    def __init__(self) -> None:
        self.feature: list[int] = []
        self.split: list[float] = []
        self.mode: list[int] = []
        self.missing: list[int] = []
        self.yes: list[int] = []
        self.no: list[int] = []
        self.yes_leaf: list[int] = []
        self.no_leaf: list[int] = []
        self.weights: list[float] = []
        self.targets: list[int] = []
        self.roots: list[int] = []
        self.members: dict[int, list[float]] = {}

    def tree(self, root: dict[str, Any], target: int) -> None:
        """Add a tree that adds to column ``target`` of the answer."""
        if "leaf_value" in root:
            leaf = self._leaf(root, target)  # a tree of one leaf is a node whose both ways lead to it
            self.roots.append(self._node(0, 0.0, _LEQ, 0))
            self._ways(self.roots[-1], (leaf, 1), (leaf, 1))
            return
        self.roots.append(len(self.feature))
        waiting = [(root, -1, True)]
        while waiting:
            told, parent, is_yes = waiting.pop()
            place = self._split(told)
            if parent >= 0:
                (self.yes if is_yes else self.no)[parent] = place
            for child, way in ((told["left_child"], True), (told["right_child"], False)):
                if "leaf_value" in child:
                    (self.yes if way else self.no)[place] = self._leaf(child, target)
                    (self.yes_leaf if way else self.no_leaf)[place] = 1
                else:
                    waiting.append((child, place, way))

    def _split(self, told: dict[str, Any]) -> int:
        if told["decision_type"] == "<=":
            limit = float(told["threshold"])
            # Without missing values in training LightGBM reads one as 0; else each node has a way for it.
            goes_left = told["default_left"] if told["missing_type"] == "NaN" else limit >= 0
            return self._node(told["split_feature"], limit, _LEQ, int(goes_left))
        place = self._node(told["split_feature"], 0.0, _MEMBER, 0)
        self.members[place] = [float(code) for code in told["threshold"].split("||")]
        return place

    def _node(self, feature: int, split: float, mode: int, missing: int) -> int:
        for values, value in (
            (self.feature, feature), (self.split, split), (self.mode, mode), (self.missing, missing),
            (self.yes, 0), (self.no, 0), (self.yes_leaf, 0), (self.no_leaf, 0),
        ):  # fmt: skip
            values.append(value)  # type: ignore[arg-type]
        return len(self.feature) - 1

    def _leaf(self, told: dict[str, Any], target: int) -> int:
        self.weights.append(float(told["leaf_value"]))
        self.targets.append(target)
        return len(self.weights) - 1

    def _ways(self, place: int, yes: tuple[int, int], no: tuple[int, int]) -> None:
        self.yes[place], self.yes_leaf[place] = yes
        self.no[place], self.no_leaf[place] = no


def add_trees(graph: Graph, dump: dict[str, Any]) -> str:
    """Add the trees of LightGBM's ``dump_model``; gives the name of the raw answer, ``(batch, trees per round)``."""
    from onnx import numpy_helper

    found = _Ensemble()
    width = int(dump["num_tree_per_iteration"])
    for place, tree in enumerate(dump["tree_info"]):
        found.tree(tree["tree_structure"], place % width)
    more = {}
    if found.members:
        listed = [code for place in sorted(found.members) for code in (*found.members[place], float("nan"))]
        more["membership_values"] = numpy_helper.from_array(np.asarray(listed, np.float64))
    return graph.node(
        "TreeEnsemble",
        graph.features,
        domain="ai.onnx.ml",
        n_targets=width,
        aggregate_function=1,
        post_transform=0,
        nodes_featureids=found.feature,
        nodes_splits=numpy_helper.from_array(np.asarray(found.split, np.float64)),
        nodes_modes=numpy_helper.from_array(np.asarray(found.mode, np.uint8)),
        nodes_missing_value_tracks_true=found.missing,
        nodes_truenodeids=found.yes,
        nodes_falsenodeids=found.no,
        nodes_trueleafs=found.yes_leaf,
        nodes_falseleafs=found.no_leaf,
        leaf_weights=numpy_helper.from_array(np.asarray(found.weights, np.float64)),
        leaf_targetids=found.targets,
        tree_roots=found.roots,
        **more,
    )
