"""Loads one variant in a process of its own, asks it, and says how long the start took and how much memory it needs.

``python -m loopworks.optimize.probe`` reads an order as JSON from standard input and writes the figures as JSON; it
imports the runtime's module alone, so that what is measured is the variant and not Loopworks.
"""

import importlib
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core import predictor as predictors
from loopworks.core import rules
from loopworks.core.bundle import Variant
from loopworks.core.contracts import Arrays, Rule
from loopworks.core.errors import Failed
from loopworks.core.registry import plugins

CALLS = 3
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a variant costs before it answers its first question."""

    memory_bytes: int
    start_s: float


def measure(variant: Variant, folder: Path, rule: Rule, items: Path, threads: int) -> Footprint:
    """Start a process and ask the variant in it.

    Args:
        variant: with its files below ``folder``.
        folder: of the bundle.
        rule: of the bundle.
        items: what ``save`` wrote.
        threads: of one call; 0 is one per core.
    Raises: Failed: it crashed there, or took more than a minute.
    """
    runtime = plugins.get(f"runtime.{variant.runtime}")
    order = {
        "module": runtime.__module__,
        "runtime": runtime.__qualname__,
        "variant": variant.to_json(),
        "folder": str(folder),
        "rule": rule.to_json(),
        "items": str(items),
        "threads": threads,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "loopworks.optimize.probe"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{variant.name} must start within {LIMIT_S:.0f} s; got no answer") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise Failed(f"{variant.name} must answer in a process of its own; got exit code {done.returncode}: {last}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Footprint(memory_bytes=found["memory_bytes"], start_s=found["start_s"])


def save(items: Arrays, path: Path) -> None:
    """Packed tensors as a file for ``measure``; texts as bytes of one length, so that nothing must be unpickled."""
    plain: dict[str, Any] = {
        name: values.astype(np.bytes_) if values.dtype == object else values for name, values in items.items()
    }
    np.savez(path, **plain)


def run(order: dict[str, Any]) -> Footprint:
    """What the process does."""
    with np.load(order["items"], allow_pickle=False) as file:
        items = {name: file[name].astype(object) if file[name].dtype.kind == "S" else file[name] for name in file.files}
    rule = rules.read(order["rule"])
    variant = Variant.from_json(order["variant"])
    began = time.perf_counter()
    runtime = getattr(importlib.import_module(order["module"]), order["runtime"])()
    predictor = predictors.start(runtime, variant, Path(order["folder"]), rule, threads=order["threads"])
    predictor.predict(items)
    start_s = time.perf_counter() - began
    for _ in range(CALLS):
        predictor.predict(items)
    predictor.close()
    return Footprint(memory_bytes=peak_bytes(), start_s=start_s)


def peak_bytes() -> int:
    """Most memory that this process has held; what its parent held before it began does not count."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    """Read the order, write the figures."""
    found = run(json.loads(sys.stdin.read()))
    sys.stdout.write(json.dumps({"memory_bytes": found.memory_bytes, "start_s": found.start_s}) + "\n")


if __name__ == "__main__":
    main()
