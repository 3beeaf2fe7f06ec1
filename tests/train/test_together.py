"""One network trained by processes on two nodes of a Ray cluster: as one process would, killed, stopped, refused."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.source import squares
from torch import Tensor, distributed
from torch.nn import functional

from loopworks.core.contracts import Arrays, Context
from loopworks.core.errors import Cancelled, Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.train import stage, together
from loopworks.train.augment import Augment, Change
from loopworks.train.batches import Batches, Split
from loopworks.train.budget import Budget
from loopworks.train.checkpoint import CHECKPOINT, Progress
from loopworks.train.contracts import Workers
from loopworks.train.loop import Learner, Plan
from loopworks.train.nets import CompactCnn
from loopworks.train.objectives import Classes
from loopworks.train.team import Team, whole_norm
from loopworks.train.together import cores_each, fit

pytestmark = pytest.mark.train


def ray(test: Callable[..., None]) -> Callable[..., None]:
    """A test on a cluster."""
    for mark in (pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")):
        test = mark(test)
    return test


Process = multiprocessing.get_context("fork").Process
STORE = 100 * 1024 * 1024
EPOCHS = 4


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head and one more node, each of one core; Ray's processes wait for others no longer than we do."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        made: Any = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1, object_store_memory=STORE)
        made.wait_for_nodes()
    yield made.address
    ray.shutdown()
    made.shutdown()


class Watched(Classes):
    """Says in ``folder`` on which node it learns; before its third epoch ``victim`` dies, once, or all at ``ends``."""

    def __init__(self, folder: Path, victim: str = "", ends: int = 0) -> None:
        change = Change(shift=0.1, scale=0.1, rotate_deg=10, light=0.1, flip="horizontal")
        ones = torch.full((3,), 127.0)
        super().__init__(Augment(change, ones, ones, torch.device("cpu")), is_multi=False, smoothing=0.0)
        self.folder, self.victim, self.ends, self.epochs = folder, victim, ends, 0

    def seed(self, seed: int) -> None:
        super().seed(seed)
        self.epochs += 1
        if self.ends and self.epochs == self.ends:
            os._exit(3)
        if not self.victim or not distributed.is_initialized():
            return
        import ray

        rank = str(distributed.get_rank())
        (self.folder / f"node-{rank}").write_text(ray.get_runtime_context().get_node_id(), encoding="utf-8")
        killed = self.folder / "killed"
        if rank == self.victim and self.epochs == 3 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    targets = np.eye(2, dtype=np.float32)[np.arange(count) % 2]
    images[targets[:, 1] == 1, 3:9, 3:9] //= 4
    return Split.of(images, targets)


VAL = split(11, 9)


def judge(truth: Any, answers: Arrays) -> float:
    return float((answers["scores"].argmax(axis=1) == truth).mean())


JUDGE = partial(judge, VAL.targets.numpy().argmax(axis=1))
PLAN = Plan(epochs=EPOCHS, batch=8, rate=5e-3, weight_decay=0.05, patience=99, threads=1, checkpoint_every_s=0.0)


def net() -> CompactCnn:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CompactCnn(2, [4, 8], 1, 1, 0.0)


def train(folder: Path, workers: Workers | None, told: list[tuple[str, int, float]], **more: Any) -> Any:
    folder.mkdir(exist_ok=True)
    network = net()
    ctx = Context(
        seed=0,
        scratch=folder,
        report=lambda share, text: None,
        stopped=more.pop("stopped", lambda: False),
        metric=lambda name, step, value: told.append((name, step, value)),
    )
    learner = Learner(network, Watched(folder, **more), PLAN)
    progress = fit(
        learner,
        split(21, 0),
        VAL,
        JUDGE,
        fingerprint="f",
        budget=Budget(None),
        ctx=ctx,
        workers=workers,
    )
    return network.state_dict(), progress


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process learns, and what it tells."""
    told: list[tuple[str, int, float]] = []
    return (*train(tmp_path_factory.mktemp("alone"), None, told), told)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4, msg=name)


