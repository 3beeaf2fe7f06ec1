"""What the server costs: requests a second over HTTP, against decoding and running the same model in this process.

The model is a small convolutional net of random weights (about 10 ms on one core); the image a JPEG of 640 x 480.
Clients run in a process of their own. Raw and served turns alternate, so that load on the machine falls on both.
``python -m benchmarks.serve`` prints one JSON line; ``make bench`` takes ``main``.
"""

import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

import loopworks as lw
from benchmarks.figure import Figure
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.infer import protocol
from loopworks.infer.onnxruntime import OnnxPredictor
from loopworks.server.run import ServerThread
from loopworks.store import bundles, models

SIZE = 224
TURNS = 3
TURN_S = 2.0
CLIENTS = (1, 8)
TARGETS = {"jpeg": 0.95, "tensor": 0.90}


def make_model(folder: Path) -> Bundle:
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
    variant = Variant(
        name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)
    )
    return write(
        Bundle(
            task="image-classification",
            schema=LabelSchema(classes=tuple("abcdefghij")),
            rule=ImageRule(height=SIZE, width=SIZE),
            inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, SIZE, SIZE, 3)),),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 10)),),
            version="0" * 64,
            recipe="train.none",
            variants=(variant,),
            chosen=variant.name,
        ),
        folder,
    )


def make_jpeg() -> bytes:
    """A picture with edges and noise, some 60 kB."""
    from PIL import Image

    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    pixels = np.clip(np.asarray(coarse).astype(np.int16) + rng.integers(-12, 13, (480, 640, 3)), 0, 255)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def rate(work: Callable[[], None], threads: int, seconds: float) -> float:
    """How often a second ``work`` is done by so many threads at once."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def run(i: int) -> None:
        while time.perf_counter() < end:
            work()
            counts[i] += 1

    began = time.perf_counter()
    running = [threading.Thread(target=run, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


class Raw:
    """The work itself, without a server: one predictor per thread, as the server has."""

    def __init__(self, bundle: Bundle, jpeg: bytes) -> None:
        self._bundle = bundle
        self._jpeg = jpeg
        self._own = threading.local()
        self._row = bundle.rule.pack([jpeg])["image"]

    def work(self, kind: str) -> None:
        """Decode (``jpeg``) and run."""
        if not hasattr(self._own, "predictor"):
            self._own.predictor = OnnxPredictor(self._bundle.path("model.onnx"), 1)
        row = self._bundle.rule.pack([self._jpeg])["image"] if kind == "jpeg" else self._row
        self._own.predictor.predict({"image": row})

    def tensor(self) -> tuple[bytes, int | None]:
        """The decoded image as a request of the inference protocol."""
        return protocol.ask({"image": self._row})


def client(url: str, path: str, file: str, headers: str, count: int, seconds: float) -> float:
    """Answers a second that so many clients get."""
    parts = urlsplit(url)
    body, fields = Path(file).read_bytes(), json.loads(headers)
    own = threading.local()

    def ask() -> None:
        if not hasattr(own, "line"):
            own.line = HTTPConnection(parts.hostname or "", parts.port)
        own.line.request("POST", path, body, fields)
        answer = own.line.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content)

    return rate(ask, count, seconds)


@contextmanager
def serving(folder: Path, bundle: Bundle) -> Iterator[str]:
    """The URL of a server that has the model in use as ``net``."""
    with lw.open(folder / "space") as space:
        key = bundles.save(space.home.blobs, bundle.folder)
        with space.home.catalog.begin() as tx:
            model = models.add(
                tx, "net", bundle=key, run="", version=bundle.version, task=bundle.task, variant=bundle.chosen
            )
        space.deploy(model)
        with ServerThread(space) as server:
            yield server.url


def measure() -> dict[str, float]:
    """Requests a second, raw and served, and their ratio, per kind of request and number of clients."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = Raw(bundle := make_model(folder / "bundle"), jpeg := make_jpeg())
        body, length = raw.tensor()
        (folder / "jpeg").write_bytes(jpeg)
        (folder / "tensor").write_bytes(body)
        asked = {
            "jpeg": ("/predict/net", {"Content-Type": "image/jpeg"}),
            "tensor": ("/v2/models/net/infer", {protocol.HEADER_LENGTH: str(length)}),
        }
        with serving(folder, bundle) as url:
            for kind, (path, fields) in asked.items():
                for clients in CLIENTS:
                    words = [url, path, str(folder / kind), json.dumps(fields), str(clients), str(TURN_S)]
                    pairs = [_pair(raw, kind, clients, words) for _ in range(TURNS)]
                    found[f"{kind}_{clients}_raw"] = statistics.median(pair[0] for pair in pairs)
                    found[f"{kind}_{clients}_served"] = statistics.median(pair[1] for pair in pairs)
                    found[f"{kind}_{clients}_ratio"] = statistics.median(served / bare for bare, served in pairs)
    return found


def _pair(raw: Raw, kind: str, clients: int, words: list[str]) -> tuple[float, float]:
    bare = rate(lambda: raw.work(kind), min(clients, 2), TURN_S)
    command = [sys.executable, "-m", "benchmarks.serve", "client", *words]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return bare, float(out.stdout)


def main() -> list[Figure]:
    """The ratios against their targets."""
    found = measure()
    return [
        Figure(
            name=f"serve: {kind} at {clients} client{'s' if clients > 1 else ''}",
            value=found[f"{kind}_{clients}_ratio"],
            unit="ratio",
            target=target,
            at_least=True,
            detail=f"{found[f'{kind}_{clients}_served']:.0f}/s served, {found[f'{kind}_{clients}_raw']:.0f}/s raw "
            f"in {min(clients, 2)} thread(s), median of {TURNS} turns",
        )
        for kind, target in TARGETS.items()
        for clients in CLIENTS
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        _, _, address, route, content, given, many, duration = sys.argv
        print(client(address, route, content, given, int(many), float(duration)))
    else:
        print(json.dumps({name: round(value, 3) for name, value in measure().items()}))
