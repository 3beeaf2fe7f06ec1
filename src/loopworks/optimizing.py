"""What a workspace does to make its models quick: the tournament as a job, its front, figures of other machines."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loopworks.answering import Answering
from loopworks.core.errors import Conflict, Invalid
from loopworks.core.units import seconds
from loopworks.optimize import front as fronts
from loopworks.optimize import hosts
from loopworks.optimize.stage import BUDGET_S, Target, check_request
from loopworks.store import bundles, lineage, models
from loopworks.store.lineage import Node
from loopworks.store.models import Model

if TYPE_CHECKING:
    from loopworks.jobs import Job, Jobs

Progress = Callable[["Job"], None]


class Optimizing(Answering):
    """The part of a workspace that optimizes models; ``Models`` inherits it."""

    if TYPE_CHECKING:  # what Workspace has

        @property
        def jobs(self) -> Jobs:
            """The durable jobs of this workspace."""

        def result(self, job: Job, on_progress: Progress | None = None) -> Model:
            """Wait for a job that makes a model."""

    def optimize(
        self,
        model: Model | str,
        *,
        max_drop: float = 0.01,
        target: str = "latency",
        variants: Iterable[str] | None = None,
        asked: Iterable[str] = (),
        budget: str | float | None = None,
        seed: int | None = None,
        on_progress: Progress | None = None,
        key: str | None = None,
    ) -> Model:
        """Make and measure smaller and faster forms of a model, and wait for it; arguments as in ``optimize_job``.

        ``on_progress`` is called with the job while it runs.
        """
        job = self.optimize_job(
            model,
            max_drop=max_drop,
            target=target,
            variants=variants,
            asked=asked,
            budget=budget,
            seed=seed,
            key=key,
        )
        return self.result(job, on_progress)

    def optimize_job(
        self,
        model: Model | str,
        *,
        max_drop: float = 0.01,
        target: str = "latency",
        variants: Iterable[str] | None = None,
        asked: Iterable[str] = (),
        budget: str | float | None = None,
        seed: int | None = None,
        key: str | None = None,
    ) -> "Job":
        """Queue an optimization and return its job at once; the result is a new model, chosen by validation alone.

        Args:
            model: what to optimize, or its reference.
            max_drop: how much of the headline metric may be lost, in 0..1.
            target: latency, throughput or size.
            variants: only these makers, e.g. ``["onnx-int8"]``; default all that need no training.
            asked: also these, which train: ``pruned``, ``distilled``.
            budget: time that each of those may train, e.g. ``"2m"``.
            seed: of the calibration sample.
            key: the same key gives the same job.
        """
        chosen, more = None if variants is None else list(variants), list(asked)
        limit = BUDGET_S if budget is None else seconds(budget)
        check_request(max_drop, target, chosen, more, limit)
        found = self.model(model)
        if not found.version:
            hint = "add it again with a version, whose items it is measured on"
            raise Invalid(f"model {found.ref} to optimize", "one with a dataset version", "none", hint)
        job = {
            "model": found.ref,
            "max_drop": max_drop,
            "target": target,
            "variants": chosen,
            "asked": more,
            "budget_s": limit,
            "seed": self.settings.seed if seed is None else seed,
        }
        return self.jobs.get(self.jobs.submit("optimize", job, title=f"optimize {found.ref}", key=key))

    # ---- what variants are worth

    def front(self, ref: Model | str, *, host: str = "") -> dict[str, Any]:
        """Every variant of an optimized model with its figures, and which of them no other one beats.

        Args:
            ref: the model.
            host: a machine whose figures were recorded; empty: the one that the model was optimized on.
        Returns: as ``optimize.front.front``; ``optimize.front.svg`` draws it.
        """
        return fronts.front(self.bundle(ref), host)

    def record(self, ref: Model | str, measured: str | Path | Mapping[str, Any], *, target: str = "latency") -> Model:
        """Take over what was measured of a model's variants on another machine; the result is a new model.

        Args:
            ref: the model that was measured there.
            measured: the file that ``bench`` of its edge bundle wrote, or the content of it.
            target: what the variant for that machine is to be best at.
        Raises: Conflict: another model was measured. Invalid: not such a file.
        """
        model = self.model(ref)
        told = hosts.parse(measured) if isinstance(measured, Mapping) else hosts.read(Path(measured).expanduser())
        if told.model != model.ref:
            raise Conflict(
                f"what was measured on {told.host} must be of {model.ref}; got {told.model}", "name that one"
            )
        check_request(0.0, target, None)
        with tempfile.TemporaryDirectory(prefix="loopworks-on-", dir=self.home.cache) as scratch:
            done = hosts.record(self.bundle(model), told, folder=Path(scratch) / "bundle", target=cast(Target, target))
            key = bundles.save(self.home.blobs, done.folder)
        with self.home.catalog.begin() as tx:
            made = models.add(
                tx,
                model.name,
                bundle=key,
                run=model.run,
                version=model.version,
                parent=model.ref,
                task=model.task,
                variant=model.variant,
                metrics=model.metrics,
            )
            lineage.link(tx, Node("model", model.ref), Node("model", made.ref))
        return made
