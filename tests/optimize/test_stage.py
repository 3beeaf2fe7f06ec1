"""The tournament: what is made, measured, refused and chosen."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests.train.source import Memory, squares

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context
from loopworks.core.errors import Cancelled, Conflict, Damaged, Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema
from loopworks.optimize import measure, onnx_int8, stage, tournament
from loopworks.optimize.contracts import Origin
from loopworks.optimize.stage import choose, optimize
from loopworks.train.stage import train

pytestmark = [pytest.mark.train, pytest.mark.optimize]
OURS = [
    "lightgbm", "lower50", "lower75", "onnx-int8", "onnx-int8-all", "onnx-int8-dynamic", "openvino-bf16",
    "openvino-fp32", "openvino-int8", "openvino-int8-accurate",
]  # fmt: skip


def context(folder: Path, stop: Callable[[], bool] = lambda: False, **more: Any) -> Context:
    return Context(seed=0, scratch=folder, report=more.pop("report", lambda share, text: None), stopped=stop, **more)


@pytest.fixture(scope="module")
def source() -> Memory:
    return squares(train=48, val=30, test=30)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, source: Memory) -> Bundle:
    folder = tmp_path_factory.mktemp("model")
    params = {"epochs": 12, "width": 8, "image_size": 16, "batch": 8, "light": 0.0}
    return train(source, recipe="small-cnn", params=params, folder=folder / "b", ctx=context(folder), threads=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SLOT_S", 0.002)
    monkeypatch.setattr(measure, "STARTS", 0)
    monkeypatch.setattr(tournament, "MAKER_LIMIT_S", 900.0)  # a busy machine must not decide what is made
    monkeypatch.setattr(tournament, "MAKING_S", 900.0)


@pytest.fixture(scope="module")
def best(model: Bundle, source: Memory, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("best")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "SLOT_S", 0.002)
        patch.setattr(measure, "STARTS", 1)
        patch.setattr(tournament, "MAKER_LIMIT_S", 900.0)
        patch.setattr(tournament, "MAKING_S", 900.0)
        return optimize(model, source, folder=folder / "b", max_drop=0.1, ctx=context(folder), threads=1)


def test_every_variant_is_measured_and_the_bundle_is_whole(best: Bundle, model: Bundle) -> None:
    assert bundles.read(best.folder) == best
    made = [variant.name for variant in best.variants]
    left_out = [note.split()[0] for note in best.notes if "was left out: it needs" in note]
    assert made[0] == "onnx-fp32"
    assert sorted(made[1:] + left_out) == OURS
    for variant in best.variants:
        assert set(variant.metrics) == {"val", "test"}
        assert variant.agreement is not None
        assert 0 < variant.latency_ms["p50"] <= variant.latency_ms["p99"]
        assert variant.throughput_per_s is not None
        assert variant.throughput_per_s > 0
        assert variant.throughput_batch in measure.BATCHES
        assert variant.memory_bytes is not None
        assert 20e6 < variant.memory_bytes < 2e9
        assert variant.start_s is not None
        assert 0 < variant.start_s < 60
        assert variant.size_bytes == sum(best.path(file).stat().st_size for file in variant.files)
    assert best.variants[0].agreement == 1.0
    assert best.measured_on["cores"] >= 1
    assert best.measured_on["threads"] == 1
    assert best.metrics == model.metrics
    assert any("was chosen by latency" in note or "stays" in note for note in best.notes)


def test_the_old_bundle_stays_as_it_was(best: Bundle, model: Bundle) -> None:
    assert bundles.read(model.folder) == model
    assert best.sha256["model.onnx"] == model.sha256["model.onnx"]
    assert best.sha256["model.safetensors"] == model.sha256["model.safetensors"]


def test_int8_is_quantized_and_smaller(best: Bundle) -> None:
    graph = onnx.load(str(best.path(best.variant("onnx-int8").file))).graph
    kinds = {node.op_type for node in graph.node}
    assert "QuantizeLinear" in kinds
    assert best.variant("onnx-int8").size_bytes < best.variant("onnx-fp32").size_bytes
    xml = best.path(best.variant("openvino-int8").file).read_text(encoding="utf-8")
    assert "FakeQuantize" in xml


def test_every_variant_answers_any_batch_from_the_new_folder(best: Bundle, source: Memory) -> None:
    pixels = source.inputs(best.rule, "test")["image"]
    for variant in best.variants:
        runtime = plugins.get(f"runtime.{variant.runtime}")()
        predictor = runtime.load(best.path(variant.file), threads=1, precision=variant.precision)
        for count in (1, 3, 8):
            scores = predictor.predict({"image": pixels[:count]})["scores"]
            assert scores.shape == (count, 3)
            np.testing.assert_allclose(scores.sum(axis=1), 1, atol=0.02)
        predictor.close()


def test_the_same_seed_makes_the_same_files(best: Bundle, model: Bundle, source: Memory, tmp_path: Path) -> None:
    again = optimize(
        model, source, folder=tmp_path / "b", max_drop=0.1, ctx=context(tmp_path), threads=1,
        variants=["onnx-int8", "openvino-int8"],
    )  # fmt: skip
    for file in ("onnx-int8/model.onnx", "openvino-int8/model.bin"):
        assert again.sha256[file] == best.sha256[file]
    assert [v.name for v in again.variants] == ["onnx-fp32", "onnx-int8", "openvino-int8"]


def test_an_optimized_bundle_can_be_optimized_again(best: Bundle, source: Memory, tmp_path: Path) -> None:
    again = optimize(best, source, folder=tmp_path / "b", ctx=context(tmp_path), threads=1, variants=["openvino-fp32"])
    assert [v.name for v in again.variants] == ["onnx-fp32", "openvino-fp32"]
    assert not (again.folder / "onnx-int8").exists()


def test_calibration_sees_training_images_alone(
    model: Bundle, source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[NDArray[np.uint8]] = []

    @dataclass(frozen=True)
    class Spy:
        def lacks(self) -> str:
            return ""

        def unfit(self, source: Origin) -> str:
            return ""

        def run(self, source: Origin, ctx: Context) -> Variant:
            seen.append(source.calibration["image"])
            raise RuntimeError("seen enough")

    monkeypatch.setitem(plugins._found, "optimize.spy", Spy)
    made = optimize(model, source, folder=tmp_path / "b", ctx=context(tmp_path), variants=["spy"])
    train_images = {image.tobytes() for image in source.inputs(model.rule, "train")["image"]}
    assert {image.tobytes() for image in seen[0]} <= train_images
    assert made.chosen == "onnx-fp32"
    assert any("spy could not be made: RuntimeError: seen enough" in note for note in made.notes)
    assert not (made.folder / "spy").exists()


def test_a_maker_that_lacks_something_is_left_out_with_the_reason(
    model: Bundle, source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_int8.OnnxInt8, "lacks", lambda self: "package onnx")
    made = optimize(model, source, folder=tmp_path / "b", ctx=context(tmp_path), variants=["onnx-int8"])
    assert [v.name for v in made.variants] == ["onnx-fp32"]
    assert any("onnx-int8 was left out: it needs package onnx" in note for note in made.notes)


def test_a_maker_that_takes_too_long_is_given_up(
    model: Bundle, source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tournament, "MAKER_LIMIT_S", -1.0)
    made = optimize(model, source, folder=tmp_path / "b", ctx=context(tmp_path), variants=["onnx-int8"])
    assert any("must be made within" in note for note in made.notes)


def damaged(network: str) -> type:
    """A maker whose model answers with the classes in another order, or with what is no number."""

    @dataclass(frozen=True)
    class Damage:
        def lacks(self) -> str:
            return ""

        def unfit(self, source: Origin) -> str:
            return ""

        def run(self, source: Origin, ctx: Context) -> Variant:
            model = onnx.load(str(source.onnx))
            (output,) = model.graph.output
            for node in model.graph.node:
                node.output[:] = ["right" if name == output.name else name for name in node.output]
            value: NDArray[Any] = np.array([1, 2, 0]) if network == "turned" else np.array(np.nan, np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, "change"))
            kind = "Gather" if network == "turned" else "Mul"
            more: dict[str, Any] = {"axis": 1} if network == "turned" else {}
            model.graph.node.append(onnx.helper.make_node(kind, ["right", "change"], [output.name], **more))
            onnx.save(model, str(source.folder / "model.onnx"))
            return Variant(
                name=network, runtime="onnxruntime", precision="int8", file="model.onnx", files=("model.onnx",),
                size_bytes=1,
            )  # fmt: skip

    return Damage


def test_a_variant_outside_the_accuracy_budget_is_refused_and_names_the_classes(
    model: Bundle, source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plugins._found, "optimize.turned", damaged("turned"))
    made = optimize(model, source, folder=tmp_path / "b", target="size", ctx=context(tmp_path), variants=["turned"])
    turned = made.variant("turned")
    assert turned.is_refused
    assert "more than 0.01; worst hit: place" in turned.note
    assert made.chosen == "onnx-fp32"
    assert turned.metrics["test"]["accuracy"].count == 30, "a refused variant is reported all the same"


def test_a_variant_that_answers_no_numbers_is_refused(
    model: Bundle, source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plugins._found, "optimize.empty", damaged("empty"))
    made = optimize(
        model, source, folder=tmp_path / "b", max_drop=1.0, target="size", ctx=context(tmp_path), variants=["empty"]
    )
    assert made.variant("empty").is_refused
    assert made.chosen == "onnx-fp32"


def test_stopping_leaves_nothing(model: Bundle, source: Memory, tmp_path: Path) -> None:
    told: list[float] = []
    ctx = context(tmp_path / "s", stop=lambda: len(told) > 6, report=lambda share, text: told.append(share))
    with pytest.raises(Cancelled):
        optimize(model, source, folder=tmp_path / "b", ctx=ctx, variants=["onnx-int8"])
    assert list(tmp_path.iterdir()) == []


def test_progress_never_falls_and_ends_at_one(model: Bundle, source: Memory, tmp_path: Path) -> None:
    told: list[float] = []
    ctx = context(tmp_path, report=lambda share, text: told.append(share))
    optimize(model, source, folder=tmp_path / "b", ctx=ctx, variants=["onnx-int8"])
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"max_drop": -0.1}, Invalid, "max_drop must be a share between 0 and 1; got -0.1"),
        ({"max_drop": float("nan")}, Invalid, "max_drop"),
        ({"target": "price"}, Invalid, "target must be one of latency, throughput, size; got price"),
        ({"variants": ["tensorrt"]}, NotFound, "variant 'tensorrt' does not exist"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    model: Bundle, source: Memory, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        optimize(model, source, folder=tmp_path / "b", ctx=context(tmp_path), **changes)
    assert list(tmp_path.iterdir()) == []


def test_without_validation_no_choice_is_possible(model: Bundle, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="val split must be at least one labeled item") as caught:
        optimize(model, squares(val=0), folder=tmp_path / "b", ctx=context(tmp_path))
    assert "val" in caught.value.hint


def test_other_classes_than_the_models_are_refused(model: Bundle, source: Memory, tmp_path: Path) -> None:
    other = replace(source, schema=LabelSchema(classes=("a", "b", "c")))
    with pytest.raises(Invalid, match="classes of the version must be those of the model"):
        optimize(model, other, folder=tmp_path / "b", ctx=context(tmp_path))


def test_a_broken_model_file_is_one_clear_error(model: Bundle, source: Memory, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in model.sha256:
        (copy / name).write_bytes(model.path(name).read_bytes())
    (copy / "model.onnx").write_bytes(b"no model at all")
    with pytest.raises(Damaged, match=r"model\.onnx must have SHA-256"):
        optimize(replace(model, folder=copy), source, folder=tmp_path / "b", ctx=context(tmp_path))
    known = bundles.write(model, copy)
    with pytest.raises(Invalid, match="an ONNX model that ONNX Runtime can run"):
        optimize(known, source, folder=tmp_path / "b", ctx=context(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_folder_that_holds_something_is_not_touched(model: Bundle, source: Memory, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(Conflict):
        optimize(model, source, folder=tmp_path / "b", ctx=context(tmp_path))
    assert (tmp_path / "b" / "mine.txt").exists()


def measured(name: str, p50: float, per_s: float, size: int, is_refused: bool = False) -> Variant:
    return Variant(
        name=name, runtime="r", precision="fp32", file="f", size_bytes=size, latency_ms={"p50": p50, "p99": p50},
        throughput_per_s=per_s, is_refused=is_refused,
    )  # fmt: skip


def test_the_choice_follows_the_target_and_passes_over_the_refused() -> None:
    entries = [
        measured("base", 10.0, 100.0, 40),
        measured("quick", 5.0, 150.0, 30),
        measured("wide", 7.0, 300.0, 35),
        measured("small", 9.0, 120.0, 10),
        measured("wrong", 1.0, 900.0, 1, is_refused=True),
    ]
    assert choose(entries, "latency").name == "quick"
    assert choose(entries, "throughput").name == "wide"
    assert choose(entries, "size").name == "small"
    assert choose([entries[0], entries[4]], "latency").name == "base"


def test_of_equals_within_five_percent_the_smallest_then_the_earliest_wins() -> None:
    entries = [measured("base", 1.04, 1, 20), measured("a", 1.0, 1, 30), measured("b", 1.03, 1, 20)]
    assert choose(entries, "latency").name == "base"
    assert choose([measured("base", 1.06, 1, 20), *entries[1:]], "latency").name == "b"


@pytest.mark.parametrize(
    ("drop", "agreement", "max_drop", "is_refused"),
    [
        (0.0, 1.0, 0.0, False),
        (0.011, 1.0, 0.01, True),
        (0.01, 0.95, 0.01, False),
        (-0.02, 0.94, 0.01, True),
        (0.0, 0.86, 0.05, False),
        (0.0, 0.84, 0.05, True),
    ],
)
def test_the_rule_of_refusal(drop: float, agreement: float, max_drop: float, is_refused: bool) -> None:
    assert bool(tournament.refusal(drop, agreement, max_drop)) is is_refused


class Slow:
    """Takes a fixed number of ticks of a false clock per item."""

    def __init__(self, clock: list[float], per_call: float) -> None:
        self.clock, self.per_call = clock, per_call

    def predict(self, batch: Arrays) -> Arrays:
        self.clock[0] += self.per_call * len(batch["image"]) ** 0.5
        return batch

    def close(self) -> None:
        """Nothing to free."""


def test_latency_and_throughput_are_medians_over_interleaved_rounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = [0.0]
    monkeypatch.setattr("loopworks.optimize.measure.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure, "SLOT_S", 0.05)
    predictors = {"fast": Slow(clock, 0.001), "slow": Slow(clock, 0.004)}
    found = measure.speeds(predictors, {"image": np.zeros((3, 2, 2, 3), np.uint8)}, context(tmp_path))
    assert found["fast"].latency_ms()["p50"] == pytest.approx(1.0)
    assert found["slow"].latency_ms() == pytest.approx({"p50": 4.0, "p99": 4.0})
    assert found["fast"].throughput_per_s() == pytest.approx((32**0.5 / 0.001, 32))
    assert len(found["slow"].times[32]) == measure.ROUNDS
    # One disturbed round of five changes neither the median latency nor the throughput.
    found["fast"].times[1][0] = [9.0]
    found["fast"].times[32][0] = [9.0]
    assert found["fast"].latency_ms()["p50"] == pytest.approx(1.0)
    assert found["fast"].throughput_per_s() == pytest.approx((32**0.5 / 0.001, 32))


def test_makers_are_listed_with_what_they_lack() -> None:
    found = {maker["name"]: maker for maker in stage.makers()}
    assert set(OURS) <= set(found)
    assert all(maker["about"] for maker in found.values())


def test_making_int8_for_openvino_leaves_our_own_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: Bundle, source: Memory
) -> None:
    optimize(model, source, folder=tmp_path / "out", ctx=context(tmp_path / "work"), variants=["openvino-int8"])
    logging.getLogger("loopworks.somewhere").warning("still heard")
    assert "still heard" in caplog.text
