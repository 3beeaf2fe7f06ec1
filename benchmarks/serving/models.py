"""What is served: a net for images, boosted trees on one tensor, and the same on one tensor per column."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.contracts import Rule
from loopworks.core.row import Column, RowRule
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec

SIZE = 224
FEATURES = 30
NUMBERS, CATEGORIES = 16, 4


def make_net(folder: Path) -> Bundle:
    """Three strided convolutions and a softmax over 10 classes, in a bundle."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["t", "scale"], ["x0"]),
    ]
    weights = [numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")]
    channels = (3, 64, 192, 384)
    for i, (few, many) in enumerate(zip(channels, channels[1:], strict=False)):
        kernel = rng.normal(0, (2 / (9 * few)) ** 0.5, (many, few, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        nodes += [
            helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]),
        ]
    weights.append(numpy_helper.from_array(rng.normal(0, 0.1, (channels[-1], 10)).astype(np.float32), "w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{len(channels) - 1}"], ["p"]),
        helper.make_node("Flatten", ["p"], ["v"]),
        helper.make_node("MatMul", ["v", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    folder.mkdir()
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    inputs = (TensorSpec(name="image", datatype="UINT8", shape=(-1, SIZE, SIZE, 3)),)
    output = TensorSpec(name="scores", datatype="FP32", shape=(-1, 10))
    return _write(folder, "image-classification", ImageRule(height=SIZE, width=SIZE), inputs, output)


def make_jpeg() -> bytes:
    """A picture with edges and noise, some 60 kB."""
    from PIL import Image

    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    pixels = np.clip(np.asarray(coarse).astype(np.int16) + rng.integers(-12, 13, (480, 640, 3)), 0, 255)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


class _Graph:
    """What ``add_trees`` writes to."""

    features = "wide"

    def __init__(self) -> None:
        from onnx import TensorProto, helper

        self._helper = helper
        self.nodes: list[Any] = [helper.make_node("Cast", ["features"], ["wide"], to=TensorProto.DOUBLE)]

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def make_trees(folder: Path) -> Bundle:
    """200 trees of 31 leaves on 30 numbers, learnt from made-up rows; one tensor in, one out."""
    inputs = (TensorSpec(name="features", datatype="FP32", shape=(-1, FEATURES)),)
    return _trees(folder, FEATURES, ImageRule(height=1, width=1), inputs)  # a bundle has a rule; clients see tensors


def make_rows(folder: Path) -> Bundle:
    """The same of a table: 16 columns of numbers and 4 of categories, each a tensor."""
    numbers = [Column(name=f"number{i}", kind="number") for i in range(NUMBERS)]
    values = tuple(f"value{i}" for i in range(20))
    rule = RowRule(
        columns=(*numbers, *(Column(name=f"group{i}", kind="category", values=values) for i in range(CATEGORIES)))
    )
    return _trees(folder, NUMBERS + CATEGORIES, rule, rule.inputs())


def _trees(folder: Path, width: int, rule: Rule, inputs: tuple[TensorSpec, ...]) -> Bundle:
    import lightgbm
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from loopworks.train.tables.trees import add_trees

    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, width))
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=len(x)) > 0).astype(int)
    made = lightgbm.train(
        {"objective": "binary", "num_leaves": 31, "verbosity": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 200
    )
    graph = _Graph()
    chance = graph.node("Sigmoid", add_trees(graph, made.dump_model()))  # type: ignore[arg-type]
    other = graph.node("Sub", "one", chance)
    both = graph.node("Concat", other, chance, axis=1)
    graph.nodes.append(helper.make_node("Cast", [both], ["scores"], to=TensorProto.FLOAT))
    folder.mkdir()
    whole = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "trees",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
            [numpy_helper.from_array(np.ones((1, 1)), "one")],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 5)],
        ir_version=10,
    )
    onnx.save(whole, folder / "model.onnx")
    return _write(
        folder, "tabular-classification", rule, inputs, TensorSpec(name="scores", datatype="FP32", shape=(-1, 2))
    )


def _write(folder: Path, task: str, rule: Rule, inputs: tuple[TensorSpec, ...], output: TensorSpec) -> Bundle:
    variant = Variant(
        name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)
    )
    return write(
        Bundle(
            task=task,
            schema=LabelSchema(classes=tuple("abcdefghij"[: output.shape[1]])),
            rule=rule,
            inputs=inputs,
            outputs=(output,),
            version="0" * 64,
            recipe="train.none",
            variants=(variant,),
            chosen=variant.name,
        ),
        folder,
    )
