"""The training loop over several processes of a Ray cluster: each has its share of every batch.

Ray places the processes and says when one has died; torch averages the gradients. Ray Train is not used: its
trainer keeps checkpoints in a store of its own and cannot be asked to stop, while here the first process writes the
checkpoint of every training, metrics go out as they come, and a cancel ends all processes at once.
"""
# ruff: noqa: TID253 - this file is imported inside functions only

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loopworks.core.contracts import Context
from loopworks.core.errors import Failed, Invalid, LoopworksError
from loopworks.jobs.spread import connect
from loopworks.train import loop, machine
from loopworks.train.batches import Batches, Split
from loopworks.train.budget import Budget
from loopworks.train.checkpoint import CHECKPOINT, Progress, resume
from loopworks.train.contracts import Workers
from loopworks.train.loop import Coach, Judge, Learner, Objective, Plan, Show
from loopworks.train.team import Team, WholeNorm

log = logging.getLogger(__name__)

DEATHS = 3
"""Processes that may die one after the other, without an epoch between them, before the training is given up."""
POLL_S = 0.3
LAST_WORDS_S = 5.0
"""How long to wait for the others once one has failed: who died, and who only lost touch with the dead?"""
MARK = "reach"
Event = Callable[[Context], None]
Outcome = Progress | int | LoopworksError
"""Where the training ended; in how many pieces to feed a batch, since memory ran out; or an error of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that the processes need; pickled, from our own process to our own cluster."""

    network: nn.Module
    objective: Objective
    plan: Plan
    train: tuple[Any, Any]
    val: tuple[Any, Any] | None
    judge: Judge
    show: Show | None
    fingerprint: str
    seed: int
    scratch: str
    mark: str


@dataclass(frozen=True, slots=True)
class Round:
    """One go at the training, until it ends, memory runs out, or a process dies."""

    pieces: int
    limit_s: float | None
    reserve_s: float
    after_s: float
    spent_s: float


def fit(
    learner: Learner,
    train: Split,
    val: Split | None,
    judge: Judge,
    *,
    fingerprint: str,
    budget: Budget,
    ctx: Context,
    show: Show | None = None,
    workers: Workers | None = None,
) -> Progress:
    """``loop.fit`` here, or over ``workers``; what is learnt is the same within rounding, but for dropout.

    A process or node that dies costs the time since the last checkpoint: the others are stopped, and all begin again
    from there, on the nodes that are left.

    Args: as of ``loop.fit``; ``judge`` and ``show`` are pickled, and ``ctx.scratch`` lies where all nodes reach it.
        workers: how many processes, and where Ray is; ``None`` trains here.
    Raises: Missing, Unreachable: no Ray. Invalid: more workers than the cluster has cores, or a batch has items.
        Cancelled, Failed, NoSpace.
    """
    if workers is None or workers.count == 1:
        return loop.fit(learner, train, val, judge, fingerprint=fingerprint, budget=budget, ctx=ctx, show=show)
    least = Batches(train, learner.plan.batch, 0).least
    if workers.count > least:
        raise Invalid("workers", f"at most {least}, the items of the smallest batch", workers.count, "a larger batch")
    connect(workers.address)
    import ray

    ctx.scratch.mkdir(parents=True, exist_ok=True)
    work = Work(
        network=learner.network,
        objective=learner.objective,
        plan=learner.plan,
        train=packed(train),
        val=None if val is None else packed(val),
        judge=judge,
        show=show,
        fingerprint=fingerprint,
        seed=ctx.seed,
        scratch=str(ctx.scratch.resolve()),
        mark=secrets.token_hex(8),
    )
    (ctx.scratch / MARK).write_text(work.mark, encoding="utf-8")
    try:
        sent = ray.put(work)
        progress, _ = resume(ctx.scratch / CHECKPOINT, fingerprint, learner.network)
        budget.resume(progress.spent_s)
        progress = _rounds(sent, workers, progress, budget, ctx)
    finally:
        (ctx.scratch / MARK).unlink(missing_ok=True)
    learner.network.load_state_dict(progress.best)
    learner.network.eval()
    return progress


