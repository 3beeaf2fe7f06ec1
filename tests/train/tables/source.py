"""Tables in memory, as a source: split -> rows and targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema
from loopworks.data.source import Progress


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows by split; ``answers`` are class ids, or numbers where there are no classes."""

    tables: Mapping[str, pa.Table]
    answers: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...] = ()
    id: str = "0" * 64

    @property
    def task(self) -> Learnable:
        found: Learnable = plugins.get("task.tabular-classification" if self.classes else "task.tabular-regression")
        return found

    @property
    def schema(self) -> LabelSchema:
        return LabelSchema(classes=self.classes)

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: table.num_rows for split, table in self.tables.items()}

    def rows(self, split: str) -> pa.Table:
        return self.tables[split]

    def targets(self, split: str) -> NDArray[Any]:
        answer = self.answers[split]
        return np.eye(len(self.classes), dtype=np.float32)[answer] if self.classes else answer[:, None]

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        if progress is not None:
            progress(0.0, f"reading {split}")
        return rule.pack(self.rows(split))

    def facts(self, split: str) -> list[dict[str, Any]]:
        return [{"name": str(i), **row} for i, row in enumerate(self.rows(split).to_pylist())]


def table(
    train: int = 400,
    val: int = 150,
    test: int = 150,
    *,
    classes: int = 2,
    seed: int = 0,
    noise: float = 0.5,
    **more: Any,
) -> Table:
    """Columns of every kind, some cells missing; the answer hangs on number, city and hour, and on a step of ``age``.

    Args:
        train, val, test: rows; 0 leaves the split out.
        classes: 0 for a number.
        seed: of the draws.
        noise: of the score that the answer is made of.
        more: column -> values for all rows together, instead of what is drawn or beside it.
    """
    rng = np.random.default_rng(seed)
    count = train + val + test
    age, number = rng.integers(18, 80, count), rng.normal(size=count)
    city = rng.choice(["Bonn", "Köln", "Ulm", "Rom"], count, p=[0.4, 0.3, 0.2, 0.1])
    minutes = rng.integers(0, 60 * 24 * 300, count)
    score = number + (city == "Köln") * 1.5 + (age > 50) + (minutes // 60 % 24 > 12) + rng.normal(0, noise, count)
    columns: dict[str, Any] = {
        "number": pa.array(np.where(rng.random(count) < 0.1, np.nan, number), from_pandas=True),
        "age": pa.array(age),
        "city": pa.array(city, mask=rng.random(count) < 0.1),
        "at": pa.array(1672531200 + 60 * minutes, pa.timestamp("s")),  # from 2023-01-01 on
        "paid": pa.array(rng.random(count) < 0.5),
        **{name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in more.items()},
    }
    whole = pa.table(columns)
    if classes:
        answer = np.searchsorted(np.quantile(score, np.arange(1, classes) / classes), score)
    else:
        answer = 1000 + 50 * score
    tables, answers, at = {}, {}, 0
    for split, size in (("train", train), ("val", val), ("test", test)):
        if size:
            tables[split], answers[split] = whole.slice(at, size), answer[at : at + size]
        at += size
    names = ("no", "yes") if classes == 2 else tuple(f"class {i}" for i in range(classes))
    return Table(tables=tables, answers=answers, classes=names)
