"""One small real model of every task kind, made without training, and what each is asked about."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import loopworks as lw
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.contracts import Rule
from loopworks.core.registry import plugins
from loopworks.core.row import Column, RowRule
from loopworks.core.text import TextRule
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.store import bundles, models
from loopworks_edge import samples

SIDE = 16
COLUMNS = (
    Column(name="age", kind="number"),
    Column(name="city", kind="category", values=("Bern", "Rome")),
    Column(name="at", kind="moment", parts=("year", "hour")),
)
ROWS = [
    {"age": "31", "city": "Bern", "at": "2024-05-31T13:45:00"},
    {"age": "", "city": "Oslo", "at": ""},
    {"age": "7.5", "city": "Rome", "at": "1999-01-01T00:00:00"},
]
TEXTS = ["the street light is broken", "Müll an der Ecke", "路灯坏了", ""]


def graph_of(task: str) -> Any:
    """A graph whose answer depends on all of the input, for the task kind."""
    from onnx import TensorProto as Kind
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(3)
    node = helper.make_node
    takes: list[Any]
    gives: list[Any]
    weights: dict[str, Any] = {"one": np.array([1], np.int64)}
    nodes = []
    if task.startswith(("image", "object", "semantic")):
        takes = [("image", Kind.UINT8, ["n", SIDE, SIDE, 3])]
        weights |= {"flat": np.array([0, -1], np.int64), "most": np.array(1 / 255, np.float32)}
        nodes += [
            node("Cast", ["image"], ["float"], to=Kind.FLOAT),
            node("Mul", ["float", "most"], ["pixels"]),
            node("Reshape", ["pixels", "flat"], ["features"]),
        ]
        width = SIDE * SIDE * 3
    elif task.startswith("text"):
        takes = [("pieces", Kind.INT32, ["n", "m"]), ("counts", Kind.FLOAT, ["n", "m"])]
        weights |= {"cycle": np.array([7, 11, 13, 17], np.float32), "last": np.array([2], np.int64)}
        nodes += [
            node("Cast", ["pieces"], ["numbers"], to=Kind.FLOAT),
            node("Unsqueeze", ["numbers", "last"], ["deep"]),
            node("Mod", ["deep", "cycle"], ["turns"], fmod=1),
            node("Unsqueeze", ["counts", "last"], ["often"]),
            node("Mul", ["turns", "often"], ["weighed"]),
            node("ReduceSum", ["weighed", "one"], ["features"], keepdims=0),
        ]
        width = 4
    else:
        width = RowRule(columns=COLUMNS).width
        takes = [("features", Kind.FLOAT, ["n", width])]
        weights["gone"] = np.array(0, np.float32)
        nodes += [
            node("IsNaN", ["features"], ["missing"]),
            node("Where", ["missing", "gone", "features"], ["known"]),
        ]
    source = "known" if "gone" in weights else "features"
    if task == "object-detection":
        for name, at in (("boxes", 0), ("scores", 400), ("classes", 500)):
            weights |= {f"{name}_from": np.array([at], np.int64)}
            weights |= {f"{name}_to": np.array([at + (400 if name == "boxes" else 100)], np.int64)}
            nodes.append(node("Slice", ["features", f"{name}_from", f"{name}_to", "one"], [f"{name}_flat"]))
        weights |= {"shape": np.array([-1, 100, 4], np.int64), "half": np.array(0.5, np.float32)}
        nodes += [
            node("Reshape", ["boxes_flat", "shape"], ["sides"]),
            node("Mul", ["sides", "half"], ["boxes"]),
            node("Identity", ["scores_flat"], ["scores"]),
            node("Greater", ["classes_flat", "half"], ["is_second"]),
            node("Cast", ["is_second"], ["classes"], to=Kind.INT64),
        ]
        gives = [
            ("boxes", Kind.FLOAT, ["n", 100, 4]),
            ("scores", Kind.FLOAT, ["n", 100]),
            ("classes", Kind.INT64, ["n", 100]),
        ]
    elif task == "semantic-segmentation":
        weights |= {"half": np.array(0.5, np.float32), "deepest": np.array([3], np.int64)}
        nodes += [
            node("ReduceMean", ["pixels", "deepest"], ["sure"], keepdims=0),
            node("Greater", ["sure", "half"], ["is_second"]),
            node("Cast", ["is_second"], ["classes"], to=Kind.UINT8),
        ]
        gives = [("classes", Kind.UINT8, ["n", SIDE, SIDE]), ("sure", Kind.FLOAT, ["n", SIDE, SIDE])]
    else:
        many = 1 if task == "tabular-regression" else 3
        weights["weight"] = rng.normal(0, 1 / width, (width, many)).astype(np.float32)
        name = "value" if many == 1 else "scores"
        nodes.append(node("MatMul", [source, "weight"], [name if many == 1 else "logits"]))
        if many > 1:
            nodes.append(node("Softmax", ["logits"], ["scores"], axis=-1))
        gives = [(name, Kind.FLOAT, ["n", many])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*one) for one in takes],
        [helper.make_tensor_value_info(*one) for one in gives],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@dataclass(frozen=True)
class Kind:
    """A model of a task kind, and items to ask it about."""

    bundle: Bundle
    contents: Sequence[Any]


def make_kind(task: str, folder: Path) -> Kind:
    import onnx

    folder.mkdir(parents=True)
    onnx.save(graph_of(task), folder / "model.onnx")
    onnx.save(graph_of(task), folder / "other.onnx")
    (folder / "training.txt").write_text("not for the edge", encoding="utf-8")
    rule: Rule
    if task.startswith("text"):
        rule = TextRule(buckets=1 << 12)
    elif task.startswith("tabular"):
        rule = RowRule(columns=COLUMNS)
    else:
        rule = ImageRule(height=SIDE, width=SIDE, fit="pad")
    classes = () if task == "tabular-regression" else ("a", "b", "c")
    schema = LabelSchema(classes=classes)
    if task == "semantic-segmentation":
        outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="classes", datatype="UINT8", shape=(-1, SIDE, SIDE)),
            TensorSpec(name="sure", datatype="FP32", shape=(-1, SIDE, SIDE)),
        )
    else:
        outputs = plugins.get(f"task.{task}").outputs(schema)
    variants = tuple(
        Variant(name=name, runtime="onnxruntime", precision="fp32", file=file, files=(file,), is_refused=refused)
        for name, file, refused in (
            ("first", "model.onnx", False),
            ("second", "other.onnx", False),
            ("bad", "other.onnx", True),
        )
    )
    bundle = write(
        Bundle(
            task=task,
            schema=schema,
            rule=rule,
            inputs=rule.inputs(),
            outputs=outputs,
            version="0" * 64,
            recipe="train.none",
            variants=variants,
            chosen="first",
        ),
        folder,
    )
    if task.startswith("text"):
        return Kind(bundle, TEXTS)
    if task.startswith("tabular"):
        return Kind(bundle, ROWS)
    return Kind(bundle, samples.contents(bundle, 3))


TASKS = (
    "image-classification",
    "object-detection",
    "semantic-segmentation",
    "tabular-classification",
    "tabular-regression",
    "text-classification",
)


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    """Task kind -> a model of it; ``bundle.contents`` are three items or more."""
    root = tmp_path_factory.mktemp("kinds")
    return {task: make_kind(task, root / task) for task in TASKS}


@pytest.fixture(scope="session")
def make() -> Callable[[str, Path], Kind]:
    """``make(task, folder)`` writes a model of a task kind."""
    return make_kind


CHAIN = """
nodes:
  find: object-detection
  kind: image-classification
  parts: kinds:1
