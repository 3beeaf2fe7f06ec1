"""The steps that run as durable jobs, in a child process of the worker: training, optimizing, long work on data.

A step may be killed and run again at any moment. What it makes is written in an order that makes this harmless:
files, then blobs, then one catalog transaction that also says which job made the model.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Context, Learnable, Rule, learnable
from loopworks.core.errors import Cancelled
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema
from loopworks.data.stage import Version
from loopworks.store import bundles as stored
from loopworks.store import lineage, models
from loopworks.store.lineage import Node
from loopworks.workspace import Workspace, open

if TYPE_CHECKING:
    from loopworks.store.runs import Status
    from loopworks.workspace import Model

log = logging.getLogger(__name__)


@plugins.add("job.train")
def train(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Train a model on a frozen version and keep it; ``params`` as in ``Workspace.train``."""
    from loopworks.train.stage import train as fit

    with open(location, create=False) as space:
        if (made := _made(space, ctx)) is not None:
            return made
        source = _Source(space.version(params["version"]))
        start = space.bundle(params["start"]) if params["start"] else None
        seeded = replace(ctx, seed=params["seed"])
        folder = _fresh(ctx.scratch / "bundle")
        run = _Run(space, params["name"], dict(params), ctx)
        with run:
            bundle = fit(
                source,
                recipe=params["recipe"],
                params=params["params"],
                budget_s=params["budget_s"],
                folder=folder,
                ctx=run.watch(seeded.part(0.0, 0.95)),
                start=start,
                threads=space.settings.threads,
            )
            model = _keep(space, ctx, bundle, params["name"], run.id, parent="")
            run.finish(bundle, model)
        return {"model": model.ref, "bundle": model.bundle}


