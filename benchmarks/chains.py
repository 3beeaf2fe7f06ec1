"""A chain of a detector and a classifier: one request, against the two calls made by hand, and against the floor.

By hand: the photo to the detector, its boxes cut out of the decoded photo and sent as pictures to the classifier, all
in one second request: as PNG, which gives the chain's answers, or as JPEG, which is quicker. The floor: the same steps
in this process, with the same runtimes, without server or JSON. The nets are of random weights; the detector always
finds as many things. Turns alternate. Times are those of the processor, of server and client together, which stand
still while others use it; the clock's are in the detail.
"""

import base64
import http.client
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import loopworks as lw
from benchmarks.figure import Figure
from loopworks.core import image
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.server.run import ServerThread
from loopworks.store import bundles, models

SIDES = {"find": 320, "kind": 128}
FOUND, TURNS, EACH = 8, 5, 12
GRAPH = "nodes: {find: find, kind: kind}\nedges: [{from: find, to: kind}]"


def main() -> list[Figure]:
    """The figures."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        made = {name: _bundle(root / name, name) for name in SIDES}
        with lw.open(root / "space", threads=1) as space:
            for name, bundle in made.items():
                key = bundles.save(space.home.blobs, bundle.folder)
                with space.home.catalog.begin() as tx:
                    models.add(tx, name, bundle=key, run="", version="0" * 64, task=bundle.task, variant="a")
                space.deploy(name)
            space.add_chain("both", GRAPH)
            with ServerThread(space) as server:
                return _measured(server.url.removeprefix("http://"), made)


def _measured(address: str, made: dict[str, Bundle]) -> list[Figure]:
    photo = _photo()
    floor = _Floor(made)
    client = http.client.HTTPConnection(address, timeout=60)

    def post(path: str, body: bytes, kind: str) -> Any:
        client.request("POST", path, body, {"Content-Type": kind})
        return json.loads(client.getresponse().read())

    def chain(photo: bytes) -> list[str]:
        (found,) = post("/predict/both", photo, "image/jpeg")["predictions"]
        return [row["then"]["kind"]["chosen"][0] for row in found["labels"]]

    def hand(photo: bytes, form: str = "PNG") -> list[str]:
        (found,) = post("/predict/find", photo, "image/jpeg")["predictions"]
        with Image.open(io.BytesIO(photo)) as opened:
            opened.load()
            crops = []
            for row in found["labels"]:
                x, y, width, height = row["box"]
                part = io.BytesIO()
                box = (round(x), round(y), round(x + width), round(y + height))
                opened.crop(box).save(part, form, compress_level=1)
                crops.append(base64.b64encode(part.getvalue()).decode())
        body = json.dumps({"images": crops}).encode()
        return [one["chosen"][0] for one in post("/predict/kind", body, "application/json")["predictions"]]

    ways: dict[str, Callable[[bytes], list[str]]] = {
        "chain": chain,
        "hand, PNG crops": hand,
        "hand, JPEG crops": lambda photo: hand(photo, "JPEG"),
        "floor": floor.ask,
    }
    answers = {name: way(photo) for name, way in ways.items()}
    assert answers["chain"] == answers["hand, PNG crops"] == answers["floor"], answers
    times: dict[str, list[float]] = {name: [] for name in ways}
    clock: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            began, at = time.process_time(), time.perf_counter()
            for _ in range(EACH):
                way(photo)
            times[name].append((time.process_time() - began) / EACH)
            clock[name].append((time.perf_counter() - at) / EACH)
    many = _many(post, photo)
    client.close()
    best = {name: sorted(told)[TURNS // 2] for name, told in times.items()}
    middle = {name: sorted(told)[TURNS // 2] for name, told in clock.items()}
    told = ", ".join(f"{name} {1000 * one:.1f} ms (clock {1000 * middle[name]:.1f})" for name, one in best.items())
    return [
        Figure(
            name=f"a chain of two models with {FOUND} crops, against two calls by hand with JPEG crops",
            value=best["hand, JPEG crops"] / best["chain"],
            unit="times as fast",
            target=1.0,
            at_least=True,
            detail=told,
        ),
        Figure(
            name="the same against its steps in one process without server",
            value=best["floor"] / best["chain"],
            unit="ratio",
            target=0.8,
            at_least=True,
            detail=told,
        ),
        Figure(
            name="eight photos in one request for a chain, against eight requests",
            value=many[0] / many[1],
            unit="times as fast",
            target=1.0,
            at_least=True,
            detail=f"{1000 * many[0]:.0f} ms one by one, {1000 * many[1]:.0f} ms together",
        ),
    ]


def _many(post: Callable[[str, bytes, str], Any], photo: bytes) -> tuple[float, float]:
    body = json.dumps({"images": [base64.b64encode(photo).decode()] * 8}).encode()
    apart, together = [], []
    for _ in range(TURNS):
        began = time.process_time()
        for _ in range(8):
            post("/predict/both", photo, "image/jpeg")
        between = time.process_time()
        post("/predict/both", body, "application/json")
        apart.append(between - began)
        together.append(time.process_time() - between)
    return sorted(apart)[TURNS // 2], sorted(together)[TURNS // 2]


class _Floor:
    """The same steps, written out."""

    def __init__(self, made: dict[str, Bundle]) -> None:
        self._made = made
        self._run = {
            name: predictors.load(bundle.variant("a"), bundle.folder, bundle.rule, threads=1)
            for name, bundle in made.items()
        }

    def ask(self, photo: bytes) -> list[str]:
        rules: dict[str, Any] = {name: bundle.rule for name, bundle in self._made.items()}
        boxes = self._run["find"].predict({"image": image.decode(photo, rules["find"])[None]})["boxes"][0, :FOUND]
        pixels = image.whole(photo)
        height, width = pixels.shape[:2]
        crops = []
        for left, top, right, bottom in boxes:  # in shares of the sides
            x, y = round(float(left) * width), round(float(top) * height)
            crops.append(
                image.fitted(pixels[y : round(float(bottom) * height), x : round(float(right) * width)], rules["kind"])
            )
        scores = self._run["kind"].predict({"image": np.stack(crops)})["scores"]
        return [self._made["kind"].schema.classes[place] for place in scores.argmax(axis=1)]


def _photo() -> bytes:
    rough = np.random.default_rng(1).integers(0, 256, (45, 80, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(rough).resize((1280, 720), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _bundle(folder: Path, name: str) -> Bundle:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    rng, side, node = np.random.default_rng(0), SIDES[name], helper.make_node
    weights = {"scale": np.array(1 / 255, np.float32)}
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Mul", ["float", "scale"], ["share"]),
        node("Transpose", ["share"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    width = 3
    for layer, more in enumerate((24, 48, 96, 96)):
        weights[f"w{layer}"] = rng.normal(0, (2 / (9 * width)) ** 0.5, (more, width, 3, 3)).astype(np.float32)
        nodes.append(node("Conv", [f"x{layer}", f"w{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", [f"c{layer}"], [f"x{layer + 1}"]))
        width = more
    nodes.append(node("GlobalAveragePool", [f"x{layer + 1}"], ["mean"]))
    nodes.append(node("Flatten", ["mean"], ["features"]))
    schema = LabelSchema(classes=("car",) if name == "find" else ("van", "truck", "bus"))
    gives: list[Any]
    if name == "find":
        task, most = "object-detection", 100
        places = np.zeros((1, most, 4), np.float32)
        for at in range(FOUND):
            x, y = (at % 4) * 0.24, (at // 4) * 0.48
            places[0, at] = (x + 0.02, y + 0.02, x + 0.22, y + 0.42)
        sure = np.zeros((1, most), np.float32)
        sure[0, :FOUND] = np.linspace(0.95, 0.8, FOUND)
        weights |= {
            "places": places, "sure": sure, "kinds": np.zeros((1, most), np.int64), "none": np.array(0, np.float32),
            "one": np.array([1], np.int64), "deep": np.array([2], np.int64),
        }  # fmt: skip
        nodes += [
            node("ReduceMean", ["features", "one"], ["level"], keepdims=1),
            node("Mul", ["level", "none"], ["nothing"]),
            node("Unsqueeze", ["nothing", "deep"], ["nothing3"]),
            node("Add", ["places", "nothing3"], ["boxes"]),
            node("Add", ["sure", "nothing"], ["scores"]),
            node("Cast", ["nothing"], ["zero"], to=TensorProto.INT64),
            node("Add", ["kinds", "zero"], ["classes"]),
        ]
        gives = [("boxes", TensorProto.FLOAT, ["n", most, 4]), ("scores", TensorProto.FLOAT, ["n", most])]
        gives.append(("classes", TensorProto.INT64, ["n", most]))
    else:
        task = "image-classification"
        weights["last"] = rng.normal(0, 1, (width, 3)).astype(np.float32)
        nodes += [node("MatMul", ["features", "last"], ["logits"]), node("Softmax", ["logits"], ["scores"], axis=-1)]
        gives = [("scores", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", side, side, 3])],
        [helper.make_tensor_value_info(*one) for one in gives],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    rule = ImageRule(height=side, width=side, fit="stretch")
    return write(
        Bundle(
            task=task,
            schema=schema,
            rule=rule,
            inputs=rule.inputs(),
            outputs=plugins.get(f"task.{task}").outputs(schema),
            version="0" * 64,
            recipe="train.none",
            variants=(
                Variant(name="a", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)),
            ),
            chosen="a",
        ),
        folder,
    )
