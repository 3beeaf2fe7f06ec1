"""What a variant is worth on this machine: accuracy on whole splits, latency, throughput, and the machine's facts.

Speed is measured round robin: every round asks each variant a little, and the median of the rounds counts, so that a
neighbour who takes the processor for a second slows all variants alike and chooses none.
"""

import importlib.metadata
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Arrays, Context, Learnable, Predictor, Rule, Told
from loopworks.core.errors import Failed
from loopworks.core.values import LabelSchema
from loopworks.optimize import probe
from loopworks.tasks.answers import rows, size

log = logging.getLogger(__name__)
ROUNDS, SLOT_S = 5, 0.05
"""Rounds, and seconds that a variant is asked in each at each batch size."""
BATCHES = (1, 8, 32)
FEWEST = 3
"""Calls of one item per slot, however slow the model is; larger batches are asked once at least."""
WARM_UP = 3
LONG_S = 0.5
"""A call that takes longer says enough of its batch size: larger ones are not asked."""
STARTS = 3
"""Processes that a variant is started in, one after the other with those of the other variants between."""
STARTING_S = 30.0
"""Seconds after which no further round of starts is begun."""
INSTRUCTIONS = re.compile(r"(sse4_2|avx2?|avx512\w*|avx_vnni\w*|amx_\w+|f16c|fma|neon|asimd\w*|sve2?|bf16|i8mm)")


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

    def throughput_per_s(self) -> tuple[float, int]:
        """Items per second at the best batch size, each by the median of its rounds, and that batch size."""
        return max(
            (batch / float(np.median([np.median(calls) for calls in rounds])), batch)
            for batch, rounds in self.times.items()
            if rounds
        )


def speeds(
    predictors: Mapping[str, Predictor],
    items: Arrays,
    ctx: Context,
    rounds: int = ROUNDS,
    batches: Sequence[int] = BATCHES,
) -> dict[str, Speed]:
    """Ask every predictor, interleaved.

    Args:
        predictors: by the variant's name.
        items: packed, to ask with; repeated where there are fewer than a batch takes.
        ctx: ticked after each slot.
        rounds: how often each is visited.
        batches: sizes to ask with, 1 among them.
    """
    feeds = {batch: rows(items, np.arange(batch) % size(items)) for batch in batches}
    found = {variant: Speed(times=_warm(predictor, feeds)) for variant, predictor in predictors.items()}
    done, total = 0, rounds * len(predictors)
    for turn in range(rounds):
        # Each round begins with another variant, so that none is always the one after a pause.
        order = list(predictors)[turn % len(predictors) :] + list(predictors)[: turn % len(predictors)]
        for variant in order:
            for batch, times in found[variant].times.items():
                times.append(_slot(predictors[variant], feeds[batch], FEWEST if batch == 1 else 1))
            done += 1
            ctx.tick(done / total, f"time {variant}")
    return found


def _warm(predictor: Predictor, feeds: Mapping[int, Arrays]) -> dict[int, list[list[float]]]:
    """Ask a few times without counting; the batch sizes that are worth asking with, each with no times yet."""
    times: dict[int, list[list[float]]] = {}
    for batch, feed in feeds.items():
        times[batch] = []
        for _ in range(WARM_UP):
            began = time.perf_counter()
            predictor.predict(feed)
            if time.perf_counter() - began > LONG_S:
                return times
    return times


def _slot(predictor: Predictor, feed: Arrays, fewest: int) -> list[float]:
    calls: list[float] = []
    end = time.perf_counter() + SLOT_S
    while len(calls) < fewest or time.perf_counter() < end:
        began = time.perf_counter()
        predictor.predict(feed)
        calls.append(time.perf_counter() - began)
    return calls


def quick_s(predictor: Predictor, item: Arrays) -> float:
    """Seconds for one item, roughly: the least of a few calls. For choosing what to try, never what to use."""
    predictor.predict(item)
    calls: list[float] = []
    while len(calls) < 5:
        began = time.perf_counter()
        predictor.predict(item)
        calls.append(time.perf_counter() - began)
    return min(calls)


def footprints(
    variants: Sequence[Variant], folder: Path, rule: Rule, item: Arrays, threads: int, ctx: Context
) -> dict[str, probe.Footprint]:
    """Memory and start of each variant, in processes of their own, interleaved: medians over ``STARTS`` of them.

    One that cannot be started there is left out; the log says why.
    """
    found: dict[str, list[probe.Footprint]] = {variant.name: [] for variant in variants}
    with tempfile.TemporaryDirectory(prefix="loopworks-probe-") as scratch:
        items = Path(scratch) / "items.npz"
        probe.save(item, items)
        began = time.monotonic()
        for turn in range(STARTS):
            if turn and time.monotonic() - began > STARTING_S:
                break
            for place, variant in enumerate(variants):
                ctx.tick((turn * len(variants) + place) / (STARTS * len(variants)), f"start {variant.name}")
                try:
                    found[variant.name].append(probe.measure(variant, folder, rule, items, threads))
                except Failed as error:
                    log.warning("variant not started name=%s error=%s", variant.name, error.message)
    return {
        name: probe.Footprint(
            memory_bytes=int(np.median([one.memory_bytes for one in told])),
            start_s=float(np.median([one.start_s for one in told])),
        )
        for name, told in found.items()
        if told
    }


def worst_classes(
    task: Learnable,
    schema: LabelSchema,
    targets: NDArray[Any],
    before: Arrays,
    after: Arrays,
    count: int = 3,
) -> str:
    """The classes that lost most of the metric that classes are compared by, as ``cat 0.90 to 0.75, dog ...``.

    Where there are no classes, the items whose answers became worst, as ``4.1 became 9 for 4``.
    """
    old, new = (task.by_class(targets, outputs, schema) for outputs in (before, after))
    if not old:
        return _worst_items(task, schema, targets, before, after, count)
    losses: list[tuple[float, str, float, float]] = []
    for name in old.keys() & new.keys():
        first = next(iter(old[name]))
        losses.append((old[name][first] - new[name][first], name, old[name][first], new[name][first]))
    worst = sorted(losses, key=lambda loss: (-loss[0], loss[1]))[:count]
    return ", ".join(f"{name} {old:.2f} to {new:.2f}" for loss, name, old, new in worst if loss > 0)


def _worst_items(
    task: Learnable, schema: LabelSchema, targets: NDArray[Any], before: Arrays, after: Arrays, count: int
) -> str:
    if not isinstance(task, Told):
        return ""
    lost = task.quality(targets, before, schema) - task.quality(targets, after, schema)
    old, new = (task.tell(targets, outputs, schema) for outputs in (before, after))
    worst = [place for place in np.argsort(-lost, kind="stable")[:count] if lost[place] > 0]
    return ", ".join(f"{old[place][1]} became {new[place][1]} for {old[place][0]}" for place in worst)


PACKAGES = ("loopworks", "numpy", "onnxruntime", "openvino", "nncf", "lightgbm")


def machine(threads: int) -> dict[str, Any]:
    """Processor, its instruction sets, cores, threads, memory and versions, for ``Bundle.measured_on``."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts = _processor()
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "instructions": sorted(
            word for word in facts.get("flags", facts.get("Features", "")).split() if INSTRUCTIONS.fullmatch(word)
        ),
        "cores": cores,
        "threads": threads or cores,
        "system": platform.system(),
        "versions": versions,
    }


def _processor() -> dict[str, str]:
    """Facts of the first processor, where the system tells them."""
    facts: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, mark, value = line.partition(":")
            if mark:
                facts.setdefault(name.strip(), value.strip())
    return facts
