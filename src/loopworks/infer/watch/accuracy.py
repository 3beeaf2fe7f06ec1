"""How right a deployment is in use: measured where the truth came, estimated from confidence where it did not."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.values import LabelSchema
from loopworks.infer.watch import statistics
from loopworks.infer.watch.reference import Confidence

if TYPE_CHECKING:
    import pyarrow as pa

Truths = Mapping[str, tuple[Any, bool | None]]
"""Item -> its label, and whether the answer was right where only that is known."""
LEAST = 10
NOT_MEASURED = "estimated from confidence, not measured"


def measured(rows: "pa.Table", truths: Truths, kinds: frozenset[str], source: str) -> dict[str, Any] | None:
    """Accuracy (or errors of numbers) on the predictions whose truth is known; the newest answer to each item counts.

    Args:
        rows: of the log: ``item`` and ``answer``.
        truths: what was right.
        kinds: of shapes that the task kind answers with.
        source: where the truth comes from.
    Returns: ``metric``, ``value``, ``low``, ``high`` (95 %), ``count``, ``source``; ``None`` where nothing is known, or
        the task kind's answers are places, which a log of labels cannot judge.
    """
    answers = _answers(rows, truths)
    if kinds == {"value"}:
        return _numbers(answers, truths, source)
    if kinds != {"class"}:
        return None
    right = [is_right(answer, *truths[item]) for item, answer in answers.items()]
    known = [one for one in right if one is not None]
    if not known:
        return None
    low, high = statistics.wilson(sum(known), len(known))
    told = {"metric": "accuracy", "value": sum(known) / len(known), "low": low, "high": high}
    return {**told, "count": len(known), "source": source}


def is_right(answer: str, label: Any, verdict: bool | None) -> bool | None:
    """Whether an answer is the label; where there is no label, what was said of it."""
    if label is None:
        return verdict
    names = [label] if isinstance(label, str) else list(label)
    return answer == "|".join(sorted(str(name) for name in names))


def _answers(rows: "pa.Table", truths: Truths) -> dict[str, str]:
    """Item -> newest answer, of those whose truth is known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not truths or not rows.num_rows:
        return {}
    wanted = pa.array([bytes.fromhex(item) for item in truths], pa.binary(32))
    found = rows.select(["item", "answer"]).filter(pc.is_in(rows.column("item"), value_set=wanted))
    items, answers = found.column("item").to_pylist(), found.column("answer").to_pylist()
    return {item.hex(): answer for item, answer in zip(items, answers, strict=True)}


def _numbers(answers: Mapping[str, str], truths: Truths, source: str) -> dict[str, Any] | None:
    pairs = [(float(answer), float(truths[item][0])) for item, answer in answers.items() if truths[item][0] is not None]
    if not pairs:
        return None
    said, real = np.asarray(pairs, np.float64).T
    off = np.abs(said - real)
    half = 1.96 * off.std(ddof=1) / np.sqrt(len(off)) if len(off) > 1 else float("inf")
    told = {"metric": "mae", "value": off.mean(), "low": max(0.0, off.mean() - half), "high": off.mean() + half}
    more = {"rmse": np.sqrt((off**2).mean()), "bias": (said - real).mean()}
    return {name: float(value) for name, value in {**told, **more}.items() if name != "metric"} | {
        "metric": "mae",
        "count": len(pairs),
        "source": source,
    }


def estimated(rows: "pa.Table", confidence: Confidence | None) -> list[dict[str, Any]]:
    """Accuracy without any truth, two ways; the interval is that of the sample alone, not of the method.

    atc: the share of answers that are surer than the threshold by which the model's own validation items told its
    accuracy (Garg et al. 2022). mean_confidence: the mean confidence, moved by what it was off on those items.
    Both are wrong where the relation of confidence to being right has changed.
    """
    if confidence is None or rows.num_rows < LEAST:
        return []
    sure = np.asarray(rows.column("score").to_numpy(), np.float64)
    count = len(sure)
    hits = float((sure >= confidence.threshold).sum())
    low, high = statistics.wilson(hits, count)
    mean = float(np.clip(sure.mean() + confidence.right - confidence.mean, 0.0, 1.0))
    half = 1.96 * float(sure.std()) / np.sqrt(count)
    before = {"count": count, "validation": confidence.right, "note": NOT_MEASURED}
    return [
        {"how": "atc", "value": hits / count, "low": low, "high": high, **before},
        {
            "how": "mean_confidence",
            "value": mean,
            "low": max(0.0, mean - half),
            "high": min(1.0, mean + half),
            **before,
        },
    ]


def check_label(label: Any, kinds: frozenset[str], schema: LabelSchema) -> Any:
    """A label as it is kept: a class, a list of classes, or a number; raises ``ValueError`` with what it must be."""
    if kinds == {"value"}:
        if isinstance(label, str):
            label = float(label) if _is_number(label) else label
        if isinstance(label, bool) or not isinstance(label, int | float) or not np.isfinite(label):
            raise ValueError("a finite number")
        return float(label)
    names = [part.strip() for part in label.split("|")] if isinstance(label, str) else label
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("a class or a list of classes")
    if unknown := [name for name in names if name not in schema.classes]:
        raise ValueError(f"of the classes {', '.join(schema.classes[:12])}, not {unknown[0]!r}")
    if not schema.is_multi and len(names) != 1:
        raise ValueError("exactly one class")
    return names[0] if len(names) == 1 else sorted(names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
