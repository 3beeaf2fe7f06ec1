"""Why a tabular model answers as it does: each column's exact share of a row's score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid, NotFound
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
    """The class that is explained; empty for a number."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"label": self.label, "score": self.score, "base": self.base, "columns": dict(self.columns)}


def contributions(bundle: Bundle, rows: Sequence[Any], label: str = "") -> list[Explanation]:
    """What each column contributes to the answer for each row; ``score`` is ``base`` and all of them added up.

    Args:
        bundle: a tabular model.
        rows: mappings from column to value, or an Arrow table.
        label: the class to explain; empty: of two classes the second, of more the likeliest for each row.
    Raises:
        NotFound: no such class.
        Invalid: another kind of model, or a row that it cannot read.
    """
    rule, classes = bundle.rule, bundle.schema.classes
    if not isinstance(rule, RowRule) or PARTS not in bundle.sha256:
        raise Invalid("model to explain", f"a tabular one that holds {PARTS}", bundle.recipe)
    if label and label not in classes:
        raise NotFound("class", label, classes)
    features = rule.encode(rule.pack(rows))[FEATURES]
    each, base = Blend.read(bundle.folder).parts(features)
    if len(classes) == 2:  # one column of log odds: those of the second class, the first one's are the same below 0
        each, base = np.concatenate([-each, each], axis=2), np.concatenate([-base, base])
    owners = np.repeat(np.arange(len(rule.columns)), [len(column.features) for column in rule.columns])
    found: NDArray[np.float64] = np.zeros((len(features), len(rule.columns), each.shape[2]))
    for feature, owner in enumerate(owners):
        found[:, owner] += each[:, feature]
    scores = base + found.sum(axis=1)
    picks = scores.argmax(axis=1) if len(classes) > 2 else np.full(len(scores), max(0, len(classes) - 1))
    if label:
        picks = np.full(len(scores), classes.index(label))
    names = [column.name for column in rule.columns]
    done = []
    for row, pick, score in zip(found, picks.tolist(), scores, strict=True):
        told = row[:, pick]
        order = np.argsort(-np.abs(told), kind="stable").tolist()
        columns = {names[i]: float(told[i]) for i in order}
        named = classes[pick] if classes else ""
        done.append(Explanation(score=float(score[pick]), base=float(base[pick]), columns=columns, label=named))
    return done