def forked(folder: Path, stop_at: int = 0) -> dict[str, Tensor]:
    """What two processes learn without Ray, forks of this one; both end before epoch ``stop_at``, where it is not 0."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [Process(target=half, args=(folder, rank, port, stop_at)) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(60)
    assert {one.exitcode for one in ranks} == {3 if stop_at else 0}
    found: dict[str, Tensor] = {} if stop_at else torch.load(folder / "best", weights_only=True)
    return found


def half(folder: Path, rank: int, port: int, stop_at: int) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network = net()
    work = together.Work(
        network=network,
        objective=Watched(folder, ends=stop_at),
        plan=PLAN,
        train=together.packed(split(21, 0)),
        val=together.packed(VAL),
        judge=JUDGE,
        show=None,
        fingerprint="f",
        seed=0,
        scratch=str(folder),
        mark="",
    )
    ctx = Context(seed=0, scratch=folder, report=lambda share, text: None, stopped=lambda: False)
    found = together.learn(work, together.Round(1, None, 0.0, 0.0, 0.0), Team(rank, 2), ctx, 1)
    if rank == 0:
        assert isinstance(found, Progress)
        torch.save(found.best, folder / "best")


def test_two_processes_learn_what_one_learns(alone: Any, tmp_path: Path) -> None:
    same(forked(tmp_path), alone[0])


def test_two_processes_that_were_killed_end_with_the_same_weights(alone: Any, tmp_path: Path) -> None:
    forked(tmp_path, stop_at=3)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["progress"]["epoch"] == 2
    same(forked(tmp_path), alone[0])


@ray
def test_a_worker_that_is_killed_costs_no_result(address: str, alone: Any, tmp_path: Path) -> None:
    told: list[tuple[str, int, float]] = []
    weights, progress = train(tmp_path, Workers(2, address), told, victim="1")
    assert (tmp_path / "killed").exists()
    assert len({(tmp_path / f"node-{rank}").read_text() for rank in range(2)}) == 2
    assert progress.epoch == EPOCHS
    assert [name for name, _, _ in told] == ["train_loss", "val_loss", "val_headline"] * EPOCHS
    assert [one[2] for one in told] == pytest.approx([one[2] for one in alone[2]], abs=1e-3)
    same(weights, alone[0])


@ray
def test_a_training_that_was_stopped_goes_on_with_workers_from_lesson_to_bundle(address: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def run(stop: Callable[[], bool], workers: Workers | None) -> Any:
        ctx = Context(
            seed=0,
            scratch=tmp_path / "scratch",
            report=lambda share, text: None,
            stopped=stop,
            metric=lambda name, step, value: seen.append(step),
        )
        params = {"epochs": 150, "width": 4, "patience": 300}
        return stage.train(
            squares(train=21, val=8, test=8),
            recipe="small-cnn",
            params=params,
            workers=workers,
            folder=tmp_path / "bundle",
            ctx=ctx,
        )

    with pytest.raises(Cancelled):
        run((tmp_path / "scratch" / CHECKPOINT).exists, None)
    with pytest.raises(Cancelled):
        run((tmp_path / "scratch" / together.MARK).exists, Workers(2, address))
    kept = torch.load(tmp_path / "scratch" / CHECKPOINT, weights_only=True)["progress"]["epoch"]
    seen.clear()
    bundle = run(lambda: False, Workers(2, address))
    assert min(seen) == kept + 1, "epochs that were done are not done again"
    assert any("2 workers" in note for note in bundle.notes)
    assert bundle.metrics["test"]["accuracy"].value >= 0.5


@ray
def test_more_workers_than_the_cluster_has_room_for_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="workers must be at most 2"):
        train(tmp_path, Workers(3, address), [])


def test_tables_are_trained_by_one_process_and_the_model_says_so() -> None:
    assert "one process" in stage.shared(plugins.get("train.linear"), 2)
    assert "2 workers" in stage.shared(plugins.get("train.ngrams"), 2)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(Missing) as caught:
        train(tmp_path, Workers(2), [])
    assert "loopworks[ray]" in caught.value.hint


def test_more_workers_than_items_of_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="workers must be at most 7"):
        train(tmp_path, Workers(8), [])


def test_workers_take_the_cores_that_leave_room_for_all() -> None:
    nodes: list[Any] = [{"CPU": 8.0}, {"CPU": 4.0}, {}]
    assert [cores_each(nodes, Workers(count)) for count in (1, 2, 3, 4, 12)] == [8, 4, 4, 2, 1]
    assert cores_each(nodes, Workers(3, threads=3)) == 3
    with pytest.raises(Invalid, match="workers must be at most 3"):
        cores_each(nodes, Workers(4, threads=3))


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_shares_of_a_team_are_the_batches_of_one_process(pieces: int) -> None:
    data = split(31, 0)
    whole = list(Batches(data, 8, 5))
    teams = [Batches(data, 8, 5, pieces, Team(rank, 3)) for rank in range(3)]
    shares = [list(one) for one in teams]
    for at, (images, _) in enumerate(whole):
        parts = [share[at * pieces + piece][0] for share in shares for piece in range(pieces)]
        assert torch.equal(torch.cat(parts), images)
        places = [one.place(at * pieces + piece) for one in teams for piece in range(pieces)]
        assert [first for first, _, _ in places] == np.cumsum([0] + [count for _, count, _ in places])[:-1].tolist()
        assert {total for _, _, total in places} == {len(images)}


def test_a_part_of_a_batch_is_changed_as_it_would_be_in_the_batch() -> None:
    def augment() -> Augment:
        ones = torch.full((3,), 127.0)
        made = Augment(Change(shift=0.2, rotate_deg=20, light=0.3, flip="both"), ones, ones, torch.device("cpu"))
        made.seed(3)
        return made

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    part = augment()
    part.share(3, 5)
    torch.testing.assert_close(part(images[3:]), augment()(images)[3:])


@pytest.fixture
def group() -> Iterator[None]:
    """A team of this process alone, which torch takes for one."""
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 5)])
def test_batch_norm_of_a_team_is_that_of_torch(group: None, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 50
    found: list[list[Tensor]] = []
    for norm in (functional.batch_norm, whole_norm):
        given = x.clone().requires_grad_()
        mean, var = torch.full((3,), 40.0), torch.ones(3)
        weight, bias = torch.rand(3, generator=torch.Generator().manual_seed(1)).requires_grad_(), torch.ones(3)
        out = norm(given, mean, var, weight, bias, training=True, momentum=0.3)
        (out * torch.arange(out.numel()).view(shape)).sum().backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None
        assert weight.grad is not None
        found.append([out.detach(), mean, var, given.grad, weight.grad])
    for expected, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-2)
