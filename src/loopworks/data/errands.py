"""The long work of the data stage as durable jobs: checks, rows of descriptors, what a model says; and garbage.

``Workspace`` inherits ``Errands``; nothing else does. The steps themselves are in ``loopworks.steps``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from loopworks.data.clean import stage as clean
from loopworks.store import garbage
from loopworks.store.garbage import Sweep
from loopworks.store.home import Home

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset
    from loopworks.jobs import Job, Jobs


class Referred(Protocol):
    """What has a name and a number: a ``Model``."""

    @property
    def ref(self) -> str:
        """NAME:NUMBER."""


class Errands:
    """What a workspace does in the background, where each call gives its job at once; and its tidying up."""

    home: Home

    if TYPE_CHECKING:  # what Workspace has

        @property
        def jobs(self) -> Jobs:
            """The durable jobs."""

        def dataset(self, name: str) -> Dataset:
            """A dataset by its name."""

        def scorer(self, dataset: Dataset, model: Any = "") -> Referred:
            """The model that is asked."""

    def gc(self, *, dry_run: bool = True, grace_s: float | None = None) -> Sweep:
        """Remove blobs that nothing leads to any more; by default only say how many there are.

        Args:
            dry_run: remove nothing.
            grace_s: younger blobs stay, in seconds; default the setting ``gc_grace_s``.
        """
        grace = self.home.settings.gc_grace_s if grace_s is None else grace_s
        return garbage.collect(self.home.catalog, self.home.blobs, grace_s=grace, dry_run=dry_run)

    def check_job(
        self, dataset: str, *names: str, params: Mapping[str, Mapping[str, Any]] | None = None, seed: int = 0
    ) -> "Job":
        """Queue ``Dataset.clean.check`` and return its job at once; ``Dataset.clean.findings`` has what it found.

        Args:
            dataset: its name.
            names: checks; by default all that fit the dataset's kind of items.
            params: check -> its parameters, where they are not the defaults.
            seed: of what is drawn at random.
        Raises:
            NotFound: no such dataset or check.
            Invalid: a parameter that the check does not take.
        """
        clean.chosen(names, params or {}, self.dataset(dataset).task.media)
        plain = {name: dict(given) for name, given in (params or {}).items()}
        job = {"dataset": dataset, "checks": list(names), "params": plain, "seed": seed}
        return self._queued("check", job, f"check {dataset}")

    def embed_job(self, dataset: str, descriptor: str = "auto") -> "Job":
        """Queue ``Dataset.embed`` and return its job at once; afterwards ``similar`` and ``map`` need not compute.

        Raises: NotFound: no such dataset. Invalid: its items cannot be compared.
        """
        self.dataset(dataset).comparable()
        return self._queued("embed", {"dataset": dataset, "descriptor": descriptor}, f"embed {dataset}")

    def score_job(self, dataset: str, model: Any = "", *, query: str = "") -> "Job":
        """Queue ``Workspace.score`` and return its job at once; arguments as there.

        Raises:
            NotFound: no such dataset or model, or the dataset has none.
            Invalid: the query cannot be read.
        """
        target = self.dataset(dataset)
        ref = self.scorer(target, model).ref
        target.find(query, limit=1)
        return self._queued("score", {"dataset": dataset, "model": ref, "query": query}, f"score {dataset} by {ref}")

    def _queued(self, step: str, params: Mapping[str, Any], title: str) -> "Job":
        return self.jobs.get(self.jobs.submit(step, params, title=title))
