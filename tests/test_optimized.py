"""A model that was trained elsewhere through the tournament, through Python, the command line and HTTP; then on a
machine elsewhere. One workspace, no training."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.server.app import create_app

pytestmark = [pytest.mark.train, pytest.mark.optimize, pytest.mark.slow]
CLASSES = ("red", "green", "blue")
SIZE = 64


def theirs(path: Path) -> Path:
    """A file as another tool writes it: normalized floats, channels first, a fixed batch axis name, logits out."""
    spread = np.zeros((8, 3, 3, 3), np.float32)
    for channel in range(3):
        spread[channel, channel] = 1 / 9
    head = np.zeros((8, 3), np.float32)
    head[:3] = np.eye(3) * 20
    nodes = [
        helper.make_node("Conv", ["input", "spread"], ["seen"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["seen"], ["kept"]),
        helper.make_node("GlobalAveragePool", ["kept"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(spread, "spread"), numpy_helper.from_array(head, "head")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def draw(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            pixels = rng.integers(0, 120, (SIZE, SIZE, 3))
            pixels[..., place] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{n:03}.png")
    return folder


def call(*words: str) -> Any:
    found = CliRunner().invoke(app, [*words, "--json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with ``guest:1`` from elsewhere and ``guest:2``, the same optimized."""
    root = tmp_path_factory.mktemp("guest")
    with lw.open(root / "space") as ws:
        photos = ws.dataset("photos", task="image-classification", classes=CLASSES)
        photos.add(draw(root / "photos", 24))
        photos.split(test=0.25, val=0.4)
        photos.freeze("first")
    where = ("--workspace", str(root / "space"))
    call("models", "add", str(theirs(root / "theirs.onnx")), "guest", "--version", "photos", *where)
    variants = ("onnx-int8", "lower50", "openvino-fp32")
    call("optimize", "guest", "--max-drop", "0.05", *(word for v in variants for word in ("--variant", v)), *where)
    return root


@pytest.fixture
def ws(space: Path) -> Iterator[lw.Workspace]:
    with lw.open(space / "space") as found:
        yield found


def measured(number: int = 2) -> dict[str, Any]:
    def figures(name: str, p50: float) -> dict[str, Any]:
        return {
            "name": name, "latency_ms": {"p50": p50, "p99": p50 + 1}, "throughput_per_s": 1000 / p50, "batch": 1,
            "memory_mb": 50, "start_s": 0.5, "size_bytes": 1,
        }  # fmt: skip

    return {
        "format": 1,
        "kind": "loopworks-bench",
        "model": {"name": "guest", "number": number},
        "host": {"name": "camera-7", "cpu": "Cortex-A72", "cores": 4, "os": "Linux"},
        "variants": [figures("onnx-fp32", 30.0), figures("onnx-int8", 9.0), figures("lower50", 12.0)],
    }


def test_a_model_from_elsewhere_is_optimized_like_ours(ws: lw.Workspace) -> None:
    found = ws.front("guest:2")
    rows = {row["name"]: row for row in found["variants"]}
    assert {"onnx-fp32", "onnx-int8", "openvino-fp32", "lower50"} <= set(rows)
    for row in rows.values():
        assert row["val"]["count"] > row["test"]["count"] > 10
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["per_s"] > 0
        assert row["memory_bytes"] > 20e6
        assert row["start_s"] > 0
    assert any(row["is_on_front"] for row in rows.values())
    assert sum(row["is_chosen"] for row in rows.values()) == 1
    assert ws.model("guest:2").parent == "guest:1"


def test_each_of_its_variants_answers_when_deployed(ws: lw.Workspace, space: Path) -> None:
    photo = space / "photos" / "green" / "003.png"
    for row in ws.front("guest:2")["variants"]:
        if not row["is_refused"]:
            ws.deploy("guest:2", name="guest", variant=row["name"])
            assert ws.predict("guest", photo)["chosen"] == ["green"]


def test_the_front_is_the_same_through_every_face(ws: lw.Workspace, space: Path, tmp_path: Path) -> None:
    picture = tmp_path / "front.svg"
    by_command = call("models", "front", "guest:2", "--svg", str(picture), "--workspace", str(space / "space"))
    assert by_command["front"] == ws.front("guest:2")
    with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
        assert client.get("/api/models/guest:2/front").json()["front"] == ws.front("guest:2")
        drawn = client.get("/api/models/guest:2/front", params={"form": "svg"})
        assert drawn.headers["content-type"].startswith("image/svg+xml")
        assert client.get("/api/models/guest:2/front", params={"form": "png"}).status_code == 422
        assert client.get("/api/models/guest:1/front").status_code == 409
    assert ElementTree.fromstring(picture.read_text(encoding="utf-8")).tag.endswith("svg")
    assert drawn.text.strip() == picture.read_text(encoding="utf-8").strip()
    assert drawn.text in ws.card("guest:2")
    assert "instruction" in ws.card("guest:2", form="markdown") or "avx" in ws.card("guest:2", form="markdown")


def test_what_another_machine_measured_chooses_there(ws: lw.Workspace, space: Path, tmp_path: Path) -> None:
    file = tmp_path / "camera.json"
    file.write_text(json.dumps(measured()), encoding="utf-8")
    where = ("--workspace", str(space / "space"))
    made = call("optimize", "guest:2", "--on", str(file), *where)
    ref = made["model"]["ref"]
    assert made["front"]["chosen"] == "onnx-int8"
    assert ws.front(ref, host="camera-7") == made["front"]
    assert ws.front(ref)["chosen"] == ws.front("guest:2")["chosen"], "here everything stays as it was"
    done = call("deploy", ref, "--name", "edge", "--for", "camera-7", *where)
    assert done["deployment"]["variant"] == "onnx-int8"
    with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
        answer = client.post("/api/models/guest:2/measured", json=measured(), params={"target": "size"})
        assert answer.status_code == 201
        other = answer.json()["model"]["ref"]
        assert client.get(f"/api/models/{other}/front", params={"host": "camera-7"}).status_code == 200
        assert client.get(f"/api/models/{other}/front", params={"host": "moon"}).status_code == 404
        assert client.post("/api/models/guest:2/measured", json={}).status_code == 422
    assert [node.id for node in ws.lineage(ref)][:2] == [ref, "guest:2"]
    with pytest.raises(NotFound, match="moon"):
        ws.deploy(ref, host="moon")
    with pytest.raises(Invalid, match="one of the two"):
        ws.deploy(ref, host="camera-7", variant="onnx-int8")
    with pytest.raises(Conflict, match="must be of guest:2; got guest:1"):
        ws.record("guest:2", measured(1))


def test_wrong_requests_are_refused_before_any_work(ws: lw.Workspace) -> None:
    with pytest.raises(NotFound, match="variant 'shrunk'"):
        ws.optimize_job("guest:1", asked=["shrunk"])
    with pytest.raises(Invalid, match="budget"):
        ws.optimize_job("guest:1", asked=["pruned"], budget="0.2s")
    with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
        body = {"model": "guest:1", "asked": "pruned"}
        assert client.post("/api/optimize", json=body).json()["error"]["message"].startswith("asked must be a list")
