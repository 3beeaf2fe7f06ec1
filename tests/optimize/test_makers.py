"""The makers beside plain INT8: what they change, what they refuse, and that the tournament uses them rightly."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests.optimize import nets
from tests.train.source import Memory

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context
from loopworks.core.errors import Damaged, Failed
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.infer.lightgbm import LightGbmRuntime
from loopworks.optimize import graph, measure, tournament
from loopworks.optimize.contracts import Origin
from loopworks.optimize.native import Native
from loopworks.optimize.openvino import OpenVinoInt8Accurate
from loopworks.optimize.stage import optimize
from loopworks.tasks.classes import Classes
from loopworks.testing import RuntimeContract

pytestmark = [pytest.mark.train, pytest.mark.optimize]


def context(folder: Path) -> Context:
    return Context(seed=0, scratch=folder, report=lambda share, text: None, stopped=lambda: False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SLOT_S", 0.001)
    monkeypatch.setattr(measure, "STARTS", 0)
    monkeypatch.setattr(tournament, "MAKER_LIMIT_S", 900.0)  # a busy machine must not decide what is made
    monkeypatch.setattr(tournament, "MAKING_S", 900.0)


@pytest.fixture(scope="module")
def source() -> Memory:
    return nets.pictures()


def run(model: Bundle, source: Memory, folder: Path, *variants: str, **how: Any) -> Bundle:
    return optimize(model, source, folder=folder / "best", ctx=context(folder), threads=1, variants=variants, **how)


def nodes(made: Bundle, name: str) -> list[Any]:
    return list(onnx.load(str(made.path(made.variant(name).file))).graph.node)


def said(made: Bundle, name: str, source: Memory) -> NDArray[np.float32]:
    predictor = predictors.load(made.variant(name), made.folder, made.rule, threads=1)
    try:
        scores: NDArray[np.float32] = predictor.predict({"image": source.images["test"]})["scores"]
    finally:
        predictor.close()
    return scores


def test_smaller_images_go_through_the_same_weights_and_the_same_signature(source: Memory, tmp_path: Path) -> None:
    made = run(nets.colors(tmp_path / "m"), source, tmp_path, "lower75", "lower50", "onnx-int8")
    assert made.inputs[0].shape == (-1, 48, 48, 3)
    for name, side in (("lower75", 36), ("lower50", 24)):
        shapes = onnx.shape_inference.infer_shapes(onnx.load(str(made.path(made.variant(name).file))))
        (seen,) = [value for value in shapes.graph.value_info if value.name == "seen"]
        assert [axis.dim_value for axis in seen.type.tensor_type.shape.dim][2:] == [side, side]
        np.testing.assert_allclose(said(made, name, source), said(made, "onnx-fp32", source), atol=0.1)
        assert not made.variant(name).is_refused


def test_the_quickest_kind_of_variant_is_also_made_of_another_graph(
    source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "quick_s", lambda predictor, item: 0.001 if "OpenVino" in repr(predictor) else 1.0)
    made = run(nets.colors(tmp_path / "m"), source, tmp_path, "lower50", "onnx-int8", "openvino-bf16", "openvino-fp32")
    names = [variant.name for variant in made.variants]
    quickest = next(name for name in ("openvino-bf16", "openvino-fp32") if name in names)  # bf16 where there is such
    assert names[-2:] == ["lower50", f"lower50-{quickest}"]
    assert made.variant(f"lower50-{quickest}").file == f"lower50-{quickest}/model.xml"
    assert (made.folder / f"lower50-{quickest}" / "model.bin").is_file()


def test_where_fp32_is_the_quickest_no_more_is_made_of_another_graph(
    source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "quick_s", lambda predictor, item: 1.0)
    made = run(nets.colors(tmp_path / "m"), source, tmp_path, "lower50", "onnx-int8")
    assert [variant.name for variant in made.variants] == ["onnx-fp32", "onnx-int8", "lower50"]


def test_a_graph_outside_the_budget_is_not_worked_on(source: Memory, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(measure, "quick_s", lambda predictor, item: 1.0 / len(tmp_path.name))
    broken = nets.colors(tmp_path / "m")
    weak = nets.pictures(strength=0)  # nothing to see: answers hang on the noise that smaller images lose
    made = run(broken, weak, tmp_path, "lower50", max_drop=0.0)
    assert made.variant("lower50").is_refused
    assert "val" in made.variant("lower50").note
    assert made.chosen == "onnx-fp32"


def test_a_network_of_one_size_says_so(source: Memory, tmp_path: Path) -> None:
    made = run(nets.fixed(tmp_path / "m"), source, tmp_path, "lower50")
    assert [variant.name for variant in made.variants] == ["onnx-fp32"]
    assert any("lower50 could not be made: the network must take smaller images" in note for note in made.notes)
    assert not (made.folder / "lower50").exists()


def test_every_operator_is_quantized_but_those_after_the_last_layer(source: Memory, tmp_path: Path) -> None:
    model = nets.colors(tmp_path / "m")
    assert graph.after_layers(model.path("model.onnx")) == ["softmax"]
    made = run(model, source, tmp_path, "onnx-int8", "onnx-int8-all")
    counts = {
        name: sum(node.op_type == "QuantizeLinear" for node in nodes(made, name))
        for name in ("onnx-int8", "onnx-int8-all")
    }
    assert counts["onnx-int8-all"] > counts["onnx-int8"] >= 2
    assert nodes(made, "onnx-int8-all")[-1].output[0] == "scores"
    assert nodes(made, "onnx-int8-all")[-1].op_type == "Softmax", "the answer itself stays in float32"
    for name in counts:
        assert made.variant(name).agreement == 1.0


def test_products_alone_are_quantized_without_calibration(source: Memory, tmp_path: Path) -> None:
    made = run(nets.products(tmp_path / "m"), source, tmp_path, "onnx-int8-dynamic", "onnx-int8-all")
    assert [variant.name for variant in made.variants] == ["onnx-fp32", "onnx-int8-dynamic"]
    kinds = {node.op_type for node in nodes(made, "onnx-int8-dynamic")}
    assert "MatMulInteger" in kinds
    assert "MatMul" not in kinds
    assert any("onnx-int8-all was left out: it needs a network of convolutions" in note for note in made.notes)
    assert made.variant("onnx-int8-dynamic").agreement == 1.0


def test_layers_are_given_back_until_the_budget_is_kept(source: Memory, tmp_path: Path) -> None:
    made = run(nets.delicate(tmp_path / "m"), source, tmp_path, "openvino-int8", "openvino-int8-accurate")
    plain, careful = made.variant("openvino-int8"), made.variant("openvino-int8-accurate")
    assert plain.is_refused
    assert "worst hit: " in plain.note
    assert any(name in plain.note for name in ("green", "blue"))
    assert not careful.is_refused
    assert careful.metrics["val"]["accuracy"].value >= made.variants[0].metrics["val"]["accuracy"].value - 0.01
    assert careful.runtime == "openvino"


def test_accuracy_control_is_left_out_where_plain_int8_will_do(source: Memory, tmp_path: Path) -> None:
    made = run(nets.colors(tmp_path / "m"), source, tmp_path, "openvino-int8", "openvino-int8-accurate")
    assert [variant.name for variant in made.variants] == ["onnx-fp32", "openvino-int8"]
    assert any("openvino-int8-accurate was left out" in note for note in made.notes)


def test_accuracy_control_ends_when_its_time_is_over(source: Memory, tmp_path: Path) -> None:
    model = nets.delicate(tmp_path / "m")
    (tmp_path / "out").mkdir()
    told: list[str] = []

    def report(share: float, text: str) -> None:
        told.append(text)
        if text == "restore accuracy":
            raise Failed("it must be made within 60 s; got no end")

    origin = Origin(
        bundle=model, onnx=model.path("model.onnx"), folder=tmp_path / "out", max_drop=0.0,
        calibration={"image": source.images["train"]}, val={"image": source.images["val"]},
        score=lambda outputs: 0.0, tried={"openvino-int8": True},
    )  # fmt: skip
    assert OpenVinoInt8Accurate().unfit(origin) == ""
    with pytest.raises(Failed, match="within 60 s"):
        OpenVinoInt8Accurate().run(origin, replace(context(tmp_path), report=report))
    assert told[-1] == "restore accuracy"


# ---- trees


def forest(folder: Path) -> Bundle:
    """A real boosted model of two numbers and three classes, as a tabular recipe writes it."""
    import lightgbm

    from loopworks.core.row import Column, RowRule
    from loopworks.train.tables.blend import Blend
    from loopworks.train.tables.calibrate import Calibration
    from loopworks.train.tables.members import Trees

    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 2)).astype(np.float32)
    target = (features[:, 0] > 0).astype(int) + (features[:, 1] > 0.5)
    params = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1, "num_leaves": 7}
    grown = lightgbm.train(params, lightgbm.Dataset(features, target), num_boost_round=8)
    folder.mkdir(parents=True)
    output = TensorSpec(name="scores", datatype="FP32", shape=(-1, 3))
    blend = Blend(
        members=[Trees.of(grown.model_to_string())] * 2,
        weights=[0.25, 0.75],
        calibration=Calibration(kind="scale", scale=1.5),
    )
    variant = blend.save(folder, 2, output)
    rule = RowRule(columns=(Column(name="a", kind="number"), Column(name="b", kind="number")))
    return bundles.write(
        Bundle(
            task="tabular-classification",
            schema=LabelSchema(classes=("x", "y", "z")),
            rule=rule,
            inputs=rule.inputs(),
            outputs=(output,),
            version="0" * 64,
            recipe="train.lightgbm",
            variants=(variant,),
            chosen=variant.name,
        ),
        folder,
    )


def taken(model: Bundle, folder: Path) -> Origin:
    folder.mkdir()
    features = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    return Origin(bundle=model, onnx=model.path("model.onnx"), calibration={"features": features}, folder=folder)


def test_trees_answer_on_lightgbm_as_in_the_graph(tmp_path: Path) -> None:
    model = forest(tmp_path / "m")
    origin = taken(model, tmp_path / "out")
    assert Native().unfit(origin) == ""
    variant = Native().run(origin, context(tmp_path))
    assert variant.size_bytes == sum((origin.folder / file).stat().st_size for file in variant.files)
    rows = {"a": np.array([[0.3], [-1.0], [np.nan]]), "b": np.array([[1.0], [0.2], [0.1]])}
    answers = []
    for one, folder in ((variant, origin.folder), (model.variants[0], model.folder)):
        predictor = predictors.load(one, folder, model.rule, threads=1)
        answers.append(predictor.predict(rows)["scores"])
        predictor.close()
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_trees_without_their_text_are_left_alone(tmp_path: Path) -> None:
    model = forest(tmp_path / "m")
    (model.folder / "parts.json").unlink()
    origin = taken(bundles.write(model, model.folder), tmp_path / "out")
    assert Native().unfit(origin) == "trees with their text files"


def test_text_files_that_do_not_fit_the_graph_are_damage(tmp_path: Path) -> None:
    model = forest(tmp_path / "m")
    body = json.loads(model.path("parts.json").read_text(encoding="utf-8"))
    body["members"].pop()
    model.path("parts.json").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(Damaged, match=r"a tree operator per file \(1\); got 2"):
        Native().run(taken(model, tmp_path / "out"), context(tmp_path))


class TestLightGbmAsARuntime(RuntimeContract):
    plugin = LightGbmRuntime

    def model(self, folder: Path) -> Path:
        if not (folder / "out" / "model.json").is_file():
            shutil.rmtree(folder / "out", ignore_errors=True)
            shutil.rmtree(folder / "m", ignore_errors=True)
            origin = taken(forest(folder / "m"), folder / "out")
            Native().run(origin, context(folder))
        return folder / "out" / "model.json"

    def batch(self) -> Arrays:
        return {"features": np.random.default_rng(2).normal(size=(5, 2)).astype(np.float32)}


# ---- what is trained


def test_a_students_labels_are_mostly_what_the_teacher_says() -> None:
    labels = np.array([[1, 0], [0, 1]], np.float32)
    chances = np.array([[0.81, 0.09], [0.5, 0.5]])  # need not add up to 1 to the last bit
    task, schema = Classes("image-classification", "image"), LabelSchema(classes=("a", "b"))
    found = task.taught(labels, {"scores": chances}, schema, share=0.7, seed=0)
    # By hand: roots 0.9 and 0.3 make 0.75 and 0.25; 0.7 of that and 0.3 of the label.
    np.testing.assert_allclose(found, [[0.825, 0.175], [0.35, 0.65]], atol=1e-6)
    multi = task.taught(labels, {"scores": chances}, replace(schema, is_multi=True), share=0.7, seed=0)
    np.testing.assert_allclose(multi, [[0.867, 0.063], [0.35, 0.65]], atol=1e-6)


def learner(made: Bundle, asked: dict[str, Any]) -> Callable[..., Bundle]:
    """Instead of a training: remembers what it was asked for, and gives back a copy of a model."""

    def learn(source: Any, *, folder: Path, **how: Any) -> Bundle:
        asked.update(how, train=source.targets("train"), val=source.targets("val"), size=source.typical_size)
        shutil.copytree(made.folder, folder)
        return replace(made, folder=folder)

    return learn


def test_distillation_trains_a_small_recipe_on_soft_labels_of_train_alone(source: Memory, tmp_path: Path) -> None:
    model = nets.colors(tmp_path / "m")
    asked: dict[str, Any] = {}
    made = run(model, source, tmp_path, asked=["distilled"], budget_s=7.0, learn=learner(model, asked))
    assert asked["recipe"] == "train.small-cnn"
    assert (asked["params"]["image_size"], asked["budget_s"], asked["start"]) == (48, 7.0, None)
    np.testing.assert_allclose(asked["train"].sum(axis=1), 1, atol=1e-5)
    assert 0 < asked["train"].min() < asked["train"].max() < 1
    assert np.array_equal(asked["val"], source.labels["val"])
    assert asked["size"] == (48, 48)
    assert made.variant("distilled").agreement == 1.0
    assert made.variant("distilled").files == ("distilled/model.onnx",)


def test_without_a_way_to_train_what_trains_is_left_out(source: Memory, tmp_path: Path) -> None:
    made = run(nets.colors(tmp_path / "m"), source, tmp_path, asked=["distilled", "pruned"])
    assert [variant.name for variant in made.variants] == ["onnx-fp32"]
    assert sum("was left out: it needs" in note for note in made.notes) == 2


def test_a_student_that_takes_other_images_is_refused(source: Memory, tmp_path: Path) -> None:
    model = nets.colors(tmp_path / "m")
    other = replace(model, rule=ImageRule(height=32, width=32))
    made = run(model, source, tmp_path, asked=["distilled"], learn=learner(other, {}))
    assert any("distilled could not be made: distilled must take items as the model does" in n for n in made.notes)


def test_channels_go_where_the_weights_are_smallest_and_the_network_still_fits_together() -> None:
    import torch

    from loopworks.train.nets import CompactCnn
    from loopworks.train.prune import prune

    torch.manual_seed(0)
    network = CompactCnn(3, [16, 32, 64], 1, 1, 0.0)
    last: Any = network.stages[2]
    with torch.no_grad():
        for part in (last.second.weight[:32], network.head.weight[:, :32], last.short[0].weight[:32]):
            part *= 1e-3
    kept = network.head.weight[:, 32:].clone()
    before = sum(x.numel() for x in network.parameters())
    said = prune(network, "head", 0.5, (32, 32))
    after = sum(x.numel() for x in network.parameters())
    assert after < 0.4 * before
    assert said == f"50% of the channels were taken out: {after} of {before} weights are left"
    assert network.head.weight.shape == (3, 32)
    assert torch.equal(network.head.weight, kept)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_a_network_that_cannot_be_pruned_says_so() -> None:
    from torch import nn

    from loopworks.train.prune import prune

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 8 * 8, 2)

        def forward(self, x: Any) -> Any:
            return self.head(x.flatten(1))

    with pytest.raises(Failed, match="must be removable"):
        prune(Flat(), "head", 0.5, (8, 8))


def test_a_variant_is_a_plain_value(source: Memory, tmp_path: Path) -> None:
    made = run(nets.colors(tmp_path / "m"), source, tmp_path, "lower75")
    assert all(isinstance(variant, Variant) for variant in made.variants)
    assert (made.folder / "front.svg").read_text(encoding="utf-8").startswith("<svg")
    assert made.measured_on["instructions"] == sorted(made.measured_on["instructions"])
    assert made.measured_on["versions"]["onnxruntime"]
