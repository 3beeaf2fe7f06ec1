"""What a variant is worth on this machine: accuracy on whole splits, latency, throughput, and the machine's facts.

Speed is measured round robin: every round asks each variant a little, and the median of the rounds counts, so that a
neighbour who takes the processor for a second slows all variants alike and chooses none.
"""

import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Context, Learnable, Predictor
from loopworks.core.values import LabelSchema
from loopworks.tasks.answers import rows, size

ROUNDS, SLOT_S, WARM_UP = 5, 0.05, 3
"""Rounds, seconds that a variant is asked in each at each batch size, and calls before that which do not count."""
BATCHES = (1, 8, 32)
FEWEST = 3
"""Calls per slot, however slow the model is."""


@dataclass(slots=True, kw_only=True)
class Speed:
    """Times of a variant: one list of seconds per call for each round, by batch size."""

    times: dict[int, list[list[float]]] = field(default_factory=dict)

    def latency_ms(self) -> dict[str, float]:
        """p50 (median of the rounds' medians) and p99 (of all calls) of one item alone, in milliseconds."""
        rounds = self.times[1]
        return {
            "p50": 1000 * float(np.median([np.median(calls) for calls in rounds])),
            "p99": 1000 * float(np.quantile(np.concatenate([np.asarray(calls) for calls in rounds]), 0.99)),
        }

    def throughput_per_s(self) -> float:
        """Items per second at the best batch size, each by the median of its rounds."""
        return max(
            batch / float(np.median([np.median(calls) for calls in rounds])) for batch, rounds in self.times.items()
        )


def speeds(predictors: Mapping[str, Predictor], items: Arrays, ctx: Context, rounds: int = ROUNDS) -> dict[str, Speed]:
    """Ask every predictor, interleaved.

    Args:
        predictors: by the variant's name.
        items: packed, to ask with; repeated where there are fewer than a batch takes.
        ctx: ticked after each slot.
        rounds: how often each is visited.
    """
    feeds = {batch: rows(items, np.arange(batch) % size(items)) for batch in BATCHES}
    found = {variant: Speed(times={batch: [] for batch in BATCHES}) for variant in predictors}
    for variant, predictor in predictors.items():
        for batch in BATCHES:
            for _ in range(WARM_UP):
                predictor.predict(feeds[batch])
        ctx.tick(0.0, f"warm up {variant}")
    done, total = 0, rounds * len(predictors)
    for turn in range(rounds):
        # Each round begins with another variant, so that none is always the one after a pause.
        order = list(predictors)[turn % len(predictors) :] + list(predictors)[: turn % len(predictors)]
        for variant in order:
            for batch in BATCHES:
                found[variant].times[batch].append(_slot(predictors[variant], feeds[batch]))
            done += 1
            ctx.tick(done / total, f"time {variant}")
    return found


def _slot(predictor: Predictor, feed: Arrays) -> list[float]:
    calls: list[float] = []
    end = time.perf_counter() + SLOT_S
    while len(calls) < FEWEST or time.perf_counter() < end:
        began = time.perf_counter()
        predictor.predict(feed)
        calls.append(time.perf_counter() - began)
    return calls


def worst_classes(
    task: Learnable,
    schema: LabelSchema,
    targets: NDArray[Any],
    before: Arrays,
    after: Arrays,
    count: int = 3,
) -> str:
    """The classes that lost most of the metric that classes are compared by, as ``cat 0.90 to 0.75, dog ...``."""
    old, new = (task.by_class(targets, outputs, schema) for outputs in (before, after))
    losses: list[tuple[float, str, float, float]] = []
    for name in old.keys() & new.keys():
        first = next(iter(old[name]))
        losses.append((old[name][first] - new[name][first], name, old[name][first], new[name][first]))
    worst = sorted(losses, key=lambda loss: (-loss[0], loss[1]))[:count]
    return ", ".join(f"{name} {old:.2f} to {new:.2f}" for loss, name, old, new in worst if loss > 0)


def machine(threads: int, packages: Sequence[str] = ("onnxruntime", "openvino", "nncf")) -> dict[str, Any]:
    """Processor, cores, threads and versions, for ``Bundle.measured_on``."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    cores = len(os.sched_getaffinity(0))
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": cores,
        "threads": threads or cores,
        "system": platform.system(),
        "versions": {name: version for name, version in versions.items() if version},
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
