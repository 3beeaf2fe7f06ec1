"""Training again what is in use, where its rules say so: freeze, train, compare, and make it the challenger.

``Workspace`` inherits ``Retraining``; nothing else does.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import LoopworksError, NotFound
from loopworks.infer.watch import retrain as again
from loopworks.infer.watch import watched
from loopworks.models import CHAMPION, Models
from loopworks.store import lineage, watching
from loopworks.store.lineage import Node
from loopworks.store.watching import WatchEvent
from loopworks.watching import Watching

if TYPE_CHECKING:
    from loopworks.core.bundle import Bundle
    from loopworks.data.stage import Dataset, Version
    from loopworks.infer.watch.rules import Retrain
    from loopworks.jobs import Job, Jobs

CHALLENGER = "challenger"


class Retraining(Watching, Models):
    """The part of a workspace that trains again."""

    if TYPE_CHECKING:  # what Workspace has

        @property
        def jobs(self) -> Jobs:
            """The durable jobs."""

        def dataset(self, name: str) -> Dataset:
            """A dataset by its name."""

        def train_job(
            self,
            version: Version | str,
            *,
            recipe: str = "auto",
            params: Mapping[str, Any] | None = None,
            budget: str | float | None = None,
            name: str = "",
            key: str | None = None,
        ) -> Job:
            """Queue a training."""

    def retrain(self, deployment: str, *, dry_run: bool = False, force: bool = False) -> dict[str, Any]:
        """Decide by the rules whether to train again; where it is time, freeze the dataset and start the training.

        The first call after the training has ended compares its model with the champion (or the model in use) on the
        same test items and makes it ``challenger``, unless it is worse; only with ``promote`` in the rules is a better
        one made champion and put to use. Every step is an event (``watch_events(name, "retrain")``).

        Args:
            deployment: its name.
            dry_run: only say what would be done.
            force: train also without a reason and within the cool-down.
        Returns: ``state`` (idle, held_back, started, running, challenger, promoted, worse, failed), with ``reasons``,
            ``job``, ``model`` or ``comparison`` where there are some.
        Raises: NotFound: no such deployment, not watched, or without ``retrain`` rules.
        """
        rules = self.watch_rules(deployment).retrain
        if rules is None:
            raise NotFound("retrain rules of deployment", deployment, hint="docs/watch.md shows some")
        if (begun := self._begun(deployment)) is not None:
            return self._settle(deployment, rules, begun, dry_run=dry_run)
        facts = self._facts(deployment, has_accuracy=rules.accuracy_below is not None)
        found = again.decide(rules, facts)
        told = {"dry_run": dry_run, "new_labels": facts.new_labels, **found.to_json()}
        if not found.is_due and not force:
            return {"state": "held_back" if found.held_back else "idle", **told}
        if dry_run:
            return {"state": "idle", **told}
        used, _, bundle = self._in_use(deployment)
        target = self._home_of(deployment, bundle)
        version = target.freeze(f"retrain {deployment}", author="watch")
        if version.id == bundle.version:
            return {"state": "held_back", **told, "held_back": "the dataset is what the model in use learnt from"}
        job = self.train_job(
            version,
            recipe=rules.recipe,
            params=rules.params,
            budget=rules.budget,
            name=used.model,
            key=f"retrain/{deployment}/{version.id}",
        )
        body = {"state": "started", "job": job.id, "version": version.id, "dataset": target.name}
        with self.home.catalog.begin() as tx:
            lineage.link(tx, Node("deployment", used.ref), Node("job", job.id))
            watching.add_event(tx, deployment, "retrain", {**body, "reasons": list(found.reasons)})
        return {**told, **body}

    def _begun(self, deployment: str) -> WatchEvent | None:
        """The training that was started and not yet judged."""
        with self.home.catalog.read() as tx:
            last = watching.events(tx, deployment, "retrain", limit=1)
        return last[0] if last and last[0].body["state"] == "started" else None

    def _settle(self, deployment: str, rules: "Retrain", begun: WatchEvent, *, dry_run: bool) -> dict[str, Any]:
        job = self.jobs.get(str(begun.body["job"]))
        if not job.is_ended or dry_run:
            return {"state": "running", "job": job.id, "share": job.share}
        if job.status != "done" or job.result is None:
            error = (job.error or {}).get("error", {})
            return self._decided(deployment, {"state": "failed", "job": job.id, "error": error.get("message", "")})
        made = self.model(job.result["model"])
        used = self.deployment(deployment)
        before = self.champion(made.name) or self.model(f"{used.model}:{used.number}")
        told: dict[str, Any] = {"job": job.id, "model": made.ref, "against": before.ref}
        try:
            compared = self.compare(made, before)
            told |= {"verdict": compared.verdict, "text": compared.sentence()}
        except LoopworksError as error:
            told |= {"verdict": "not compared", "text": error.message}
        if told["verdict"] == "worse":
            return self._decided(deployment, {"state": "worse", **told})
        self.alias(made, CHALLENGER)
        if not (rules.promote and told["verdict"] == "better"):
            return self._decided(deployment, {"state": "challenger", **told})
        self.alias(made, CHAMPION, force=self.champion(made.name) is None)
        done = self.deploy(made, deployment)
        return self._decided(deployment, {"state": "promoted", **told, "deployment": done.ref})

    def _decided(self, deployment: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.home.catalog.begin() as tx:
            watching.add_event(tx, deployment, "retrain", body)
        return body

    def _facts(self, deployment: str, *, has_accuracy: bool) -> again.Facts:
        used, _, bundle = self._in_use(deployment)
        with self.home.catalog.read() as tx:
            runs = watching.events(tx, deployment, "retrain", limit=10)
            alarms = watching.events(tx, deployment, "alarm", limit=1_000)
        started = next((run for run in runs if run.body["state"] == "started"), None)
        made = self.model(f"{used.model}:{used.number}")
        trained_at = max(made.created_at, started.at if started else made.created_at)
        base = str(started.body["version"]) if started else bundle.version
        return again.Facts(
            now=datetime.now(UTC),
            trained_at=trained_at,
            new_labels=self._new_labels(deployment, bundle, base),
            alarms=sum(alarm.at > trained_at for alarm in alarms),
            accuracy=self.live_accuracy(deployment)["measured"] if has_accuracy else None,
        )

    def _new_labels(self, deployment: str, bundle: "Bundle", base: str) -> int:
        target = self._home_of(deployment, bundle)
        labeled = int(target.counts()["labeled"])
        before = next((version for version in target.versions() if version.id == base), None)
        if before is None:
            return labeled
        counts = before.counts
        return labeled - int(counts.get("labeled", counts["items"]))

    def _home_of(self, deployment: str, bundle: "Bundle") -> "Dataset":
        """The dataset that is trained on."""
        found = watched.inbox_of(self.home, self._rules(deployment), bundle)
        if found is None:
            raise NotFound("dataset of deployment", deployment, hint="rules, dataset: name the one to train on")
        return found