edges:
  - {from: find, to: kind, label: [a], score: 0.6, size: 2, margin: 0.1}
  - {from: find, to: parts, label: b, most: 2}
  - {from: kind, to: parts, score: 0.2}
"""


@pytest.fixture(scope="session")
def chain() -> str:
    """The graph of the chain ``street``: detect, classify, segment."""
    return CHAIN


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, Kind]) -> Iterator[lw.Workspace]:
    """A workspace with a deployment of every task kind, and the chain ``street``."""
    with lw.open(tmp_path_factory.mktemp("chains") / "space", threads=1) as space:
        for name, task in [(task, task) for task in kinds] + [("kinds", "semantic-segmentation")]:
            key = bundles.save(space.home.blobs, kinds[task].bundle.folder)
            with space.home.catalog.begin() as tx:
                model = models.add(tx, name, bundle=key, run="", version="", task=task, variant="first")
            if name == task:
                space.deploy(model)
        space.add_chain("street", CHAIN)
        yield space


def make_photo(seed: int = 0, size: tuple[int, int] = (96, 64)) -> bytes:
    out = io.BytesIO()
    blots = np.random.default_rng(seed).integers(0, 256, (size[1] // 6, size[0] // 6, 3), np.uint8)
    Image.fromarray(blots).resize(size, Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """``photo(seed, size)``: a PNG file of coloured blots."""
    return make_photo
