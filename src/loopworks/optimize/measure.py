"""What each variant costs on this machine: latency, throughput, with turns mixed so that noise falls on all alike."""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Context, Predictor

TURNS = 5
LONE_S = 0.15
BATCH_S = 0.2
BATCHES = (1, 8, 32)
WARM_CALLS = 3


@dataclass(slots=True)
class Speed:
    """What was measured of one variant."""

    calls_ms: list[list[float]] = field(default_factory=list)
    """One list per turn: times of calls with one item."""
    rates: dict[int, list[float]] = field(default_factory=dict)
    """Batch size -> items per second, one per turn."""

    @property
    def latency_ms(self) -> dict[str, float]:
        """Median over the turns of each turn's p50 and p99."""
        return {
            f"p{level}": round(median(float(np.percentile(turn, level)) for turn in self.calls_ms), 4)
            for level in (50, 99)
        }

    @property
    def throughput_per_s(self) -> float:
        """Items per second at the best batch size, median over the turns."""
        return round(max(median(rates) for rates in self.rates.values()), 1)


def speeds(predictors: Mapping[str, Predictor], name: str, images: NDArray[np.uint8], ctx: Context) -> dict[str, Speed]:
    """Measure all predictors in turns.

    Args:
        predictors: variant name -> loaded model.
        name: of the input tensor.
        images: real inputs, shape ``(items, height, width, 3)``; repeated where there are too few.
        ctx: progress.
    """
    found = {variant: Speed() for variant in predictors}
    pool = images[np.arange(max(BATCHES)) % len(images)]
    for predictor in predictors.values():
        for _ in range(WARM_CALLS):
            predictor.predict({name: pool[:1]})
    for turn in range(TURNS):
        for i, (variant, predictor) in enumerate(predictors.items()):
            ctx.tick((turn + i / len(predictors)) / TURNS, f"timing {variant}")
            found[variant].calls_ms.append(_lone(predictor, name, pool))
            for size in BATCHES:
                rate = _rate(predictor, {name: pool[:size]}, size)
                found[variant].rates.setdefault(size, []).append(rate)
    return found


def _lone(predictor: Predictor, name: str, pool: NDArray[np.uint8]) -> list[float]:
    """Times of calls with one item, in milliseconds."""
    took: list[float] = []
    end = time.perf_counter() + LONE_S
    while time.perf_counter() < end or len(took) < 5:
        one = {name: pool[len(took) % len(pool)][None]}
        began = time.perf_counter()
        predictor.predict(one)
        took.append((time.perf_counter() - began) * 1000)
    return took


def _rate(predictor: Predictor, batch: Mapping[str, NDArray[Any]], size: int) -> float:
    """Items per second."""
    calls = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < BATCH_S / len(BATCHES) or calls < 2:
        predictor.predict(batch)
        calls += 1
    return calls * size / took


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    import psutil

    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count() or 1,
        "threads": threads or psutil.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines: Sequence[str] = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
