"""The steps that run as durable jobs, in a child process of the worker: training, optimizing, long work on data.

A step may be killed and run again at any moment. What it makes is written in an order that makes this harmless:
files, then blobs, then one catalog transaction that also says which job made the model.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled
from loopworks.core.registry import plugins
from loopworks.core.settings import Settings
from loopworks.data.learning import source_of
from loopworks.store import bundles as stored
from loopworks.store import lineage, models
from loopworks.store.lineage import Node
from loopworks.workspace import Workspace, open

if TYPE_CHECKING:
    from loopworks.data.source import Source
    from loopworks.store.runs import Status
    from loopworks.train.contracts import Workers
    from loopworks.train.trial import Order, Trial, Weigh
    from loopworks.workspace import Model

log = logging.getLogger(__name__)


@plugins.add("job.train")
def train(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Train a model on a frozen version and keep it; ``params`` as in ``Workspace.train``."""
    from loopworks.train.stage import train as fit

    with open(location, create=False) as space:
        if (made := _made(space, ctx)) is not None:
            return made
        source = source_of(space.version(params["version"]))
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
                workers=_workers(space.settings, params.get("workers", 1)),
            )
            model = _keep(space, ctx, bundle, params["name"], run.id, parent="")
            run.finish(bundle, model)
        return {"model": model.ref, "bundle": model.bundle}


def _workers(settings: Settings, count: int) -> "Workers | None":
    from loopworks.train.contracts import Workers

    return Workers(count, settings.ray_address, settings.threads) if count > 1 else None


