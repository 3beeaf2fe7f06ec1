"""Classification of real texts by the light recipe, without weights from outside.

banking77 (10,003 questions of bank customers, 77 intents): every tenth question of each intent in the published train
part is the validation split; the published test part is asked once per seed.

nyc-council-complaints: the type of a complaint from its short description alone (``descriptor``; every other column is
left out: ids, dates, places, and the office that took it in). Descriptions are picked from lists below the types, so
most of it is looking up; what remains is dirt, drift, and descriptions that no training text had. Split by the date of
opening: learnt from 2015-2020, validated on 2021, tested on 2022.
"""

import csv
import gzip
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import Figure
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Context, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.text import TextRule
from loopworks.core.values import LabelSchema
from loopworks.data.source import Progress

DATA = Path(__file__).parents[2] / "shared" / "data"
SEEDS = (0, 1, 2)
NO_TYPE = frozenset({"", "Please choose an issue...", "Select One", "@getxlate.Udf_Code_Genera"})
FEWEST = 20
"""Training texts of a type, at least; rarer types are left out of all splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeled:
    """Texts and the names of their classes, by split."""

    said: dict[str, list[str]]
    names: dict[str, list[str]]
    id: str = "0" * 64
    task: Learnable = field(default_factory=lambda: plugins.get("task.text-classification"))

    @property
    def schema(self) -> LabelSchema:
        return LabelSchema(classes=tuple(sorted(set(self.names["train"]))))

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(texts) for split, texts in self.said.items()}

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        return rule.pack(self.said[split])

    def targets(self, split: str) -> NDArray[np.float32]:
        place = {name: i for i, name in enumerate(self.schema.classes)}
        out = np.zeros((len(self.names[split]), len(place)), np.float32)
        out[np.arange(len(out)), [place[name] for name in self.names[split]]] = 1
        return out

    def facts(self, split: str) -> list[dict[str, Any]]:
        return [{"name": name} for name in self.names[split]]


def banking() -> Labeled:
    """A tenth of each class of the train part, every tenth in the file's order, validates."""
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    seen: Counter[str] = Counter()
    for text, name in rows(DATA / "banking77" / "train.csv"):
        seen[name] += 1
        parts["train" if seen[name] % 10 else "val"].append((text, name))
    parts["test"] = rows(DATA / "banking77" / "test.csv")
    return labeled(parts)


def rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def complaints() -> Labeled:
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    path = DATA / "nyc-council-complaints" / "complaints_2015_2022.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["complaint_type"] not in NO_TYPE:
                split = {"2021": "val", "2022": "test"}.get(row["opendate"][:4], "train")
                parts[split].append((row["descriptor"], row["complaint_type"].strip().upper()))
    often = Counter(name for _, name in parts["train"])
    return labeled({split: [row for row in some if often[row[1]] >= FEWEST] for split, some in parts.items()})


def labeled(parts: dict[str, list[tuple[str, str]]]) -> Labeled:
    return Labeled(
        said={split: [text for text, _ in some] for split, some in parts.items()},
        names={split: [name for _, name in some] for split, some in parts.items()},
    )


def train(source: Labeled, seed: int, **params: Any) -> tuple[Bundle, float, float]:
    """The model, and its seconds on the wall and of the processor."""
    from loopworks.train.stage import train as fit

    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(
            seed=seed, scratch=Path(folder) / "scratch", report=lambda share, text: None, stopped=lambda: False
        )
        wall, busy = time.perf_counter(), time.process_time()
        bundle = fit(source, recipe="ngrams", params=params, folder=Path(folder) / "bundle", ctx=ctx)
        return bundle, time.perf_counter() - wall, time.process_time() - busy


def encoding(texts: Sequence[str]) -> list[Figure]:
    """Processor time to turn a text into pieces, alone and in batches of 32."""
    rule, found = TextRule(), []
    for batch, target in ((1, 500.0), (32, 150.0)):
        packed = [rule.pack(texts[at : at + batch]) for at in range(0, 640, batch)]
        turns = []
        for _ in range(7):
            began = time.process_time()
            for one in packed:
                rule.encode(one)
            turns.append((time.process_time() - began) / 640 * 1e6)
        found.append(
            Figure(
                name=f"text to pieces, {batch} at once",
                value=round(float(np.median(turns)), 1),
                unit="us of processor per text",
                target=target,
                detail=f"banking77, {np.mean([len(text) for text in texts[:640]]):.0f} characters each, median of 7",
            )
        )
    return found


def main() -> list[Figure]:
    import loopworks.builtins  # noqa: F401 - registers what is shipped

    source = banking()
    figures = encoding(source.said["train"])
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    done = [train(source, seed) for seed in SEEDS]
    scores = [bundle.metrics["test"]["accuracy"] for bundle, _, _ in done]
    middle = sorted(scores, key=lambda score: score.value)[len(scores) // 2]
    vals = [bundle.metrics["val"]["accuracy"].value for bundle, _, _ in done]
    shown = ", ".join(f"{score.value:.4f}" for score in scores)
    figures += [
        Figure(
            name="banking77 test accuracy",
            value=round(middle.value, 4),
            unit="share",
            target=0.90,
            at_least=True,
            detail=f"[{middle.low:.4f}, {middle.high:.4f}] of {middle.count}; seeds {SEEDS}: {shown}; "
            f"val {', '.join(f'{value:.4f}' for value in vals)}",
        ),
        Figure(
            name="banking77 training",
            value=round(float(np.median([wall for _, wall, _ in done])), 1),
            unit="s",
            target=300.0,
            detail=f"median of {len(SEEDS)}; {np.median([busy for _, _, busy in done]):.0f} s of processor; {load}",
        ),
        Figure(
            name="banking77 model file",
            value=round(done[0][0].variants[0].size_bytes / 1e6, 1),
            unit="MB",
            target=60.0,
            detail=f"{done[0][0].params['known_pieces']} pieces",
        ),
    ]
    source = complaints()
    bundle, wall, busy = train(source, 0, epochs=3)
    test, known = bundle.metrics["test"], set(source.said["train"])
    unseen = float(np.mean([text not in known for text in source.said["test"]]))
    lookup = most_frequent(source)
    figures.append(
        Figure(
            name="nyc-council-complaints 2022, type from description, accuracy",
            value=round(test["accuracy"].value, 4),
            unit="share",
            target=lookup,
            at_least=True,
            detail=f"[{test['accuracy'].low:.4f}, {test['accuracy'].high:.4f}] of {test['accuracy'].count}, macro F1 "
            f"{test['macro_f1'].value:.3f}, {len(source.schema.classes)} types, {unseen:.1%} of descriptions not seen "
            f"in training; target: the description's most frequent type; {wall:.0f} s, {busy:.0f} s of processor",
        )
    )
    return figures


def most_frequent(source: Labeled) -> float:
    """Accuracy of giving each description the type that it had most often, and an unseen one the commonest type."""
    types: dict[str, Counter[str]] = {}
    for text, name in zip(source.said["train"], source.names["train"], strict=True):
        types.setdefault(text, Counter())[name] += 1
    commonest = Counter(source.names["train"]).most_common(1)[0][0]
    given = [types[text].most_common(1)[0][0] if text in types else commonest for text in source.said["test"]]
    return round(float(np.mean([one == other for one, other in zip(given, source.names["test"], strict=True)])), 4)
