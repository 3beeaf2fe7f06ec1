"""An edge bundle in an environment that holds a runtime, numpy and Pillow alone, against the server it came from.

``python -m benchmarks edge``: a convolutional net over 224 x 224 pixels (random weights), 20 photos of noise. The
environment is made anew by ``uv`` from its cache, so it needs uv and the packages there.
"""

import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import loopworks as lw
from benchmarks.figure import Figure
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.infer import protocol
from loopworks.server.run import ServerThread
from loopworks.store import bundles, models

SIDE, PHOTOS, ROUNDS = 224, 20, 5
NAME = "net"


def net(folder: Path) -> Bundle:
    """Four convolutions, a mean and a softmax over 10 classes."""
    import onnx
    from onnx import TensorProto as Kind
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    node = helper.make_node
    weights: dict[str, Any] = {"most": np.array(1 / 255, np.float32), "axes": np.array([2, 3], np.int64)}
    nodes = [
        node("Cast", ["image"], ["float"], to=Kind.FLOAT),
        node("Mul", ["float", "most"], ["share"]),
        node("Transpose", ["share"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    sizes = (3, 16, 32, 64, 10)
    for at, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weights[f"w{at}"] = rng.normal(0, (2 / before / 9) ** 0.5, (after, before, 3, 3)).astype(np.float32)
        nodes.append(node("Conv", [f"x{at}", f"w{at}"], [f"c{at}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", [f"c{at}"], [f"x{at + 1}"]))
    nodes.append(node("ReduceMean", ["x4", "axes"], ["logits"], keepdims=0))
    nodes.append(node("Softmax", ["logits"], ["scores"], axis=-1))
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", Kind.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("scores", Kind.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "net.onnx")
    schema = LabelSchema(classes=tuple(f"class {i}" for i in range(10)))
    rule = ImageRule(height=SIDE, width=SIDE)
    variant = Variant(name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="net.onnx", files=("net.onnx",))
    return write(
        Bundle(
            task="image-classification",
            schema=schema,
            rule=rule,
            inputs=rule.inputs(),
            outputs=plugins.get("task.image-classification").outputs(schema),
            version="0" * 64,
            recipe="train.none",
            variants=(variant,),
            chosen=variant.name,
        ),
        folder,
    )


def photos() -> list[bytes]:
    """JPEGs of 640 x 480 pixels: blots of colour, so that they compress as photos do."""
    import io

    from PIL import Image

    rng = np.random.default_rng(1)
    found = []
    for _ in range(PHOTOS):
        out = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def ask(url: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One POST on a connection of its own."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("POST", path, body, headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    if reply.status != 200:
        raise RuntimeError(f"{path}: {reply.status} {content[:300]!r}")
    return content


def answers(url: str, images: list[bytes]) -> tuple[list[Any], list[bytes]]:
    """What a server says of each image: as a person asks, and as tensors."""
    told, raw = [], []
    rule = ImageRule(height=SIDE, width=SIDE)
    for image in images:
        body = json.loads(ask(url, f"/predict/{NAME}", image, {"Content-Type": "image/jpeg"}))
        told.append({key: value for key, value in body.items() if key != "timings_ms"})
        packed, length = protocol.ask(rule.pack([image]))
        raw.append(ask(url, f"/v2/models/{NAME}/infer", packed, {protocol.HEADER_LENGTH: str(length)}))
    return told, raw


def seconds(url: str, image: bytes) -> float:
    """Median time of one photo, alone."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        ask(url, f"/predict/{NAME}", image, {"Content-Type": "image/jpeg"})
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> list[Figure]:
    """Equality, then time against the server, start and memory."""
    images = photos()
    with tempfile.TemporaryDirectory(prefix="loopworks-edge-") as scratch, lw.open(Path(scratch) / "space") as space:
        bundle = net(Path(scratch) / "bundle")
        key = bundles.save(space.home.blobs, bundle.folder)
        with space.home.catalog.begin() as tx:
            made = models.add(
                tx, NAME, bundle=key, run="", version=bundle.version, task=bundle.task, variant=bundle.chosen
            )
        space.deploy(made)
        folder = space.pack_edge(NAME, Path(scratch) / "out").path
        python = _environment(Path(scratch) / "venv", folder)
        with ServerThread(space) as server:
            edge, url = _start(python, folder)
            try:
                is_same = answers(server.url, images) == answers(url, images)
                ratios = [seconds(url, images[0]) / seconds(server.url, images[0]) for _ in range(ROUNDS)]
            finally:
                edge.terminate()
                edge.wait(20)
        words = [str(python), "-m", "loopworks_edge", "bench", "--seconds", "0.5"]
        installed = _installed(python)
        told = json.loads(subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout)
    (variant,) = told["variants"]
    return [
        Figure(
            name="edge: same answers as the server",
            value=float(is_same),
            unit="",
            target=1.0,
            at_least=True,
            detail=f"{PHOTOS} photos, JSON and tensors, bit for bit; {', '.join(installed)}",
        ),
        Figure(
            name="edge: time of a photo over HTTP against the server's",
            value=statistics.median(ratios),
            unit="ratio",
            target=1.2,
            detail=f"one client, rounds {', '.join(f'{ratio:.2f}' for ratio in ratios)}",
        ),
        Figure(
            name="edge: start to first answer",
            value=variant["start_s"],
            unit="s",
            target=2.0,
            detail=f"{variant['memory_mb']:.0f} MB, p50 {variant['latency_ms']['p50']:.2f} ms",
        ),
    ]


def _environment(venv: Path, folder: Path) -> Path:
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(venv)], check=True)
    python = venv / "bin" / "python"
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", str(python), "-r", str(folder / "requirements.txt")], check=True
    )
    return python


def _installed(python: Path) -> list[str]:
    code = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.split()


def _start(python: Path, folder: Path) -> tuple["subprocess.Popen[str]", str]:
    words = [str(python), "-m", "loopworks_edge", "serve", "--port", "0"]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split(" on ")[1].split()[0]
