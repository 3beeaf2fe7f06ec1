"""What a live pipeline costs: a video against a bare loop, a preview, a camera that is too fast; and a tracker.

The bare loop decodes, scales, and runs the same model (a small convolutional net of random weights) on one thread.
Turns alternate, so that load on the machine falls on both; processor time says what the clock cannot on a busy machine.
"""

import io
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

import loopworks as lw
from benchmarks.figure import Figure
from loopworks.core import image
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.errors import NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.infer.live.definition import Track
from loopworks.infer.live.runner import Runner
from loopworks.infer.live.tracking import Tracker
from loopworks.store import bundles, models

SIZE, FRAMES, TURNS = 224, 400, 3
CLASSES = ("cat", "dog", "eel")
MINUTES = 3.0
"""Of the camera that is too fast."""


def main() -> list[Figure]:
    """The figures."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        bundle, video = _bundle(root / "bundle"), _film(root / "film.mp4")
        with lw.open(root / "space") as space:
            key = bundles.save(space.home.blobs, bundle.folder)
            with space.home.catalog.begin() as tx:
                models.add(tx, "net", bundle=key, run="", version="0" * 64, task=bundle.task, variant=bundle.chosen)
            space.deploy("net")
            with space._engine("net") as pick:
                return [*_films(space, pick, bundle, video), *_camera(space, pick, root), _tracker()]


def _films(space: lw.Workspace, pick: Any, bundle: Bundle, video: Path) -> list[Figure]:
    """Turns of the bare loop, the pipeline, and the pipeline while somebody watches; frames a second, and its costs."""
    sink = {"kind": "csv", "path": str(video.with_name("out.csv"))}
    space.live.add({"name": "p", "source": {"kind": "file", "path": str(video)}, "model": "net", "sinks": [sink]})
    turns: list[list[tuple[float, float]]] = []
    drawn = 0
    for _ in range(TURNS):
        row = [_timed(lambda: _bare(bundle, video))]
        for is_watched in (False, True):
            space.live.start("p")

            def run(is_watched: bool = is_watched) -> None:
                nonlocal drawn
                with space.live.running("p", pick) as runner:
                    watcher = threading.Thread(target=_watch, args=(runner,))
                    if is_watched:
                        watcher.start()
                    runner.join()
                if is_watched:
                    watcher.join()
                    drawn = runner.preview.drawings
                assert runner.frames_out == FRAMES, runner.status()

            row.append(_timed(run))
        turns.append(row)
    figures = []
    for at, name, target in ((1, "against a bare loop", 0.9), (2, "watched, against unwatched", 0.8)):
        for part, how in ((0, "by the clock"), (1, "by processor time")):
            ratios = sorted(row[at - 1][part] / row[at][part] for row in turns)
            last = " and ".join(f"{FRAMES / row[part]:.0f}/s" for row in (turns[-1][at], turns[-1][at - 1]))
            more = f"; {drawn} pictures were drawn" if at == 2 else ""
            figures.append(
                Figure(
                    name=f"live pipeline, video of 640 x 480 through a small net, {name}, {how}",
                    value=ratios[TURNS // 2],
                    unit="ratio",
                    target=target,
                    at_least=True,
                    detail=f"median of {TURNS} turns; the last: {last}{more}",
                )
            )
    return figures


def _timed(work: Any) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    began, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - spent


def _watch(runner: Runner) -> None:
    """Look as a client of the preview does."""
    number, pause = 0, 1 / runner.pipeline.preview.rate
    with runner.preview.watching():
        while not runner.is_ended:
            try:
                found = runner.preview.after(number, 0.2)
            except NotFound:
                return
            number = found[0] if found else number
            time.sleep(pause)


def _camera(space: lw.Workspace, pick: Any, root: Path) -> list[Figure]:
    """A camera that sends all that is taken, for minutes: what is dropped, how old answers are, and memory."""
    memory = psutil.Process()
    with _sending() as url:
        source = {"kind": "stream", "url": url}
        sinks = [{"kind": "csv", "path": str(root / "rows.csv")}, {"kind": "database"}]
        space.live.add({"name": "fast", "source": source, "model": "net", "sinks": sinks})
        lags, held = [], []
        with space.live.running("fast", pick) as runner:
            end = time.monotonic() + MINUTES * 60
            while time.monotonic() < end:
                time.sleep(1)
                lags.append(runner.status()["lag_s"] * 1000)
                held.append(memory.memory_info().rss / 2**20)
            told = runner.status()
    third = len(held) // 3
    grown = float(np.median(held[-third:]) - np.median(held[third : 2 * third]))
    counts = ", ".join(f"{told[f'frames_{one}']} {one}" for one in ("in", "out", "dropped"))
    lost = told["frames_in"] - told["frames_out"] - told["frames_dropped"] - told["frames_failed"]
    name = "live pipeline, a camera that is too fast"
    return [
        Figure(name=f"{name}, frames that nobody counted", value=abs(lost), unit="frames", target=2, detail=counts),
        Figure(
            name=f"{name}, age of answers",
            value=float(np.percentile(lags, 95)),
            unit="ms",
            target=100,
            detail=f"p95, median {np.median(lags):.0f}; {told['fps']:g} answers/s",
        ),
        Figure(
            name=f"{name}, growth of memory in a third of {MINUTES:g} minutes",
            value=grown,
            unit="MB",
            target=5,
            detail=f"{held[0]:.0f} MB at first, {np.median(held[-third:]):.0f} in the end",
        ),
    ]


@contextmanager
def _sending() -> Iterator[str]:
    """MJPEG over HTTP, as fast as it is taken, from a thread of this process; its URL."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(8):
        out = io.BytesIO()
        ground = np.kron(rng.integers(0, 255, (30, 40, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
        Image.fromarray(np.roll(ground, 20 * i, axis=1)).save(out, "JPEG")
        pictures.append(out.getvalue())

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            count = 0
            try:
                while True:
                    data = pictures[count % len(pictures)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                    count += 1
            except OSError:
                return  # the pipeline has gone

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _bare(bundle: Bundle, video: Path) -> None:
    import av

    predictor = predictors.load(bundle.variant(), bundle.folder, bundle.rule, threads=1)
    task: Any = plugins.get(f"task.{bundle.task}")
    assert isinstance(bundle.rule, ImageRule)
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            pixels: Any = frame.to_ndarray(format="rgb24")
            outputs = predictor.predict({"image": image.fitted(pixels, bundle.rule)[None]})
            task.decode(outputs, bundle.schema)
    predictor.close()


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
