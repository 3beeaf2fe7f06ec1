"""What tests of several folders share."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image

from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec

# A machine that decides whether a change lands tries the same examples each time; everybody else's run tries new ones.
# How quickly it makes them says how busy that machine is, and nothing of the change.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
if os.environ.get("CI") == "true":
    settings.load_profile("ci")


NO_POSTGRES = "no PostgreSQL server binary (initdb) in PATH or /usr/lib/postgresql"
COLORS = ((200, 40, 40), (40, 180, 60), (50, 70, 210), (210, 190, 40), (150, 60, 180))


def draw_pictures(folder: Path, counts: Mapping[str, int], *, size: int = 32, seed: int = 0) -> Path:
    """Write ``folder/<class>/NN.png``: each class has its colour, under noise; every file differs."""
    rng = np.random.default_rng(seed)
    for i, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            noise = rng.normal(0, 40, (size, size, 3))
            pixels = np.clip(np.array(COLORS[i % len(COLORS)]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n:03}.png")
    return folder


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Path]:
    """``pictures(folder, {"cat": 5, "dog": 5}, size=32, seed=0)`` writes a learnable folder-per-class set."""
    return draw_pictures


class Postgres:
    """A PostgreSQL server of our own: in a temporary folder, on a free loopback port, gone after the tests."""

    USER = "loopworks"

    def __init__(self, tools: Path, folder: Path) -> None:
        self.port = free_port()
        self._owner = _server_user()
        if self._owner:
            shutil.chown(folder, self._owner)
        data = folder / "data"
        init = [str(tools / "initdb"), "-D", str(data), "-U", self.USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        # A linguistic order by default, so that tests notice where we lean on the order of bytes.
        icu = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        subprocess.run([*init, *icu], check=True, user=self._owner, cwd=folder, stdout=subprocess.DEVNULL)
        server = [
            str(tools / "postgres"),
            "-D",
            str(data),
            "-k",
            str(folder),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-F",
        ]
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(server, user=self._owner, cwd=folder, stdout=self._log, stderr=self._log)

    def url(self, database: str) -> str:
        return f"postgresql://{self.USER}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: LiteralString) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def wait(self, seconds: float = 30) -> None:
        import psycopg

        end = time.monotonic() + seconds
        while True:
            try:
                self.run("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast": drops connections, ends cleanly
        self._process.wait(30)
        self._log.close()


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root; the Debian package makes a user for it."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("no user to run PostgreSQL as")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def postgres_tools() -> Path | None:
    """Folder of ``initdb`` and ``postgres``, of the newest release that is installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists() and (folder / "initdb").exists()), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if postgres_tools() is None:
        for item in items:
            if item.get_closest_marker("postgres"):
                item.add_marker(pytest.mark.skip(reason=NO_POSTGRES))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.getreports("skipped") if NO_POSTGRES in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests on PostgreSQL were left out: {NO_POSTGRES}", yellow=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    tools = postgres_tools()
    assert tools is not None, NO_POSTGRES
    # Not pytest's folder: the server's user may not enter it where the tests run as root.
    with tempfile.TemporaryDirectory(prefix="lw-pg-") as name:
        server = Postgres(tools, Path(name))
        try:
            server.wait()
            yield server
        finally:
            server.stop()


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[str]:
    """URL of a new, empty database on a PostgreSQL server."""
    postgres.run("CREATE DATABASE test")
    yield postgres.url("test")
    postgres.run("DROP DATABASE test WITH (FORCE)")


@pytest.fixture
def other_database(postgres: Postgres) -> Iterator[str]:
    """URL of a second database beside ``postgres_database``."""
    postgres.run("CREATE DATABASE other")
    yield postgres.url("other")
    postgres.run("DROP DATABASE other WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new, empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.db'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Address of a local S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_options(s3: str) -> dict[str, str | bool]:
    return {
        "endpoint": s3,
        "region": "us-east-1",
        "access_key_id": "test",
        "secret_access_key": "test",
        "virtual_hosted_style_request": False,
    }


@pytest.fixture
def bucket(s3: str) -> str:
    """Name of a new bucket."""
    import urllib.request

    name = "blobs"
    for path in ("/moto-api/reset", f"/{name}"):
        method = "POST" if path.startswith("/moto-api") else "PUT"
        with urllib.request.urlopen(urllib.request.Request(s3 + path, method=method)):
            pass
    return name


@pytest.fixture
def s3_environment(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables by which a user names an object store and its keys."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


COLOR_CLASSES = ("red", "green", "blue")


def color_bundle(
    folder: Path, *, weight: float = 12.0, size: int = 8, classes: tuple[str, ...] = COLOR_CLASSES
) -> Bundle:
    """A real model without training: softmax of ``weight`` times the mean of each colour, in 0..1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array(weight / 255, np.float32), "weight"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    return write(
        Bundle(
            task="image-classification",
            schema=LabelSchema(classes=classes),
            rule=ImageRule(height=size, width=size),
            inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, size, size, 3)),),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
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


def color_scores(images: NDArray[np.uint8], weight: float = 12.0) -> NDArray[np.float64]:
    """What ``color_bundle`` must answer, worked out without its graph."""
    logits = images.astype(np.float64).mean(axis=(1, 2)) * weight / 255
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Colors:
    """The colour model, and what it must answer."""

    write: Callable[..., Bundle]
    scores: Callable[..., NDArray[np.float64]]


@pytest.fixture(scope="session")
def colors() -> Colors:
    """``colors.write(folder, weight=12)`` makes a real bundle; ``colors.scores(images, 12)`` is its answer."""
    return Colors(color_bundle, color_scores)
