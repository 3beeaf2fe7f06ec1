"""Runs trees on LightGBM from its text files, and what comes after them on ONNX Runtime."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.infer.onnxruntime import OnnxPredictor


class LightGbmPredictor:
    """Boosters, and a session for the rest of the graph."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load what ``path`` names beside it; ``threads`` as for one call (0: one per core)."""
        try:
            import lightgbm
        except ImportError:
            raise Missing("lightgbm", "train", "this variant runs on LightGBM") from None
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            self._features = str(told["features"])
            self._takes_features = bool(told["rest_takes_features"])
            trees = [(str(one["output"]), path.with_name(Path(str(one["file"])).name)) for one in told["trees"]]
            rest = path.with_name(Path(str(told["rest"])).name)
            self._boosters: list[tuple[str, Any]] = [
                (name, lightgbm.Booster(model_str=file.read_text(encoding="utf-8"))) for name, file in trees
            ]
        except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
            raise Invalid(str(path), "a model that LightGBM can run", str(error)) from None
        self._rest = OnnxPredictor(rest, threads)
        self._threads = threads

    def predict(self, batch: Arrays) -> Arrays:
        """Run the batch."""
        features = np.ascontiguousarray(batch[self._features], np.float32)
        feed = {
            name: np.asarray(booster.predict(features, raw_score=True, num_threads=self._threads), np.float64).reshape(
                len(features), -1
            )
            for name, booster in self._boosters
        }
        return self._rest.predict({**feed, self._features: features} if self._takes_features else feed)

    def close(self) -> None:
        """Drop the trees and the session."""
        self._boosters = []
        self._rest.close()


@plugins.add("runtime.lightgbm")
@dataclass(frozen=True, slots=True)
class LightGbmRuntime:
    """LightGBM: trees as the library that grew them runs them."""

    def load(self, path: Path, *, threads: int, precision: str) -> LightGbmPredictor:
        """A predictor; trees are computed in double precision whatever ``precision`` says."""
        return LightGbmPredictor(path, threads)
