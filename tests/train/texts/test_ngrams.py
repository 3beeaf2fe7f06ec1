"""The light recipe for texts: what it promises as a recipe, what its file answers, and how it meets bad texts."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file
from tests.train.texts.source import Told, complaints

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Invalid
from loopworks.core.text import TextRule
from loopworks.core.values import LabelSchema
from loopworks.testing import PluginContract
from loopworks.train import stage
from loopworks.train.texts.ngrams import Ngrams

pytestmark = pytest.mark.train


class TestNgramsAsAPlugin(PluginContract):
    plugin = Ngrams
    refused = {"words": 9, "drop_pieces": 1.0, "pieces": 0, "most_chars": 0}
    name = "train.ngrams"


QUICK = {"epochs": 8, "hidden": 16, "rate": 0.02}


def context(folder: Path, stop: Callable[[], bool] = lambda: False, **more: Any) -> Context:
    return Context(seed=0, scratch=folder, report=more.pop("report", lambda share, text: None), stopped=stop, **more)


def train(folder: Path, source: Told | None = None, **more: Any) -> Bundle:
    values: dict[str, Any] = {"recipe": "ngrams", "params": QUICK, "ctx": context(folder / "scratch"), "threads": 1}
    return stage.train(source or complaints(), folder=folder / "bundle", **{**values, **more})


def ask(bundle: Bundle, *texts: str) -> Any:
    predictor = predictors.load(bundle.variants[0], bundle.folder, bundle.rule, threads=1)
    try:
        return predictor.predict(bundle.rule.pack(texts))["scores"]
    finally:
        predictor.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train(tmp_path_factory.mktemp("ngrams"))


def test_it_learns_which_words_make_a_class(bundle: Bundle) -> None:
    assert bundle.metrics["test"]["accuracy"].value > 0.9  # chance is a third
    assert bundle.notes == ()
    for text, label in (("a POTHOLE", "street"), ("no lamp", "light"), ("有异味的垃圾桶", "垃圾")):
        assert bundle.schema.classes[int(ask(bundle, text).argmax())] == label


def test_the_bundle_is_read_back_whole_and_obeys_its_schema(bundle: Bundle) -> None:
    assert bundles.read(bundle.folder) == bundle
    assert isinstance(bundle.rule, TextRule)
    assert (bundle.task, bundle.recipe) == ("text-classification", "train.ngrams")
    assert [(spec.name, spec.datatype, spec.shape) for spec in bundle.inputs] == [("text", "BYTES", (-1,))]
    schema = json.loads((Path(bundles.__file__).parent / "bundle.schema.json").read_text(encoding="utf-8"))
    body = json.loads((bundle.folder / bundles.FILE).read_text(encoding="utf-8"))
    jsonschema.validate(body, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**body, "preprocessing": {**body["preprocessing"], "hash": "other"}}, schema)


def test_the_graph_is_plain_onnx_with_any_batch_and_length(bundle: Bundle) -> None:
    model = onnx.load(bundle.path("model.onnx"))
    assert [opset.version for opset in model.opset_import] == [20]
    session = onnxruntime.InferenceSession(str(bundle.path("model.onnx")), providers=["CPUExecutionProvider"])
    assert [(x.name, x.type, x.shape) for x in session.get_inputs()] == [
        ("pieces", "tensor(int32)", ["batch", "length"]),
        ("counts", "tensor(float)", ["batch", "length"]),
    ]
    assert [(x.name, x.shape) for x in session.get_outputs()] == [("scores", ["batch", 3])]


def test_a_text_alone_is_answered_as_in_a_batch(bundle: Bundle) -> None:
    texts = ["pothole " * 200, "", "lamp", "垃圾", "?", "never seen gibberish xyzzy"]
    found = ask(bundle, *texts)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    for text, row in zip(texts, found, strict=True):
        np.testing.assert_allclose(ask(bundle, text)[0], row, atol=1e-6)


def test_answers_are_those_of_the_formula(bundle: Bundle) -> None:
    """tf-idf with logarithmic counts, length 1, hidden layer, softmax: worked out in numpy from the stored weights."""
    held = load_file(bundle.path("model.safetensors"))
    text = "The lamp, the lamp!"
    assert isinstance(bundle.rule, TextRule)
    _, buckets, counts = bundle.rule.counts([text])
    place = {int(number): i + 1 for i, number in enumerate(held["known"])}
    known = [(place[int(b)], c) for b, c in zip(buckets, counts, strict=True) if int(b) in place]
    assert len(known) > 10
    weight = np.array([(1 + np.log(c)) * held["idf"][p] for p, c in known])
    weight /= np.linalg.norm(weight)
    hidden = np.maximum(weight @ held["vectors"][[p for p, _ in known]] + held["bias"], 0)
    logits = held["head.weight"] @ hidden + held["head.bias"]
    expected = np.exp(logits - logits.max())
    np.testing.assert_allclose(ask(bundle, text)[0], expected / expected.sum(), atol=1e-5)


def test_the_same_seed_gives_the_same_model_also_after_a_stop(bundle: Bundle, tmp_path: Path) -> None:
    assert train(tmp_path / "again").sha256 == bundle.sha256
    seen: list[int] = []
    stopping = context(tmp_path / "scratch", stop=lambda: len(seen) > 6, metric=lambda *point: seen.append(point[1]))
    with pytest.raises(Cancelled):
        train(tmp_path, ctx=stopping)
    assert not [path.name for path in tmp_path.iterdir() if "bundle" in path.name]
    epochs: list[int] = []
    going_on = context(tmp_path / "scratch", metric=lambda name, step, value: epochs.append(step))
    assert train(tmp_path, ctx=going_on).sha256 == bundle.sha256


def test_progress_never_falls_and_ends_at_one(tmp_path: Path) -> None:
    shares: list[float] = []
    train(tmp_path, ctx=context(tmp_path / "scratch", report=lambda share, text: shares.append(share)))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_without_a_hidden_layer_it_is_logistic_regression(tmp_path: Path) -> None:
    made = train(tmp_path, params={**QUICK, "hidden": 0, "rate": 0.1, "epochs": 20})
    assert made.metrics["test"]["accuracy"].value > 0.9
    assert load_file(made.path("model.safetensors"))["vectors"].shape[1] == 3


def test_several_labels_per_text_are_learnt_independently(tmp_path: Path) -> None:
    source = complaints(300, 60, 60, is_multi=True)
    made = train(tmp_path, source, params={**QUICK, "epochs": 25})
    found = ask(made, *source.said["test"])
    assert ((found > 0.5).sum(axis=1) > 1).any()
    assert float(((found > 0.5) == (source.targets("test") > 0.5)).mean()) > 0.9  # chance is about 0.6
    assert (ask(made, "pothole and lamp and 垃圾") > 0.5).all()


def test_a_warm_start_moves_the_rows_of_classes_and_pieces(bundle: Bundle, tmp_path: Path) -> None:
    source = complaints()
    turned = replace(
        source,
        schema=LabelSchema(classes=tuple(reversed(source.schema.classes))),
        labels={split: rows[:, ::-1].copy() for split, rows in source.labels.items()},
        said={**source.said, "train": [*source.said["train"][:-1], "pothole somewhere else"]},
    )
    made = train(tmp_path, turned, params={**QUICK, "rate": 1e-9, "epochs": 1}, start=bundle)
    assert "began from an earlier model" in made.notes[0]
    assert "3 of 3 classes" in made.notes[0]
    old, new = ask(bundle, "a lamp", "pothole"), ask(made, "a lamp", "pothole")
    np.testing.assert_array_equal(new[:, ::-1].argmax(axis=1), old.argmax(axis=1))


def test_a_warm_start_from_another_kind_of_model_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="start must be a model of train.ngrams that cuts texts alike"):
        train(tmp_path, params={**QUICK, "words": 1}, start=bundle)
    with pytest.raises(Invalid, match="same hidden layer"):
        train(tmp_path, params={**QUICK, "hidden": 8}, start=bundle)
    with pytest.raises(Invalid, match="start must be a model of"):
        train(tmp_path, start=replace(bundle, folder=tmp_path))


def test_without_validation_and_test_splits_it_trains_and_says_so(tmp_path: Path) -> None:
    made = train(tmp_path, complaints(val=0, test=0))
    assert dict(made.metrics) == {}
    assert any("no validation split" in note and "not calibrated" in note for note in made.notes)


def test_a_budget_is_kept_and_noted(tmp_path: Path) -> None:
    began = time.monotonic()
    made = train(tmp_path, complaints(400), params={"hidden": 64, "epochs": 10_000}, budget_s=1.0)
    assert any("time budget ended training" in note for note in made.notes)
    assert time.monotonic() - began < 30  # machines that do other things too; benchmarks measure it


@pytest.mark.parametrize("count", [2, 3])
def test_a_handful_of_texts_is_enough_to_train(tmp_path: Path, count: int) -> None:
    made = train(tmp_path, complaints(count, 0, 0), params={"hidden": 16})
    assert ask(made, "pothole").shape == (1, 3)


def test_a_class_that_occurs_once_or_never_does_not_stop_it(tmp_path: Path) -> None:
    source = complaints(30, 9, 9)
    rare = {split: np.pad(rows, ((0, 0), (0, 2))) for split, rows in source.labels.items()}
    rare["train"][0] = [0, 0, 0, 1, 0]
    schema = LabelSchema(classes=(*source.schema.classes, "once", "never"))
    made = train(tmp_path, replace(source, labels=rare, schema=schema))
    assert ask(made, "pothole").shape == (1, 5)


def test_huge_and_empty_texts_are_learnt_from(tmp_path: Path) -> None:
    source = complaints(30, 9, 9)
    texts = [*source.said["train"][:-3], "", "?!", "pothole road asphalt crack " * 400_000]  # the last one of 10 MB
    made = train(tmp_path, replace(source, said={**source.said, "train": texts}))
    np.testing.assert_allclose(ask(made, "lamp " * 2_000_000, "lamp " * 400)[0], ask(made, "lamp " * 400)[0], atol=1e-6)


def test_texts_without_a_letter_are_refused(tmp_path: Path) -> None:
    source = complaints(30, 0, 0)
    with pytest.raises(Invalid, match="texts of the train split must be with letters or digits in them; got none"):
        train(tmp_path, replace(source, said={"train": ["", " ", "?!"] * 10}))


def test_texts_of_one_class_are_refused(tmp_path: Path) -> None:
    source = complaints()
    only = {split: np.tile(rows[:1], (len(rows), 1)) for split, rows in source.labels.items()}
    with pytest.raises(Invalid, match="at least two classes; got only street"):
        train(tmp_path, replace(source, labels=only))


def test_a_few_right_answers_give_no_boundless_certainty() -> None:
    import torch

    from loopworks.train.texts.course import temperature

    found = temperature(torch.eye(3) * 3, torch.eye(3), is_multi=False)
    assert 0.3 < found < 1.0


@pytest.mark.parametrize("is_multi", [False, True])
def test_the_temperature_is_found_that_logits_were_made_hotter_by(is_multi: bool) -> None:
    import torch

    from loopworks.train.texts.course import temperature

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    grown = np.exp(logits)
    if is_multi:
        targets = rng.random(logits.shape) < grown / (1 + grown)
    else:
        chances = np.cumsum(grown / grown.sum(axis=1, keepdims=True), axis=1)
        targets = np.eye(4)[(rng.random((len(logits), 1)) > chances).sum(axis=1).clip(max=3)]
    truth = torch.tensor(targets.astype(np.float32))
    for heat in (0.5, 1.0, 3.0):
        found = temperature(torch.tensor(logits * heat, dtype=torch.float32), truth, is_multi=is_multi)
        assert found == pytest.approx(heat, rel=0.05)