@plugins.add("job.optimize")
def optimize(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Make and measure the variants of a model and keep the result as a new model; ``params`` as in ``Workspace``."""
    from loopworks.optimize.stage import optimize as tournament

    with open(location, create=False) as space:
        if (made := _made(space, ctx)) is not None:
            return made
        model = space.model(params["model"])
        bundle = space.bundle(model)
        folder = _fresh(ctx.scratch / "bundle")
        run = _Run(space, model.name, dict(params), ctx)
        with run:
            best = tournament(
                bundle,
                _Source(space.version(bundle.version)),
                folder=folder,
                max_drop=params["max_drop"],
                target=params["target"],
                variants=params["variants"],
                ctx=run.watch(replace(ctx, seed=params["seed"]).part(0.0, 0.95)),
                threads=space.settings.threads,
            )
            done = _keep(space, ctx, best, model.name, run.id, parent=model.ref)
            run.finish(best, done)
        return {"model": done.ref, "bundle": done.bundle}


@plugins.add("job.check")
def check(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Check a dataset; ``params`` as in ``Workspace.check_job``.

    The findings are in the catalog, their number here: what a job leaves behind names no item, which may be erased.
    """
    with open(location, create=False) as space:
        clean = space.dataset(params["dataset"]).clean
        found = clean.check(*params["checks"], params=params["params"], seed=params["seed"], progress=ctx.tick)
        told = {name: value for name, value in found.to_json().items() if name != "problems"}
        return {**told, "findings": len(found.findings), "unread": len(found.problems)}


@plugins.add("job.embed")
def embed(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Compute rows of a descriptor; ``params`` as in ``Workspace.embed_job``."""
    with open(location, create=False) as space:
        return space.dataset(params["dataset"]).embed(params["descriptor"], progress=_counting(ctx))


@plugins.add("job.score")
def score(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Ask a model about items; ``params`` as in ``Workspace.score_job``."""
    with open(location, create=False) as space:
        done = space.score(params["dataset"], params["model"], query=params["query"], progress=_counting(ctx))
        return {"model": done["model"], "items": done["items"], "unread": len(done["problems"])}


def _counting(ctx: Context) -> Callable[[int, int], None]:
    return lambda done, total: ctx.tick(done / max(total, 1), f"{done} of {total} items")


class _Run:
    """One MLflow run around a step: live curves, final scores, the registered model, and how it ended."""

    def __init__(self, space: Workspace, experiment: str, params: Mapping[str, Any], ctx: Context) -> None:
        from loopworks.store.writer import Writer

        folder, uri = space.home.runs, space.settings.tracking
        artifacts = "" if uri else (folder / "files").as_uri()
        self._writer = Writer(
            uri or f"sqlite:///{folder / 'mlflow.db'}",
            artifacts,
            experiment,
            ctx.job,
            params,
            {"loopworks.job": ctx.job},
        )

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        status: Status = "done" if kind is None else "cancelled" if issubclass(kind, Cancelled) else "failed"
        self._writer.close(status)

    @property
    def id(self) -> str:
        """MLflow's id of the run."""
        return self._writer.id

    def watch(self, ctx: Context) -> Context:
        """The same context, whose metrics and pictures also reach the run."""

        def metric(name: str, step: int, value: float) -> None:
            ctx.metric(name, step, value)
            self._writer.metric(name, step, value)

        def picture(name: str, step: int, png: bytes) -> None:
            ctx.picture(name, step, png)
            self._writer.picture(name, step, png)

        return replace(ctx, metric=metric, picture=picture)

    def finish(self, bundle: Bundle, model: "Model") -> None:
        """Write the final scores and register the model; its tag holds the number that the catalog gave it."""
        for split, scores in bundle.metrics.items():
            for name, score in scores.items():
                self._writer.metric(f"final_{split}_{name}", 0, score.value)
        self._writer.artifact(bundle.folder / bundles.FILE)
        self._writer.register(model.name, f"loopworks-bundle:{model.bundle}", {"loopworks.ref": model.ref})


@dataclass(frozen=True, slots=True)
class _Source:
    """A version as the stages after ``data`` read it."""

    version: Version
    _targets: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Id of the version."""
        return self.version.id

    @property
    def task(self) -> Learnable:
        """Its task kind."""
        return learnable(self.version.task)

    @property
    def schema(self) -> LabelSchema:
        """Its classes."""
        return self.version.schema

    @property
    def counts(self) -> Mapping[str, int]:
        """Split -> items."""
        return dict(self.version.counts["by_split"])

    @property
    def typical_size(self) -> tuple[int, int]:
        """Median width and height of the images, in pixels."""
        rows = self.version.rows("train")
        return int(median(row.width for row in rows)), int(median(row.height for row in rows))

    def inputs(self, rule: Rule, split: str, progress: Callable[[float, str], None] | None = None) -> Arrays:
        """A split's items by the rule."""

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(done / max(total, 1), f"reading {split}")

        return self.version.inputs(rule, split, tell)

    def targets(self, split: str) -> NDArray[Any]:
        """A split's labels; made once, since masks take long to paint."""
        if split not in self._targets:
            self._targets[split] = self.version.targets(split)
        return self._targets[split]

    def facts(self, split: str) -> list[dict[str, Any]]:
        """What is known of each item beside its label."""
        return [
            {"name": row.name, "width": row.width, "height": row.height, "tags": row.tags, **row.attributes}
            for row in self.version.rows(split)
        ]

    def texts(self, split: str) -> list[str]:
        """A split's texts."""
        return [row.text for row in self.version.rows(split)]


def _keep(space: Workspace, ctx: Context, bundle: Bundle, name: str, run: str, *, parent: str) -> "Model":
    """Blobs first, then one transaction with the model's row and its lineage."""
    ctx.tick(0.96, "keeping the model")
    key = stored.save(space.home.blobs, bundle.folder)
    job = Node("job", ctx.job)
    source = Node("model", parent) if parent else Node("version", bundle.version)
    with space.home.catalog.begin() as tx:
        model = models.add(
            tx,
            name,
            bundle=key,
            run=run,
            version=bundle.version,
            parent=parent,
            task=bundle.task,
            variant=bundle.chosen,
            metrics=bundle.to_json()["metrics"],
        )
        lineage.link(tx, source, Node("model", model.ref))
        lineage.link(tx, job, Node("model", model.ref))
    log.info("kept model=%s bundle=%s job=%s", model.ref, key, job.id)
    return model


def _made(space: Workspace, ctx: Context) -> dict[str, Any] | None:
    """What an earlier attempt of this job finished just before it was killed."""
    with space.home.catalog.read() as tx:
        made = [node.id for node in lineage.targets(tx, Node("job", ctx.job)) if node.kind == "model"]
    if not made:
        return None
    model = space.model(made[0])
    return {"model": model.ref, "bundle": model.bundle}


def _fresh(folder: Path) -> Path:
    """An empty folder: what a killed attempt left half written is thrown away, its checkpoints lie elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder
