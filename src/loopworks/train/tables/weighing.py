"""Linear models: logistic regression for classes, ridge for numbers; the penalty is found on held-out rows."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Missing
from loopworks.train.tables import calibrate, design
from loopworks.train.tables.calibrate import Calibration
from loopworks.train.tables.members import Linear
from loopworks.train.tables.sheet import Part, Sheet

MOST_ROWS = 200_000
"""Rows that a linear model learns from: more change its few weights by next to nothing."""
PENALTIES = (0.3, 3.0, 30.0, 300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """A linear model with the penalty that held-out rows liked best."""

    model: Linear
    penalty: float
    held: NDArray[np.float64] | None
    """Raw scores of the rows that it was judged on."""


class Weigher:
    """The rows of a sheet as a linear model wants them, made once for all penalties and folds."""

    def __init__(self, sheet: Sheet, seed: int) -> None:
        """Lay the rows out."""
        try:
            import sklearn  # noqa: F401 - is it there
        except ImportError:
            raise Missing("scikit-learn", "train", "linear models") from None
        self._sheet = sheet
        count = len(sheet.train)
        picks = np.arange(count)
        if count > MOST_ROWS:
            picks = np.sort(np.random.default_rng(seed).permutation(count)[:MOST_ROWS])
        self.picks = picks
        some = sheet.train.features[picks]
        self.design = design.learn(sheet.rule, some)
        self._matrix = self.design.matrix(some)
        self._target = sheet.train.target[picks]
        self._weights = sheet.weight(picks)

    def fit(self, penalty: float, is_used: NDArray[np.bool_] | None = None) -> Linear:
        """A model of the rows, or of some of them."""
        used = np.ones(len(self._target), bool) if is_used is None else is_used
        matrix, target = self._matrix[used], self._target[used]
        weights = None if self._weights is None else self._weights[used]
        found = self._logistic if self._sheet.classes else self._ridge
        told, bias = found(matrix, target, weights, penalty)
        return Linear(design=self.design, weights=told, bias=bias, means=matrix.mean(axis=0))

    def best(self, tick: Callable[[float, str], None], penalties: tuple[float, ...] = PENALTIES) -> Weighed:
        """Try penalties on the validation rows, else on the folds; ``tick`` may raise."""
        tried: list[tuple[float, Weighed]] = []
        val = self._sheet.val
        if val is None and not len(self._sheet.folds):
            return Weighed(model=self.fit(30.0), penalty=30.0, held=None)
        for place, penalty in enumerate(penalties):
            tick(place / len(penalties), f"linear, penalty {penalty:g}")
            if val is not None:
                model = self.fit(penalty)
                raw, part = model.raw(val.features), val
            else:
                model, raw, part = None, self.out_of_fold(penalty, tick), self.held
            tried.append((self._loss(raw, part), Weighed(model=model, penalty=penalty, held=raw)))  # type: ignore[arg-type]
        best = min(tried, key=lambda pair: pair[0])[1]
        return best if best.model else Weighed(model=self.fit(best.penalty), penalty=best.penalty, held=best.held)

    @property
    def held(self) -> Part:
        """The rows that ``out_of_fold`` answers, where these are not the validation rows."""
        train = self._sheet.train
        return Part(features=train.features[self.picks], target=self._target)

    def out_of_fold(self, penalty: float, tick: Callable[[float, str], None]) -> NDArray[np.float64]:
        """Raw scores of each row that is learnt from, by the model that did not see its fold."""
        folds = self._sheet.folds[self.picks]
        found = np.zeros((len(folds), self._sheet.columns))
        for fold in range(int(folds.max()) + 1):
            tick(fold / (int(folds.max()) + 1), f"linear, fold {fold + 1}")
            model = self.fit(penalty, folds != fold)
            at = folds == fold
            found[at] = self._matrix[at] @ model.weights + model.bias
        return found

    def _loss(self, raw: NDArray[np.float64], part: Part) -> float:
        if self._sheet.classes:
            return calibrate.loss(Calibration().chances(raw), part.target)
        return float(((raw[:, 0] - part.target) ** 2).mean())

    def _logistic(self, matrix: Any, target: Any, weights: Any, penalty: float) -> tuple[Any, Any]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        seen = np.unique(target)
        if len(seen) < 2:  # a fold of one class alone: say nothing
            return np.zeros((matrix.shape[1], self._sheet.columns)), np.zeros(self._sheet.columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is good enough
            model = LogisticRegression(C=1.0 / penalty, max_iter=100).fit(matrix, target, weights)
        if self._sheet.columns == 1:
            return model.coef_.T, model.intercept_
        coef, bias = model.coef_, model.intercept_
        if len(seen) == 2:  # scikit-learn gives one row of weights, that of the second
            coef, bias = np.concatenate([-coef, coef]) / 2, np.concatenate([-bias, bias]) / 2
        told = np.zeros((matrix.shape[1], self._sheet.columns))
        told[:, seen] = coef.T
        rest = np.full(self._sheet.columns, float(bias.min()) - 10.0)  # a class that never occurs is never likely
        rest[seen] = bias
        return told, rest

    def _ridge(self, matrix: Any, target: Any, weights: Any, penalty: float) -> tuple[Any, Any]:
        middle = matrix.mean(axis=0)
        centred = matrix - middle
        gram = centred.T @ centred + penalty * np.eye(matrix.shape[1])
        told = np.linalg.solve(gram, centred.T @ (target - target.mean()))
        return told[:, None], np.atleast_1d(target.mean() - middle @ told)
