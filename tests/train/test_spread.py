"""Trials of a search side by side on a Ray cluster of two nodes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train import means
from tests.train.marked import marked

import loopworks as lw
from loopworks import steps
from loopworks.core.errors import NoSpace
from loopworks.core.settings import Settings
from loopworks.store.runs import Runs, place
from loopworks.testing import context
from loopworks.train import search
from loopworks.train.sealed import seal
from loopworks.train.spread import on_cluster
from loopworks.train.trial import Order, Trial, attempt

pytestmark = [pytest.mark.ray, pytest.mark.train, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STORE = 100 * 1024 * 1024


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and one more node; each runs one trial at a time, and waits for others no longer than we do."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        made: Any = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1, object_store_memory=STORE)
        made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def work(order: Order, folder: Path) -> Trial:
    """A trial on a node; says in ``node`` where it ran."""
    import ray

    means.load()
    done = attempt(order, seal(marked()), folder, context(folder))
    time.sleep(1.0)  # so that the second node is asked too
    (folder / "files" / "node").write_text(f"{ray.get_runtime_context().get_node_id()} {os.getpid()}", encoding="utf-8")
    return done


def full(order: Order, folder: Path) -> Trial:
    raise NoSpace("checkpoint must be written; the disk is full", "free some space")


def test_trials_run_on_both_nodes_and_the_best_is_the_same_as_here(cluster: Any, tmp_path: Path) -> None:
    means.load()
    runner, lanes = on_cluster(Settings(runner="ray", ray_address=cluster.address), work)
    assert runner is not None
    assert lanes == 2
    nodes: set[str] = set()
    scratch = tmp_path / "scratch" / "search"

    def told(trial: Trial) -> None:
        nodes.update(path.read_text(encoding="utf-8").split()[0] for path in scratch.glob("trial-*/files/node"))

    bundle = search.search(
        marked(),
        trials=6,
        names=["means"],
        folder=tmp_path / "bundle",
        ctx=context(tmp_path / "scratch", seed=1),
        on_trial=told,
        cluster=runner,
        lanes=lanes,
    )
    board = search.board(bundle)
    assert [one["state"] for one in board["trials"]] == ["done"] * 6
    assert bundle.metrics["val"]["accuracy"].value == board["trials"][0]["value"]
    best = board["trials"][0]
    order = Order(number=99, recipe="train.means", params=best["params"], budget_s=None, seed=1)
    here = attempt(order, seal(marked()), tmp_path / "here", context(tmp_path / "here"))
    assert here.value == best["value"]
    assert nodes


def test_an_error_of_ours_comes_back_as_it_was(cluster: Any, tmp_path: Path) -> None:
    runner, _ = on_cluster(Settings(runner="ray", ray_address=cluster.address), full)
    assert runner is not None
    order = Order(number=0, recipe="train.means", params={}, budget_s=None, seed=0)
    with pytest.raises(NoSpace, match="the disk is full"):
        list(runner([order], lambda: None))


@pytest.fixture
def rows(tmp_path: Path) -> tuple[lw.Workspace, str]:
    """A workspace of one small table, and the id of its frozen version."""
    space = lw.open(tmp_path / "space")
    table = space.dataset("parts", task="tabular-classification").table
    rng = np.random.default_rng(0)
    cells = [(f"{x:.3f}", f"{y:.3f}", "yes" if x > y else "no") for x, y in rng.normal(size=(120, 2))]
    (tmp_path / "parts.csv").write_text("\n".join(["x,y,good", *map(",".join, cells)]), encoding="utf-8")
    table.add(tmp_path / "parts.csv")
    table.choose(target="good")
    table.split(test=0.2, val=0.2, seed=0)
    return space, table.freeze("first").id


def test_a_search_runs_its_trials_on_the_cluster_as_a_job(
    cluster: Any, rows: tuple[lw.Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, version = rows
    monkeypatch.setenv("LOOPWORKS_RUNNER", "ray")
    monkeypatch.setenv("LOOPWORKS_RAY_ADDRESS", cluster.address)
    with space:
        model = space.search(version, trials=3, recipes=["linear"], name="parts")
        board = space.board(model)
        assert [one["state"] for one in board["trials"]] == ["done"] * 3
        assert space.bundle(model).metrics["val"]["accuracy"].value > 0.8
        job = space.jobs.list()[0]
        assert job.status == "done"
        runs = Runs(*place(space.home.runs, ""))
        assert runs.tags(model.run)["loopworks.job"] == job.id


def test_a_node_opens_the_workspace_with_the_settings_of_the_job(
    rows: tuple[lw.Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, version = rows
    opened: list[Settings] = []

    def noted(*place: Any, **settings: Any) -> lw.Workspace:
        made = lw.open(*place, **settings)
        opened.append(made.settings)
        return made

    monkeypatch.setattr(steps, "open", noted)
    told = Settings(runner="ray", ray_address="elsewhere:1", threads=1, max_image_pixels=77)
    node = steps._Elsewhere(str(space.folder), {"version": version, "start": ""}, told)
    space.close()
    order = Order(number=0, recipe="train.linear", params={}, budget_s=None, seed=0, threads=1)
    trial = node(order, tmp_path / "trial")
    assert trial.state == "done"
    assert (opened[0].max_image_pixels, opened[0].runner) == (77, "local")


def test_without_a_cluster_trials_run_here() -> None:
    assert on_cluster(Settings(), work) == (None, 1)
