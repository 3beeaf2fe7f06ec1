"""Makers on models of other kinds than classifiers of images: detectors, segmenters, texts, tables."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.optimize.test_makers import context
from tests.train.pictures import things
from tests.train.segmentation.scenes import scenes
from tests.train.texts.source import complaints

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.optimize import measure, tournament
from loopworks.optimize.stage import optimize
from loopworks.train.stage import train

pytestmark = [pytest.mark.train, pytest.mark.optimize]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SLOT_S", 0.001)
    monkeypatch.setattr(measure, "STARTS", 0)
    monkeypatch.setattr(measure, "quick_s", lambda predictor, item: 1.0)
    monkeypatch.setattr(tournament, "MAKER_LIMIT_S", 900.0)
    monkeypatch.setattr(tournament, "MAKING_S", 900.0)


def learnt(source: Any, recipe: str, folder: Path, **params: Any) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    return train(source, recipe=recipe, params=params, folder=folder / "model", ctx=context(folder), threads=1)


def run(model: Bundle, source: Any, folder: Path, *variants: str, **how: Any) -> Bundle:
    return optimize(
        model, source, folder=folder / "best", ctx=context(folder), threads=1, variants=variants, max_drop=1.0,
        **{"learn": train, **how},
    )  # fmt: skip


def answers(made: Bundle, name: str, items: Any) -> dict[str, Any]:
    predictor = predictors.load(made.variant(name), made.folder, made.rule, threads=1)
    try:
        return dict(predictor.predict(items))
    finally:
        predictor.close()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("detector")
    return learnt(things(), "small-detector", folder, epochs=1, width=4, blocks=1, batch=8)


def test_a_detector_with_its_grid_in_the_graph_is_made_anew_for_smaller_images(
    detector: Bundle, tmp_path: Path
) -> None:
    source = things()
    made = run(detector, source, tmp_path, "lower50", asked=["distilled"])
    assert [v.name for v in made.variants] == ["onnx-fp32", "lower50"], made.notes
    items = source.inputs(made.rule, "test")
    small, plain = (answers(made, name, items) for name in ("lower50", "onnx-fp32"))
    assert {name: x.shape for name, x in small.items()} == {name: x.shape for name, x in plain.items()}
    assert made.sha256["model.safetensors"] == detector.sha256["model.safetensors"]
    assert any("distilled was left out: it needs answers with a chance for each" in note for note in made.notes)


def test_a_segmenter_teaches_one_of_half_the_width(tmp_path: Path) -> None:
    source = scenes(train=6, val=3, test=3)
    model = learnt(source, "small-segmenter", tmp_path / "m", epochs=1, width=8, blocks=1, decoder=8, image_size=64)
    asked: dict[str, Any] = {}

    def learn(source: Any, *, folder: Path, **how: Any) -> Bundle:
        asked.update(how, targets=source.targets("train"))
        shutil.copytree(model.folder, folder)
        return replace(model, folder=folder)

    made = run(model, source, tmp_path, asked=["distilled"], learn=learn)
    assert [v.name for v in made.variants] == ["onnx-fp32", "distilled"], made.notes
    assert (asked["recipe"], asked["start"]) == ("train.small-segmenter", None)
    assert asked["params"] == {"image_size": 64, "fit": "stretch", "width": 4}
    truth = source.targets("train")
    assert asked["targets"].shape == truth.shape
    assert 0 < (asked["targets"] != truth).mean() < 0.9, "the teacher and the labels have their say"


@pytest.mark.parametrize(
    ("recipe", "params"),
    [
        ("ngrams", {"epochs": 2, "hidden": 64}),
        ("text-encoder", {"weights": "random", "width": 16, "vocabulary": 200, "epochs": 1, "layers": 2}),
    ],
)
def test_texts_are_taught_to_a_smaller_network_that_cuts_them_alike(
    recipe: str, params: dict[str, Any], tmp_path: Path
) -> None:
    source = complaints(48, 12, 12)
    model = learnt(source, recipe, tmp_path / "m", **params)
    made = run(model, source, tmp_path, asked=["distilled", "pruned"], budget_s=6.0)
    assert [v.name for v in made.variants] == ["onnx-fp32", "distilled"], made.notes
    assert made.variant("distilled").size_bytes < made.variant("onnx-fp32").size_bytes
    found = answers(made, "distilled", source.inputs(made.rule, "test"))
    assert found["scores"].shape == (12, 3)
    assert any("pruned was left out: it needs a network of convolutions on images" in note for note in made.notes)


def test_a_model_whose_weights_are_gone_is_not_made_anew(detector: Bundle, tmp_path: Path) -> None:
    shutil.copytree(detector.folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    model = bundles.write(replace(detector, sha256={}), tmp_path / "m")
    made = run(model, things(), tmp_path, "lower50")
    assert any("lower50 could not be made: the network must take smaller images" in note for note in made.notes)
