"""Workspaces with a version, a model that learnt from it, and a server that watches: of pictures and of rows."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.core import bundle as bundles_
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.row import Column, RowRule
from loopworks.core.values import LabelSchema, TensorSpec
from loopworks.infer.watch.watcher import Watcher
from loopworks.server.app import create_app
from loopworks.server.serving import Serving
from loopworks.store import bundles, models


def kept(space: lw.Workspace, bundle: Bundle, name: str) -> str:
    key = bundles.save(space.home.blobs, bundle.folder)
    with space.home.catalog.begin() as tx:
        found = models.add(
            tx, name, bundle=key, run="", version=bundle.version, task=bundle.task, variant=bundle.chosen
        )
    return found.ref


def of_version(bundle: Bundle, version: str) -> Bundle:
    return bundles_.write(dataclasses.replace(bundle, version=version), bundle.folder)


def photo_bytes(color: str, size: int = 16, seed: int = 0, strength: int = 150) -> bytes:
    import io

    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 60, (size, size, 3), np.uint8)
    pixels[..., ("red", "green", "blue").index(color)] += strength
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


@pytest.fixture
def photo() -> Callable[..., bytes]:
    """``photo("red", seed=3, strength=150)`` is a PNG file; a strength near 0 is no colour."""
    return photo_bytes


@pytest.fixture(scope="session")
def colors_template(tmp_path_factory: pytest.TempPathFactory, colors: Any) -> Path:
    """A workspace with 120 labelled pictures, frozen, and a model of that version in use as ``colors``."""
    root = tmp_path_factory.mktemp("watched")
    for color in ("red", "green", "blue"):
        (root / "photos" / color).mkdir(parents=True)
        for n in range(50):
            (root / "photos" / color / f"{n}.png").write_bytes(photo_bytes(color, seed=1_000 + n))
    with lw.open(root / "space") as made:
        pictures = made.dataset("photos", task="image-classification", classes=("red", "green", "blue"))
        pictures.add(root / "photos")
        pictures.split(test=0.2, val=0.3)
        version = pictures.freeze("first")
        kept(made, of_version(colors.write(root / "other", weight=-12), version.id), "contrary")
        made.deploy(kept(made, of_version(colors.write(root / "bundle"), version.id), "colors"), name="colors")
    return root / "space"


@pytest.fixture
def space(tmp_path: Path, colors_template: Path) -> Iterator[lw.Workspace]:
    """The workspace of pictures."""
    shutil.copytree(colors_template, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
        yield made


def row_bundle(folder: Path, version: str) -> Bundle:
    """Chance of yes: logistic of age minus 50 and of the city."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["raw"]),
        helper.make_node("Add", ["raw", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.array([[0, 0.2], [0, 0.3]], np.float32), "weights"),
            numpy_helper.from_array(np.array([0, -10], np.float32), "bias"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    rule = RowRule(
        columns=(Column(name="age", kind="number"), Column(name="city", kind="category", values=("bonn", "trier")))
    )
    return bundles_.write(
        Bundle(
            task="tabular-classification",
            schema=LabelSchema(classes=("no", "yes")),
            rule=rule,
            inputs=rule.inputs(),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),),
            version=version,
            recipe="train.none",
            variants=(
                Variant(
                    name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)
                ),
            ),
            chosen="onnx-fp32",
        ),
        folder,
    )


def people(count: int, seed: int, *, age: float = 50.0, bonn: float = 0.5) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    ages = rng.normal(age, 10, count).round(1)
    cities = rng.random(count) < bonn
    return [
        {"id": f"p{seed}-{n}", "age": float(a), "city": "bonn" if c else "trier"}
        for n, (a, c) in enumerate(zip(ages, cities, strict=True))
    ]


def answer_of(row: dict[str, Any]) -> str:
    """What the model of rows says, worked out without it."""
    return "yes" if 0.2 * row["age"] + 0.3 * (row["city"] == "trier") > 10 else "no"


@pytest.fixture(scope="session")
def rows_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with 600 rows, frozen, and a model of that version in use as ``churn``."""
    root = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(9)
    with (root / "churn.jsonl").open("w", encoding="utf-8") as file:
        for row in people(600, 1):
            wrong = rng.random() < 0.1
            answer = answer_of(row)
            told = {"yes": "no", "no": "yes"}[answer] if wrong else answer
            file.write(json.dumps({**row, "churn": told}) + "\n")
    with lw.open(root / "space") as made:
        table = made.dataset("churn", task="tabular-classification").table
        table.add(root / "churn.jsonl")
        table.choose(target="churn", id="id")
        version = table.freeze("first")
        made.deploy(kept(made, row_bundle(root / "bundle", version.id), "churn"), name="churn")
    return root / "space"


@pytest.fixture
def table_space(tmp_path: Path, rows_template: Path) -> Iterator[lw.Workspace]:
    """The workspace of rows."""
    shutil.copytree(rows_template, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
        yield made


@dataclasses.dataclass
class Watching:
    """A server, whose watcher looks only when it is told to."""

    space: lw.Workspace
    client: TestClient
    serving: Serving
    shown: list[int]
    """How many runs the watcher was shown."""

    @property
    def watcher(self) -> Watcher:
        return self.serving.watch

    def ask(self, content: bytes) -> dict[str, Any]:
        answer = self.client.post("/predict/colors", content=content, headers={"content-type": "image/png"})
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["predictions"]
        return dict(found)

    def ask_rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answer = self.client.post("/predict/churn", json={"rows": rows})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["predictions"])

    def flush(self) -> None:
        """Look at all that was answered: a run is shown to the watcher after its clients have their answers."""
        end = time.monotonic() + 10
        while self.shown[0] < sum(one.statistics.executions for one in self.serving.engine.models()):
            assert time.monotonic() < end, "a run was not shown"
            time.sleep(0.005)
        self.watcher.flush()

    def settle(self, deployment: str) -> None:
        """Wait until the training data has been looked at."""
        watched = self.watcher._watched[deployment]
        for thread in watched.threads:
            thread.join()

    def metric(self, name: str) -> dict[tuple[str, ...], float]:
        found = {}
        for metric in self.serving.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == name:
                    found[tuple(sample.labels.values())] = sample.value
        return found


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[lw.Workspace], Watching]]:
    """``start(space)`` begins a server."""
    monkeypatch.setattr("loopworks.infer.watch.watcher.TICK_S", 3_600.0)
    opened: list[Any] = []

    def begin(space: lw.Workspace) -> Watching:
        serving = Serving(space)
        opened.append(serving.close)
        shown, saw = [0], serving.watch.saw

        def counted(*run: Any) -> None:
            saw(*run)
            shown[0] += 1

        monkeypatch.setattr(serving.watch, "saw", counted)
        client = TestClient(create_app(space, serving=serving), base_url="http://127.0.0.1")
        client.__enter__()
        opened.append(lambda: client.__exit__(None, None, None))
        return Watching(space, client, serving, shown)

    yield begin
    for close in reversed(opened):
        close()
