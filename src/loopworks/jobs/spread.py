"""One function over many items: in threads here, or as Ray Data jobs on a cluster. The results are the same."""

import functools
import importlib.util
import logging
import math
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from loopworks.core.errors import Failed, Invalid, LoopworksError, Missing, Unreachable
from loopworks.core.settings import Settings, quiet_libraries

In = TypeVar("In")
Out = TypeVar("Out")
BATCH = 64  # items of one task: reading and hashing them takes far longer than sending the task
WINDOW = 4096  # items of one Ray Data job: the driver holds the results of so many at once
THREADS = 4
MOST_WORKERS = 1024


def is_spread(settings: Settings) -> bool:
    """Whether the settings ask for a cluster."""
    return settings.runner == "ray"


def spread(
    function: Callable[[list[In]], Sequence[Out]], items: Iterable[In], settings: Settings, *, batch: int = BATCH
) -> Iterator[Out]:
    """The function's results for all items, in their order.

    With ``runner = "ray"`` batches run as Ray Data tasks on the cluster at ``ray_address``. A node that dies in the
    middle loses nothing: Ray runs its tasks again elsewhere. So the function may run twice for a batch, and must do the
    same again without harm.

    Args:
        function: gives one result for each item of a batch; pickled for a cluster, so it must be a function of a module
            or an object of a module's class. What it needs (files, blobs) must be reachable from every node.
        items: taken as they are needed.
        settings: of the workspace.
        batch: items in one call of the function.
    Raises:
        Missing: Ray is asked for and not installed.
        Unreachable: no cluster answers at ``ray_address``.
        LoopworksError: what the function raises.
        Failed: a node could not run it.
    """
    rest = iter(items)
    if not is_spread(settings):
        with ThreadPoolExecutor(THREADS) as pool:
            while window := list(islice(rest, THREADS * batch)):
                parts = (window[at : at + batch] for at in range(0, len(window), batch))
                for found in pool.map(function, parts):
                    yield from found
        return
    connect(settings.ray_address)
    while window := list(islice(rest, WINDOW)):
        yield from _on_cluster(function, window, batch)


def shared(workers: int | None, settings: Settings) -> dict[str, int]:
    """How many processes of a cluster train one network, as a parameter of the job; empty where it is one.

    Raises: Invalid: out of range. Missing: Ray is not installed.
    """
    count = settings.workers if workers is None else workers
    if isinstance(count, bool) or not 1 <= count <= MOST_WORKERS:
        raise Invalid("workers", f"between 1 and {MOST_WORKERS}", count)
    if count == 1:
        return {}
    try:
        found = importlib.util.find_spec("ray") is not None
    except ValueError:  # a module without a spec, or None in its place
        found = False
    if not found:
        raise Missing("ray", "ray", "workers above 1")
    return {"workers": count}


def connect(address: str) -> None:
    """Join the cluster at ``address``; a process that is in one already stays in it.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:10001``, ``auto``; empty: Ray is started on this machine.
    Raises: Missing, Unreachable.
    """
    quiet_libraries()
    try:
        import ray
        import ray.data  # noqa: F401
    except ImportError:
        raise Missing("ray", "ray", 'runner = "ray"') from None
    if ray.is_initialized():
        return
    for name in ("ray.data", "ray"):  # it reports every job to people
        logging.getLogger(name).setLevel(logging.ERROR)
    # Without "local" Ray would join whatever cluster it finds on this machine, say another user's.
    named: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**named, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = address or "this machine"
        raise Unreachable(f"Ray at {where} must answer; got: {first}", "check ray_address; ray status helps") from None


def _on_cluster(function: Callable[[list[In]], Sequence[Out]], items: list[In], batch: int) -> list[Out]:
    import ray
    from ray.exceptions import RayError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"at": at, "item": pickle.dumps(item)} for at, item in enumerate(items)]
    data = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / batch))
    done = data.map_batches(functools.partial(_call, function), batch_size=None, batch_format="numpy")
    found: list[Any] = [None] * len(items)
    try:
        for row in done.iter_rows():
            result = pickle.loads(row["result"])  # what our own function gave on our own cluster
            if isinstance(result, _Raised):
                raise result.error
            found[int(row["at"])] = result
    except RayError as error:
        # The fault stands in the text, between Ray's own advice and a traceback.
        faults = re.findall(r"^\w*(?:Error|Exception)\b.*$", str(error), re.MULTILINE)
        reason = faults[-1] if faults else type(error).__name__
        raise Failed(f"work on the cluster failed: {reason}", "the node's log says more: ray logs") from None
    return found


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error of ours on its way back; Ray would wrap it in several of its own."""

    error: LoopworksError


def _call(function: Callable[[list[Any]], Sequence[Any]], rows: dict[str, Any]) -> dict[str, Any]:
    """One task: items out of a block, results into another."""
    import numpy as np

    try:
        found: Sequence[Any] = function([pickle.loads(one) for one in rows["item"]])
    except LoopworksError as error:
        found = [_Raised(error)] * len(rows["item"])
    out = np.empty(len(found), object)
    out[:] = [pickle.dumps(one) for one in found]
    return {"at": rows["at"], "result": out}
