"""Labeling: which items come next, what a model proposes for them, and labels from and to files."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core.contracts import Arrays, Sampler, learnable
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape
from loopworks.data.stage import Dataset, Item

Answer = Callable[[Sequence[Item]], Arrays]
"""A model's answer for items: the face of a predictor that ``workspace`` hands in."""

COLUMNS = ("item", "labels", "split", "author")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One item to label next."""

    item: str
    name: str
    uncertainty: float
    """In 0..1; 0 where no model was asked."""
    proposal: tuple[str, ...] = ()
    """What the model would label it; empty where no model was asked."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "item": self.item,
            "name": self.name,
            "uncertainty": round(self.uncertainty, 6),
            "proposal": list(self.proposal),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """What an import of labels did."""

    labeled: int
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"labeled": self.labeled, "problems": [p.to_json() for p in self.problems]}


class Labeling:
    """What a user can do in the label stage of one dataset."""

    def __init__(self, dataset: Dataset, answer: Answer | None = None, model: str = "") -> None:
        """Label ``dataset``; ``answer`` asks the newest model, called ``model``, where there is one."""
        self.dataset = dataset
        self._answer = answer
        self._model = model

    def next(self, count: int = 10, *, sampler: str = "", seed: int = 0, pool: int = 20_000) -> list[Pick]:
        """The unlabeled items that are worth labeling next, best first.

        Args:
            count: how many, at least 1.
            sampler: ``label.NAME`` without ``label.``; empty is ``diverse`` with a model and ``random`` without.
            seed: of the sampler.
            pool: at most so many unlabeled items are looked at.
        """
        if count < 1:
            raise Invalid("count", "at least 1", count)
        items = self.dataset.items(state="unlabeled", limit=pool)
        items = [item for item in items if item.split != "test"]
        if not items:
            return []
        name = sampler or ("diverse" if self._answer else "random")
        if self._answer is None and name != "random":
            raise Invalid("sampler without a model", "random", name, "train a model of this dataset first")
        chooser: Sampler = plugins.get(f"label.{name}")()
        if self._answer is None and not sampler and (told := self._stored(items)):
            rest = [item for item in items if item.id not in {pick.item for pick in told}]
            more = chooser.pick(np.zeros(len(rest)), np.zeros((len(rest), 1), np.float32), count, seed=seed)
            left = [Pick(item=rest[i].id, name=rest[i].name, uncertainty=0.0) for i in more]
            return [*told, *left][:count]
        if self._answer is None or name == "random":
            zeros = np.zeros(len(items))
            at = chooser.pick(zeros, np.zeros((len(items), 1), np.float32), count, seed=seed)
            return [Pick(item=items[i].id, name=items[i].name, uncertainty=0.0) for i in at]
        outputs = self._answer(items)
        task, schema = learnable(self.dataset.task), self.dataset.schema
        unsure = task.uncertainty(outputs, schema)
        proposals = task.labels(outputs, schema, self._model)
        at = chooser.pick(unsure, task.features(outputs, schema), count, seed=seed)
        return [
            Pick(
                item=items[i].id,
                name=items[i].name,
                uncertainty=float(unsure[i]),
                proposal=tuple(shape.label for shape, _ in proposals[i]),
            )
            for i in at
        ]

    def _stored(self, items: Sequence[Item]) -> list[Pick]:
        """Items of which a model said something when it was in use, the least sure first."""
        said = self.dataset.look.said([item.id for item in items])
        found = []
        for item in items:
            newest = [one for one in said.get(item.id, ()) if one.model == said[item.id][-1].model]
            if newest:
                unsure = 1.0 - min(one.score for one in newest)
                labels = tuple(one.label for one in newest if one.label)
                found.append(Pick(item=item.id, name=item.name, uncertainty=unsure, proposal=labels))
        return sorted(found, key=lambda pick: -pick.uncertainty)

    def read_csv(self, path: str | Path, *, author: str = "") -> LabelReport:
        """Labels from a CSV file with the columns ``item`` (id, its start, or file name) and ``labels``.

        Several classes are separated by ``|``. Bad rows are listed with their line; the good ones are kept.
        """
        file = Path(path)
        if not file.is_file():
            raise Invalid(str(file), "a CSV file", "nothing there" if not file.exists() else "a folder")
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid(str(file), "UTF-8 text", str(error)) from None
        rows = csv.DictReader(io.StringIO(text, newline=""))
        missing = [c for c in ("item", "labels") if c not in (rows.fieldnames or ())]
        if missing:
            raise Invalid(f"{file} line 1", "a header with item and labels", rows.fieldnames or "an empty file")
        wanted: dict[str, list[str]] = {}
        problems: list[Problem] = []
        for row in rows:
            try:
                item = self._find(str(row["item"] or "").strip())
                labels = [part.strip() for part in str(row["labels"] or "").split("|") if part.strip()]
                schema = self.dataset.schema
                self.dataset.task.check([Shape(label=label, author=author) for label in labels], schema)
                wanted[item] = labels
            except LoopworksError as error:
                where = f"{file.name} line {rows.line_num}"
                problems.append(Problem(where=where, error=error.code, message=error.message, hint=error.hint))
        if wanted:
            self.dataset.label(wanted, author=author)
        return LabelReport(labeled=len(wanted), problems=tuple(problems))

    def write_csv(self, path: str | Path) -> int:
        """Write every labeled item to a CSV file that ``read_csv`` reads; returns how many."""
        count = 0
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow((*COLUMNS[:2], "name", *COLUMNS[2:]))
            after: str | None = None
            while page := self.dataset.items(state="labeled", limit=1000, after=after):
                for item in page:
                    labels = "|".join(shape.label for shape in item.labels)
                    authors = "|".join(sorted({shape.author for shape in item.labels}))
                    out.writerow((item.id, labels, item.name, item.split, authors))
                count += len(page)
                after = page[-1].id
        return count

    def accept(self, picks: Sequence[Pick], *, author: str) -> Mapping[str, Sequence[str]]:
        """Make the proposals of ``picks`` labels, in the name of the person who looked at them."""
        wanted = {pick.item: list(pick.proposal) for pick in picks if pick.proposal}
        if wanted:
            self.dataset.label(wanted, author=author)
        return wanted

    def _find(self, text: str) -> str:
        if not text:
            raise Invalid("item", "an id, the start of one, or a file name", "nothing")
        return self.dataset.item(text).id
