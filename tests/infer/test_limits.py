"""What models may take: memory, queues, time of a batch; and models in processes of their own."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.infer import small
from tests.infer.doubles import PATIENCE_S, Double, hold, image, value_of

from loopworks.core import settings
from loopworks.core.bundle import Bundle, write
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Busy, Damaged, Failed, Invalid, LoopworksError, NotFound, TooMany
from loopworks.core.limits import Limits
from loopworks.core.settings import Settings
from loopworks.infer import isolated
from loopworks.infer.engine import Engine, Served
from loopworks.infer.isolated import IsolatedPredictor
from loopworks.infer.onnxruntime import OnnxPredictor

X = {"x": np.ones((1, 4), np.float32)}
EXPECTED = small.WEIGHTS.sum(axis=0)


@pytest.fixture
def linear(tmp_path: Path) -> Bundle:
    return small.linear(tmp_path / "linear")


def answer(engine: Engine, name: str, inputs: Arrays = X) -> Any:
    return engine.submit(name, inputs).result(PATIENCE_S).outputs["scores"]


# ---- memory


def test_models_that_nobody_waits_for_make_room_and_come_back(linear: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    size = linear.path("model.onnx").stat().st_size
    monkeypatch.setattr("loopworks.infer.loading._resident_bytes", lambda: 0)
    with Engine(memory_bytes=2 * size) as engine:
        for name in ("a", "b"):
            engine.load(name, linear, version="7", facts={"of": name})
        answer(engine, "a")
        engine.load("c", linear)
        assert [served.name for served in engine.models()] == ["a", "c"]  # b was unused longest
        assert engine.names() == ["a", "b", "c"]
        assert engine.is_parked("b")
        np.testing.assert_allclose(answer(engine, "b")[0], EXPECTED, rtol=1e-6)  # asked, and so it is back
        back = engine.model("b", "7")
        assert (back.facts, back.statistics.success) == ({"of": "b"}, 1)
        assert len(engine.models()) == 2
        answer(engine, "a")
        assert engine.model("a").statistics.success == 2  # goes on where it was
        engine.unload("c")
        with pytest.raises(NotFound):
            engine.model("c")


def test_a_model_in_use_makes_no_room(
    linear: Bundle, double: Bundle, doubles: list[Double], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopworks.infer.loading._resident_bytes", lambda: 0)
    size = max(bundle.path("model.onnx").stat().st_size for bundle in (linear, double))
    with Engine(memory_bytes=size) as engine:
        engine.load("m", double)
        asked = hold(engine, doubles[0])
        with pytest.raises(Busy, match="beside those in use"):
            engine.load("linear", linear)
        assert engine.names() == ["m"]
        doubles[0].gate.set()
        assert value_of(asked) == 1
        engine.load("linear", linear)
        assert [served.name for served in engine.models()] == ["linear"]


# ---- queues


def test_one_request_too_many_is_told_so_and_when_to_come_back(double: Bundle, doubles: list[Double]) -> None:
    with Engine(limits=lambda name: Limits(workers=1, max_concurrent=2)) as engine:
        engine.load("m", double)
        asked = [hold(engine, doubles[0]), engine.submit("m", image(2))]
        found = engine.model("m").statistics
        found.inferences, found.batch_ns[1] = 10, 30_000_000_000
        with pytest.raises(TooMany, match="at most 2 requests for model 'm' may be under way") as caught:
            engine.submit("m", image(3))
        assert caught.value.retry_after_s == pytest.approx(3, rel=0.2)  # one row waits, and a row takes 3 s
        assert caught.value.status == 429
        asked[1].cancel()
        asked.append(engine.submit("m", image(4)))  # who has left is not counted
        doubles[0].gate.set()
        assert value_of(asked[2]) == 4


def test_batches_keep_to_the_time_that_is_aimed_at(double: Bundle, doubles: list[Double]) -> None:
    with Engine(limits=lambda name: Limits(workers=1, max_batch=16, target_ms=8)) as engine:
        engine.load("m", double)

        def slowly(x: Any) -> Any:  # a millisecond a row
            time.sleep(len(x) / 1000)
            return x.astype(np.float32).mean(axis=(1, 2))

        doubles[0].answer = slowly
        for _ in range(6):
            asked = [hold(engine, doubles[0]), *(engine.submit("m", image(i)) for i in range(16))]
            doubles[0].gate.set()
            wait(asked, PATIENCE_S)
        assert 1 <= engine.model("m").max_batch <= 8
        doubles[0].answer = lambda x: x.astype(np.float32).mean(axis=(1, 2))
        for _ in range(12):
            asked = [hold(engine, doubles[0]), *(engine.submit("m", image(i)) for i in range(32))]
            doubles[0].gate.set()
            wait(asked, PATIENCE_S)
        assert engine.model("m").max_batch > 8


def test_limits_of_a_deployment_are_what_it_says_and_what_all_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[limits]\nmax_queue = 7\ntarget_ms = 2\n[limits_of.litter]\nmax_queue = 3\n"
    (tmp_path / settings.FILE).write_text(text)
    found = settings.load(tmp_path)
    assert (found.limits_for("litter").max_queue, found.limits_for("litter").target_ms) == (3, 2)
    assert found.limits_for("other").max_queue == 7
    monkeypatch.setenv("LOOPWORKS_LIMITS", '{"max_queue": 9}')
    assert settings.load(tmp_path).limits_for("other") == Limits(max_queue=9)
    for wrong in ('{"max_queue": 0}', "9", "{", '{"nonsense": 1}'):
        monkeypatch.setenv("LOOPWORKS_LIMITS", wrong)
        with pytest.raises(Invalid, match="LOOPWORKS_LIMITS"):
            settings.load(tmp_path)
    assert Settings().limits_for("any") == Limits()


# ---- who watches


class Watcher:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int, Any, Any]] = []
        self.fails = False

    def saw(self, served: Served, inputs: Arrays, outputs: Arrays, rows: int) -> None:
        if self.fails:
            raise RuntimeError("no room")
        self.seen.append((served.name, rows, inputs["x"], outputs["scores"]))


def test_an_observer_sees_every_run_and_can_fail_nobody(linear: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher()
    with Engine(observe=watcher) as engine:
        served = engine.load("m", linear)
        answer(engine, "m")
        engine.submit("m", {"x": np.ones((3, 4), np.float32)}).result(PATIENCE_S)
        _until(lambda: len(watcher.seen) == 2)
        name, rows, x, scores = watcher.seen[1]
        assert (name, rows, x.shape) == ("m", 3, (3, 4))
        np.testing.assert_allclose(scores, np.tile(EXPECTED, (3, 1)), rtol=1e-6)
        watcher.fails = True
        for _ in range(3):
            answer(engine, "m")
        _until(lambda: served.statistics.unseen == 3)
        assert len([record for record in caplog.records if "observer failed" in record.message]) == 1


def _until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


# ---- files and devices


def test_a_damaged_file_is_never_loaded(linear: Bundle) -> None:
    path = linear.path("model.onnx")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with Engine() as engine, pytest.raises(Damaged, match="bundle file model.onnx must have SHA-256"):
        engine.load("m", linear)


def test_a_device_that_is_not_there_is_said(linear: Bundle) -> None:
    with pytest.raises(Invalid, match="device must be cpu; got tensorrt"):
        OnnxPredictor(linear.path("model.onnx"), 1, "tensorrt")
    with Engine(limits=lambda name: Limits(workers=1, device="tensorrt")) as engine, pytest.raises(Invalid):
        engine.load("m", linear)
    assert OnnxPredictor(linear.path("model.onnx"), 1).device == "CPUExecutionProvider"


# ---- a process of its own


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[Engine, IsolatedPredictor]]:
    """A model whose answer to a row is that many numbers, so that a large one eats all memory; in its own process."""
    bundle = small.linear(tmp_path / "greedy")
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["many"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["many", "zero"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["space"]),
        helper.make_node("ReduceSum", ["space"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["plain"]),
        helper.make_node("Add", ["plain", "sum"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "greedy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(small.WEIGHTS, "w"), onnx.numpy_helper.from_array(np.array([0]), "zero")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), bundle.path("model.onnx")
    )
    bundle = write(bundle, bundle.folder)
    limits = Limits(workers=1, isolation="process", memory_mb=4000)
    with Engine(limits=lambda name: limits) as engine:
        served = engine.load("m", bundle)
        assert served.light is None
        (predictor,) = served._predictors
        assert isinstance(predictor, IsolatedPredictor)
        yield engine, predictor
    assert predictor.pid == 0


def test_a_model_in_its_own_process_answers_eats_its_own_memory_crashes_and_comes_back(
    apart: tuple[Engine, IsolatedPredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, predictor = apart
    first = predictor.pid
    assert first not in (0, os.getpid())
    np.testing.assert_allclose(answer(engine, "m")[0], EXPECTED, rtol=1e-6)
    asked = [engine.submit("m", {"x": np.full((1, 4), value, np.float32)}) for value in (1, 1e10, 1)]
    np.testing.assert_allclose(asked[0].result(PATIENCE_S).outputs["scores"][0], EXPECTED, rtol=1e-6)
    assert isinstance(asked[1].exception(PATIENCE_S), Failed)  # 40 GB
    np.testing.assert_allclose(asked[2].result(PATIENCE_S).outputs["scores"][0], EXPECTED, rtol=1e-6)

    pid = predictor.pid
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(Failed, match="ended by SIGSEGV"):
        answer(engine, "m")
    np.testing.assert_allclose(answer(engine, "m")[0], EXPECTED, rtol=1e-6)  # at once, in the next one
    assert predictor.pid not in (0, pid)

    monkeypatch.setattr(isolated, "RUN_S", 0.2)
    monkeypatch.setattr(isolated, "PAUSES_S", (60.0,))
    os.kill(predictor.pid, signal.SIGSTOP)
    with pytest.raises(Failed, match="did not answer within"):
        answer(engine, "m")
    with pytest.raises(Busy, match="ended 2 times") as caught:
        answer(engine, "m")
    assert 50 < caught.value.retry_after_s <= 60


def test_a_process_that_does_not_come_up_says_why(linear: Bundle) -> None:
    broken = replace(linear, folder=linear.folder / "gone")
    with pytest.raises(LoopworksError, match="bundle"):
        IsolatedPredictor(broken, linear.variants[0])
