"""The engine: nothing lost, nothing mixed up, one bad request alone, swaps unseen, nothing left behind."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.infer.doubles import PATIENCE_S, POISON, Double, hold, image, value_of

from loopworks.core.bundle import Bundle, write
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Busy, Damaged, Failed, Invalid, LoopworksError, NotFound, TimedOut
from loopworks.core.values import TensorSpec
from loopworks.infer.engine import Engine
from loopworks.infer.stage import predict


@pytest.fixture
def engine() -> Iterator[Engine]:
    before = set(threading.enumerate())
    with Engine(workers=1, max_batch=8, max_queue=16) as made:
        yield made
    left = {thread for thread in threading.enumerate() if thread.name.startswith("infer-")} - before
    assert left == set()


def test_a_real_model_answers_as_its_formula_says(engine: Engine, tmp_path: Path, colors: Any) -> None:
    served = engine.load("colors", colors.write(tmp_path), version="3", facts={"number": 1})
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    answer = engine.submit("colors", {"image": pixels}).result(PATIENCE_S)
    np.testing.assert_allclose(answer.outputs["scores"], colors.scores(pixels), atol=1e-6)
    assert answer.served is served
    assert (served.version, served.variant.name, served.facts) == ("3", "onnx-fp32", {"number": 1})
    assert answer.compute_ns > 0


def test_64_threads_at_once_each_get_their_own_answer(tmp_path: Path, colors: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 4, 8, 8, 3), np.uint8)
    wrong: list[int] = []
    start = threading.Barrier(64)
    with Engine(workers=2, max_batch=16) as engine:
        engine.load("colors", colors.write(tmp_path))

        def ask(i: int) -> None:
            start.wait(PATIENCE_S)
            for row in pixels[i]:
                found = engine.submit("colors", {"image": row[None]}).result(PATIENCE_S).outputs["scores"]
                if not np.allclose(found, colors.scores(row[None]), atol=1e-6):
                    wrong.append(i)

        with ThreadPoolExecutor(64) as pool:
            for done in [pool.submit(ask, i) for i in range(64)]:
                done.result(PATIENCE_S)
        statistics = engine.model("colors").statistics
    assert wrong == []
    assert (statistics.success, statistics.inferences, statistics.failure) == (256, 256, 0)
    assert statistics.executions < 256  # some shared a run


def test_a_free_worker_takes_all_that_waits_as_one_batch(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    engine.load("m", double)
    (predictor,) = doubles
    predictor.sizes.clear()
    while predictor.entered.acquire(blocking=False):
        """The warm-up's."""
    predictor.gate.clear()
    first = engine.submit("m", image(1))
    assert predictor.entered.acquire(timeout=PATIENCE_S)
    rest = [engine.submit("m", image(i)) for i in range(2, 9)]
    assert engine.model("m").waiting == 7
    predictor.gate.set()
    assert [value_of(future) for future in [first, *rest]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert predictor.sizes == [1, 7]
    assert dict(engine.model("m").statistics.batches) == {1: 1, 7: 1}


def test_one_bad_request_does_not_fail_its_neighbours(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    engine.load("m", double)
    hold(engine, doubles[0])
    asked = [engine.submit("m", image(value)) for value in (2, POISON, 3)]
    doubles[0].gate.set()
    assert [value_of(asked[0]), value_of(asked[2])] == [2, 3]
    with pytest.raises(Failed, match=r"model 'm' must answer; got error: poisoned"):
        asked[1].result(PATIENCE_S)
    assert doubles[0].sizes == [1, 3, 1, 1, 1]
    statistics = engine.model("m").statistics
    assert (statistics.success, statistics.failure) == (3, 1)


def test_a_full_queue_refuses_and_forgets_those_who_left(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    engine.load("m", double)
    hold(engine, doubles[0])
    waiting = [engine.submit("m", image(i)) for i in range(16)]
    with pytest.raises(Busy, match="at most 16 requests may wait for model 'm'; got one more"):
        engine.submit("m", image())
    assert waiting[3].cancel()
    last = engine.submit("m", image(77))
    doubles[0].gate.set()
    assert value_of(last) == 77
    assert [value_of(future) for future in waiting if not future.cancelled()] == [i for i in range(16) if i != 3]


def test_a_request_that_waits_past_its_deadline_fails_alone(
    engine: Engine, double: Bundle, doubles: list[Double]
) -> None:
    engine.load("m", double)
    hold(engine, doubles[0])
    late = engine.submit("m", image(2), timeout_s=0.0)
    fine = engine.submit("m", image(3))
    doubles[0].gate.set()
    with pytest.raises(TimedOut, match="before the deadline"):
        late.result(PATIENCE_S)
    assert value_of(fine) == 3


def test_more_rows_than_a_batch_go_in_pieces(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    engine.load("m", double)
    doubles[0].sizes.clear()
    rows = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    found = engine.submit("m", {"image": rows}).result(PATIENCE_S).outputs["scores"]
    assert found[:, 0].tolist() == list(range(20))
    assert doubles[0].sizes == [8, 8, 4]


def test_only_the_outputs_of_the_bundle_come_back(engine: Engine, double: Bundle) -> None:
    engine.load("m", double)
    assert set(engine.submit("m", image()).result(PATIENCE_S).outputs) == {"scores"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "inputs must be complete (image); got none"),
        ({"picture": np.zeros((1, 8, 8, 3), np.uint8)}, "inputs must be among image; got picture"),
        ({"image": np.zeros((1, 8, 8, 3), np.float32)}, "input image datatype must be UINT8; got FP32"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "input image shape must be [-1, 8, 8, 3] (-1: any from 1)"),
        ({"image": np.zeros((1, 8, 9, 3), np.uint8)}, "got [1, 8, 9, 3]"),
        ({"image": np.zeros((0, 8, 8, 3), np.uint8)}, "got [0, 8, 8, 3]"),
        ({"image": np.zeros((1, 8, 8, 3), np.complex64)}, "tensor type must be one of BOOL"),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_it_waits(
    engine: Engine, double: Bundle, inputs: Arrays, message: str
) -> None:
    engine.load("m", double)
    with pytest.raises(Invalid) as caught:
        engine.submit("m", inputs)
    assert message in caught.value.message
    assert engine.model("m").waiting == 0


def test_an_unknown_name_or_version_lists_the_known_ones(engine: Engine, double: Bundle) -> None:
    engine.load("m", double, version="2")
    with pytest.raises(NotFound) as caught:
        engine.submit("n", image())
    assert caught.value.hint == "known: m"
    with pytest.raises(NotFound, match="version of model 'm' '1' does not exist"):
        engine.submit("m", image(), version="1")
    with pytest.raises(NotFound):
        engine.unload("n")


def test_swapping_under_load_loses_nothing_and_says_who_answered(tmp_path: Path, colors: Any) -> None:
    weights = {"1": 12.0, "2": 3.0}
    bundles = {v: colors.write(tmp_path / v, weight=w) for v, w in weights.items()}
    pixels = np.random.default_rng(2).integers(0, 256, (1, 8, 8, 3), np.uint8)
    expected = {v: colors.scores(pixels, w) for v, w in weights.items()}
    stop = threading.Event()
    seen: list[str] = []

    with Engine(workers=2, max_queue=64) as engine, ThreadPoolExecutor(4) as pool:
        engine.load("m", bundles["1"], version="1")

        def ask() -> None:
            while not stop.is_set():
                answer = engine.submit("m", {"image": pixels}).result(PATIENCE_S)
                np.testing.assert_allclose(answer.outputs["scores"], expected[answer.served.version], atol=1e-6)
                seen.append(answer.served.version)

        asking = [pool.submit(ask) for _ in range(4)]
        for version in "21212":
            engine.load("m", bundles[version], version=version)
            mark = len(seen)
            while len(seen) < mark + 8 and not any(future.done() for future in asking):
                stop.wait(0.001)
        stop.set()
        for future in asking:
            future.result(PATIENCE_S)
        assert set(seen) == {"1", "2"}
        assert len([t for t in threading.enumerate() if t.name.startswith("infer-m-")]) == 2


def test_the_old_model_answers_what_it_has_before_it_goes(
    engine: Engine, double: Bundle, doubles: list[Double]
) -> None:
    engine.load("m", double, version="1")
    asked = [hold(engine, doubles[0]), engine.submit("m", image(2))]
    swap = threading.Thread(target=engine.load, args=("m", double), kwargs={"version": "2"})
    swap.start()
    while engine.model("m").version != "2":
        threading.Event().wait(0.001)
    new = engine.submit("m", image(3)).result(PATIENCE_S)
    assert new.served.version == "2"
    assert not asked[1].done()
    doubles[0].gate.set()
    assert [future.result(PATIENCE_S).served.version for future in asked] == ["1", "1"]
    swap.join(PATIENCE_S)
    assert (doubles[0].closed, doubles[1].closed) == (1, 0)


def test_unloading_answers_what_waits(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    engine.load("m", double)
    asked = [hold(engine, doubles[0]), engine.submit("m", image(2))]
    going = threading.Thread(target=engine.unload, args=("m",))
    going.start()
    while engine.names():
        threading.Event().wait(0.001)
    with pytest.raises(NotFound):
        engine.submit("m", image())
    doubles[0].gate.set()
    going.join(PATIENCE_S)
    assert [value_of(future) for future in asked] == [1, 2]
    assert doubles[0].closed == 1


def test_a_closed_engine_takes_no_model(double: Bundle, doubles: list[Double]) -> None:
    engine = Engine()
    engine.close()
    engine.close()
    with pytest.raises(Busy, match="closed"):
        engine.load("m", double)
    assert doubles[0].closed == 1


def test_a_model_that_does_not_load_leaves_the_old_one_in_use(engine: Engine, tmp_path: Path, colors: Any) -> None:
    engine.load("m", colors.write(tmp_path / "good"), version="1")
    bad = colors.write(tmp_path / "bad")
    (tmp_path / "bad" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(Damaged, match="bundle file model.onnx must have SHA-256"):
        engine.load("m", bad, version="2")
    bad = write(bad, tmp_path / "bad")
    with pytest.raises(Invalid, match="must be an ONNX model"):
        engine.load("m", bad, version="2")
    assert engine.submit("m", image()).result(PATIENCE_S).served.version == "1"


def test_a_bundle_that_promises_another_output_never_gets_into_use(engine: Engine, tmp_path: Path, colors: Any) -> None:
    bundle = colors.write(tmp_path)
    wider = replace(bundle, outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 5)),))
    with pytest.raises(Invalid, match=r"output scores of model 'm' must be FP32 of shape \[-1, 5\]; got float32"):
        engine.load("m", wider)
    renamed = replace(bundle, outputs=(TensorSpec(name="boxes", datatype="FP32", shape=(-1, 3)),))
    with pytest.raises(Invalid, match="must be with boxes; got scores"):
        engine.load("m", renamed)
    assert engine.names() == []


def test_a_failed_load_closes_what_it_opened(double: Bundle, doubles: list[Double]) -> None:
    wrong = replace(double, outputs=(TensorSpec(name="scores", datatype="FP64", shape=(-1, 3)),))
    with Engine(workers=3) as engine, pytest.raises(Invalid):
        engine.load("m", wrong)
    assert [predictor.closed for predictor in doubles] == [1]


def test_an_answer_with_too_few_rows_is_a_fault_of_the_model(
    engine: Engine, double: Bundle, doubles: list[Double]
) -> None:
    engine.load("m", double)
    doubles[0].answer = lambda x: np.zeros((1, 3), np.float32)
    with pytest.raises(Failed, match=r"output scores of model 'm' must have 2 rows; got shape \[1, 3\]"):
        engine.submit("m", image(rows=2)).result(PATIENCE_S)


def test_requests_of_other_sizes_do_not_share_a_run(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    free = replace(double, inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, -1, -1, 3)),))
    engine.load("m", free)
    hold(engine, doubles[0])
    asked = [engine.submit("m", image(i, size=size)) for i, size in enumerate((8, 8, 6, 6, 8))]
    doubles[0].gate.set()
    assert [value_of(future) for future in asked] == [0, 1, 2, 3, 4]
    assert doubles[0].sizes == [1, 2, 2, 1]


def test_a_model_of_one_fixed_batch_gets_its_requests_one_by_one(
    engine: Engine, double: Bundle, doubles: list[Double]
) -> None:
    fixed = replace(
        double,
        inputs=(TensorSpec(name="image", datatype="UINT8", shape=(2, 8, 8, 3)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(2, 3)),),
    )
    assert not engine.load("m", fixed).is_batched
    doubles[0].sizes.clear()
    asked = [engine.submit("m", image(i, rows=2)) for i in range(3)]
    assert [value_of(future) for future in asked] == [0, 1, 2]
    assert doubles[0].sizes == [2, 2, 2]
    with pytest.raises(Invalid, match=r"must be \[2, 8, 8, 3\]"):
        engine.submit("m", image(rows=1))


def test_statistics_add_up(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    engine.load("m", double)
    wait([engine.submit("m", image(1, rows=3)) for _ in range(4)], PATIENCE_S)
    found = engine.model("m").statistics
    assert (found.success, found.inferences) == (4, 12)
    assert sum(size * count for size, count in found.batches.items()) == 12
    assert sum(found.batches.values()) == found.executions
    parts = found.queue_ns + found.input_ns + found.compute_ns + found.output_ns
    assert 0 < parts <= found.success_ns
    assert found.last_ms > 1_600_000_000_000


def test_images_become_answers(engine: Engine, tmp_path: Path, colors: Any, pictures: Any) -> None:
    engine.load("colors", colors.write(tmp_path / "bundle"))
    folder = pictures(tmp_path / "photos", {"a": 1, "b": 1, "c": 1})  # red, green, blue
    files = [(folder / name / "000.png").read_bytes() for name in "abc"]
    values, answer = predict(engine, "colors", files)
    assert [value["chosen"] for value in values] == [["red"], ["green"], ["blue"]]
    assert values[0]["labels"][0]["score"] == pytest.approx(float(answer.outputs["scores"][0, 0]), abs=1e-6)
    with pytest.raises(Invalid, match="item 2 must be an image"):
        predict(engine, "colors", [files[0], b"no image"])
    with pytest.raises(Invalid, match="items must be at least one; got none"):
        predict(engine, "colors", [])
    with pytest.raises(Invalid, match="at most 100 pixels"):
        predict(engine, "colors", files, max_pixels=100)


def test_openvino_answers_like_onnxruntime(tmp_path: Path, colors: Any) -> None:
    pytest.importorskip("openvino", reason="needs the [optimize] extra")
    bundle = colors.write(tmp_path)
    other = write(replace(bundle, variants=(replace(bundle.variants[0], runtime="openvino"),)), tmp_path)
    pixels = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3), np.uint8)
    with Engine(workers=2) as engine:
        engine.load("m", other)
        found = engine.submit("m", {"image": pixels}).result(PATIENCE_S).outputs["scores"]
    np.testing.assert_allclose(found, colors.scores(pixels), atol=1e-5)


def test_errors_are_ours_alone(engine: Engine, double: Bundle, doubles: list[Double]) -> None:
    engine.load("m", double)

    def broken(x: NDArray[Any]) -> NDArray[Any]:
        raise MemoryError("no memory")

    doubles[0].answer = broken
    assert isinstance(engine.submit("m", image()).exception(PATIENCE_S), LoopworksError)
    doubles[0].answer = lambda x: x.astype(np.float32).mean(axis=(1, 2))
    assert value_of(engine.submit("m", image(9))) == 9
