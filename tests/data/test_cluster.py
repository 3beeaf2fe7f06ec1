"""The data stage on a Ray cluster of two nodes: the same results as here, also when a node dies in the middle."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from loopworks.core.errors import Failed, Invalid
from loopworks.core.settings import Settings
from loopworks.data import intake
from loopworks.data.clean import near
from loopworks.data.features import compute
from loopworks.data.features.images import Look, Near
from loopworks.data.stage import Dataset, create_dataset
from loopworks.infer.batch import score
from loopworks.jobs import spread
from loopworks.store.home import Home, create_home
from loopworks.testing.context import context

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STORE = 100 * 1024 * 1024  # bytes of each node's object store
Pictures = Callable[..., Path]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and one more node; each runs one task at a time."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    made: Any = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1, object_store_memory=STORE)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def homes(cluster: Any, tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    """A workspace that works here, and one that works on the cluster."""
    far = {"runner": "ray", "ray_address": cluster.address}
    with create_home(tmp_path / "here") as here, create_home(tmp_path / "far", far) as there:
        yield here, there


def rows(dataset: Dataset) -> list[tuple[Any, ...]]:
    return [
        (item.id, item.name, item.width, item.height, item.mime, item.size_bytes, [s.label for s in item.labels])
        for item in dataset.items(limit=10_000)
    ]


def where(batch: list[int]) -> list[tuple[int, str]]:
    import ray

    return [(one, ray.get_runtime_context().get_node_id()) for one in batch]


def refuse(batch: list[int]) -> list[int]:
    raise Invalid("item", "another", batch[0])


def fail(batch: list[int]) -> list[int]:
    raise ZeroDivisionError("a fault in the function")


def test_results_come_in_order_from_both_nodes_and_errors_are_ours(cluster: Any) -> None:
    far = Settings(runner="ray", ray_address=cluster.address)
    found = list(spread.spread(where, range(400), far, batch=10))
    assert [one for one, _ in found] == list(range(400))
    assert len({node for _, node in found}) == 2
    with pytest.raises(Invalid, match="item must be another"):
        list(spread.spread(refuse, range(10), far))
    with pytest.raises(Failed, match="a fault in the function"):
        list(spread.spread(fail, range(10), far))


@pytest.mark.parametrize("by", ["copy", "reference"])
def test_an_import_gives_the_same_rows(by: Any, homes: tuple[Home, Home], pictures: Pictures, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets", {"cat": 60, "dog": 50}, size=8)
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    reports, sets = [], []
    for home in homes:
        dataset = create_dataset(home, "pets", "image-classification")
        reports.append(dataset.add(folder, by=by).to_json())
        sets.append(dataset)
    assert reports[0] == reports[1]
    assert (reports[1]["added"], len(reports[1]["problems"])) == (110, 1)
    assert rows(sets[0]) == rows(sets[1])
    for item in sets[1].items(limit=200):
        sets[1].verify(item)
        assert bool(item.uri) == (by == "reference")
    assert sets[1].add(folder, by=by).added == 0


def test_descriptions_and_near_duplicates_are_the_same(
    homes: tuple[Home, Home], pictures: Pictures, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "pets", {"cat": 40, "dog": 40}, size=40)
    found = []
    for home in homes:
        dataset = create_dataset(home, "pets", "image-classification")
        dataset.add(folder)
        items = dataset.items(limit=200)
        found.append([compute.rows(home, descriptor, items) for descriptor in (Look(), Near())])
    for here, there in zip(*found, strict=True):
        assert here.ids == there.ids
        assert np.array_equal(here.values, there.values)
        assert there.problems == {}
    pairs = [near.find(np.asarray(both[1].values)) for both in found]
    for name in ("first", "second"):
        if hasattr(pairs[0], name):
            assert np.array_equal(getattr(pairs[0], name), getattr(pairs[1], name))
    assert repr(pairs[0]) == repr(pairs[1])


def test_a_batch_of_a_model_is_answered_alike(
    homes: tuple[Home, Home], pictures: Pictures, tmp_path: Path, colors: Any
) -> None:
    folder = pictures(tmp_path / "pets", {"cat": 40, "dog": 40, "eel": 40}, size=8)
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    bundle = colors.write(tmp_path / "bundle")
    tables = []
    for place, home in enumerate(homes):
        create_dataset(home, "pets", "image-classification").add(folder)
        for kind, source in (("folder", str(folder)), ("set", "pets")):
            scratch, out = tmp_path / f"{place}-{kind}", tmp_path / f"{place}-{kind}.parquet"
            done = score.score(home, bundle, "", "colors/1", source, out, context(scratch))
            assert (done["items"], done["unread"]) == ((121, 1) if kind == "folder" else (120, 0))
            tables.append(pq.read_table(out).drop_columns(["score", "answer"]))
    assert tables[0].equals(tables[2])
    assert tables[1].equals(tables[3])


def test_a_node_that_dies_in_the_middle_of_an_import_loses_nothing(
    cluster: Any, homes: tuple[Home, Home], pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "WINDOW", 200)
    folder = pictures(tmp_path / "pets", {"cat": 400, "dog": 400}, size=4)
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            cluster.remove_node(node, allow_graceful=False)
            killed.append(done)

    dataset = create_dataset(homes[1], "pets", "image-classification")
    report = dataset.add(folder, progress=kill)
    assert killed == [200]
    assert (report.added, report.problems) == (800, ())
    assert len(rows(dataset)) == 800
    for item in dataset.items(limit=1000):
        dataset.verify(item)