def _rounds(sent: Any, workers: Workers, progress: Progress, budget: Budget, ctx: Context) -> Progress:
    pieces, deaths, reached = progress.pieces, 0, progress.epoch
    seen = [progress.epoch]

    def metric(name: str, step: int, value: float) -> None:
        seen.append(step)
        ctx.metric(name, step, value)

    told = replace(ctx, metric=metric)
    while not progress.is_done:
        one = Round(pieces, budget.limit_s, budget.reserve_s, budget.after_s, budget.spent_s())
        found = _round(sent, one, workers, told)
        if isinstance(found, LoopworksError):
            raise found
        if isinstance(found, Progress):
            progress = found
        elif isinstance(found, int):
            pieces = found
        else:
            deaths = 1 if max(seen) > reached else deaths + 1
            reached = max(seen)
            if deaths >= DEATHS:
                raise Failed(f"workers must live; {deaths} died one after the other: {found}", "ray logs says more")
            log.warning("a worker died, going on from the checkpoint epoch=%d reason=%s", reached, found)
    return progress


def _round(sent: Any, one: Round, workers: Workers, ctx: Context) -> Outcome | str:
    """One go; a text says why a process died."""
    import ray

    with _placed(workers, ctx) as (ranks, cores):
        try:
            at = ray.get(ranks[0].open.remote(len(ranks)))
            runs = [rank.run.remote(sent, one, Team(i, len(ranks)), at, cores) for i, rank in enumerate(ranks)]
            left = list(runs)
            while left:
                ended, left = ray.wait(left, num_returns=1, timeout=POLL_S)
                for event in ray.get(ranks[0].news.remote()):
                    event(ctx)
                if ctx.stopped():
                    ctx.tick(0.0)  # raises
                for run in ended:
                    found = ray.get(run)
                    if found is not None:
                        for event in ray.get(ranks[0].news.remote()):
                            event(ctx)
                        return found  # type: ignore[no-any-return]
        except ray.exceptions.RayTaskError as error:
            return _why(error, runs)
        except (ray.exceptions.RayError, ConnectionError) as error:
            return _first_line(error)
    raise AssertionError("the first process gives an outcome")


def _why(error: Exception, runs: list[Any]) -> Outcome | str:
    """A process raised: because of another one that died, or of itself."""
    import ray

    ended, _ = ray.wait(runs, num_returns=len(runs), timeout=LAST_WORDS_S)
    for run in ended:
        try:
            if isinstance(found := ray.get(run), LoopworksError | int):
                return found
        except ray.exceptions.RayTaskError:
            pass  # it lost touch with the one that died, or all raise alike
        except ray.exceptions.RayError as death:
            return _first_line(death)
    return Failed(f"training on the cluster failed: {_last_line(error)}", "the node's log says more: ray logs")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextmanager
