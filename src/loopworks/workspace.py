"""The workspace: where the stages meet. This is the Python API that the command line and the server call."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from loopworks.access import Access
from loopworks.chaining import Chaining
from loopworks.core import image
from loopworks.core.contracts import Arrays, Predictor, Rule, learnable
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.units import seconds
from loopworks.core.values import LineageNode
from loopworks.data import arrival
from loopworks.data import stage as data
from loopworks.data.errands import Errands
from loopworks.data.files import Source
from loopworks.data.stage import AddReport, Dataset, Item, Version
from loopworks.data.transfer import Exchange
from loopworks.jobs import spread
from loopworks.packing import Packing
from loopworks.retraining import Retraining
from loopworks.store.deployments import Deployment
from loopworks.store.home import Home, create_home, open_home
from loopworks.store.models import Model
from loopworks.streaming import Streaming
from loopworks.train import recipes as recipes_

if TYPE_CHECKING:
    from loopworks.data.features.model import Answers
    from loopworks.jobs import Job, Jobs
    from loopworks.label.stage import Labeling

Progress = Callable[["Job"], None]
SEARCH = "search"
WARM = (
    "loopworks.builtins",
    "loopworks.train.loop",
    "loopworks.train.export",
    "loopworks.train.nets",
    "loopworks.train.warm",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
)
"""What the steps import; a worker loads it ahead, once, so that a job starts at once."""


def open(folder: str | Path = ".", *, create: bool = True, **settings: Any) -> "Workspace":
    """Open the workspace in ``folder``, or make a new one there.

    Args:
        folder: the workspace's folder; with ``create=False`` a folder inside a workspace will do.
        create: make a workspace where there is none.
        settings: override ``loopworks.toml`` and the environment, e.g. ``catalog="postgresql://..."``.
    Raises: NotFound, TooNew, Busy, Invalid: each says what to do.
    """
    path = Path(folder).expanduser()
    if create and not (path / "loopworks.toml").is_file():
        return Workspace(create_home(path, settings))
    return Workspace(open_home(path, settings))


class Workspace(Exchange, Errands, Chaining, Packing, Retraining, Streaming, Access):
    """Everything of one team or project. Close it, or use it in a ``with`` block."""

    def __init__(self, home: Home) -> None:
        """Wrap the opened storage; use ``loopworks.open`` instead."""
        self.home = home
        self._jobs: Jobs | None = None
        self._predictors: dict[tuple[str, str], Predictor] = {}

    def __enter__(self) -> Self:
        """The workspace itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Stop the worker that this process started and let go of all files; closing twice is harmless."""
        for predictor in self._predictors.values():
            predictor.close()
        self._predictors.clear()
        if self._jobs is not None:
            self._jobs.close()
            self._jobs = None
        self.home.close()

    @property
    def folder(self) -> Path:
        """Where the workspace lies."""
        return self.home.folder

    @property
    def jobs(self) -> "Jobs":
        """The durable jobs of this workspace."""
        if self._jobs is None:
            from loopworks.jobs import Jobs

            self._jobs = Jobs(self.folder, database=self._queue, warm=WARM)
        return self._jobs

    @property
    def _queue(self) -> str:
        catalog = self.settings.catalog
        return catalog if catalog.startswith("postgresql") else ""

    def work(self) -> None:
        """Run this workspace's jobs in the foreground until SIGTERM or Ctrl-C; ends the process."""
        from loopworks.jobs.worker import main

        main(self.folder, database=self._queue, warm=WARM)

    def info(self) -> dict[str, Any]:
        """What the workspace holds, in figures."""
        from loopworks import __version__

        return {
            "folder": self.folder.name,
            "loopworks": __version__,
            "datasets": len(self.datasets()),
            "models": len(self.models()),
            "deployments": len(self.deployments()),
        }

    # ---- data

    def datasets(self) -> list[dict[str, Any]]:
        """All datasets with their counts."""
        return [dataset.to_json() for dataset in data.datasets(self.home)]

    def dataset(
        self, name: str, task: str | None = None, *, classes: Sequence[str] = (), is_multi: bool = False
    ) -> Dataset:
        """The dataset called ``name``; with a ``task`` it is made where it does not exist.

        Raises:
            NotFound: no such dataset, and no ``task`` to make one for.
            Conflict: it exists for another task kind.
        """
        if task is not None and name not in (dataset.name for dataset in data.datasets(self.home)):
            found = data.create_dataset(self.home, name, task, is_multi=is_multi, classes=tuple(classes))
        else:
            found = data.open_dataset(self.home, name)
        found.models = functools.partial(self._describing, found)
        if task is not None and found.task.name != task:
            raise Conflict(f"dataset {name!r} must be of task {task}; got {found.task.name}", "use another name")
        return found

    def add(self, name: str, source: Source, *, task: str = "", is_multi: bool = False, **how: Any) -> AddReport:
        """Add to the dataset called ``name``; where there is none, it is made for the task kind that the data fits.

        Args:
            name: of the dataset.
            source: see ``Dataset.add``.
            task: of a new dataset; empty: boxes make object-detection, texts text-classification, else
                image-classification. An existing dataset must be of this task.
            is_multi: whether a new dataset's items may carry several classes; with an empty task also where they do.
            how: the other parameters of ``Dataset.add``.
        """
        return arrival.add(self.home, name, source, task=task, is_multi=is_multi, **how)

    def version(self, version: str) -> Version:
        """A frozen version by its id or the start of it."""
        return data.open_version(self.home, version)

    def find_version(self, text: str) -> Version:
        """A version by id, or the live state of the dataset called ``text``, frozen now."""
        if text in (dataset.name for dataset in data.datasets(self.home)):
            return self.dataset(text).freeze("for training")
        return self.version(text)

    # ---- label

    def labeling(self, dataset: str, model: str = "") -> "Labeling":
        """The label stage of a dataset; ``model`` proposes (default: the newest that learnt from this dataset)."""
        from loopworks.label.stage import Labeling

        target = self.dataset(dataset)
        found = self.model(model) if model else self._newest(target)
        if found is None:
            return Labeling(target)
        bundle = self.bundle(found)
        if bundle.schema.classes != target.schema.classes:
            missing = sorted(set(bundle.schema.classes) ^ set(target.schema.classes))
            if model:
                raise Conflict(
                    f"model {found.ref} must know the classes of {dataset}; they differ in {missing}", "train again"
                )
            return Labeling(target)

        def answer(items: Sequence[Item]) -> Arrays:
            return self.answer(bundle, (self._content(target, bundle.rule, item) for item in items))

        return Labeling(target, answer, found.ref)

    def _describing(self, dataset: Dataset) -> "Answers | None":
        """What the newest model of a dataset answers, as a descriptor of images."""
        if (model := self._newest(dataset)) is None:
            return None
        from loopworks.data.features import model as features

        bundle = self.bundle(model)
        return features.of_model(model.ref, model.bundle, bundle, self._predictor(bundle, ""))

    def _newest(self, dataset: Dataset) -> Model | None:
        versions = {version.id for version in dataset.versions()}
        return next((model for model in self.models() if model.version in versions), None)

    def score(
        self,
        dataset: str,
        model: Model | str = "",
        *,
        query: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Ask a model about the items of a dataset and keep what it says: the fields ``prediction.*`` of a query.

        Args:
            dataset: its name.
            model: NAME, NAME:NUMBER or NAME@ALIAS; default the newest that learnt from this dataset.
            query: only items that fulfil it; all by default.
            progress: takes the number of items done and of all.
        Returns: ``model``, ``items`` scored, and the ``problems`` of items whose files cannot be read.
        Raises: NotFound: no such dataset or model, or the dataset has none.
        """
        target = self.dataset(dataset)
        found = self.scorer(target, model)
        bundle = self.bundle(found)
        from loopworks.label.scoring import score

        return score(
            target,
            found.ref,
            learnable(plugins.get(f"task.{bundle.task}")),
            bundle.schema,
            answer=lambda contents: self.answer(bundle, contents),
            read=functools.partial(self._content, target, bundle.rule),
            query=query,
            progress=progress,
        )

    def _content(self, dataset: Dataset, rule: Rule, item: Item) -> Any:
        """What an item is to a model: its text, or its bytes, which must be an image."""
        if rule.media == "text":
            return item.text
        content = dataset.read(item)
        image.probe(content, item.name, self.settings.max_image_pixels)
        return content

    def scorer(self, dataset: Dataset, model: Model | str = "") -> Model:
        """The model that is asked about a dataset's items: the one that is named, or the newest that learnt from it."""
        found = self.model(model) if model else self._newest(dataset)
        if found is None:
            raise NotFound("model of dataset", dataset.name, hint="train one, or name a model")
        return found

    # ---- train and optimize

    def train(
        self,
        version: Version | str,
        *,
        recipe: str = "auto",
        params: Mapping[str, Any] | None = None,
        budget: str | float | None = None,
        name: str = "",
        start: Model | str | None = None,
        seed: int | None = None,
        workers: int | None = None,
        on_progress: Progress | None = None,
        key: str | None = None,
    ) -> Model:
        """Train a model on a frozen version, as a durable job, and wait for it; arguments as in ``train_job``.

        ``on_progress`` is called with the job while it runs.
        """
        return self.result(
            self.train_job(
                version,
                recipe=recipe,
                params=params,
                budget=budget,
                name=name,
                start=start,
                seed=seed,
                workers=workers,
                key=key,
            ),
            on_progress,
        )

    def train_job(
        self,
        version: Version | str,
        *,
        recipe: str = "auto",
        params: Mapping[str, Any] | None = None,
        budget: str | float | None = None,
        name: str = "",
        start: Model | str | None = None,
        seed: int | None = None,
        workers: int | None = None,
        key: str | None = None,
    ) -> "Job":
        """Queue a training and return its job at once.

        Args:
            version: what to learn from, or its id.
            recipe: ``auto``, a ``train.NAME`` plug-in without ``train.``, or ``search``: see ``search``.
            params: parameters of the recipe.
            budget: time that training may take, e.g. ``"5m"``; empty leaves it to the recipe.
            name: of the model; default the dataset's name.
            start: a model to start from (warm start).
            seed: same seed, same version, same model; default the workspace's setting.
            workers: processes of a Ray cluster that train one network together; default the workspace's setting.
            key: the same key gives the same job, so that a script that runs again goes on with it.
        """
        if recipe == SEARCH:
            return self.search_job(version, budget=budget, params=params, name=name, start=start, seed=seed, key=key)
        found = version if isinstance(version, Version) else self.version(version)
        recipes_.check(recipe, params or {}, found.task.name)
        job = {
            "version": found.id,
            "name": name or found.dataset,
            "recipe": recipe,
            "params": dict(params or {}),
            "budget_s": None if budget is None else seconds(budget),
            "start": "" if start is None else self.model(start).ref,
            "seed": self.settings.seed if seed is None else seed,
            **spread.shared(workers, self.settings),
        }
        return self.jobs.get(self.jobs.submit("train", job, title=f"train {job['name']}", key=key))

    def search(
        self,
        version: Version | str,
        *,
        budget: str | float | None = None,
        trials: int | None = None,
        money: float | None = None,
        latency_ms: float | None = None,
        max_drop: float = 0.01,
        recipes: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
        name: str = "",
        start: Model | str | None = None,
        seed: int | None = None,
        on_progress: Progress | None = None,
        key: str | None = None,
    ) -> Model:
        """Search for the best recipe and parameters, as a durable job, and wait for it; as ``search_job``.

        ``board(model)`` is its leader board.
        """
        job = self.search_job(
            version,
            budget=budget,
            trials=trials,
            money=money,
            latency_ms=latency_ms,
            max_drop=max_drop,
            recipes=recipes,
            params=params,
            name=name,
            start=start,
            seed=seed,
            key=key,
        )
        return self.result(job, on_progress)

    def search_job(
        self,
        version: Version | str,
        *,
        budget: str | float | None = None,
        trials: int | None = None,
        money: float | None = None,
        latency_ms: float | None = None,
        max_drop: float = 0.01,
        recipes: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
        name: str = "",
        start: Model | str | None = None,
        seed: int | None = None,
        key: str | None = None,
    ) -> "Job":
        """Queue a search and return its job at once; the validation split alone decides.

        Args:
            version: what to learn from, or its id.
            budget: time for everything, e.g. ``"10m"``; kept within 10 %.
            trials: how many recipes with parameters to try; without a budget each takes the time it wants.
            money: what it may cost, by the setting ``price_per_hour``; a budget of the time that this buys.
            latency_ms: what one item may take on this machine, in the quickest form of a model (INT8, bfloat16) that is
                accurate enough; the most accurate of these wins, and is optimized, which comes after the budget.
            max_drop: what such a form may lose against fp32, in 0..1.
            recipes: only these; default all that suit the data.
            params: fixed for all trials.
            name: of the model; default the dataset's name.
            start: a model to start each trial from.
            seed: same seed and number of trials, same search.
            key: the same key gives the same job.
        """
        from loopworks.optimize.stage import check_request
        from loopworks.train.search import LEAST_S, budget_of

        found = version if isinstance(version, Version) else self.version(version)
        for one in recipes or ("auto",):
            recipes_.check(one, params or {}, found.task.name)
        if latency_ms is not None and not 0 < latency_ms < 1e6:
            raise Invalid("latency_ms", "above zero", latency_ms)
        check_request(max_drop, "latency", None)
        limit = budget_of(budget, money, self.settings.price_per_hour)
        if limit is None and trials is None:
            raise Invalid("search", "given a budget, a number of trials or money", "none", 'budget="10m", or trials=20')
        if limit is not None and limit < LEAST_S:
            raise Invalid("budget of a search", f"at least {LEAST_S:.0f} s", f"{limit:g} s", "train without a search")
        job = {
            "version": found.id,
            "name": name or found.dataset,
            "recipes": list(recipes),
            "params": dict(params or {}),
            "budget_s": limit,
            "trials": trials,
            "latency_ms": latency_ms,
            "max_drop": max_drop,
            "start": "" if start is None else self.model(start).ref,
            "seed": self.settings.seed if seed is None else seed,
        }
        return self.jobs.get(self.jobs.submit("search", job, title=f"search {job['name']}", key=key))

    def result(self, job: "Job", on_progress: Progress | None = None) -> Model:
        """Wait for a job that makes a model; raises what the job failed with."""
        return self.model(self.jobs.result(job.id, on_progress)["model"])

    # ---- lineage

    def lineage(self, what: str) -> list[LineageNode]:
        """Where something came from, one node a line, back to the labels.

        Args:
            what: a prediction id, ``NAME`` of a deployment, ``NAME:NUMBER`` of a model, a version id or a dataset.
        """
        from loopworks.trace import Trace

        return Trace(self).of(what)


__all__ = ["Deployment", "Model", "Workspace", "open"]
