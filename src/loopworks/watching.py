"""What a workspace does with deployments that are watched: rules, inbox, truth, drift, and training again.

``Workspace`` inherits ``Watching``; nothing else does. The server's part, which sees the requests, is ``infer.watch``.
"""

import csv
import io
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core.contracts import Arrays, learnable
from loopworks.core.errors import Conflict, Invalid, LoopworksError, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.infer import local
from loopworks.infer.watch import accuracy, drift, privacy, traits, watched
from loopworks.infer.watch import rules as rules_
from loopworks.infer.watch.log import Log, days_ago
from loopworks.infer.watch.rules import Rules
from loopworks.store import erasing, watching
from loopworks.store.home import Home
from loopworks.store.watching import Captured, WatchEvent

if TYPE_CHECKING:
    from loopworks.core.bundle import Bundle
    from loopworks.core.contracts import Predictor
    from loopworks.data.stage import Dataset
    from loopworks.store.deployments import Deployment

log = logging.getLogger(__name__)
_ITEM = re.compile(r"[0-9a-f]{64}")
AUTHOR = "truth"
MOST_TABLE = 50_000
"""Live predictions that confidence is looked at in, the newest ones."""


class Watching:
    """The part of a workspace that looks after what is in use."""

    home: Home

    if TYPE_CHECKING:  # what Workspace has

        def deployment(self, name: str, revision: int | None = None) -> Deployment:
            """A deployment by its name."""

        def bundle(self, ref: Any) -> Bundle:
            """The bundle of a model or deployment."""

        def dataset(self, name: str) -> Dataset:
            """A dataset by its name."""

        def _predictor(self, bundle: Bundle, variant: str) -> Predictor: ...

    # ---- rules

    def watch(
        self, deployment: str, rules: Rules | Mapping[str, Any] | str | Path | None = None, *, author: str = ""
    ) -> Rules:
        """Watch a deployment by rules (docs/watch.md) from now on, in place of those before.

        A server takes them up within some seconds.

        Args:
            deployment: its name.
            rules: as a mapping, or the path of a YAML or JSON file; by default those that suit most: log and drift.
            author: who does it.
        Raises:
            NotFound: no such deployment, dataset or model.
            Invalid: naming the field that is wrong, or that protects nothing.
        """
        if isinstance(rules, str | Path):
            found = rules_.read(rules)
        else:
            found = rules if isinstance(rules, Rules) else rules_.parse({} if rules is None else rules)
        bundle = self.bundle(self.deployment(deployment))
        privacy.check(found.privacy, bundle)
        if found.dataset and self.dataset(found.dataset).task.media != bundle.rule.media:
            raise Invalid("watch rules dataset", f"one of {bundle.rule.media}s, as the model's inputs", found.dataset)
        has_inbox = watched.inbox_of(self.home, found, bundle) is not None
        if found.capture and not has_inbox and found.privacy.keep != "off":
            raise Invalid(
                "watch rules dataset",
                "given, because the model's own version is not in this workspace",
                "nothing",
                "name the dataset whose inbox takes the inputs, or set privacy.keep to off",
            )
        with self.home.catalog.begin() as tx:
            watching.set_rules(tx, deployment, found.to_json(), author=author)
        return found

    def unwatch(self, deployment: str, *, author: str = "") -> bool:
        """Watch a deployment no more; what was captured and logged stays. Gives whether it was watched."""
        self.deployment(deployment)
        with self.home.catalog.begin() as tx:
            return watching.forget_rules(tx, deployment, author=author)

    def watches(self) -> list[str]:
        """Names of the deployments that are watched, sorted."""
        with self.home.catalog.read() as tx:
            return sorted(watching.rules(tx))

    def watch_rules(self, deployment: str) -> Rules:
        """The rules of a deployment; ``NotFound`` where it is not watched."""
        with self.home.catalog.read() as tx:
            found = watching.rules(tx)
        if deployment not in found:
            self.deployment(deployment)
            raise NotFound("watch of deployment", deployment, found, "loopworks watch set NAME begins to watch")
        return rules_.parse(found[deployment][1])

    def watched(self, deployment: str) -> dict[str, Any]:
        """What is known of a watched deployment: rules, counts, inbox, drift, accuracy, and the newest events.

        Raises: NotFound: no such deployment, or it is not watched.
        """
        rules = self.watch_rules(deployment)
        watched.returned(self.home, deployment)
        right = self.live_accuracy(deployment)
        with self.home.catalog.read() as tx:
            windows = watching.events(tx, deployment, "drift", limit=1)
            return {
                "deployment": deployment,
                "rules": rules.to_json(),
                "counts": watching.counts(tx, deployment),
                "inbox": watching.states(tx, deployment),
                "logged": sum(part["rows"] for part in watching.log_parts(tx, deployment)),
                "drift": windows[0].to_json() if windows else None,
                "accuracy": right,
                "events": [
                    event.to_json()
                    for event in watching.events(tx, deployment, "alarm", "alert", "retrain", "rules", limit=20)
                ],
            }

    def watch_events(self, deployment: str, *kinds: str, limit: int = 100) -> list[WatchEvent]:
        """What watching found or decided (alarm, alert, drift, retrain, rules), the newest first."""
        self.deployment(deployment)
        with self.home.catalog.read() as tx:
            return watching.events(tx, deployment, *kinds, limit=limit)

    # ---- inbox

    def inbox(self, deployment: str, *, state: str = "inbox", limit: int = 100) -> list[Captured]:
        """Captured inputs, the newest first; ``state``: inbox, returned (labelled since), or empty for all."""
        if state not in ("", watching.INBOX, watching.RETURNED):
            raise Invalid("state", "inbox, returned or empty", state)
        if limit < 1:
            raise Invalid("limit", "at least 1", limit)
        self.deployment(deployment)
        watched.returned(self.home, deployment)
        with self.home.catalog.read() as tx:
            return watching.inbox(tx, deployment, state=state, limit=limit)

    def captured(self, prediction: str) -> Captured:
        """The captured input of a prediction (its id is DEPLOYMENT/REVISION/ITEM), whatever has become of it.

        Raises: NotFound: it was not captured, or its time is over; the hint says which.
        """
        name, item = _prediction(prediction)
        self.deployment(name)
        watched.returned(self.home, name)
        with self.home.catalog.read() as tx:
            found = watching.known(tx, name, [item])
            gone = watching.removed(tx, name, [item])
        if item not in found:
            hint = _kept_until(gone[item]) if item in gone else "no rule chose it: docs/watch.md says which do"
            raise NotFound("captured input", prediction, hint=hint)
        return found[item]

    def purge(self, deployment: str, *, dry_run: bool = False) -> dict[str, int]:
        """Erase what is older than the rules allow: captured inputs that nobody labelled, and the log.

        Items of the dataset's inbox are erased for good, with a tombstone, as ``Dataset.erase`` does; those that the
        dataset had before, or that are labelled, stay. What was erased from any dataset leaves the log, too.

        Returns: ``items``, ``rows`` (of tables) and ``predictions`` that went, or would go.
        """
        rules = self.watch_rules(deployment)
        watched.returned(self.home, deployment)
        limit = days_ago(rules.retention.days)
        with self.home.catalog.read() as tx:
            old = watching.inbox(tx, deployment, limit=1_000_000, before=limit)
            parts = watching.log_parts(tx, deployment)
            predictions = sum(p["rows"] for p in parts if p["until"] < days_ago(rules.log.days))
        ours = [one for one in old if one.is_ours and one.stored]
        told = {"items": len(ours), "rows": len(old) - len(ours), "predictions": predictions}
        if dry_run:
            return told
        by_dataset: dict[str, list[str]] = {}
        for one in ours:
            by_dataset.setdefault(one.dataset, []).append(one.stored)
        for dataset, items in by_dataset.items():
            self._erase(dataset, items, rules)
        with self.home.catalog.begin() as tx:
            watching.remove(tx, deployment, [one.item for one in old])
            watching.add_counts(tx, deployment, {"purged": len(old)})
            watching.add_event(tx, deployment, "purge", told)
        kept = Log(self.home, deployment)
        kept.drop(days_ago(rules.log.days))
        with self.home.catalog.read() as tx:
            erased = erasing.every(tx)
        if erased:
            kept.forget(erased)
        return told

    def _erase(self, dataset: str, items: Sequence[str], rules: Rules) -> None:
        from loopworks.data import stage as data

        found = next((one for one in data.datasets(self.home) if one.id == dataset), None)
        if found is None:
            return
        there = [item for item in items if self._has(found, item)]
        if there:
            found.erase(there, reason=f"captured inputs are kept for {rules.retention.days:g} days", author="watch")

    @staticmethod
    def _has(dataset: "Dataset", item: str) -> bool:
        try:
            return dataset.item(item).state == "unlabeled"
        except NotFound:
            return False

    # ---- truth

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
        name, item = _prediction(prediction)
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
                    other, item = _prediction(name)
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
            late = Conflict(f"captured input {item[:12]} must be here still to be labelled", _kept_until(moment))
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
            "measured": accuracy.measured(rows, truths, kinds, "truth"),
            "feedback": accuracy.measured(rows, opinions, kinds, "feedback"),
            "estimated": accuracy.estimated(rows.slice(max(0, rows.num_rows - MOST_TABLE)), sure),
        }

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

    # ---- drift

    def drift(self, deployment: str, sources: Sequence[local.Asked], *, batch: int = 64) -> dict[str, Any]:
        """Compare items with the training data of a deployment now, without a server; needs 50 of them.

        Args:
            deployment: its name.
            sources: as ``predict_many`` takes them.
            batch: items at once.
        Returns: ``items``, ``is_drift``, ``columns`` and the ``problems`` of what cannot be read.
        """
        from loopworks.store.ids import batches

        used, _, bundle = self._in_use(deployment)
        limit = self.home.settings.max_image_pixels
        found, problems = local.load(sources, bundle.rule.media, limit)
        ready = watched.reference_of(self.home, bundle, used.variant)
        rules = self._rules(deployment)
        inputs, answers = [], []
        for part in batches(found, batch):
            good, tensors, bad = local.packed(bundle.rule, part, limit)
            problems += bad
            if good:
                outputs: Arrays = self._predictor(bundle, used.variant).predict(tensors)
                inputs.append(traits.of_inputs(bundle.rule, tensors))
                answers.append(traits.of_answers(traits.answers(bundle, outputs, used.model)))
        report = drift.compare(ready, drift.joined(inputs), drift.joined(answers), privacy.of_drift(rules))
        return {**report.to_json(), "problems": problems}

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


def _kept_until(moment: datetime) -> str:
    return f"it was kept until {moment:%Y-%m-%d %H:%M} UTC, then removed by retention"


def _prediction(text: str) -> tuple[str, str]:
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
