"""Fine-tuned text encoders, on a tiny one with random weights that the test writes itself; no hub is asked."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
from tests.train.texts.source import complaints
from tests.train.texts.test_ngrams import ask, context
from tests.train.texts.test_ngrams import train as fit

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Invalid
from loopworks.core.text import TokenRule
from loopworks.core.values import LabelSchema
from loopworks.optimize.stage import optimize
from loopworks.testing import PluginContract
from loopworks.train import weights
from loopworks.train.adopt import adopt
from loopworks.train.texts import tokens
from loopworks.train.texts.encoder import OTHERS, TextEncoder
from loopworks.train.texts.explain import attributions, evidence

pytest.importorskip("transformers", reason="needs the [train] extra")
pytestmark = [pytest.mark.train, pytest.mark.slow]


class TestTextEncoderAsAPlugin(PluginContract):
    plugin = TextEncoder
    refused = {"width": 17, "most_tokens": 0, "rate": 2.0}
    name = "train.text-encoder"


QUICK = {"weights": "random", "width": 32, "vocabulary": 400, "epochs": 20, "batch": 8, "rate": 2e-3}


def train(folder: Path, **more: Any) -> Bundle:
    return fit(folder, **{"recipe": "text-encoder", "params": QUICK, **more})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small encoder from random weights; its folder is one that transformers reads."""
    return train(tmp_path_factory.mktemp("encoder"), source=complaints(240, 24, 48))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three classes in another order than ours, as transformers writes it: random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("hub") / "theirs"
    folder.mkdir()
    said = ["the lamp is dark", "a pothole in the road", "垃圾桶 异味"]
    size = tokens.train(said * 20, folder / "tokenizer.json", 300)
    names = ["垃圾", "light", "street"]
    config = BertConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
        id2label=dict(enumerate(names)),
        label2id={name: place for place, name in enumerate(names)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.save_pretrained(folder)
    return folder


def test_a_folder_from_elsewhere_is_registered_optimized_and_asked(theirs: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    source = complaints(30, 12, 12)
    taken = adopt(theirs, task=source.task, source=source, folder=tmp_path / "taken", ctx=context(tmp_path / "a"))
    assert taken.schema.classes == source.schema.classes != ("垃圾", "light", "street")
    assert "test" in taken.metrics
    texts = ["the lamp at the corner is dark", "异味", "pothole " * 100]
    found = ask(taken, *texts)
    model = AutoModelForSequenceClassification.from_pretrained(theirs).eval()
    assert isinstance(taken.rule, TokenRule)
    rule = taken.rule.opened(taken.folder)
    for text, chances in zip(texts, found, strict=True):
        row = torch.from_numpy(rule.encode(rule.pack([text]))["tokens"])
        with torch.inference_mode():
            wanted = model(input_ids=row).logits.softmax(1)[0]
        order = [["垃圾", "light", "street"].index(name) for name in source.schema.classes]
        assert chances == pytest.approx(wanted[order].numpy(), abs=1e-4)
    best = optimize(taken, source, folder=tmp_path / "best", ctx=context(tmp_path / "b"), max_drop=1.0)
    assert len(best.variants) > 1
    assert ask(best, *texts).shape == (3, 3)


def test_folders_that_are_no_text_classifiers_are_refused(theirs: Path, tmp_path: Path) -> None:
    task = complaints(3, 3, 3).task

    def refused(folder: Path, **more: Any) -> str:
        with pytest.raises(Invalid) as caught:
            adopt(folder, task=task, folder=tmp_path / "out", ctx=context(tmp_path / "scratch"), **more)
        assert not (tmp_path / "out").exists()
        return f"{caught.value.message} {caught.value.hint}"

    assert "classes must be 3" in refused(theirs, classes=("a", "b"))
    for name, words in (("tokenizer.json", "none called tokenizer.json"), ("model.safetensors", "none called model")):
        lacking = tmp_path / f"without {name}"
        shutil.copytree(theirs, lacking, ignore=shutil.ignore_patterns(name))
        assert words in refused(lacking)
    damaged = tmp_path / "damaged"
    shutil.copytree(theirs, damaged)
    (damaged / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "tokenizer" in refused(damaged)
    headless = tmp_path / "headless"
    shutil.copytree(theirs, headless)
    from safetensors.torch import load_file, save_file

    kept = {name: x for name, x in load_file(theirs / "model.safetensors").items() if "classifier" not in name}
    save_file(kept, headless / "model.safetensors", metadata={"format": "pt"})
    assert "recipe text-encoder" in refused(headless)


def test_a_random_encoder_learns_and_says_how_it_began(bundle: Bundle) -> None:
    assert bundle.metrics["test"]["accuracy"].value > 0.8  # chance is a third
    assert bundle.notes == ("the encoder began small and from random weights: asked for",)
    assert {"config.json", "model.onnx", "model.safetensors", "tokenizer.json"} <= set(bundle.sha256)
    assert isinstance(bundle.rule, TokenRule)
    assert bundles.read(bundle.folder) == bundle
    schema = json.loads((Path(bundles.__file__).parent / "bundle.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((bundle.folder / bundles.FILE).read_text(encoding="utf-8")), schema)


def test_the_files_name_nothing_of_this_machine(bundle: Bundle) -> None:
    for name in ("config.json", "tokenizer.json", "model.onnx"):
        data = bundle.path(name).read_bytes()
        for trace in (b"site-packages", str(bundle.folder.parent).encode(), str(Path.home()).encode() + b"/"):
            assert trace not in data


def test_a_text_alone_is_answered_as_in_a_batch(bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(str(bundle.path("model.onnx")), providers=["CPUExecutionProvider"])
    assert [(x.name, x.type, x.shape) for x in session.get_inputs()] == [
        ("tokens", "tensor(int64)", ["batch", "length"])
    ]
    texts = ["a pothole", "", "lamp " * 500, "垃圾桶", "x" * 100_000]
    found = ask(bundle, *texts)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    for text, row in zip(texts, found, strict=True):
        np.testing.assert_allclose(ask(bundle, text)[0], row, atol=1e-5)


def test_the_same_seed_gives_the_same_model_also_after_a_stop(tmp_path: Path) -> None:
    params = {**QUICK, "epochs": 3, "layers": 1}
    first = train(tmp_path / "first", params=params)
    seen: list[int] = []
    stopping = context(tmp_path / "scratch", stop=lambda: bool(seen), metric=lambda *point: seen.append(point[1]))
    with pytest.raises(Cancelled):
        train(tmp_path, params=params, ctx=stopping)
    assert train(tmp_path, params=params).sha256 == first.sha256


def test_a_folder_of_pretrained_weights_is_fine_tuned(bundle: Bundle, tmp_path: Path) -> None:
    """Fine-tuning what has learnt the task already needs no epoch to be better than chance."""
    params = {"encoder": str(bundle.folder), "epochs": 1, "rate": 1e-3}
    made = train(tmp_path, params=params)
    assert made.notes == (f"the encoder began from pretrained weights ({bundle.folder})",)
    assert made.metrics["test"]["accuracy"].value > 0.8
    assert made.sha256["tokenizer.json"] == bundle.sha256["tokenizer.json"]


def test_a_warm_start_moves_the_rows_of_classes(bundle: Bundle, tmp_path: Path) -> None:
    source = complaints()
    more = replace(
        source,
        schema=LabelSchema(classes=("other", *reversed(source.schema.classes))),
        labels={split: np.pad(rows[:, ::-1], ((0, 0), (1, 0))) for split, rows in source.labels.items()},
    )
    made = train(tmp_path, source=more, params={"epochs": 1, "rate": 1e-9}, start=bundle)
    assert "3 of 4 classes" in made.notes[0]
    texts = ["a pothole here", "no lamp", "垃圾桶"]
    old, new = ask(bundle, *texts), ask(made, *texts)
    np.testing.assert_array_equal(new[:, :0:-1].argmax(axis=1), old.argmax(axis=1))


def test_several_labels_per_text_and_no_validation(tmp_path: Path) -> None:
    made = train(tmp_path, source=complaints(24, 0, 9, is_multi=True), params={**QUICK, "epochs": 1, "layers": 1})
    assert any("no validation split" in note for note in made.notes)
    found = ask(made, "a pothole", "")
    assert found.shape == (2, 3)
    assert not np.allclose(found.sum(axis=1), 1)


def test_where_the_hub_cannot_be_reached_it_begins_small_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def find(repo: str, ctx: Context, others: Any = ()) -> tuple[None, str]:
        asked.append((repo, others))
        return None, "the hub cannot be reached (no answer in time)"

    monkeypatch.setattr(weights, "find", find)
    made = train(tmp_path, params={**QUICK, "weights": "auto", "epochs": 1, "layers": 1})
    assert asked == [("intfloat/multilingual-e5-small", OTHERS)]
    assert made.notes[0] == (
        "the encoder began small and from random weights: the hub cannot be reached (no answer in time)"
    )


def test_folders_that_hold_no_encoder_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    params = {"encoder": str(folder)}
    with pytest.raises(Invalid, match=r"must be a folder with config.json, tokenizer.json, model.safetensors; got no"):
        train(tmp_path, params=params)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes(bundle.path(name).read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"pickle")  # never opened
    with pytest.raises(Invalid, match=r"got no model.safetensors"):
        train(tmp_path, params=params)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(Invalid, match="must be one that transformers can classify texts with"):
        train(tmp_path, params=params)
    with pytest.raises(Invalid, match="encoder must be a folder, or owner/name on the hub"):
        train(tmp_path, params={"encoder": str(tmp_path / "nowhere")})
    with pytest.raises(Invalid, match="weights must be auto or random"):
        train(tmp_path, params={"weights": "mine.bin"})


@pytest.mark.optimize
def test_variants_of_an_encoder_are_made_and_answer_alike(bundle: Bundle, tmp_path: Path) -> None:
    made = optimize(
        bundle,
        complaints(240, 24, 48),
        folder=tmp_path / "best",
        variants=["onnx-int8", "openvino-fp32"],
        ctx=context(tmp_path / "scratch"),
        threads=1,
    )
    assert [variant.name for variant in made.variants] == ["onnx-fp32", "onnx-int8", "openvino-fp32"]
    for variant in made.variants:
        assert variant.agreement is not None
        assert variant.agreement > 0.9
        assert variant.metrics["test"]["accuracy"].value > 0.8


def test_words_that_make_the_class_weigh_most_by_being_left_out(bundle: Bundle) -> None:
    text = "please somebody the POTHOLE near my house"
    found = attributions(bundle, text, "street")
    assert [text[start:end] for start, end, _ in found] == text.split()
    start, end, _ = max(found, key=lambda span: span[2])
    assert text[start:end] == "POTHOLE"
    scores = ask(bundle, text)[0].astype(np.float64)
    seen = evidence(bundle, text, "street")
    assert seen.total == pytest.approx(float(np.log(scores[0]) - np.log(scores).mean()), abs=1e-3)
    assert attributions(bundle, "") == []
    assert len(attributions(bundle, "word " * 100_000)) <= 128


def test_the_default_is_chosen_where_its_weights_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "cached", lambda repo, others=(): None)
    assert TextEncoder.fitness(complaints(), None)[0] < 0.5
    monkeypatch.setattr(weights, "cached", lambda repo, others=(): Path("here"))
    assert TextEncoder.fitness(complaints(), None)[0] > 0.7
    assert TextEncoder.fitness(complaints(), 60.0)[0] < 0.5