@plugins.add("job.search")
def search(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Search for the best recipe and parameters and keep the model; ``params`` as in ``Workspace.search``."""
    from loopworks.optimize.stage import optimize as tournament
    from loopworks.train.search import search as look
    from loopworks.train.spread import on_cluster

    with open(location, create=False) as space:
        if (made := _made(space, ctx)) is not None:
            return made
        source = source_of(space.version(params["version"]))
        start = space.bundle(params["start"]) if params["start"] else None
        cluster, lanes = on_cluster(space.settings, _Elsewhere(str(space.folder.resolve()), params, space.settings))
        run = _Run(space, params["name"], dict(params), ctx)
        with run:
            bundle = look(
                source,
                budget_s=params["budget_s"],
                trials=params["trials"],
                names=params["recipes"],
                params=params["params"],
                folder=_fresh(ctx.scratch / "bundle"),
                ctx=run.watch(replace(ctx, seed=params["seed"]).part(0.0, 0.85 if params.get("latency_ms") else 0.95)),
                start=start,
                threads=space.settings.threads,
                on_trial=run.child,
                cluster=cluster,
                lanes=lanes,
                weigh=_weigher(params, source, space.settings, ctx),
                latency_ms=params.get("latency_ms"),
            )
            if params.get("latency_ms"):
                # The whole tournament once, of the winner: with the test split, which the search never saw.
                bundle = tournament(
                    bundle,
                    source,
                    folder=_fresh(ctx.scratch / "best"),
                    max_drop=params["max_drop"],
                    ctx=run.watch(replace(ctx, seed=params["seed"]).part(0.85, 0.95)),
                    threads=space.settings.threads,
                )
            model = _keep(space, ctx, bundle, params["name"], run.id, parent="")
            run.finish(bundle, model)
        return {"model": model.ref, "bundle": model.bundle}


def _weigher(params: Mapping[str, Any], source: "Source", settings: Settings, ctx: Context) -> "Weigh | None":
    """What says how quick a trial's model can be, for a search with a latency budget."""
    if not params.get("latency_ms"):
        return None
    from loopworks.optimize.stage import weigh
    from loopworks.train.sealed import seal

    quiet = replace(ctx, seed=params["seed"], report=lambda share, text: None)

    def weighed(bundle: Bundle, folder: Path) -> tuple[str, float, float]:
        return weigh(
            bundle,
            seal(source),
            folder=folder,
            max_drop=params["max_drop"],
            ctx=quiet,
            threads=settings.threads,
        )

    return weighed


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """What a node of a cluster does for a trial: it opens the workspace, which it must reach at the same place."""

    location: str
    params: Mapping[str, Any]
    settings: Settings

    def __call__(self, order: "Order", folder: Path) -> "Trial":
        from loopworks.train.sealed import seal
        from loopworks.train.trial import attempt

        ctx = Context(seed=order.seed, scratch=folder, report=lambda share, text: None, stopped=lambda: False)
        # What the job's environment says of catalog and blobs holds on the node too, whatever its own says.
        told = self.settings.model_dump(include=self.settings.model_fields_set)
        with open(self.location, create=False, **{**told, "runner": "local"}) as space:
            start = space.bundle(self.params["start"]) if self.params["start"] else None
            source = seal(source_of(space.version(self.params["version"])))
            return attempt(order, source, folder, ctx, start=start)


@plugins.add("job.optimize")
def optimize(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Make and measure the variants of a model and keep the result as a new model; ``params`` as in ``Workspace``."""
    from loopworks.optimize.stage import BUDGET_S
    from loopworks.optimize.stage import optimize as tournament
    from loopworks.train.stage import train as learn

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
                source_of(space.version(bundle.version)),
                folder=folder,
                max_drop=params["max_drop"],
                target=params["target"],
                variants=params["variants"],
                asked=params.get("asked", ()),
                budget_s=params.get("budget_s") or BUDGET_S,
                learn=learn,
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


@plugins.add("job.batch")
def batch(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Ask a model about a source and write files; ``params`` as ``Workspace.score_files_job`` makes them."""
    from loopworks.infer.batch.score import finished
    from loopworks.infer.batch.score import score as ask

    out = Path(params["out"])
    if (done := finished(out, ctx.scratch)) is not None:
        return done
    with open(location, create=False) as space:
        bundle = space.bundle(params["model"])
        return ask(space.home, bundle, params["variant"], params["author"], params["source"], out, ctx)


def _counting(ctx: Context) -> Callable[[int, int], None]:
    return lambda done, total: ctx.tick(done / max(total, 1), f"{done} of {total} items")


class _Run:
    """One MLflow run around a step: live curves, final scores, the registered model, and how it ended."""

    def __init__(self, space: Workspace, experiment: str, params: Mapping[str, Any], ctx: Context) -> None:
        from loopworks.store.runs import place
        from loopworks.store.writer import Writer

        self._writer = Writer(
            *place(space.home.runs, space.settings.tracking),
            experiment,
            ctx.job,
            params,
            {"loopworks.job": ctx.job},
        )

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._writer.tag("loopworks.error", str(error))
        status: Status = "done" if kind is None else "cancelled" if issubclass(kind, Cancelled) else "failed"
        self._writer.close(status)

    @property
    def id(self) -> str:
        """MLflow's id of the run."""
        return self._writer.id

    def child(self, trial: "Trial") -> None:
        """One trial of a search, as a run below this one."""
        tags = {"loopworks.trial": str(trial.number), "loopworks.state": trial.state}
        values = [("val_headline", 0, trial.value)] if trial.value is not None else []
        points = [(name, int(step), value) for name, curve in trial.points.items() for step, value in curve]
        named = {"recipe": trial.recipe, **trial.params}
        final = [(f"final_{name}", step, value) for name, step, value in values]
        status: Status = "failed" if trial.state == "failed" else "cancelled" if trial.state == "pruned" else "done"
        self._writer.child(f"trial {trial.number}", named, tags, [*points, *final], status)

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
        if warnings := [note for note in bundle.notes if note.startswith("warning")]:
            self._writer.tag("loopworks.warnings", "; ".join(warnings))
        for split, scores in bundle.metrics.items():
            for name, score in scores.items():
                self._writer.metric(f"final_{split}_{name}", 0, score.value)
        self._writer.artifact(bundle.folder / bundles.FILE)
        self._writer.register(model.name, f"loopworks-bundle:{model.bundle}", {"loopworks.ref": model.ref})


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
