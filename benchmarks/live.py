"""What a live pipeline costs: frames a second of a video, against a bare loop that does the same; and a tracker's time.

The bare loop decodes, scales, and runs the same model (a small convolutional net of random weights) on one thread.
Turns alternate, so that load on the machine falls on both.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import loopworks as lw
from benchmarks.figure import Figure
from loopworks.core import image
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.infer.live.definition import Track
from loopworks.infer.live.tracking import Tracker
from loopworks.store import bundles, models

SIZE, FRAMES, TURNS = 224, 200, 3
CLASSES = ("cat", "dog", "eel")


def main() -> list[Figure]:
    """The figures."""
    return [_pipeline(), _tracker()]


def _pipeline() -> Figure:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        bundle = _bundle(root / "bundle")
        video = _film(root / "film.mp4")
        ratios, told = [], ""
        with lw.open(root / "space") as space:
            key = bundles.save(space.home.blobs, bundle.folder)
            with space.home.catalog.begin() as tx:
                models.add(tx, "net", bundle=key, run="", version="0" * 64, task=bundle.task, variant=bundle.chosen)
            space.deploy("net")
            source, sink = {"kind": "file", "path": str(video)}, {"kind": "csv", "path": str(root / "out.csv")}
            space.live.add({"name": "p", "source": source, "model": "net", "sinks": [sink]})
            with space._engine("net") as pick:
                for _ in range(TURNS):
                    bare = _bare(bundle, video)
                    space.live.start("p")
                    began = time.perf_counter()
                    with space.live.running("p", pick) as runner:
                        runner.join()
                    ours = runner.frames_out / (time.perf_counter() - began)
                    ratios.append(ours / bare)
                    told = f"{ours:.0f}/s of {bare:.0f}/s"
    return Figure(
        name="live pipeline, video of 640 x 480 through a small net, against a bare loop",
        value=sorted(ratios)[TURNS // 2],
        unit="ratio",
        target=0.9,
        at_least=True,
        detail=f"median of {TURNS} turns; the last: {told}",
    )


def _bare(bundle: Bundle, video: Path) -> float:
    import av

    predictor = predictors.load(bundle.variant(), bundle.folder, bundle.rule, threads=1)
    task: Any = plugins.get(f"task.{bundle.task}")
    assert isinstance(bundle.rule, ImageRule)
    began, count = time.perf_counter(), 0
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            pixels: Any = frame.to_ndarray(format="rgb24")
            outputs = predictor.predict({"image": image.fitted(pixels, bundle.rule)[None]})
            task.decode(outputs, bundle.schema)
            count += 1
    took = time.perf_counter() - began
    predictor.close()
    return count / took


def _tracker() -> Figure:
    rng = np.random.default_rng(0)
    tracker, count, frames = Tracker(Track()), 50, 200
    speeds = rng.uniform(-4, 4, (count, 2))
    begins = np.stack([rng.uniform(0, 1800, count), 40.0 * np.arange(count)], axis=1)
    began = time.perf_counter()
    for step in range(frames):
        corners = begins + speeds * (step, 0) + rng.normal(0, 0.5, (count, 2))
        boxes = np.concatenate([corners, np.full((count, 2), 30.0)], axis=1)
        tracker.update(boxes, np.full(count, 0.9), np.zeros(count, np.int64), step / 25)
    took = (time.perf_counter() - began) / frames * 1000
    return Figure(name="tracker, a frame with 50 things", value=took, unit="ms", target=10.0, detail="mean of 200")


def _film(path: Path) -> Path:
    import av

    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (480, 640, 3), np.uint8)
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for i in range(FRAMES):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.roll(ground, 4 * i, axis=1), format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def _bundle(folder: Path) -> Bundle:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    rng = np.random.default_rng(0)
    shapes = {"a": (32, 3, 7, 7), "b": (64, 32, 3, 3), "c": (3, 64)}
    weights = {name: (rng.normal(0, 0.05, shape)).astype(np.float32) for name, shape in shapes.items()}
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "a"], ["a1"], strides=[2, 2]),
        node("Relu", ["a1"], ["a2"]),
        node("Conv", ["a2", "b"], ["b1"], strides=[2, 2]),
        node("Relu", ["b1"], ["b2"]),
        node("GlobalAveragePool", ["b2"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "c"], ["logits"], transB=1),
        node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    variant = Variant(
        name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)
    )
    return write(
        Bundle(
            task="image-classification",
            schema=LabelSchema(classes=CLASSES),
            rule=ImageRule(height=SIZE, width=SIZE),
            inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, SIZE, SIZE, 3)),),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
            version="0" * 64,
            recipe="train.none",
            variants=(variant,),
            chosen="onnx-fp32",
        ),
        folder,
    )
