"""A detector without training, films, and small servers to speak to."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import loopworks as lw
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.store import bundles, models

SIZE = 64


def ball_bundle(folder: Path, size: int = SIZE) -> Bundle:
    """A real object detector without training: the box around all red pixels, of class ball, score 0.9 or 0."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    step = np.arange(size, dtype=np.float32)
    constants: dict[str, NDArray[Any]] = {
        "red": np.array([1, -1, 0], np.float32) / 255,
        "cut": np.array(0.3, np.float32),
        "steep": np.array(1000, np.float32),
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "sure": np.array(0.9, np.float32),
        "right": ((step + 1) / size)[None, None, :],
        "left": (1 - step / size)[None, None, :],
        "low": ((step + 1) / size)[None, :, None],
        "high": (1 - step / size)[None, :, None],
        "last": np.array([3], np.int64),
        "plane": np.array([1, 2], np.int64),
        "flat": np.array([-1, 1], np.int64),
        "boxed": np.array([-1, 1, 4], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Mul", ["float", "red"], ["weighed"]),
        node("ReduceSum", ["weighed", "last"], ["redness"], keepdims=0),
        node("Sub", ["redness", "cut"], ["over"]),
        node("Mul", ["over", "steep"], ["much"]),
        node("Clip", ["much", "zero", "one"], ["mask"]),
        node("ReduceMax", ["mask", "plane"], ["any"], keepdims=0),
        node("Reshape", ["any", "flat"], ["there"]),
        node("Mul", ["there", "sure"], ["scores"]),
        node("Sub", ["scores", "scores"], ["nothing"]),
        node("Cast", ["nothing"], ["classes"], to=TensorProto.INT64),
    ]
    for name in ("right", "left", "low", "high"):
        nodes += [
            node("Mul", ["mask", name], [f"{name}_all"]),
            node("ReduceMax", [f"{name}_all", "plane"], [f"{name}_most"], keepdims=0),
            node("Reshape", [f"{name}_most", "flat"], [f"{name}_end"]),
        ]
    nodes += [
        node("Sub", ["one", "left_end"], ["x"]),
        node("Sub", ["one", "high_end"], ["y"]),
        node("Sub", ["right_end", "x"], ["w"]),
        node("Sub", ["low_end", "y"], ["h"]),
        node("Concat", ["x", "y", "w", "h"], ["sides"], axis=1),
        node("Reshape", ["sides", "boxed"], ["boxes"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "ball",
        [info("image", TensorProto.UINT8, ["n", size, size, 3])],
        [
            info("boxes", TensorProto.FLOAT, ["n", 1, 4]),
            info("scores", TensorProto.FLOAT, ["n", 1]),
            info("classes", TensorProto.INT64, ["n", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    return write(
        Bundle(
            task="object-detection",
            schema=LabelSchema(classes=("ball",)),
            rule=ImageRule(height=size, width=size),
            inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, size, size, 3)),),
            outputs=(
                TensorSpec(name="boxes", datatype="FP32", shape=(-1, 1, 4)),
                TensorSpec(name="scores", datatype="FP32", shape=(-1, 1)),
                TensorSpec(name="classes", datatype="INT64", shape=(-1, 1)),
            ),
            version="0" * 64,
            recipe="train.none",
            variants=(
                Variant(
                    name="onnx-fp32",
                    runtime="onnxruntime",
                    precision="fp32",
                    file="model.onnx",
                    files=("model.onnx",),
                ),
            ),
            chosen="onnx-fp32",
        ),
        folder,
    )


def picture(at: int | None, size: int = SIZE, side: int = 16) -> NDArray[np.uint8]:
    """A grey picture with a red square whose left side is at ``at``; none where that is ``None``."""
    pixels = np.full((size, size, 3), 90, np.uint8)
    if at is not None:
        pixels[size // 2 - side // 2 : size // 2 + side // 2, max(0, at) : max(0, at + side)] = (230, 20, 20)
    return pixels


def film(path: Path, places: list[int | None], rate: int = 10) -> Path:
    """A video whose red square stands at these places."""
    import av

    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for at in places:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(at), format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


@pytest.fixture
def make_film() -> Callable[..., Path]:
    """``make_film(path, [0, 4, None])``: a video of a red square at these places, or of none."""
    return film


@pytest.fixture
def paint() -> Callable[..., NDArray[np.uint8]]:
    """``paint(8)``: a picture with a red square whose left side is at 8."""
    return picture


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("balls")
    bundle = ball_bundle(root / "bundle")
    with lw.open(root / "space") as made:
        key = bundles.save(made.home.blobs, bundle.folder)
        with made.home.catalog.begin() as tx:
            models.add(tx, "balls", bundle=key, run="", version="0" * 64, task=bundle.task, variant=bundle.chosen)
        made.deploy("balls")
    return root / "space"


@pytest.fixture
def space(tmp_path: Path, template: Path) -> Iterator[lw.Workspace]:
    """A workspace whose deployment ``balls`` finds a red square."""
    import shutil

    shutil.copytree(template, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
        yield made


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for a condition, and give what it gave."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until


class Server:
    """A TCP server whose ``serve`` answers one connection, in a thread for each."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(10)

    def drop(self) -> None:
        """Cut all connections."""
        for one in self._open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # gone already

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            thread = threading.Thread(target=self._answer, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            try:
                self.serve(client)
            except OSError:
                return  # the client has gone


class Camera(Server):
    """MJPEG over HTTP: each connection gets ``frames`` pictures, then it breaks off, or ``stalls``."""

    def __init__(self, pictures: list[bytes], frames: int, pause_s: float = 0.01, *, stalls: bool = False) -> None:
        self.pictures, self.frames, self.pause_s, self.stalls = pictures, frames, pause_s, stalls
        self.connections = 0
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.port}/camera"

    def serve(self, client: socket.socket) -> None:
        self.connections += 1
        client.recv(65536)
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for i in range(self.frames):
            data = self.pictures[i % len(self.pictures)]
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            client.sendall(head.encode() + data + b"\r\n")
            time.sleep(self.pause_s)
        if self.stalls:
            client.recv(1)


class Page(Server):
    """Answers every request with the same bytes."""

    def __init__(self, body: bytes, kind: str) -> None:
        self.body, self.kind, self.asked = body, kind, 0
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        client.recv(65536)
        self.asked += 1
        head = f"HTTP/1.0 200 OK\r\nContent-Type: {self.kind}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        client.sendall(head.encode() + self.body)


class Hook(Server):
    """A webhook that answers with the statuses of a script, then with 200; keeps what it was sent."""

    def __init__(self, script: list[int] | None = None) -> None:
        self.script, self.bodies, self.heads = list(script or []), list[bytes](), list[bytes]()
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def serve(self, client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := client.recv(65536)):
                return
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")).split()[1])
        while len(body) < size:
            body += client.recv(65536)
        status = self.script.pop(0) if self.script else 200
        if status == 200:
            self.bodies.append(body)
            self.heads.append(head)
        client.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


@dataclass(eq=False)
class _Subscriber:
    client: socket.socket
    topics: set[str] = field(default_factory=set)


class Broker(Server):
    """As much of MQTT 3.1.1 as one topic needs: connect, subscribe, publish with qos 0 and 1, ping."""

    def __init__(self) -> None:
        self._subscribers: list[_Subscriber] = []
        self.published: list[tuple[str, bytes]] = []
        super().__init__()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def topics(self) -> set[str]:
        """What somebody has subscribed to."""
        return {topic for one in self._subscribers for topic in one.topics}

    def say(self, topic: str, payload: bytes) -> None:
        """Publish to whoever has subscribed."""
        name = topic.encode()
        body = struct.pack("!H", len(name)) + name + payload
        for one in self._subscribers:
            if topic in one.topics:
                one.client.sendall(b"\x30" + _length(len(body)) + body)

    def serve(self, client: socket.socket) -> None:
        me = _Subscriber(client)
        self._subscribers.append(me)
        try:
            while packet := _packet(client):
                kind, body = packet
                if kind >> 4 == 1:
                    client.sendall(b"\x20\x02\x00\x00")
                elif kind >> 4 == 8:
                    size = struct.unpack("!H", body[2:4])[0]
                    client.sendall(b"\x90\x03" + body[:2] + b"\x00")
                    me.topics.add(body[4 : 4 + size].decode())
                elif kind >> 4 == 3:
                    size = struct.unpack("!H", body[:2])[0]
                    rest = body[2 + size :]
                    if kind & 0x06:
                        client.sendall(b"\x40\x02" + rest[:2])
                        rest = rest[2:]
                    self.published.append((body[2 : 2 + size].decode(), rest))
                elif kind >> 4 == 12:
                    client.sendall(b"\xd0\x00")
                elif kind >> 4 == 14:
                    return
        finally:
            self._subscribers.remove(me)


def _length(size: int) -> bytes:
    out = b""
    while True:
        size, part = divmod(size, 128)
        out += bytes([part | (128 if size else 0)])
        if not size:
            return out


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := client.recv(size - len(data))):
            return b""
        data += more
    return data


def _packet(client: socket.socket) -> tuple[int, bytes] | None:
    if not (first := _exactly(client, 1)):
        return None
    size, shift = 0, 0
    while True:
        if not (byte := _exactly(client, 1)):
            return None
        size |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            break
    return first[0], _exactly(client, size)


@pytest.fixture
def servers() -> Iterator[Callable[[Any], Any]]:
    """``servers(Hook([500]))`` closes it after the test."""
    made: list[Server] = []

    def keep(server: Server) -> Server:
        made.append(server)
        return server

    yield keep
    for server in made:
        server.close()


@pytest.fixture(scope="session")
def doubles() -> Any:
    """The kinds of servers: ``Camera``, ``Hook``, ``Broker``, ``Page``."""

    class Kinds:
        camera, hook, broker, page = Camera, Hook, Broker, Page

    return Kinds
