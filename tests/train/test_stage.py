"""Training as a user asks for it: from labeled images to a bundle."""

import json
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
from tests.train.source import Memory, squares

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Conflict, Failed, Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.train import stage
from loopworks.train.contracts import Lesson

pytestmark = pytest.mark.train
QUICK = {"epochs": 3, "width": 4, "image_size": 16, "batch": 8, "light": 0.0}


def context(folder: Path, seed: int = 0, stop: Callable[[], bool] = lambda: False, **more: Any) -> Context:
    return Context(seed=seed, scratch=folder, report=more.pop("report", lambda share, text: None), stopped=stop, **more)


def train(folder: Path, source: Memory | None = None, **more: Any) -> Bundle:
    values: dict[str, Any] = {"recipe": "small-cnn", "params": QUICK, "ctx": context(folder / "scratch"), "threads": 1}
    return stage.train(source or squares(), folder=folder / "bundle", **{**values, **more})


@pytest.fixture(scope="module")
def source() -> Memory:
    return squares()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def points() -> list[tuple[str, int, float]]:
    return []


@pytest.fixture(scope="module")
def bundle(folder: Path, source: Memory, points: list[tuple[str, int, float]]) -> Bundle:
    ctx = context(folder / "scratch", metric=lambda *point: points.append(point))
    return train(folder, source, ctx=ctx)


def test_the_bundle_is_read_back_whole(bundle: Bundle) -> None:
    assert bundles.read(bundle.folder) == bundle
    assert sorted(bundle.sha256) == ["card.md", "evaluation.json", "model.onnx", "model.safetensors"]
    assert (bundle.task, bundle.recipe, bundle.version) == ("image-classification", "train.small-cnn", "0" * 64)
    assert bundle.chosen == "onnx-fp32"
    assert bundle.rule == ImageRule(height=16, width=16)
    assert bundle.params["epochs"] == 3
    assert set(bundle.metrics) == {"val", "test"}
    assert bundle.metrics["test"]["accuracy"].count == 12


def test_the_bundle_obeys_its_published_schema(bundle: Bundle) -> None:
    schema = json.loads((Path(bundles.__file__).parent / "bundle.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    body = json.loads((bundle.folder / bundles.FILE).read_text(encoding="utf-8"))
    jsonschema.validate(body, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**body, "format": 2}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({key: value for key, value in body.items() if key != "preprocessing"}, schema)


def test_any_onnx_runtime_gives_our_answers_from_raw_pixels(bundle: Bundle, source: Memory) -> None:
    session = onnxruntime.InferenceSession(str(bundle.path("model.onnx")), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    (scores,) = session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 16, 16, 3])
    assert (scores.name, scores.type, scores.shape) == ("scores", "tensor(float)", ["batch", 3])
    pixels = source.inputs(bundle.rule, "test")["image"]
    found = session.run(None, {"image": pixels})[0]
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    right = float((found.argmax(axis=1) == source.targets("test").argmax(axis=1)).mean())
    assert right == bundle.metrics["test"]["accuracy"].value
    one = session.run(None, {"image": pixels[:1]})[0]
    np.testing.assert_allclose(one, found[:1], atol=1e-5)


def test_the_onnx_file_names_nothing_of_this_machine(bundle: Bundle) -> None:
    data = bundle.path("model.onnx").read_bytes()
    for trace in (b"site-packages", b"loopworks/train", b"stack_trace", str(Path.home()).encode()):
        assert trace not in data
    model = onnx.load_from_string(data)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [20]


def test_curves_were_reported_for_every_epoch(bundle: Bundle, points: list[tuple[str, int, float]]) -> None:
    for name in ("train_loss", "val_loss", "val_headline"):
        assert [step for what, step, _ in points if what == name] == [1, 2, 3]


def test_the_same_seed_gives_the_same_model_and_leaves_the_source_alone(
    bundle: Bundle, source: Memory, tmp_path: Path
) -> None:
    before = {split: images.copy() for split, images in source.images.items()}
    again = train(tmp_path, source)
    assert again.sha256["model.onnx"] == bundle.sha256["model.onnx"]
    assert again.metrics == bundle.metrics
    old, new = (load_file(b.path("model.safetensors")) for b in (bundle, again))
    assert all(np.array_equal(old[name], new[name]) for name in old)
    assert all(np.array_equal(before[split], source.images[split]) for split in before)


def test_a_warm_start_takes_over_weights_and_rows_of_classes_that_stay(
    bundle: Bundle, source: Memory, tmp_path: Path
) -> None:
    schema = replace(source.schema, classes=("place 2", "place 1", "place 0"))
    labels = {split: rows[:, ::-1].copy() for split, rows in source.labels.items()}
    turned = replace(source, schema=schema, labels=labels, id="1" * 64)
    params = {**QUICK, "epochs": 1, "rate": 1e-9}
    made = train(tmp_path, turned, params=params, start=bundle)
    assert "began from an earlier model" in made.notes[0]
    old, new = (load_file(b.path("model.safetensors")) for b in (bundle, made))
    np.testing.assert_allclose(new["head.weight"], old["head.weight"][::-1], atol=1e-6)
    np.testing.assert_allclose(new["stem.weight"], old["stem.weight"], atol=1e-6)


def test_a_warm_start_from_a_model_that_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="same recipe"):
        train(tmp_path, params={**QUICK, "width": 6}, start=bundle)
    with pytest.raises(Invalid, match=r"model\.safetensors"):
        train(tmp_path, start=replace(bundle, folder=tmp_path))


