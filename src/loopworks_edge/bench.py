"""How fast a bundle's variants are on this machine: a JSON that ``loopworks optimize --on`` reads."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core.content import read_file
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Failed, Invalid
from loopworks.infer.chains import tensors
from loopworks_edge import model, samples
from loopworks_edge.chained import EdgeChain
from loopworks_edge.model import Edge

FORMAT = 1
KIND = "loopworks-bench"
KIND_CHAIN = "loopworks-bench-chain"
BATCHES = (1, 2, 4, 8, 16, 32)
FEWEST = 3
"""Calls per batch size, however slow the model is."""
ROUNDS = 3


def measure(
    folder: Path, *, seconds: float = 2.0, threads: int = 0, rounds: int = ROUNDS, files: Sequence[Path] = ()
) -> dict[str, Any]:
    """Measure every variant in processes of its own, round robin, so that a busy moment slows all of them alike.

    Args:
        folder: the edge bundle.
        seconds: per variant, round and half of the work (one item alone, then batches).
        threads: of one call; 0 is one per core.
        rounds: how often each variant is visited; the median round counts.
        files: of a chain: images to ask about, as what they show says how many crops follow; default noise.
    """
    edge = model.open(folder)
    if files and not edge.manifest.is_chain:
        raise Invalid("files to measure with", "left out for one model, whose time they do not change", len(files))
    names = edge.manifest.variants
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        for at in range(len(names)):
            name = names[(at + turn) % len(names)]
            found[name].append(_apart(folder, name, seconds, threads, files))
    return {
        "format": FORMAT,
        "kind": KIND_CHAIN if edge.manifest.is_chain else KIND,
        "model": {"name": edge.manifest.model, "number": edge.manifest.number},
        "host": host(),
        "variants": [_joined(edge, name, found[name]) for name in names],
    }


def host() -> dict[str, Any]:
    """What this machine is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    runtimes = {}
    for name in ("onnxruntime", "openvino"):
        try:
            runtimes[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "name": platform.node(),
        "cpu": _cpu(),
        "cores": cores,
        "memory_mb": _memory_mb(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "runtimes": runtimes,
    }


def one(folder: Path, variant: str, seconds: float, threads: int, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Measure a variant in this process, which does nothing else."""
    edge = model.open(folder)
    predictor = edge.load(variant, threads=threads)
    try:
        contents = [read_file(path) for path in files]

        def batch_of(count: int) -> Arrays:
            if not contents:
                return samples.tensors(edge.bundle, count)
            return {tensors.FILE.name: np.array([contents[at % len(contents)] for at in range(count)], object)}

        feed = batch_of(1)
        predictor.predict(feed)
        ready = time.time()
        alone = _calls(predictor, feed, seconds)
        best, throughput = 1, 0.0
        for batch in BATCHES:
            feed = batch_of(batch)
            rate = batch / float(np.median(_calls(predictor, feed, seconds / len(BATCHES))))
            if rate > throughput:
                best, throughput = batch, rate
        return {
            "ready": ready,
            "p50": 1000 * float(np.median(alone)),
            "p99": 1000 * float(np.quantile(alone, 0.99)),
            "throughput_per_s": throughput,
            "batch": best,
            "memory_mb": _peak_mb(),
            **_asked(edge, predictor),
        }
    finally:
        predictor.close()


def _asked(edge: Edge, predictor: Any) -> dict[str, Any]:
    """Of a chain: how often each node was asked per image."""
    if not isinstance(edge, EdgeChain):
        return {}
    images = predictor.rows[edge.graph.first]
    return {"asked": {node: round(predictor.rows[node] / images, 3) for node in edge.graph.order}}


def _calls(predictor: Any, feed: Any, seconds: float) -> list[float]:
    predictor.predict(feed)
    calls: list[float] = []
    end = time.perf_counter() + seconds
    while len(calls) < FEWEST or time.perf_counter() < end:
        began = time.perf_counter()
        predictor.predict(feed)
        calls.append(time.perf_counter() - began)
    return calls


def _apart(folder: Path, variant: str, seconds: float, threads: int, files: Sequence[Path]) -> dict[str, Any]:
    command = [sys.executable, "-m", "loopworks_edge", "bench", "--folder", str(folder.resolve()), "--only", variant]
    began = time.time()
    done = subprocess.run(
        [*command, "--seconds", str(seconds), "--threads", str(threads), *(str(path.resolve()) for path in files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=model.HOME,
    )
    if done.returncode:
        raise Failed(f"variant {variant} must run; got exit code {done.returncode}", done.stderr.strip()[-500:])
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "start_s": found["ready"] - began}


def _joined(edge: Edge, name: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(key: str) -> float | None:
        told = [found[key] for found in rounds if found[key] is not None]
        return round(float(np.median(told)), 4) if told else None

    best = max(rounds, key=lambda found: found["throughput_per_s"])
    return {
        "name": name,
        "latency_ms": {"p50": middle("p50"), "p99": middle("p99")},
        "throughput_per_s": middle("throughput_per_s"),
        "batch": best["batch"],
        "memory_mb": middle("memory_mb"),
        "start_s": middle("start_s"),
        "size_bytes": edge.size_bytes(name),
        **({"asked": best["asked"]} if "asked" in best else {}),
    }


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_mb() -> float | None:
    """Memory of the machine, or nothing where the system does not say it."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _peak_mb() -> float | None:
    """The most memory that this process has held; nothing where the system does not say it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