def _placed(workers: Workers, ctx: Context) -> Iterator[tuple[list[Any], int]]:
    """One actor per process, spread over the nodes; and the cores of each."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    alive: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in alive if node["Alive"]]
    cores = cores_each(nodes, workers)
    cards = int(sum(node.get("GPU", 0) for node in nodes) >= workers.count)
    group = placement_group([{"CPU": cores, **({"GPU": 1} if cards else {})}] * workers.count, strategy="SPREAD")
    try:
        ready = group.ready()
        while not ray.wait([ready], timeout=POLL_S)[0]:
            ctx.tick(0.0, f"waiting for {workers.count} x {cores} cores of the cluster")
        kind = ray.remote(Rank)
        yield (
            [
                kind.options(
                    num_cpus=cores,
                    num_gpus=cards,
                    max_concurrency=2,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
                ).remote()
                for i in range(workers.count)
            ],
            cores,
        )
    finally:
        remove_placement_group(group)  # and its actors with it


def cores_each(nodes: list[Mapping[str, float]], workers: Workers) -> int:
    """Cores of each worker: what the setting says, else as many as leave room for all of them.

    Raises: Invalid: the cluster has too few.
    """

    def room(cores: int) -> int:
        return sum(int(node.get("CPU", 0)) // cores for node in nodes)

    wanted = [workers.threads] if workers.threads else range(int(max(node.get("CPU", 1) for node in nodes)), 0, -1)
    for cores in wanted:
        if room(cores) >= workers.count:
            return cores
    least = workers.threads or 1
    raise Invalid(
        "workers",
        f"at most {room(least)}, as the cluster has room for so many of {least} cores each",
        workers.count,
        "fewer workers, or fewer threads",
    )


def packed(split: Split) -> tuple[Any, Any]:
    """As arrays, which processes of one node share in memory."""
    images = split.images.numpy() if isinstance(split.images, Tensor) else split.images
    return images, split.targets.numpy()


def _unpacked(packed: tuple[Any, Any]) -> Split:
    images, targets = packed
    if isinstance(images, np.ndarray):
        return Split.of(images, targets)
    return Split(images=images, targets=torch.from_numpy(np.array(targets)))


@dataclass(slots=True)
class Rank:
    """One process of the team, as a Ray actor; the first one also tells what happens."""

    _events: deque[Event] = field(default_factory=deque)
    _store: Any = None

    def open(self, size: int) -> tuple[str, int]:
        """Where the processes find each other."""
        import ray
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._store = TCPStore(host, 0, size, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def news(self) -> list[Event]:
        """What happened since the last time."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def run(self, work: Work, one: Round, team: Team, at: tuple[str, int], cores: int) -> Outcome | None:
        """Train to the end; only the first process says how it ended, or one that met an error of ours."""
        from torch import distributed
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        try:
            scratch = Path(work.scratch)
            if team.is_first:
                _reach(scratch, work.mark)
            store = self._store or TCPStore(*at, team.size, is_master=False)
            kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(kinds, store=store, rank=team.rank, world_size=team.size)
            ctx = Context(seed=work.seed, scratch=scratch, report=lambda share, text: None, stopped=lambda: False)
            return learn(work, one, team, self._telling(ctx) if team.is_first else ctx, cores)
        except LoopworksError as error:
            return error

    def _telling(self, ctx: Context) -> Context:
        tell = self._events.append
        return replace(
            ctx,
            report=lambda *told: tell(Told("tick", told)),
            metric=lambda *told: tell(Told("metric", told)),
            picture=lambda *told: tell(Told("picture", told)),
        )


@dataclass(frozen=True, slots=True)
class Told:
    """Progress, a metric or a picture on its way to the context of the job."""

    name: str
    values: tuple[Any, ...]

    def __call__(self, ctx: Context) -> None:
        """Pass it on."""
        getattr(ctx, self.name)(*self.values)


def _reach(scratch: Path, mark: str) -> None:
    path = scratch / MARK
    if not path.is_file() or path.read_text(encoding="utf-8") != mark:
        hint = "put the workspace on a disk that all nodes have under the same path"
        raise Invalid("workspace", f"reachable at {scratch} from every node of the cluster", "a node without it", hint)


def learn(work: Work, one: Round, team: Team, ctx: Context, cores: int) -> Outcome | None:
    """This process's part of the training; its group is there."""
    plan = replace(work.plan, threads=min(work.plan.threads or cores, cores))
    learner = Learner(work.network, work.objective, plan)
    learner.network.to(memory_format=torch.channels_last)
    progress, state = Progress(fingerprint=work.fingerprint), None
    if team.is_first:
        progress, state = resume(ctx.scratch / CHECKPOINT, work.fingerprint, learner.network)
    progress, state = team.told((progress, state))
    progress.pieces = max(one.pieces, progress.pieces)
    batches = Batches(_unpacked(work.train), plan.batch, work.seed, progress.pieces, team)
    budget = Budget(one.limit_s, one.reserve_s, one.after_s)
    budget.resume(one.spent_s)
    val = None if work.val is None else _unpacked(work.val)
    show = work.show if team.is_first else None
    coach = Coach(plan, progress, state, batches, val, work.judge, budget, ctx, show, team)
    with machine.threads(plan.threads), WholeNorm():
        is_done = progress.is_done or loop.attempt(learner, coach)
    if not is_done:
        return loop.smaller(batches, learner)
    return progress if team.is_first else None
