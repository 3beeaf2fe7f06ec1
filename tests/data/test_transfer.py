"""Versions that go from one workspace to another: folders and buckets, items and tables."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import loopworks as lw
from loopworks.core import mask
from loopworks.core.errors import Conflict, Damaged, Invalid, NotFound
from loopworks.core.values import Shape
from loopworks.data.stage import Dataset, create_dataset, open_dataset
from loopworks.store import datasets, frozen, parts, sending, tables, versions
from loopworks.store.blobs import LocalBlobs
from loopworks.store.home import Home, create_home
from loopworks.workspace import Workspace


@pytest.fixture
def catalog(catalog_url: str) -> str:
    """Everything here runs on SQLite and on PostgreSQL."""
    return catalog_url


@pytest.fixture
def here(home: Home) -> Workspace:
    return Workspace(home)


@pytest.fixture
def there(request: pytest.FixtureRequest, catalog: str, tmp_path: Path) -> Iterator[Workspace]:
    """Another workspace, whose catalog is of the same kind."""
    is_server = catalog.startswith("postgresql")
    settings = {"catalog": request.getfixturevalue("other_database")} if is_server else {}
    with lw.open(tmp_path / "there", **settings) as made:
        yield made


def said(dataset: Dataset) -> dict[str, tuple[object, ...]]:
    return {
        item.id: (item.labels, item.split, item.tags, dict(item.attributes), dict(item.extra), item.name)
        for item in dataset.items(limit=100)
    }


def cats(dataset: Dataset) -> list[str]:
    return [item.id for item in dataset.items(label="cat", split="train", limit=100)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestAVersionOfItems:
    def test_is_the_same_in_the_other_workspace(self, labeled: Dataset, there: Workspace, tmp_path: Path) -> None:
        labeled.split()
        labeled.tag_items(cats(labeled)[:2], "night")
        labeled.describe(cats(labeled)[:1], {"camera": "north"})
        version = labeled.freeze("first batch", author="ann")
        labeled.tag(version.id, "gold")
        report = labeled.push("gold", there, author="ann")
        assert (report.is_new, report.number, report.items, report.tags) == (True, 1, 20, ("gold",))
        assert report.blobs_sent == 23  # 20 images, the pack, the leaves and the manifest
        assert report.blobs_known == 0
        assert report.size_bytes > 0
        assert report.references == 0
        copy = there.dataset("pets")
        found = copy.version("gold")
        assert found.to_json() == version.to_json()
        assert (found.message, found.author, found.created_at) == ("first batch", "ann", version.created_at)
        assert said(copy) == said(labeled)
        assert copy.freeze().id == version.id
        version.export(tmp_path / "a", format="coco")
        found.export(tmp_path / "b", format="coco")
        assert files(tmp_path / "a") == files(tmp_path / "b")
        assert len(files(tmp_path / "a")) > 20
        assert [node.kind for node in there.lineage(version.id)] == ["version", "labels"]

    def test_sends_what_is_missing_alone(self, labeled: Dataset, there: Workspace) -> None:
        first = labeled.freeze()
        labeled.push(first.id, there)
        again = labeled.push(first.id, there)
        assert (again.is_new, again.blobs_sent, again.blobs_known, again.size_bytes) == (False, 0, 23, 0)
        labeled.label({cats(labeled)[0]: ["dog"]}, author="bob")
        second = labeled.freeze()
        report = labeled.push(second.id, there)
        assert (report.number, report.blobs_sent) == (2, 3)  # a pack of the leaf, leaves and manifest
        assert report.blobs_known < 8  # the images of that leaf: of the others nobody asks
        copy = there.dataset("pets")
        assert [version.id for version in copy.versions()] == [first.id, second.id]
        diff = copy.version(first.id).diff(copy.version(second.id))
        assert diff.to_json() == first.diff(second).to_json()
        assert len(diff.changed) == 1

    def test_leaves_the_live_set_of_a_dataset_that_is_there(
        self, labeled: Dataset, there: Workspace, pictures: Callable[..., Path], tmp_path: Path
    ) -> None:
        labeled.push(labeled.freeze().id, there)
        copy = there.dataset("pets")
        before = said(copy)
        labeled.add(pictures(tmp_path / "more", {"cat": 2, "cow": 2}, size=9, seed=5), author="ann")
        labeled.label({cats(labeled)[0]: ["dog"]}, author="bob")
        second = labeled.freeze()
        labeled.push(second.id, there)
        assert said(copy) == before
        assert copy.counts()["items"] == 20
        copy.restore(second.id)
        assert copy.counts() == labeled.counts()
        assert said(copy) == said(labeled)
        assert copy.freeze().id == second.id

    @pytest.mark.postgres
    def test_goes_to_a_catalog_on_postgresql(self, labeled: Dataset, other_database: str, tmp_path: Path) -> None:
        with create_home(tmp_path / "server", {"catalog": other_database}):
            pass
        first = labeled.freeze("one")
        labeled.push(first.id, tmp_path / "server")
        labeled.label({cats(labeled)[0]: ["dog"]}, author="bob")
        second = labeled.freeze("two")
        report = labeled.push(second.id, tmp_path / "server")
        assert (report.blobs_sent, report.number) == (3, 2)
        with lw.open(tmp_path / "server", create=False) as server:
            copy = server.dataset("pets")
            assert copy.freeze().id == first.id
            copy.restore(second.id)
            assert said(copy) == said(labeled)
            assert copy.freeze().id == second.id

    def test_is_pulled_by_folder(self, labeled: Dataset, home: Home, there: Workspace) -> None:
        version = labeled.freeze("one")
        steps: list[tuple[int, int, int]] = []
        report = there.pull("pets", version.id[:12], home.folder, name="cats", progress=lambda *at: steps.append(at))
        assert report.dataset == "cats"
        assert there.dataset("cats").version(version.id).message == "one"
        assert steps[0] == (0, 23, 0)
        assert steps[-1] == (23, 23, report.size_bytes)

    def test_of_an_older_number_stands_before_newer_ones(self, labeled: Dataset, there: Workspace) -> None:
        first = labeled.freeze()
        labeled.label({cats(labeled)[0]: ["dog"]}, author="bob")
        second = labeled.freeze()
        for version in (second, first):
            labeled.push(version.id, there)
        assert [version.id for version in there.dataset("pets").versions()] == [first.id, second.id]

    def test_keeps_a_tag_that_means_another_version_there(self, labeled: Dataset, there: Workspace) -> None:
        first = labeled.freeze()
        labeled.tag(first.id, "gold")
        labeled.push(first.id, there)
        labeled.label({cats(labeled)[0]: ["dog"]}, author="bob")
        second = labeled.freeze()
        labeled.tag(second.id, "gold")
        report = labeled.push(second.id, there)
        assert (report.tags, report.tags_kept) == ((), {"gold": first.id})
        assert there.dataset("pets").tags() == {"gold": first.id}

    def test_of_a_colleague_is_merged(self, labeled: Dataset, here: Workspace, there: Workspace) -> None:
        labeled.push(labeled.freeze().id, there)
        copy = there.dataset("pets")
        theirs, ours = cats(labeled)[:2]
        copy.label({theirs: ["dog"]}, author="bob")
        labeled.label({ours: ["dog"]}, author="ann")
        here.pull("pets", copy.freeze().id, there, name="bobs")
        report = labeled.merge("bobs")
        assert (report.added, report.changed, report.conflicts) == (0, 1, ())
        assert [labeled.item(item).labels[0].label for item in (theirs, ours)] == ["dog", "dog"]

    def test_with_shapes_and_large_masks_is_whole(
        self, home: Home, there: Workspace, image_file: Callable[..., bytes], tmp_path: Path
    ) -> None:
        dataset = create_dataset(home, "street", "semantic-segmentation", classes=("road", "car"))
        (tmp_path / "one.png").write_bytes(image_file("PNG", size=(400, 300)))
        dataset.add(tmp_path / "one.png", labels="none")
        item = dataset.items()[0]
        noise = np.random.default_rng(0).random((300, 400)) < 0.5
        shape = Shape(
            label="road",
            source="person",
            author="ann",
            kind="mask",
            points=((0.0, 0.0),),
            mask=mask.encode(noise),
        )
        dataset.label({item.id: [shape]}, author="ann")
        version = dataset.freeze()
        report = dataset.push(version.id, there)
        assert report.blobs_sent == 5  # image, pack, leaves, manifest, and the mask by itself
        assert there.dataset("street").version(version.id).rows()[0].shapes == version.rows()[0].shapes
        assert there.dataset("street").freeze().id == version.id

    def test_of_items_by_reference_is_told_and_not_copied(
        self, dataset: Dataset, there: Workspace, pictures: Callable[..., Path], tmp_path: Path
    ) -> None:
        dataset.add(pictures(tmp_path / "pictures", {"cat": 4, "dog": 4}, size=8), by="reference")
        version = dataset.freeze()
        report = dataset.push(version.id, there)
        assert (report.references, report.blobs_sent) == (8, 3)
        row = there.dataset("pets").version(version.id).rows()[0]
        assert row.uri.startswith("file://")
        assert row.read() == version.rows()[0].read()

    def test_takes_what_only_a_format_knows(self, home: Home, there: Workspace, tmp_path: Path) -> None:
        dataset = create_dataset(home, "notes", "text-classification", classes=("a", "b"))
        (tmp_path / "notes.csv").write_text("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", encoding="utf-8")
        dataset.add(tmp_path / "notes.csv")
        with home.catalog.begin() as tx:
            datasets.set_meta(tx, dataset.id, {"coco": {"info": {"year": 2026}}})
        version = dataset.freeze()
        dataset.push(version.id, there)
        copy = there.dataset("notes")
        with there.home.catalog.read() as tx:
            assert datasets.meta(tx, copy.id) == {"coco": {"info": {"year": 2026}}}
        assert sorted(row.text for row in copy.version(version.id).rows()) == ["four", "one", "three", "two"]
        assert copy.freeze().id == version.id

    def test_of_the_first_release_goes_over_too(self, labeled: Dataset, home: Home, there: Workspace) -> None:
        version = first_format(home, labeled)
        report = labeled.push(version, there)
        assert (report.items, report.blobs_sent) == (20, 20 + 2)  # images, the one part, the manifest
        copy = there.dataset("pets")
        found = {row.item_id: row.shapes[0].label for row in copy.version(version).rows()}
        assert found == {item.id: item.labels[0].label for item in labeled.items(limit=100)}
        assert copy.counts()["labeled"] == 20
        with home.catalog.begin() as tx:
            tx.execute(tables.part.delete())
        with pytest.raises(Damaged, match="part"):
            labeled.push(version, there, name="again")


def first_format(home: Home, dataset: Dataset) -> str:
    """Freeze a version as the first release wrote it, in one part, and give its id."""
    like = dataset.freeze()
    rows = like.rows()
    plain = ("item_id", "name", "uri", "mime", "width", "height", "split")
    columns: dict[str, list[object]] = {name: [getattr(row, name) for row in rows] for name in plain}
    columns["blob"] = [row.item_id for row in rows]
    columns["labels"] = [[{"label": s.label, "source": s.source, "author": s.author} for s in r.shapes] for r in rows]
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    part = frozen.Part(prefix="", digest="1" * 64, rows=len(rows))
    made = replace(parts.read_manifest(home.blobs, like.id), format=1, digits=1, leaves="", parts=(part,))
    home.blobs.put_bytes(made.to_bytes())
    with home.catalog.begin() as tx:
        blob = home.blobs.put_bytes(out.getvalue())
        tx.execute(tables.part.insert().values(digest=part.digest, blob=blob, rows=part.rows))
        versions.add(tx, dataset.id, made.id, task="image-classification", message="", author="", count=len(rows))
    return made.id


class TestFaults:
    def test_a_transfer_that_was_cut_off_goes_on(
        self, labeled: Dataset, there: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = labeled.freeze()
        monkeypatch.setattr(sending, "BATCH", 5)
        seen: list[int] = []

        def stop(done: int, total: int, size: int) -> None:
            seen.append(done)
            if done >= 10:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            labeled.push(version.id, there, progress=stop)
        assert seen == [0, 5, 10]
        assert there.datasets() == []
        report = labeled.push(version.id, there)
        assert (report.blobs_known, report.blobs_sent, report.is_new) == (10, 13, True)

    @pytest.mark.parametrize("is_large", [False, True])
    def test_a_damaged_blob_is_not_sent(
        self, labeled: Dataset, home: Home, there: Workspace, is_large: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = labeled.freeze()
        if is_large:
            monkeypatch.setattr(sending, "LARGE", 10)
        blobs, victim = home.blobs, version.rows()[3].item_id
        assert isinstance(blobs, LocalBlobs)
        path = blobs.path(victim)
        whole = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(whole[:-1] + b"?")
        with pytest.raises(Damaged, match=victim):
            labeled.push(version.id, there)
        path.unlink()
        with pytest.raises(Damaged, match=victim):
            labeled.push(version.id, there)
        assert there.datasets() == []
        assert not there.home.blobs.has(victim)
        path.write_bytes(whole)
        assert labeled.push(version.id, there).is_new
        there.home.blobs.verify(victim)

    def test_an_earlier_version_that_is_damaged_does_no_harm(
        self, labeled: Dataset, home: Home, there: Workspace
    ) -> None:
        first = labeled.freeze()
        labeled.push(first.id, there)
        labeled.label({cats(labeled)[0]: ["dog"]}, author="bob")
        second = labeled.freeze()
        home.blobs.delete(first.id)
        report = labeled.push(second.id, there)
        assert (report.blobs_sent, report.blobs_known) == (3, 21)  # all images were asked for, and the old pack
        copy = there.dataset("pets")
        copy.restore(second.id)
        assert copy.freeze().id == second.id

    def test_what_was_erased_there_does_not_come_back(self, labeled: Dataset, there: Workspace) -> None:
        version = labeled.freeze()
        labeled.push(version.id, there)
        victim = cats(labeled)[0]
        there.dataset("pets").erase([victim], reason="asked for it")
        with pytest.raises(Conflict, match="erased"):
            labeled.push(version.id, there)
        assert not there.home.blobs.has(victim)
        labeled.erase([victim], reason="asked for it")
        clean = labeled.freeze()
        assert labeled.push(clean.id, there).items == 19

    def test_wrong_places_and_names_are_told(
        self, labeled: Dataset, home: Home, there: Workspace, tmp_path: Path
    ) -> None:
        version = labeled.freeze()
        with pytest.raises(Invalid, match="another one than this"):
            labeled.push(version.id, home.folder)
        with pytest.raises(NotFound, match="workspace"):
            labeled.push(version.id, tmp_path / "nothing")
        with pytest.raises(NotFound):
            there.pull("pets", "0" * 64, home.folder)
        with pytest.raises(NotFound):
            there.pull("birds", version.id, home.folder)
        with pytest.raises(Invalid, match="dataset name"):
            labeled.push(version.id, there, name="a b")
        there.dataset("pets", "object-detection")
        with pytest.raises(Conflict, match="must be of task image-classification; got object-detection"):
            labeled.push(version.id, there)
        assert list(there.home.blobs.keys()) == []

    def test_the_environment_means_this_workspace_and_not_the_other(
        self, labeled: Dataset, home: Home, there: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = labeled.freeze()
        monkeypatch.setenv("LOOPWORKS_CATALOG", f"sqlite:///{home.folder / 'catalog.db'}")
        monkeypatch.setenv("LOOPWORKS_BLOBS", "s3://no-such-bucket/x")
        labeled.push(version.id, there.folder)
        monkeypatch.undo()
        assert [one.id for one in there.dataset("pets").versions()] == [version.id]
        assert there.home.blobs.has(version.id)


@pytest.mark.usefixtures("s3_environment")
class TestABucket:
    def test_takes_and_gives_versions(self, labeled: Dataset, there: Workspace, bucket: str, tmp_path: Path) -> None:
        with create_home(tmp_path / "cloud", {"blobs": f"s3://{bucket}/team"}):
            pass
        version = labeled.freeze("to the cloud")
        report = labeled.push(version.id, tmp_path / "cloud")
        assert (report.blobs_sent, report.blobs_known) == (23, 0)
        again = labeled.push(version.id, tmp_path / "cloud")
        assert (again.blobs_sent, again.blobs_known) == (0, 23)
        back = there.pull("pets", version.id, tmp_path / "cloud")
        assert (back.blobs_sent, back.is_new) == (23, True)
        assert said(there.dataset("pets")) == said(labeled)
        assert there.dataset("pets").freeze().id == version.id
        for row in there.dataset("pets").version(version.id).rows():
            there.home.blobs.verify(row.item_id)

    def test_is_listed_where_many_keys_are_asked_for(
        self, labeled: Dataset, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sending, "_LISTED", 3)
        version = labeled.freeze()
        with create_home(tmp_path / "cloud", {"blobs": f"s3://{bucket}/team"}) as cloud:
            assert labeled.push(version.id, Workspace(cloud)).blobs_known == 0
            assert labeled.push(version.id, Workspace(cloud)).blobs_known == 23
            assert open_dataset(cloud, "pets").counts()["items"] == 20


class TestATable:
    def test_is_the_same_in_the_other_workspace(self, home: Home, there: Workspace, tmp_path: Path) -> None:
        dataset = create_dataset(home, "beans", "tabular-classification")
        rows = [f"{n},{n * 1.5},{'big' if n > 20 else 'small'}" for n in range(40)]
        (tmp_path / "beans.csv").write_text("id,size,kind\n" + "\n".join(rows) + "\n", encoding="utf-8")
        dataset.add(tmp_path / "beans.csv")
        dataset.table.choose(target="kind", id="id")
        first = dataset.freeze("first")
        dataset.table.delete(["7"])
        second = dataset.freeze("second")
        for version in (first, second):
            report = dataset.push(version.id, there)
            assert (report.is_new, report.items) == (True, version.counts["items"])
        copy = there.dataset("beans")
        assert copy.is_table
        assert [version.id for version in copy.versions()] == [first.id, second.id]
        assert copy.table.diff(first.id, second.id).removed_ids == ("7",)
        assert copy.version(first.id).to_json() == first.to_json()
        assert copy.counts()["items"] == 40  # it began as the first
        assert copy.freeze().id == first.id
        assert dataset.push(second.id, there).blobs_sent == 0
