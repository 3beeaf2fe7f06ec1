"""Trials of a search side by side on a Ray cluster."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopworks.core.errors import Failed, LoopworksError
from loopworks.core.settings import Settings
from loopworks.jobs.spread import connect, is_spread
from loopworks.train.search import Cluster
from loopworks.train.trial import FILES, MADE, Order, Trial

Work = Callable[[Order, Path], Trial]
"""Runs one trial in a folder of the node; pickled, so an object of a module's class."""
MOST_LANES = 64


def on_cluster(settings: Settings, work: Work) -> tuple[Cluster | None, int]:
    """What runs trials on the cluster of the settings, and how many side by side; ``None`` where there is none.

    One trial takes as many cores as ``threads`` says (one where it says nothing). Every node must reach the workspace
    under the same path, as its database and blobs are read there.

    Raises: Missing, Unreachable: Ray is asked for and not there.
    """
    if not is_spread(settings):
        return None, 1
    connect(settings.ray_address)
    import ray

    cores = max(1, settings.threads)
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    lanes = max(1, min(MOST_LANES, int(there.get("CPU", 1)) // cores))
    remote = ray.remote(num_cpus=cores, max_retries=2)(_node)

    def cluster(orders: Sequence[Order], tick: Callable[[], None]) -> Iterator[tuple[Trial, Mapping[str, bytes]]]:
        left = [remote.remote(work, order) for order in orders]
        try:
            while left:
                tick()
                ended, left = ray.wait(left, num_returns=1, timeout=0.5)
                for one in ended:
                    found = _get(one)
                    if isinstance(found, LoopworksError):
                        raise found
                    yield found
        finally:
            for one in left:
                ray.cancel(one, force=True)

    return cluster, lanes


def _get(reference: Any) -> tuple[Trial, Mapping[str, bytes]] | LoopworksError:
    import ray
    from ray.exceptions import RayError

    try:
        found: tuple[Trial, Mapping[str, bytes]] | LoopworksError = ray.get(reference)
    except RayError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise Failed(f"a trial on the cluster failed: {first}", "the node's log says more: ray logs") from None
    return found


def _node(work: Work, order: Order) -> tuple[Trial, dict[str, bytes]] | LoopworksError:
    """On the node: the trial and what it wrote, or an error of ours, which Ray would wrap in several of its own."""
    with tempfile.TemporaryDirectory(prefix="loopworks-trial-") as name:
        folder = Path(name)
        try:
            trial = work(order, folder)
        except LoopworksError as error:
            return error
        kept = [folder / MADE, *sorted((folder / FILES).rglob("*"))] if trial.state == "done" else []
        return trial, {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept if path.is_file()}
