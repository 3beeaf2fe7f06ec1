"""Texts in memory: short complaints whose class can be told by their words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema
from loopworks.data.source import Progress


@dataclass(frozen=True, kw_only=True)
class Told:
    """Texts with multi-hot targets, by split."""

    said: Mapping[str, Sequence[str]]
    labels: Mapping[str, NDArray[np.float32]]
    schema: LabelSchema
    id: str = "0" * 64
    task: Learnable = field(default_factory=lambda: plugins.get("task.text-classification"))

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(texts) for split, texts in self.said.items()}

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        if progress is not None:
            progress(0.0, f"reading {split}")
        return rule.pack(self.said[split])

    def targets(self, split: str) -> NDArray[np.float32]:
        return self.labels[split]

    def texts(self, split: str) -> Sequence[str]:
        return self.said[split]

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": f"{split} {i}"} for i in range(len(self.said[split]))]


WORDS = {
    "street": ["pothole", "asphalt", "crack", "road"],
    "light": ["lamp", "dark", "bulb", "lantern"],
    "垃圾": ["垃圾", "垃圾桶", "异味", "清运"],
}
FILLER = [
    "the",
    "at",
    "near",
    "my",
    "house",
    "since",
    "monday",
    "please",
    "somebody",
    "a",
    "very",
    "big",
    "in",
    "front",
    "of",
    "school",
    "it",
    "is",
    "was",
    "there",
]


def complaints(
    train: int = 60, val: int = 24, test: int = 24, *, is_multi: bool = False, words: Mapping[str, Any] = WORDS
) -> Told:
    """Filler words with one word of each of the text's classes among them."""
    rng = np.random.default_rng(0)
    names = tuple(words)
    said, labels = {}, {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        if not count:
            continue
        rows = np.zeros((count, len(names)), np.float32)
        rows[np.arange(count), np.arange(count) % len(names)] = 1
        if is_multi:
            rows = np.maximum(rows, rng.integers(0, 2, rows.shape)).astype(np.float32)
        texts = []
        for row in rows:
            some = list(rng.choice(FILLER, 6)) + [str(rng.choice(words[names[at]])) for at in np.flatnonzero(row)]
            texts.append(" ".join(rng.permutation(some)))
        said[split], labels[split] = texts, rows
    return Told(said=said, labels=labels, schema=LabelSchema(classes=names, is_multi=is_multi))
