"""What a workspace does with many inputs at once or one after another: batches of items, live pipelines.

``Workspace`` inherits ``Streaming``; nothing else does.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import LoopworksError, NotFound
from loopworks.store.deployments import Deployment
from loopworks.store.home import Home

if TYPE_CHECKING:
    from loopworks.core.bundle import Bundle
    from loopworks.data.stage import Dataset
    from loopworks.infer.live.looking import Pick
    from loopworks.infer.live.stage import Live
    from loopworks.jobs import Job, Jobs
    from loopworks.store.chains import Chain
    from loopworks.store.models import Model


class Streaming:
    """The part of a workspace that keeps models at work."""

    home: Home

    if TYPE_CHECKING:  # what Workspace has

        @property
        def jobs(self) -> Jobs:
            """The durable jobs."""

        def dataset(self, name: str) -> Dataset:
            """A dataset by its name."""

        def deployments(self) -> list[Deployment]:
            """What answers requests now."""

        def model(self, ref: Model | str) -> Model:
            """A model by its reference."""

        def bundle(self, ref: Model | Deployment | str) -> Bundle:
            """The bundle of a model or deployment."""

        def _behind(self, ref: str) -> tuple[str, str]: ...

        def _queued(self, step: str, params: Mapping[str, Any], title: str) -> Job: ...

    @property
    def live(self) -> "Live":
        """Live pipelines: a source, a model, sinks; docs/live.md."""
        from loopworks.infer.live.stage import Live

        return Live(self.home, self._takes, self._engine)

    def score_files(
        self,
        name: str,
        source: str | Path,
        *,
        out: str | Path,
        on_progress: "Callable[[Job], None] | None" = None,
    ) -> dict[str, Any]:
        """Ask a model about every item of a source, as a durable job, and wait for it; as ``score_files_job``.

        Returns: ``out``, ``items``, ``unread`` (rows with an error), ``seconds`` and ``per_s``.
        """
        job = self.score_files_job(name, source, out=out)
        return self.jobs.result(job.id, on_progress)

    def score_files_job(self, name: str, source: str | Path, *, out: str | Path) -> "Job":
        """Queue the scoring of a source and return its job at once; docs/live.md says what the columns are.

        A job that is killed goes on after the last part that it had finished. What cannot be read is a row with an
        error. Memory stays bounded. With ``runner = "ray"`` it runs on the cluster.

        Args:
            name: a deployment, or a model (NAME, NAME:NUMBER or NAME@ALIAS).
            source: name of a dataset; else a folder of images, texts or files of rows, or one such file.
            out: what is written: a new folder (Parquet parts), or a new file that ends in .parquet or .csv.
        Raises: NotFound: no such model or source. Invalid: ``out`` exists, or is of another kind.
        """
        from loopworks.infer.batch.score import check_out

        model, variant, author = self._scored(name)
        target = Path(out).expanduser().absolute()
        check_out(target)
        where = self._source(source)
        params = {"model": model, "variant": variant, "author": author, "source": where, "out": str(target)}
        return self._queued("batch", params, f"score {Path(where).name} by {name}")

    def _deployed(self, name: str) -> "tuple[Bundle, Deployment]":
        for used in (deployed := self.deployments()):
            if used.name == name:
                return self.bundle(used), used
        raise NotFound("deployment", name, [one.name for one in deployed])

    def _takes(self, name: str) -> str:
        """The medium of a deployment or chain."""
        return "image" if self._linked(name) is not None else self._deployed(name)[0].rule.media

    def _linked(self, name: str) -> "Chain | None":
        from loopworks.store import chains

        with self.home.catalog.read() as tx:
            return chains.find(tx, name)

    @contextmanager
    def _engine(self, name: str) -> "Iterator[Pick]":
        """An engine in this process with one deployment or chain, for a pipeline without a server."""
        from loopworks.infer.chains import graph as graphs
        from loopworks.infer.chains.linked import Linked
        from loopworks.infer.engine import Engine

        if (chain := self._linked(name)) is not None:
            graph = graphs.read(chain.graph, f"chain {name}")
            with Engine(workers=1) as engine:
                for ref in dict.fromkeys(graph.nodes.values()):
                    model, variant = self._behind(ref)
                    label, _, number = model.rpartition(":")
                    facts = {"model": label, "number": int(number)}
                    engine.load(ref, self.bundle(model), variant=variant, version=number, facts=facts)
                linked = Linked.of(name, chain.revision, graph, engine.model)
                yield lambda _: linked
            return
        bundle, used = self._deployed(name)
        with Engine(workers=1) as engine:
            engine.load(name, bundle, variant=used.variant, version=str(used.revision), facts=used.to_json())
            yield engine.model

    def _source(self, source: str | Path) -> str:
        """A dataset's name as it is, a path in full."""
        if isinstance(source, str) and "/" not in source:
            try:
                return self.dataset(source).name
            except LoopworksError:
                if not Path(source).exists():
                    raise
        return str(Path(source).expanduser().absolute())

    def _scored(self, name: str) -> tuple[str, str, str]:
        """Model, variant and the beginning of the predictions' ids; a deployment counts before a model."""
        for used in self.deployments():
            if used.name == name:
                return f"{used.model}:{used.number}", used.variant, used.ref
        found = self.model(name)
        return found.ref, self.bundle(found).chosen, found.ref
