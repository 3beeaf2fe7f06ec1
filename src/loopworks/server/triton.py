"""Metrics under the names that Triton gives them, so that dashboards and alerts made for it go on.

Written here and not by ``prometheus_client``, which would put ``_total`` behind each counter's name.
Source: Triton Inference Server, docs/user_guide/metrics.md.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from loopworks.infer.statistics import Statistics


class Counted(Protocol):
    """What answers requests: a loaded model, a chain."""

    @property
    def name(self) -> str:
        """As requests name it."""

    @property
    def version(self) -> str:
        """Revision."""

    @property
    def statistics(self) -> Statistics:
        """What it did."""

    @property
    def waiting(self) -> int:
        """Requests under way or in the queue."""


_Value = Callable[[Counted], float]
_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    ("request_success", "Number of successful inference requests, all batch sizes", lambda s: s.statistics.success),
    ("count", "Number of inferences performed (does not include cached requests)", lambda s: s.statistics.inferences),
    ("exec_count", "Number of model executions performed", lambda s: s.statistics.executions),
    (
        "request_duration_us",
        "Cumulative inference request duration in microseconds",
        lambda s: s.statistics.success_ns // 1000,
    ),
    (
        "queue_duration_us",
        "Cumulative inference queuing duration in microseconds",
        lambda s: s.statistics.queue_ns // 1000,
    ),
    (
        "compute_input_duration_us",
        "Cumulative compute input duration in microseconds",
        lambda s: s.statistics.input_ns // 1000,
    ),
    (
        "compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds",
        lambda s: s.statistics.compute_ns // 1000,
    ),
    (
        "compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds",
        lambda s: s.statistics.output_ns // 1000,
    ),
)
REASONS = {
    "busy": "REJECTED",
    "too_many": "REJECTED",
    "timed_out": "REJECTED",
    "cancelled": "CANCELED",
    "failed": "BACKEND",
    "damaged": "BACKEND",
    "internal": "BACKEND",
}
"""Our error codes -> Triton's reasons; any other is OTHER."""


def text(models: Iterable[Counted], failures: Mapping[tuple[str, str, str], int]) -> str:
    """Every loaded model's figures since it was loaded.

    Args:
        models: what is loaded. Names hold letters, digits, - and _ alone, so nothing needs escaping.
        failures: deployment, version and error code -> requests that ended so.
    """
    served = list(models)
    lines: list[str] = []
    for name, meaning, value in _COUNTERS:
        lines += _head(f"nv_inference_{name}", meaning, "counter")
        lines += [f"nv_inference_{name}{{{_labels(one.name, one.version)}}} {value(one)}" for one in served]
    lines += _head("nv_inference_pending_request_count", "Instantaneous number of pending requests per model", "gauge")
    lines += [f"nv_inference_pending_request_count{{{_labels(one.name, one.version)}}} {one.waiting}" for one in served]
    by_reason: dict[tuple[str, str, str], int] = {
        (one.name, one.version, reason): 0 for one in served for reason in (*sorted(set(REASONS.values())), "OTHER")
    }
    for (name, version, code), count in failures.items():
        key = (name, version, REASONS.get(code, "OTHER"))
        by_reason[key] = by_reason.get(key, 0) + count
    name = "nv_inference_request_failure"
    lines += _head(name, "Number of failed inference requests, all batch sizes", "counter")
    lines += [
        f'{name}{{{_labels(model, version)},reason="{reason}"}} {count}'
        for (model, version, reason), count in sorted(by_reason.items())
    ]
    return "\n".join(lines) + "\n"


def _head(name: str, meaning: str, kind: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def _labels(model: str, version: str) -> str:
    return f'model="{model}",version="{version}"'
