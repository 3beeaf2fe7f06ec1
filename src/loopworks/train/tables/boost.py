"""Boosted trees by LightGBM: rounds until held-out rows gain no more, the time is over, or somebody stops it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Missing
from loopworks.train.tables.members import Trees
from loopworks.train.tables.sheet import Sheet, finite

WORTH = 1e-5
"""Share of the loss that held-out rows must gain for a round to count as better."""
FEW_CELLS = 500_000
"""Cells of a table up to which one thread grows its trees."""
Watch = Callable[[int, float | None], bool]
"""Takes the rounds done and the loss on held-out rows, and says whether to go on; may raise ``Cancelled``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How trees are grown; see the recipe's fields."""

    rounds: int
    rate: float
    leaves: int
    min_rows: int
    feature_share: float = 1.0
    row_share: float = 1.0
    l2: float = 1.0
    patience: int = 100
    is_random: bool = False
    """Whether thresholds are drawn at random ("extremely randomized")."""
    monotone: Mapping[str, int] | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """Trees, and the number of rounds that held-out rows liked best."""

    trees: Trees
    rounds: int
    is_cut: bool
    """Whether the watch ended it."""


class Forest:
    """LightGBM's binned form of a sheet's training rows, made once for all folds."""

    def __init__(self, sheet: Sheet, settings: Settings, seed: int) -> None:
        """Bin the rows."""
        try:
            import lightgbm
        except ImportError:
            raise Missing("lightgbm", "train", "boosted trees") from None
        self._library = lightgbm
        self._sheet = sheet
        self._params = parameters(sheet, settings, seed)
        self._settings = settings
        self._data = lightgbm.Dataset(
            sheet.train.features,
            sheet.train.target,
            weight=sheet.weights,
            categorical_feature=sheet.categories,
            params=self._params,
            free_raw_data=False,
        ).construct()

    def grow(self, watch: Watch, *, rounds: int = 0) -> Grown:
        """Trees of all training rows: by the validation rows, or ``rounds`` rounds."""
        val = self._sheet.val
        held = None
        if val is not None and not rounds:
            held = self._data.create_valid(val.features, val.target)
        return self._grow(self._data, held, watch, rounds)

    def grow_fold(self, fold: int, watch: Watch) -> Grown:
        """Trees of all training rows but those of a fold, which say when to end."""
        folds = self._sheet.folds
        data = self._data.subset(np.flatnonzero(folds != fold).tolist())
        return self._grow(data, self._data.subset(np.flatnonzero(folds == fold).tolist()), watch, 0)

    def _grow(self, data: Any, held: Any, watch: Watch, rounds: int) -> Grown:
        best, at, done, is_cut = math.inf, 0, 0, False
        stop = self._library.callback.EarlyStopException

        def after(env: Any) -> None:
            nonlocal best, at, done, is_cut
            done = env.iteration + 1
            loss = finite(env.evaluation_result_list[0][2]) if held is not None else None
            if loss is not None and loss < best - abs(best if best < math.inf else 0.0) * WORTH:
                best, at = loss, done
            is_late = loss is not None and done - at >= self._settings.patience
            is_cut = not watch(done, loss)
            if is_late or is_cut:
                raise stop(env.iteration, env.evaluation_result_list)

        made = self._library.train(
            self._params,
            data,
            num_boost_round=rounds or self._settings.rounds,
            valid_sets=[held] if held is not None else None,
            callbacks=[after],
        )
        kept = at if held is not None else done
        return Grown(trees=Trees.of(made.model_to_string(num_iteration=kept)), rounds=kept, is_cut=is_cut)


def parameters(sheet: Sheet, settings: Settings, seed: int) -> dict[str, Any]:
    """LightGBM's own parameters; small tables get small leaves."""
    rows = len(sheet.train)
    found: dict[str, Any] = {
        "objective": "regression" if not sheet.classes else "binary" if sheet.columns == 1 else "multiclass",
        "learning_rate": settings.rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": max(1, min(settings.min_rows, rows // 20)),
        "min_data_per_group": max(2, min(100, rows // 50)),
        "min_data_in_bin": max(1, min(3, rows // 20)),
        "feature_fraction": settings.feature_share,
        "bagging_fraction": settings.row_share,
        "bagging_freq": int(settings.row_share < 1),
        "lambda_l2": settings.l2,
        "extra_trees": settings.is_random,
        "feature_pre_filter": False,
        "deterministic": True,
        "force_row_wise": True,
        # Threads wait for each other after every leaf: on small tables, and beside busy neighbours, one is faster.
        "num_threads": settings.threads if sheet.train.features.size > FEW_CELLS else 1,
        "seed": seed % 2**31,
        "verbosity": -1,
    }
    if sheet.columns > 1:
        found["num_class"] = sheet.columns
    if settings.monotone:
        found["monotone_constraints"] = [
            settings.monotone.get(column.name, 0) for column in sheet.rule.columns for _ in column.features
        ]
        found["monotone_constraints_method"] = "intermediate"
    return found


def out_of_fold(sheet: Sheet, grown: Mapping[int, Grown]) -> NDArray[np.float64]:
    """Raw scores of each training row by the trees that did not see it."""
    found = np.zeros((len(sheet.train), sheet.columns))
    for fold, one in grown.items():
        at = sheet.folds == fold
        found[at] = one.trees.raw(sheet.train.features[at])
    return found
