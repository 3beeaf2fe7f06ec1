"""What a workspace does with deployments that are watched: rules, inbox, truth, drift, and training again.

``Workspace`` inherits ``Watching``; nothing else does. The server's part, which sees the requests, is ``infer.watch``.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, NotFound
from loopworks.infer import local
from loopworks.infer.watch import drift, privacy, traits, watched
from loopworks.infer.watch import rules as rules_
from loopworks.infer.watch.log import Log, days_ago
from loopworks.infer.watch.rules import Rules
from loopworks.store import erasing, watching
from loopworks.store.watching import Captured, WatchEvent
from loopworks.truths import Truths, kept_until, prediction_of

if TYPE_CHECKING:
    from loopworks.core.bundle import Bundle
    from loopworks.core.contracts import Predictor
    from loopworks.data.stage import Dataset

log = logging.getLogger(__name__)


class Watching(Truths):
    """The part of a workspace that looks after what is in use."""

    if TYPE_CHECKING:  # what Workspace has

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
        name, item = prediction_of(prediction)
        self.deployment(name)
        watched.returned(self.home, name)
        with self.home.catalog.read() as tx:
            found = watching.known(tx, name, [item])
            gone = watching.removed(tx, name, [item])
        if item not in found:
            hint = kept_until(gone[item]) if item in gone else "no rule chose it: docs/watch.md says which do"
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