def test_several_labels_per_image_are_learnt_independently(tmp_path: Path) -> None:
    source = squares(is_multi=True, train=48)
    made = train(tmp_path, source, params={**QUICK, "epochs": 12, "rate": 0.01})
    session = onnxruntime.InferenceSession(str(made.path("model.onnx")), providers=["CPUExecutionProvider"])
    scores = session.run(None, {"image": source.inputs(made.rule, "test")["image"]})[0]
    assert ((scores > 0.5).sum(axis=1) > 1).any()
    hits = float(((scores > 0.5) == (source.targets("test") > 0.5)).mean())
    assert hits > 0.8


def test_without_validation_and_test_splits_it_trains_and_says_so(tmp_path: Path) -> None:
    made = train(tmp_path, squares(val=0, test=0))
    assert dict(made.metrics) == {}
    assert any("no validation split" in note for note in made.notes)


def test_stopping_leaves_no_half_bundle_and_the_next_run_ends(tmp_path: Path, bundle: Bundle, source: Memory) -> None:
    seen: list[int] = []

    def metric(name: str, step: int, value: float) -> None:
        seen.append(step)

    with pytest.raises(Cancelled):
        train(tmp_path, source, ctx=context(tmp_path / "scratch", stop=lambda: bool(seen), metric=metric))
    assert not [path.name for path in tmp_path.iterdir() if "bundle" in path.name]
    again = train(tmp_path, source)
    assert again.sha256["model.onnx"] == bundle.sha256["model.onnx"]


def test_the_bundle_of_a_killed_run_is_made_again(tmp_path: Path, bundle: Bundle, source: Memory) -> None:
    left = tmp_path / ".bundle.part"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    assert train(tmp_path, source).sha256 == bundle.sha256
    assert not left.exists()


def test_a_budget_is_kept_and_noted(tmp_path: Path) -> None:
    made = train(tmp_path, params={**QUICK, "epochs": 10_000}, budget_s=6.0)
    assert any("time budget ended training" in note for note in made.notes)


def test_progress_never_falls_and_ends_at_one(tmp_path: Path, source: Memory) -> None:
    shares: list[float] = []
    train(tmp_path, source, ctx=context(tmp_path / "scratch", report=lambda share, text: shares.append(share)))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"recipe": "nope"}, NotFound, r"train\.nope"),
        ({"params": {"epochs": -1}}, Invalid, r"train\.small-cnn\.epochs must be greater than or equal to 0; got -1"),
        ({"params": {"speed": 1}}, NotFound, r"parameter of train\.small-cnn 'speed' does not exist"),
        ({"params": {"flip": "sideways"}}, Invalid, "'none', 'horizontal' or 'both'"),
        ({"params": {"rate": "quick"}}, Invalid, r"train\.small-cnn\.rate must be a valid number"),
        ({"budget_s": 0.0}, Invalid, "budget_s must be above 0 seconds; got 0.0"),
        ({"budget_s": float("nan")}, Invalid, "budget_s"),
        ({"threads": -1}, Invalid, "threads must be between 0 and 1024"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_learnt_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="train split must be at least one labeled item"):
        train(tmp_path, squares(train=0))
    source = squares()
    only = {split: np.tile(rows[:1], (len(rows), 1)) for split, rows in source.labels.items()}
    with pytest.raises(Invalid, match="at least two classes; got only place 0"):
        train(tmp_path, replace(source, labels=only))


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    taken = tmp_path / "bundle"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(Conflict, match="must be empty or absent"):
        train(tmp_path)
    assert (taken / "mine.txt").read_text(encoding="utf-8") == "keep"


def test_auto_takes_the_small_network_for_small_images_and_says_why(tmp_path: Path) -> None:
    made = train(tmp_path, recipe="auto")
    assert made.recipe == "train.small-cnn"
    assert made.notes[0] == "recipe chosen: small-cnn (images of at most 48 pixels)"


def test_a_recipe_of_one_file_works_like_ours(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Copy:
        def run(self, source: Lesson, ctx: Context) -> Any:
            made = plugins.get("train.small-cnn")(**QUICK).run(source, ctx)
            return replace(made, notes=("made by a plug-in",))

    monkeypatch.setitem(plugins._found, "train.copy", __import__("dataclasses").dataclass(frozen=True)(Copy))
    made = train(tmp_path, recipe="copy", params={})
    assert (made.recipe, made.notes[0]) == ("train.copy", "made by a plug-in")


def chances(raw: Any) -> dict[str, Any]:
    return {"scores": raw.softmax(1)}


def test_an_export_that_answers_otherwise_fails(bundle: Bundle, tmp_path: Path) -> None:
    import torch

    from loopworks.train.export import Served, check
    from loopworks.train.nets import CompactCnn

    assert isinstance(bundle.rule, ImageRule)
    network = CompactCnn(3, [4, 8, 16], 1, 1, 0.0).eval()
    other = Served(network, torch.zeros(3), torch.ones(3), chances, ["scores"]).eval()
    with pytest.raises(Failed, match="within 0.0001 of torch's"):
        check(other, bundle.rule, bundle.path("model.onnx"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(Failed, match="must run"):
        check(other, bundle.rule, broken)


def test_a_network_that_cannot_be_exported_fails_with_a_hint(tmp_path: Path) -> None:
    import torch

    from loopworks.train.export import Served, export

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    served = Served(Odd(), torch.zeros(3), torch.ones(3), chances, ["scores"]).eval()
    with pytest.raises(Failed, match="export to ONNX must succeed") as caught:
        export(served, ImageRule(height=8, width=8), tmp_path / "model.onnx")
    assert "backbone" in caught.value.hint
    assert not (tmp_path / "model.onnx").exists()
