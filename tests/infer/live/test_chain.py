"""A chain in a pipeline: the first node's boxes are followed, what the others say of them is saved and drawn."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import loopworks as lw
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.infer.live import nested
from loopworks.infer.live.frames import Found, Frame, Result
from loopworks.server.run import ServerThread
from loopworks.store import bundles, models

pytestmark = pytest.mark.live
GRAPH = "nodes: {find: balls, tone: tones}\nedges: [{from: find, to: tone}]"


def tones(folder: Path) -> Bundle:
    """Which of red, green and blue a picture has most of."""
    folder.mkdir()
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            node("ReduceMean", ["float", "sides"], ["means"], keepdims=0),
            node("Softmax", ["means"], ["scores"], axis=-1),
        ],
        "tones",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "sides")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    rule = ImageRule(height=8, width=8)
    variant = Variant(name="a", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",))
    return write(
        Bundle(
            task="image-classification",
            schema=LabelSchema(classes=("red", "green", "blue")),
            rule=rule,
            inputs=rule.inputs(),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
            version="0" * 64,
            recipe="train.none",
            variants=(variant,),
            chosen="a",
        ),
        folder,
    )


@pytest.fixture
def chained(space: lw.Workspace, tmp_path: Path) -> lw.Workspace:
    """The workspace with the chain ``both``."""
    bundle = tones(tmp_path / "tones")
    key = bundles.save(space.home.blobs, bundle.folder)
    with space.home.catalog.begin() as tx:
        models.add(tx, "tones", bundle=key, run="", version="", task=bundle.task, variant="a")
    space.add_chain("both", GRAPH)
    return space


def pipeline(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "street",
        "source": {"kind": "file", "path": str(tmp_path / "walk.mp4")},
        "model": "both",
        "sinks": [
            {"kind": "csv", "path": str(tmp_path / "out.csv")},
            {"kind": "folder", "path": str(tmp_path / "pictures")},
        ],
        **more,
    }


def check(tmp_path: Path, *, track: str) -> None:
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"both/1"}
    assert [row["label"] for row in rows[:4]] == ["ball", "tone/red"] * 2
    assert {row["track"] for row in rows} == {track}
    for ball, tone in zip(rows[::2], rows[1::2], strict=True):
        assert [float(ball[k]) for k in ("x", "y")] == pytest.approx([float(tone[k]) for k in ("x", "y")], abs=0.6)
        assert float(tone["score"]) > 0.9
    first = json.loads(sorted((tmp_path / "pictures").glob("*.json"))[0].read_text(encoding="utf-8"))
    (ball,) = first["objects"]
    assert ball["then"]["tone"]["chosen"] == ["red"]
    assert len(ball["then"]["tone"]["crop"]) == 4


@pytest.mark.parametrize("track", [True, False])
def test_a_chain_runs_in_a_pipeline_with_and_without_tracks(
    chained: lw.Workspace, tmp_path: Path, make_film: Callable[..., Path], track: bool
) -> None:
    make_film(tmp_path / "walk.mp4", [4, 8, 12, 16])
    chained.live.add(pipeline(tmp_path, **({"track": {}} if track else {})))
    told = chained.live.run("street")
    assert (told["state"], told["frames_out"], told["frames_failed"]) == ("done", 4, 0)
    check(tmp_path, track="1" if track else "")


def test_a_chain_runs_on_the_server(
    chained: lw.Workspace, tmp_path: Path, make_film: Callable[..., Path], wait_until: Callable[..., Any]
) -> None:
    make_film(tmp_path / "walk.mp4", [4, 8])
    with ServerThread(chained) as server:
        chained.live.add(pipeline(tmp_path, track={}))
        wait_until(lambda: chained.live.status("street")["state"] == "done")
        assert "tones:1" in server.serving.engine.names()
        chained.remove_chain("both")
        server.serving.chains.tidy()
        assert "tones:1" not in server.serving.engine.names()
    check(tmp_path, track="1")


def pixels(size: tuple[int, int] = (60, 120)) -> NDArray[np.uint8]:
    return np.full((*size, 3), 250, np.uint8)


def test_what_nested_models_say_is_drawn_with_its_places() -> None:
    then = {
        "plate": {"crop": [20, 10, 40, 30], "labels": [{"label": "ab", "score": 0.9, "box": [4, 5, 10, 10]}]},
        "kind": {"crop": [20, 10, 40, 30], "chosen": ["van"], "labels": [{"label": "van", "score": 0.8}]},
    }
    found = Found(label="car", score=0.9, box=(20.0, 10.0, 40.0, 30.0), then=then)
    drawn = nested.draw(pixels(), [found])
    green = np.all(drawn == nested._COLORS[0], axis=2)
    assert green[15, 24:34].all(), "the upper side of the nested box"
    assert not green[:14].any()
    assert green[42:52, 20:40].mean() > 0.5, "the class below the object"
    assert np.array_equal(nested.draw(pixels(), [Found(label="car", score=1.0)]), pixels())
    twice = nested.draw(np.full((120, 240, 3), 250, np.uint8), [found], 2.0)
    assert np.all(twice[30, 48:68] == nested._COLORS[0])
    rows = Result(pipeline="p", frame=Frame(index=0, time_s=0.0), model="m/1", objects=[found]).rows()
    assert [(row["label"], row["x"], row["y"]) for row in rows] == [
        ("car", 20.0, 10.0), ("plate/ab", 24.0, 15.0), ("kind/van", 20, 10)
    ]  # fmt: skip


def test_each_object_gets_what_its_own_label_led_to() -> None:
    box = [1.0, 2.0, 3.0, 4.0]
    then = [{"kind": {"crop": [1, 2, 3, 4], "labels": [], "n": n}} for n in range(2)]
    answer = {
        "labels": [
            {"label": "a", "score": 0.9, "box": box, "then": then[0]},
            {"label": "b", "score": 0.9, "box": box},
            {"label": "a", "score": 0.8, "box": box, "then": then[1]},
        ]
    }
    boxes = (1.001, 2.0, 3.0, 4.0)
    objects = [Found(label=label, score=0.9, box=boxes) for label in ("a", "b", "a", "a")]
    nested.attach(objects, answer)
    assert [one.then for one in objects] == [then[0], {}, then[1], {}]
