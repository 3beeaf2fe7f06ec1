"""What was right after all: feedback, truth that comes later, and how right a deployment is in use.

``Watching`` inherits ``Truths``; nothing else does.
"""

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core.contracts import learnable
from loopworks.core.errors import Conflict, Invalid, LoopworksError, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.infer import local
from loopworks.infer.watch import accuracy, places, privacy, watched
from loopworks.infer.watch import rules as rules_
from loopworks.infer.watch.log import Log
from loopworks.infer.watch.rules import Rules
from loopworks.store import watching
from loopworks.store.home import Home
from loopworks.store.watching import Captured

if TYPE_CHECKING:
    from loopworks.core.bundle import Bundle
    from loopworks.data.stage import Dataset
    from loopworks.store.deployments import Deployment

_ITEM = re.compile(r"[0-9a-f]{64}")
AUTHOR = "truth"
MOST_TABLE = 50_000
"""Live predictions that confidence is looked at in, the newest ones."""


class Truths:
    """The part of a workspace that learns what was right."""

    home: Home

    if TYPE_CHECKING:  # what Workspace has

        def deployment(self, name: str, revision: int | None = None) -> Deployment:
            """A deployment by its name."""

        def bundle(self, ref: Any) -> Bundle:
            """The bundle of a model or deployment."""

    def feedback(
        self, prediction: str, *, right: bool | None = None, label: Any = None, author: str = ""
    ) -> dict[str, Any]:
        """Keep what a user says of a prediction: whether it was right, or what is true.

        Users complain of some answers and not of others, so that accuracy from feedback is told apart from truth.

        Args:
            prediction: its id, DEPLOYMENT/REVISION/ITEM.
            right: whether the answer was right.
            label: the class or classes, or the number, that is true.
            author: who says it.
        Returns: ``deployment``, ``item``, and whether the answer ``is_wrong`` (``None``: not known).
        """
        name, item = prediction_of(prediction)
        if right is None and label is None:
            raise Invalid("feedback", "right (true or false) or a label", "neither")
        _, kinds, bundle = self._in_use(name)
        if label is not None:
            label = _label(label, kinds, bundle)
        with self.home.catalog.begin() as tx:
            watching.tell(tx, name, {item: (label, right)}, source="feedback", author=author)
            watching.add_counts(tx, name, {"feedback": 1})
        is_wrong = None if right is None else not right
        if is_wrong is None:
            said = self._answer_of(name, item)
            judged = None if said is None else accuracy.is_right(said, label, None)
            is_wrong = None if judged is None else not judged
        return {"deployment": name, "item": item, "is_wrong": is_wrong}

    def truth(
        self,
        deployment: str,
        told: Mapping[str, Any] | Iterable[tuple[str, Any]] | str | Path,
        *,
        author: str = AUTHOR,
    ) -> dict[str, Any]:
        """Take in what was right after all, for the accuracy in use, and as labels of captured inputs.

        Args:
            deployment: its name.
            told: prediction id, item id or key (rules: ``key``) -> class, classes or number; or the path of a CSV file
                with the columns ``id`` and ``label``.
            author: who labels the captured inputs.
        Returns: ``known`` (truths that were taken), ``labeled`` (captured inputs that have a label now), ``problems``.
        """
        rules = self._rules(deployment)
        _, kinds, bundle = self._in_use(deployment)
        pairs = _read_truth(Path(told)) if isinstance(told, str | Path) else _pairs(told)
        found: dict[str, tuple[Any, bool | None]] = {}
        problems: list[Problem] = []
        keys: dict[str, Any] = {}
        for place, (name, label) in enumerate(pairs, 1):
            try:
                label = _label(label, kinds, bundle)
                if "/" in name:
                    other, item = prediction_of(name)
                    if other != deployment:
                        raise Invalid("prediction id", f"of deployment {deployment}", name)
                    found[item] = label, None
                elif _ITEM.fullmatch(name):
                    found[name] = label, None
                else:
                    keys[name] = label
            except LoopworksError as error:
                problems.append(local.problem(error, f"truth {place}"))
        if keys:
            logged = {key: privacy.key(key, rules, self.home) for key in keys}
            items = self._by_key(deployment, logged.values())
            for key, label in keys.items():
                if logged[key] in items:
                    found |= {item: (label, None) for item in items[logged[key]]}
                else:
                    hint = "" if rules.key else "no key column is set: rules, key"
                    lost = NotFound("prediction of key", key, hint=hint or "it was not logged, or its time is over")
                    problems.append(local.problem(lost, key))
        with self.home.catalog.begin() as tx:
            watching.tell(tx, deployment, found, source="truth", author=author)
            if found:
                watching.add_counts(tx, deployment, {"truth": len(found)})
            gone = watching.removed(tx, deployment, found)
        for item, moment in sorted(gone.items()):
            late = Conflict(f"captured input {item[:12]} must be here still to be labelled", kept_until(moment))
            problems.append(local.problem(late, item))
        labeled = self._label_captured(deployment, {item: label for item, (label, _) in found.items()}, author)
        return {"known": len(found), "labeled": labeled, "problems": problems}

    def live_accuracy(self, deployment: str) -> dict[str, Any]:
        """How right the revision in use is: ``measured`` from truth, from ``feedback``, and ``estimated`` without.

        An estimate says by which method, and that it is not a measurement.
        """
        used, kinds, bundle = self._in_use(deployment)
        rows = self._logged(deployment, used.revision)
        with self.home.catalog.read() as tx:
            truths = watching.truths(tx, deployment, source="truth")
            opinions = watching.truths(tx, deployment, source="feedback")
        try:
            sure = watched.reference_of(self.home, bundle, used.variant).confidence
        except LoopworksError:  # no version, or one too small: then nothing is estimated
            sure = None
        return {
            "revision": used.revision,
            "logged": rows.num_rows,
            "measured": accuracy.measured(rows, truths, kinds, "truth") or self._measured_places(used, kinds, bundle),
            "feedback": accuracy.measured(rows, opinions, kinds, "feedback"),
            "estimated": accuracy.estimated(rows.slice(max(0, rows.num_rows - MOST_TABLE)), sure),
        }

    def _measured_places(self, used: "Deployment", kinds: frozenset[str], bundle: "Bundle") -> dict[str, Any] | None:
        if kinds in ({"class"}, {"value"}):
            return None
        watched.returned(self.home, used.name)
        judged, source = places.found(self.home, used.name, f"{used.model}:{used.number}")
        return places.measured(judged, learnable(plugins.get(f"task.{bundle.task}")), bundle.schema, source)

    def _logged(self, deployment: str, revision: int) -> Any:
        import pyarrow.compute as pc

        rows = Log(self.home, deployment).read(columns=["item", "revision", "answer", "score"])
        return rows.filter(pc.equal(rows.column("revision"), revision))

    def _answer_of(self, deployment: str, item: str) -> str | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = Log(self.home, deployment).read(columns=["item", "answer"])
        mine = rows.filter(pc.equal(rows.column("item"), pa.scalar(bytes.fromhex(item), pa.binary(32))))
        return str(mine.column("answer")[-1].as_py()) if mine.num_rows else None

    def _by_key(self, deployment: str, keys: Iterable[str]) -> dict[str, set[str]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = Log(self.home, deployment).read(columns=["item", "key"])
        mine = rows.filter(pc.is_in(rows.column("key"), value_set=pa.array(list(keys), pa.string())))
        found: dict[str, set[str]] = {}
        for item, key in zip(mine.column("item").to_pylist(), mine.column("key").to_pylist(), strict=True):
            found.setdefault(key, set()).add(item.hex())
        return found

    def _label_captured(self, deployment: str, labels: Mapping[str, Any], author: str) -> int:
        """Captured inputs whose truth is known: items get their label, rows go to their table with it."""
        with self.home.catalog.read() as tx:
            known = watching.known(tx, deployment, labels)
        waiting = [one for one in known.values() if one.state == watching.INBOX and one.dataset]
        done: list[str] = []
        for dataset in {one.dataset for one in waiting}:
            from loopworks.data import stage as data

            target = next((one for one in data.datasets(self.home) if one.id == dataset), None)
            mine = [one for one in waiting if one.dataset == dataset]
            if target is None:
                continue
            if target.is_table:
                done += self._add_rows(target, mine, labels, author)
            else:
                free = [one for one in mine if self._has(target, one.stored)]
                names = {one.stored: _names(labels[one.item]) for one in free}
                if names:
                    target.label(names, author=author, source="import")
                done += [one.item for one in free]
        with self.home.catalog.begin() as tx:
            watching.set_state(tx, deployment, done, watching.RETURNED)
        return len(done)

    @staticmethod
    def _add_rows(target: "Dataset", rows: Sequence[Captured], labels: Mapping[str, Any], author: str) -> list[str]:
        schema = target.table.schema
        if not schema.target:
            return []
        known = {column.name for column in schema.columns}
        with tempfile.TemporaryDirectory(prefix="loopworks-truth-") as folder:
            path = Path(folder) / "returned.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for one in rows:
                    row = {name: value for name, value in dict(one.content or {}).items() if name in known}
                    file.write(json.dumps({**row, schema.target: labels[one.item]}, ensure_ascii=False) + "\n")
            target.table.add(path, author=author)
        return [one.item for one in rows]

    @staticmethod
    def _has(dataset: "Dataset", item: str) -> bool:
        try:
            return dataset.item(item).state == "unlabeled"
        except NotFound:
            return False

    # ---- what all of it stands on

    def _rules(self, deployment: str) -> Rules:
        """The rules, or the defaults where nobody watches."""
        with self.home.catalog.read() as tx:
            found = watching.rules(tx)
        return rules_.parse(found[deployment][1]) if deployment in found else Rules()

    def _in_use(self, deployment: str) -> "tuple[Deployment, frozenset[str], Bundle]":
        """The revision in use, the kinds of shapes it answers with, and its bundle."""
        used = self.deployment(deployment)
        bundle = self.bundle(used)
        return used, learnable(plugins.get(f"task.{bundle.task}")).kinds, bundle


def kept_until(moment: datetime) -> str:
    """What is told of a captured input whose time was over."""
    return f"it was kept until {moment:%Y-%m-%d %H:%M} UTC, then removed by retention"


def prediction_of(text: str) -> tuple[str, str]:
    """Deployment and item of a prediction's id."""
    parts = text.split("/")
    if len(parts) != 3 or not parts[1].isdecimal() or not _ITEM.fullmatch(parts[2]):
        raise Invalid("prediction id", "DEPLOYMENT/REVISION/ITEM, as an answer has it", text)
    return parts[0], parts[2]


def _label(label: Any, kinds: frozenset[str], bundle: "Bundle") -> Any:
    if kinds not in (frozenset({"class"}), frozenset({"value"})):
        raise Invalid(f"truth of {bundle.task}", "told by labels in the dataset, because it has places", label)
    try:
        return accuracy.check_label(label, kinds, bundle.schema)
    except ValueError as error:
        raise Invalid("label", str(error), label) from None


def _names(label: Any) -> list[str]:
    return [label] if isinstance(label, str) else list(label)


def _pairs(told: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    pairs = list(told.items()) if isinstance(told, Mapping) else [tuple(one) for one in told]
    if not all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise Invalid("truth", "pairs of an id (text) and a label", "something else")
    return pairs


def _read_truth(file: Path) -> list[tuple[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound("file", str(file), hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(str(file), "a CSV file in UTF-8", str(error)) from None
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if missing := [name for name in ("id", "label") if name not in (rows.fieldnames or ())]:
        raise Invalid(f"{file} line 1", "a header with id and label", f"no {missing[0]}")
    return [(str(row["id"] or "").strip(), str(row["label"] or "").strip()) for row in rows]
