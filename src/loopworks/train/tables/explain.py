"""Why a tabular model answers as it does: each column's exact share of a row's score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid
from loopworks.core.row import FEATURES, RowRule
from loopworks.train.tables.blend import PARTS, Blend


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One row's score as a sum: ``base`` plus what each column adds or takes."""

    score: float
    """The number, in the target's unit; or the log-odds of ``label`` (of more than two classes: its score before the
    softmax), before the calibration bends it where it is isotonic."""
    base: float
    """The mean score over the training rows."""
    columns: Mapping[str, float]
    """Column -> contribution, the largest first."""
    label: str = ""
    """The class that is explained: the likeliest one; of two classes always the second. Empty for a number."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"label": self.label, "score": self.score, "base": self.base, "columns": dict(self.columns)}


def contributions(bundle: Bundle, rows: Sequence[Any]) -> list[Explanation]:
    """What each column contributes to the answer for each row; ``score`` is ``base`` and all of them added up.

    Args:
        bundle: a tabular model.
        rows: mappings from column to value, or an Arrow table.
    Raises: Invalid: another kind of model, or a row that it cannot read.
    """
    rule = bundle.rule
    if not isinstance(rule, RowRule) or PARTS not in bundle.sha256:
        raise Invalid("model to explain", f"a tabular one that holds {PARTS}", bundle.recipe)
    features = rule.encode(rule.pack(rows))[FEATURES]
    each, base = Blend.read(bundle.folder).parts(features)
    owners = np.repeat(np.arange(len(rule.columns)), [len(column.features) for column in rule.columns])
    found: NDArray[np.float64] = np.zeros((len(features), len(rule.columns), each.shape[2]))
    for feature, owner in enumerate(owners):
        found[:, owner] += each[:, feature]
    scores = base + found.sum(axis=1)
    picks = scores.argmax(axis=1) if scores.shape[1] > 1 else np.zeros(len(scores), np.int64)
    names, classes = [column.name for column in rule.columns], bundle.schema.classes
    done = []
    for row, pick, score in zip(found, picks.tolist(), scores, strict=True):
        told = row[:, pick]
        order = np.argsort(-np.abs(told), kind="stable").tolist()
        label = "" if not classes else classes[pick] if len(classes) > 2 else classes[1]
        columns = {names[i]: float(told[i]) for i in order}
        done.append(Explanation(score=float(score[pick]), base=float(base[pick]), columns=columns, label=label))
    return done
