"""What the server costs: requests over HTTP, against the same work in a bare process and against plain FastAPI.

Server and clients are processes of their own, pinned to a core each where there are two; raw, ours and the peer take
turns, so that load on the machine falls on all. ``LOOPWORKS_SERVING_S`` is the time of a turn in seconds,
``LOOPWORKS_SERVING_IDLE`` the number of idle connections, ``LOOPWORKS_SERVING_LONG_S`` how long memory is looked at.
Peers run with the Python of ``.peers/NAME`` (``make peers``).
"""

import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

import loopworks as lw
from benchmarks.figure import Figure
from benchmarks.serving import models, others
from benchmarks.serving.load import Load, measure
from loopworks.core.bundle import Bundle
from loopworks.infer import protocol
from loopworks.infer.onnxruntime import OnnxPredictor
from loopworks.store import bundles
from loopworks.store import models as registered

TURNS = 3
TURN_S = float(os.environ.get("LOOPWORKS_SERVING_S", "2"))
IDLE = int(os.environ.get("LOOPWORKS_SERVING_IDLE", "10000"))

LONG_S = float(os.environ.get("LOOPWORKS_SERVING_LONG_S", "300"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of request."""

    path: str
    body: bytes
    headers: dict[str, str]
    work: Callable[[], object]
    """The same work without a server."""


@contextmanager
def running(script: str, *words: str, core: int | None) -> Iterator[tuple[str, psutil.Process, float]]:
    """A server in a process of its own, on one core or all: its URL, its process, and seconds until it answered."""
    began = time.perf_counter()
    pin = None if core is None else (lambda: os.sched_setaffinity(0, {core}))
    # As a script: by ``-m`` it would hold what this package imports, and its memory would be that of the measurement.
    command = [sys.executable, str(Path(__file__).with_name(script)), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0)).close()
                    break
                time.sleep(0.01)
            yield url, psutil.Process(server.pid), time.perf_counter() - began
        finally:
            server.terminate()


def rate(work: Callable[[], object], threads: int, seconds: float) -> float:
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


def prepare(folder: Path) -> dict[str, Kind]:
    """A workspace with all models in use, and a request for each."""
    made = {
        "net": models.make_net(folder / "net"),
        "trees": models.make_trees(folder / "trees"),
        "rows": models.make_rows(folder / "rows"),
    }
    with lw.open(folder / "space") as space:
        for name, bundle in made.items():
            key = bundles.save(space.home.blobs, bundle.folder)
            with space.home.catalog.begin() as tx:
                model = registered.add(
                    tx, name, bundle=key, run="", version=bundle.version, task=bundle.task, variant=bundle.chosen
                )
            space.deploy(model)
            space.dataset(f"{name}-inbox", task=bundle.task)
        watch(space, "rows")
    return {**_images(made["net"]), **_tables(made["trees"], made["rows"])}


def watch(space: "lw.Workspace", name: str) -> None:
    """Log, look for drift, and capture; not of the trees, whose one tensor is of no medium that an inbox takes."""
    rules = {"dataset": f"{name}-inbox", "capture": [{"when": "random", "share": 0.01, "per_hour": 100}]}
    space.watch(name, rules)


def _images(bundle: Bundle) -> dict[str, Kind]:
    jpeg = models.make_jpeg()
    net = OnnxPredictor(bundle.path("model.onnx"), 1)
    row = bundle.rule.pack([jpeg])
    body, length = protocol.ask(row)
    return {
        "jpeg": Kind(
            path="/predict/net",
            body=jpeg,
            headers={"content-type": "image/jpeg"},
            work=lambda: net.predict(bundle.rule.pack([jpeg])),
        ),
        "tensor": Kind(
            path="/v2/models/net/infer",
            body=body,
            headers={protocol.HEADER_LENGTH: str(length)},
            work=lambda: net.predict(row),
        ),
    }


def _tables(trees: Bundle, rows: Bundle) -> dict[str, Kind]:
    rng = np.random.default_rng(2)
    x = {"features": rng.normal(size=(1, models.FEATURES)).astype(np.float32)}
    given = {f"number{i}": round(float(rng.normal()), 3) for i in range(models.NUMBERS)}
    row = rows.rule.pack([{**given, **{f"group{i}": f"value{i}" for i in range(models.CATEGORIES)}}])
    of_trees, of_rows = (OnnxPredictor(bundle.path("model.onnx"), 1) for bundle in (trees, rows))
    json_kind = {"content-type": "application/json"}

    def plain(tensors: dict[str, object]) -> bytes:
        told = json.loads(protocol.ask(tensors, is_binary=False)[0])  # type: ignore[arg-type]
        return json.dumps({"inputs": told["inputs"]}).encode()

    return {
        "trees": Kind(
            path="/v2/models/trees/infer", body=plain({**x}), headers=json_kind, work=lambda: of_trees.predict(x)
        ),
        "rows": Kind(
            path="/v2/models/rows/infer",
            body=plain({**row}),
            headers=json_kind,
            work=lambda: of_rows.predict(rows.rule.encode(row)),
        ),
    }


def main() -> list[Figure]:
    """The figures against their targets."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = prepare(folder)
        figures = [*_alone(folder, kinds), *_workers(folder, kinds), *_idle(folder, kinds)]
        return [*figures, *_beside(folder, kinds), *_long(folder, kinds)]


def _alone(folder: Path, kinds: dict[str, Kind]) -> Iterator[Figure]:
    """One core for the server, one for the clients."""
    core = 0 if (os.cpu_count() or 1) > 1 else None
    space = str(folder / "space")
    with (
        running("plain_fastapi.py", str(folder), core=core) as (other, peer, _),
        running("ours.py", space, "1", core=core) as (url, ours, ready_s),
    ):
        used = sum(ours.cpu_times()[:2])
        detail = f"three models; {used:.2f} s of the processor"
        yield Figure(name="serving: start to ready", value=ready_s, unit="s", target=2, detail=detail)
        memory = ours.memory_full_info()
        detail = f"RSS {memory.rss / 1e6:.0f} MB; three models, before the first request"
        yield Figure(name="serving: memory (PSS)", value=memory.pss / 1e6, unit="MB", target=200, detail=detail)
        before = os.sched_getaffinity(0)
        try:
            if core is not None:
                os.sched_setaffinity(0, {1})  # wrk inherits it
            for kind, clients in (("trees", 1), ("trees", 8), ("trees", 32), ("rows", 8), ("rows", 32)):
                yield from _table(kind, kinds[kind], clients, (url, ours), (other, peer))
            for kind, target in (("jpeg", 0.95), ("tensor", 0.90)):
                for clients in (1, 8):
                    yield from _heavy(kind, kinds[kind], clients, target, (url, ours), (other, peer))
        finally:
            os.sched_setaffinity(0, before)


def _table(
    kind: str, asked: Kind, clients: int, ours: tuple[str, psutil.Process], peer: tuple[str, psutil.Process]
) -> Iterator[Figure]:
    turns: list[tuple[Load, Load | None]] = []
    for _ in range(TURNS):
        mine = _ask(ours, asked, clients)
        turns.append((mine, _ask(peer, asked, clients) if kind == "trees" else None))
    mine = _middle([turn[0] for turn in turns])
    name = f"serving: {kind} as V2 JSON, {clients} client{'s' if clients > 1 else ''}"
    detail = f"{mine.per_s:.0f}/s by the clock, p50 {mine.p50_ms:.2f} ms, p99 {mine.p99_ms:.2f} ms"
    yield Figure(
        name=f"{name}, answers per second of the processor",
        value=mine.per_cpu_s,
        unit="/s",
        target=20_000 if clients == 32 else 0,
        at_least=True,
        detail=detail,
    )
    pairs = [(a, b) for a, b in turns if b is not None]
    if pairs:
        ratio = statistics.median(a.per_s / b.per_s for a, b in pairs)
        cpu = statistics.median(a.per_cpu_s / b.per_cpu_s for a, b in pairs)
        told = _middle([b for _, b in pairs])
        detail = f"FastAPI {told.per_s:.0f}/s, p50 {told.p50_ms:.2f} ms; by processor time {cpu:.1f} x"
        target = 4 if clients > 1 else 1
        yield Figure(name=f"{name}, times FastAPI", value=ratio, unit="x", target=target, at_least=True, detail=detail)
    if clients == 8:
        yield Figure(name=f"{name}, p99 / p50", value=mine.p99_ms / mine.p50_ms, unit="ratio", target=3)


def _heavy(
    kind: str,
    asked: Kind,
    clients: int,
    target: float,
    ours: tuple[str, psutil.Process],
    peer: tuple[str, psutil.Process],
) -> Iterator[Figure]:
    before = os.sched_getaffinity(0)
    ratios, bare, mine, theirs = [], [], [], []
    for _ in range(TURNS):
        os.sched_setaffinity(0, ours[1].cpu_affinity() or before)
        used, began = time.process_time(), time.perf_counter()
        raw = rate(asked.work, 1, TURN_S)
        cpu = raw * (time.perf_counter() - began) / (time.process_time() - used)
        os.sched_setaffinity(0, before)
        mine.append(_ask(ours, asked, clients))
        if kind == "jpeg":
            theirs.append(_ask(peer, asked, clients))
        bare.append(raw)
        ratios.append((mine[-1].per_s / raw, mine[-1].per_cpu_s / cpu))
    found = _middle(mine)
    detail = f"{found.per_s:.0f}/s, raw {statistics.median(bare):.0f}/s"
    detail += f", p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms"
    detail += f"; by the clock {statistics.median(clock for clock, _ in ratios):.2f}"
    if theirs:
        detail += f"; FastAPI {_middle(theirs).per_s:.0f}/s"
    yield Figure(
        name=f"serving: {kind}, {clients} client{'s' if clients > 1 else ''}, share of raw by processor time",
        value=statistics.median(cpu for _, cpu in ratios),
        unit="ratio",
        target=target,
        at_least=True,
        detail=detail,
    )


def _workers(folder: Path, kinds: dict[str, Kind]) -> Iterator[Figure]:
    """Two worker threads against one; nothing is pinned."""
    space = str(folder / "space")
    with (
        running("ours.py", space, "1", core=None) as (one, first, _),
        running("ours.py", space, "2", core=None) as (two, second, _),
    ):
        pairs = [
            (_ask((one, first), kinds["tensor"], 8), _ask((two, second), kinds["tensor"], 8)) for _ in range(TURNS)
        ]
    single, double = _middle([a for a, _ in pairs]), _middle([b for _, b in pairs])
    yield Figure(
        name="serving: two workers against one, tensors, 8 clients",
        value=statistics.median(b.per_s / a.per_s for a, b in pairs),
        unit="x",
        target=1.8,
        at_least=True,
        detail=f"{double.per_s:.0f}/s and {single.per_s:.0f}/s, clients on the same cores",
    )


def _idle(folder: Path, kinds: dict[str, Kind]) -> Iterator[Figure]:
    """Many connections that ask nothing, and one that does."""
    many = min(IDLE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    asked = kinds["trees"]
    with running("ours.py", str(folder / "space"), "1", core=None) as (url, server, _):
        parts = urlsplit(url)
        before = server.memory_info().rss
        request = f"POST {asked.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(asked.body)}\r\n\r\n"
        with contextlib.ExitStack() as opened:
            for _ in range(many):
                line = opened.enter_context(socket.create_connection((parts.hostname or "", parts.port or 0)))
                line.sendall(request.encode() + asked.body)
                assert line.recv(12) == b"HTTP/1.1 200"
            grown = (server.memory_info().rss - before) / many / 1000
            busy = _ask((url, server), asked, 8)
        free = _ask((url, server), asked, 8)
    yield Figure(
        name=f"serving: beside {many} idle connections, share of the speed without them",
        value=busy.per_cpu_s / free.per_cpu_s,
        unit="ratio",
        target=0.8,
        at_least=True,
        detail=f"{grown:.1f} kB a connection; answers per second of the processor, 8 clients",
    )


def _beside(folder: Path, kinds: dict[str, Kind]) -> Iterator[Figure]:
    """The peers that are installed, each in turn with ours, on one core."""
    core = 0 if (os.cpu_count() or 1) > 1 else None
    before = os.sched_getaffinity(0)
    for name in others.NAMES:
        if others.python_of(name) is None:
            print(f"left out: .peers/{name} is not installed (make peers)", file=sys.stderr)
            continue
        with (
            others.running(name, folder, core, kinds["trees"].body) as peer,
            running("ours.py", str(folder / "space"), "1", core=core) as (url, server, _),
        ):
            if core is not None:
                os.sched_setaffinity(0, {1})
            try:
                for kind, clients in (("trees", 8), ("trees", 32), ("jpeg", 8)):
                    if others.serves(name, kind):
                        yield _against(name, kind, clients, kinds[kind], (url, server), peer)
            finally:
                os.sched_setaffinity(0, before)


def _against(
    name: str, kind: str, clients: int, asked: Kind, ours: tuple[str, psutil.Process], peer: tuple[str, psutil.Process]
) -> Figure:
    theirs = asked
    if name == "litserve" and kind == "jpeg":
        body, headers = others.form(asked.body)
        theirs = replace(asked, body=body, headers=headers)
    pairs = [(_ask(ours, asked, clients), _ask(peer, theirs, clients)) for _ in range(TURNS)]
    mine, other = _middle([a for a, _ in pairs]), _middle([b for _, b in pairs])
    return Figure(
        name=f"serving: {kind}, {clients} clients, times {others.NAMES[name]}",
        value=statistics.median(a.per_s / b.per_s for a, b in pairs),
        unit="x",
        target=1,
        at_least=True,
        detail=f"{mine.per_s:.0f}/s and {other.per_s:.0f}/s, p99 {mine.p99_ms:.1f} and {other.p99_ms:.1f} ms",
    )


def _long(folder: Path, kinds: dict[str, Kind]) -> Iterator[Figure]:
    """Full load for ``LOOPWORKS_SERVING_LONG_S`` seconds: tables, tensors and pictures in turn."""
    space = str(folder / "space")
    with lw.open(Path(space), create=False) as opened:
        watch(opened, "net")
    with running("ours.py", space, "1", core=None) as (url, server, _):
        for kind in ("trees", "jpeg", "tensor", "rows"):  # what grows once
            _ask((url, server), kinds[kind], 32)
        seen, rates = [server.memory_info().rss], []
        end = time.monotonic() + LONG_S
        while time.monotonic() < end:
            for kind in ("trees", "jpeg", "tensor", "rows"):
                rates.append((kind, _ask((url, server), kinds[kind], 32).per_s))
            seen.append(server.memory_info().rss)
    half = len(seen) // 2
    grown = (statistics.median(seen[half:]) - statistics.median(seen[:half])) / 1e6
    speeds = ", ".join(
        f"{kind} {statistics.median(r for k, r in rates if k == kind):.0f}/s" for kind in ("trees", "rows", "jpeg")
    )
    yield Figure(
        name=f"serving: growth of memory between the halves of {LONG_S:.0f} s at full load",
        value=grown,
        unit="MB",
        target=10,
        detail=f"RSS {seen[0] / 1e6:.0f} MB at first, {max(seen) / 1e6:.0f} at most, {seen[-1] / 1e6:.0f} at last; "
        f"32 clients, capture on: {speeds}",
    )


def _ask(server: tuple[str, psutil.Process], asked: Kind, clients: int) -> Load:
    return measure(server[1], server[0], asked.path, asked.body, asked.headers, clients, TURN_S)


def _middle(loads: list[Load]) -> Load:
    return sorted(loads, key=lambda one: one.per_s)[len(loads) // 2]
