"""The ONNX file decides as LightGBM does: on real tables, and where numbers lie on the thresholds."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest

import loopworks as lw
from loopworks.core import predictor as predictors
from loopworks.core.contracts import Context
from loopworks.core.row import FEATURES
from loopworks.train import stage
from loopworks.train.tables.graph import Graph
from loopworks.train.tables.trees import add_trees

pytestmark = pytest.mark.train
SHARED = Path(__file__).parents[4] / "shared/data"
TABLES = {
    "telco-churn": ("telco_customer_churn.csv", "tabular-classification", "Churn", "customerID"),
    "credit-default": ("uci_credit_card.csv", "tabular-classification", "default.payment.next.month", "ID"),
    "bikeshare-hourly": ("bikeshare.csv", "tabular-regression", "count", ""),
}


def converted(booster: Any, width: int, columns: int, path: Path) -> Any:
    graph = Graph(width)
    graph.save(path, add_trees(graph, booster.dump_model()), "raw", columns)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("has_gaps", [True, False])
@pytest.mark.parametrize("classes", [0, 3])
def test_every_way_through_a_tree_is_the_same(classes: int, has_gaps: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 5)).astype(np.float32)
    features[:, 3] = rng.integers(0, 300, 3000)
    features[:, 4] = rng.integers(0, 4, 3000)
    features[:, 1] = np.round(features[:, 1], 1)
    if has_gaps:
        features[rng.random(features.shape) < 0.1] = np.nan
    told = np.nan_to_num(features)
    score = told[:, 0] + (told[:, 3] % 7) / 3 + (told[:, 4] == 2) + rng.normal(size=3000)
    target = np.digitize(score, [0.5, 1.5]) if classes else score
    data = lightgbm.Dataset(features, target, categorical_feature=[3, 4], params={"verbosity": -1})
    params = {
        "objective": "multiclass" if classes else "regression",
        "verbosity": -1,
        "min_data_per_group": 5,
        "cat_smooth": 1,
    }
    booster = lightgbm.train({**params, **({"num_class": classes} if classes else {})}, data, 60)
    dump = str(booster.dump_model())
    assert "'=='" in dump
    thresholds = [float(line.partition(",")[0]) for line in dump.split("'threshold': ")[1:] if not line.startswith("'")]
    edges = np.asarray(thresholds[: 3000 * 3], np.float64).clip(-1e30, 1e30)
    asked = np.concatenate([features, np.full((len(edges) * 3, 5), np.nan, np.float32)])
    near = np.float32(edges)
    around = np.concatenate([near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))])
    asked[3000:, rng.integers(0, 3)] = around
    asked[3000:, 0] = around
    asked[-50:, 3] = [301, 5000, 7, 299, 0] * 10  # codes that never came
    session = converted(booster, 5, classes or 1, tmp_path / "m.onnx")
    found = session.run(None, {FEATURES: asked})[0]
    wanted = np.asarray(booster.predict(asked, raw_score=True)).reshape(len(asked), -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    for place in (0, 3000, len(asked) - 1):
        np.testing.assert_allclose(
            session.run(None, {FEATURES: asked[place : place + 1]})[0], found[place : place + 1], atol=1e-6
        )


def test_a_tree_of_one_leaf_is_a_constant(tmp_path: Path) -> None:
    features = np.zeros((40, 2), np.float32)
    features[:, 0] = np.arange(40)
    booster = lightgbm.train(
        {"verbosity": -1, "objective": "regression", "min_data_in_leaf": 30},
        lightgbm.Dataset(features, np.arange(40.0), params={"verbosity": -1}), 2,
    )  # fmt: skip
    found = converted(booster, 2, 1, tmp_path / "m.onnx").run(None, {FEATURES: features})[0]
    np.testing.assert_allclose(found[:, 0], booster.predict(features), rtol=1e-6)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real data sets beside the checkout")
@pytest.mark.parametrize("name", list(TABLES))
def test_real_tables_are_answered_as_lightgbm_answers_them(name: str, tmp_path: Path) -> None:
    file, task, target, key = TABLES[name]
    with lw.open(tmp_path / "space") as space:
        data = space.dataset(name, task=task).table
        data.add(SHARED / name / file)
        data.choose(target=target, id=key or None)
        source = data.freeze("parity").source()
        ctx = Context(seed=0, scratch=tmp_path, report=lambda share, text: None, stopped=lambda: False)
        params = {"rounds": 80, "calibrate": False}
        bundle = stage.train(source, recipe="lightgbm", params=params, folder=tmp_path / "b", ctx=ctx, threads=1)
        packed = source.inputs(bundle.rule, "test")
    booster = lightgbm.Booster(model_file=str(bundle.path("trees-0.txt")))
    predictor = predictors.load(bundle.variants[0], bundle.folder, bundle.rule, threads=1)
    found = predictor.predict(packed)[bundle.outputs[0].name]
    predictor.close()
    wanted = booster.predict(bundle.rule.encode(packed)[FEATURES])
    if bundle.schema.classes:
        np.testing.assert_allclose(found[:, 1], wanted, atol=1e-5)
        assert bundle.metrics["test"]["auc"].value > 0.75
    else:
        spread, middle = source.targets("train").std(), source.targets("train").mean()
        np.testing.assert_allclose(found[:, 0], middle + spread * wanted, rtol=1e-5, atol=1e-5 * spread)
        assert bundle.metrics["test"]["r2"].value > 0.9
