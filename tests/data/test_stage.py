"""Datasets: importing, labelling, splitting and freezing, with the errors and the history."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from loopworks.core.errors import Conflict, Damaged, Invalid, NoSpace, NotFound
from loopworks.core.values import Shape
from loopworks.data import intake
from loopworks.data import sources as opening
from loopworks.data.stage import Dataset, create_dataset, datasets, open_dataset, open_version
from loopworks.store import blobs as blobs_module
from loopworks.store.home import Home, create_home, open_home
from loopworks.store.lineage import Node, sources

Pictures = Callable[..., Path]
ImageFile = Callable[..., bytes]


def ids(dataset: Dataset, **kind: str) -> list[str]:
    return [item.id for item in dataset.items(limit=1000, **kind)]  # type: ignore[arg-type]


class TestNames:
    def test_a_dataset_is_made_listed_and_opened(self, home: Home, dataset: Dataset) -> None:
        assert [one.name for one in datasets(home)] == ["pets"]
        assert open_dataset(home, "pets").id == dataset.id
        assert dataset.task.name == "image-classification"

    @pytest.mark.parametrize("name", ["", "a b", "../x", "ä", "x" * 65, "a/b", "a\n"])
    def test_other_names_are_refused(self, home: Home, name: str) -> None:
        with pytest.raises(Invalid, match="dataset name must be 1 to 64 letters, digits, - or _"):
            create_dataset(home, name, "image-classification")

    def test_an_unknown_task_names_those_that_exist(self, home: Home) -> None:
        with pytest.raises(NotFound) as caught:
            create_dataset(home, "x", "image-clasification")
        assert "task.image-classification" in caught.value.hint

    def test_a_name_is_taken_once(self, home: Home, dataset: Dataset) -> None:
        with pytest.raises(Conflict):
            create_dataset(home, "pets", "image-classification")

    def test_an_unknown_dataset_names_those_that_exist(self, home: Home, dataset: Dataset) -> None:
        with pytest.raises(NotFound) as caught:
            open_dataset(home, "pest")
        assert caught.value.hint == "known: pets"


class TestAdd:
    def test_folders_become_items_with_labels_and_bytes(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path
    ) -> None:
        folder = pictures(tmp_path / "in", {"cat": 3, "dog": 2}, size=8)
        report = dataset.add(folder, author="ann")
        assert (report.added, report.known, report.labeled, report.classes) == (5, 0, 0, ("cat", "dog"))
        assert report.problems == ()
        item = dataset.items()[0]
        assert (item.name, item.width, item.height, item.mime) == ("cat/000.png", 8, 8, "image/png")
        assert item.labels == (Shape(label="cat", source="import", author="ann"),)
        assert dataset.read(item) == (folder / "cat" / "000.png").read_bytes()
        assert dataset.counts() == {
            "items": 5,
            "labeled": 5,
            "unlabeled": 0,
            "by_split": {"": 5},
            "by_class": {"cat": 3, "dog": 2},
        }

    def test_adding_twice_adds_nothing_and_writes_no_history(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path
    ) -> None:
        folder = pictures(tmp_path / "in", {"cat": 3, "dog": 2}, size=8)
        dataset.add(folder)
        before = [(item, dataset.history(item.id)) for item in dataset.items()]
        report = dataset.add(folder)
        assert (report.added, report.known, report.labeled, report.classes) == (0, 5, 0, ())
        assert [(item, dataset.history(item.id)) for item in dataset.items()] == before

    def test_a_known_image_without_a_label_gets_the_folders(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path
    ) -> None:
        folder = pictures(tmp_path / "in", {"cat": 3, "dog": 2}, size=8)
        assert dataset.add(folder, labels="none").added == 5
        assert dataset.counts()["labeled"] == 0
        report = dataset.add(folder)
        assert (report.added, report.known, report.labeled) == (0, 5, 5)
        assert dataset.counts()["by_class"] == {"cat": 3, "dog": 2}

    def test_split_folders_set_the_split(self, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> None:
        pictures(tmp_path / "in" / "train", {"cat": 2, "dog": 2}, size=8)
        pictures(tmp_path / "in" / "test", {"cat": 1, "dog": 1}, size=8, seed=9)
        dataset.add(tmp_path / "in")
        assert dataset.counts()["by_split"] == {"test": 2, "train": 4}

    def test_a_split_can_be_given(self, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> None:
        dataset.add(pictures(tmp_path / "in", {"cat": 2}, size=8), split="test")
        assert dataset.counts()["by_split"] == {"test": 2}
        with pytest.raises(NotFound, match="split"):
            dataset.add(tmp_path / "in", split="tset")

    def test_good_images_are_kept_and_bad_ones_listed(
        self, dataset: Dataset, tmp_path: Path, image_file: ImageFile, huge_png: bytes
    ) -> None:
        (folder := tmp_path / "in" / "cat").mkdir(parents=True)
        (folder / "good.png").write_bytes(image_file("PNG"))
        (folder / "cut.jpg").write_bytes(image_file("JPEG")[:-300])
        (folder / "text.jpg").write_text("I am text", encoding="utf-8")
        (folder / "empty.png").write_bytes(b"")
        (folder / "huge.png").write_bytes(huge_png)
        (folder / "notes.txt").write_text("x", encoding="utf-8")
        report = dataset.add(tmp_path / "in")
        assert report.added == 1
        problems = {Path(problem.where).name: problem for problem in report.problems}
        assert set(problems) == {"cut.jpg", "text.jpg", "empty.png", "huge.png", "notes.txt"}
        assert {problem.error for problem in problems.values()} == {"invalid"}
        assert "at most 100000000 pixels" in problems["huge.png"].message
        assert "stop before the end" in problems["cut.jpg"].message
        assert "an empty file" in problems["empty.png"].message

    def test_a_file_that_may_not_be_read_is_listed(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = pictures(tmp_path / "in", {"cat": 2}, size=8)
        real = open

        def refuse(path: str, mode: str = "r") -> object:
            if str(path).endswith("001.png"):
                raise PermissionError(13, "Permission denied")
            return real(path, mode)  # noqa: PLW1514

        monkeypatch.setattr(opening, "open", refuse, raising=False)
        report = dataset.add(folder)
        assert report.added == 1
        assert [problem.message for problem in report.problems] == [
            f"{folder / 'cat' / '001.png'} must be readable; got: Permission denied"
        ]

    def test_classes_that_differ_in_case_import_nothing(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path
    ) -> None:
        with pytest.raises(Invalid, match="'Cat' and 'cat'"):
            dataset.add(pictures(tmp_path / "in", {"Cat": 1, "cat": 1}, size=8))
        dataset.add(pictures(tmp_path / "one", {"cat": 1}, size=8))
        with pytest.raises(Invalid, match="'cat' and 'CAT'"):
            dataset.add(pictures(tmp_path / "two", {"CAT": 1, "eel": 1}, size=8, seed=5))
        assert dataset.counts()["items"] == 1
        assert dataset.schema.classes == ("cat",)

    def test_the_same_bytes_in_two_classes_are_a_problem_and_the_first_is_kept(
        self, dataset: Dataset, tmp_path: Path, image_file: ImageFile
    ) -> None:
        for name in ("cat", "dog"):
            (tmp_path / "in" / name).mkdir(parents=True)
            (tmp_path / "in" / name / "x.png").write_bytes(image_file("PNG"))
        report = dataset.add(tmp_path / "in")
        assert (report.added, report.known) == (1, 1)
        assert [problem.error for problem in report.problems] == ["conflict"]
        assert "got 'dog', and the same bytes are 'cat' already" in report.problems[0].message
        assert [shape.label for shape in dataset.items()[0].labels] == ["cat"]

    def test_the_same_bytes_in_two_classes_are_both_where_many_are_allowed(
        self, home: Home, tmp_path: Path, image_file: ImageFile
    ) -> None:
        dataset = create_dataset(home, "tags", "image-classification", is_multi=True)
        for name in ("cat", "dog"):
            (tmp_path / "in" / name).mkdir(parents=True)
            (tmp_path / "in" / name / "x.png").write_bytes(image_file("PNG"))
        assert dataset.add(tmp_path / "in").problems == ()
        assert [shape.label for shape in dataset.items()[0].labels] == ["cat", "dog"]
        assert dataset.add(tmp_path / "in").labeled == 0

    def test_what_a_person_said_is_never_overwritten(self, labeled: Dataset, tmp_path: Path) -> None:
        item = labeled.items(label="cat")[0]
        labeled.label({item.id: ["dog"]}, author="bob")
        report = labeled.add(tmp_path / "labeled")
        assert [problem.error for problem in report.problems] == ["conflict"]
        assert labeled.item(item.id).labels == (Shape(label="dog", source="person", author="bob"),)

    def test_many_chunks_are_all_imported_and_told(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "CHUNK", 3)
        seen: list[tuple[int, int]] = []
        folder = pictures(tmp_path / "in", {"cat": 5, "dog": 5}, size=8)
        before = set(threading.enumerate())
        assert dataset.add(folder, progress=lambda done, all_: seen.append((done, all_))).added == 10
        assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]
        assert [one.name for one in threading.enumerate() if "ThreadPool" in one.name and one not in before] == []

    def test_a_full_disk_keeps_what_was_whole_and_can_be_continued(
        self, home: Home, dataset: Dataset, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "CHUNK", 4)
        folder = pictures(tmp_path / "in", {"cat": 10, "dog": 10}, size=8)
        write, count = blobs_module._write_synced, iter(range(1000))

        def full(path: str, data: bytes) -> None:
            if next(count) >= 10:
                raise OSError(28, "No space left on device")
            write(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(blobs_module, "_write_synced", full)
            with pytest.raises(NoSpace):
                dataset.add(folder)
        kept = dataset.items(limit=100)
        assert len(kept) in (4, 8)
        assert all(dataset.read(item) for item in kept)
        assert list((home.folder / "blobs" / "tmp").iterdir()) == []
        assert dataset.add(folder).added == 20 - len(kept)

    def test_stopping_in_the_progress_call_keeps_whole_chunks(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "CHUNK", 3)

        def stop(done: int, all_: int) -> None:
            raise KeyboardInterrupt

        folder = pictures(tmp_path / "in", {"cat": 5, "dog": 5}, size=8)
        with pytest.raises(KeyboardInterrupt):
            dataset.add(folder, progress=stop)
        assert dataset.counts()["items"] == 3
        assert dataset.add(folder).added == 7

    def test_an_import_that_is_killed_goes_on_where_it_was(
        self, home: Home, dataset: Dataset, pictures: Pictures, tmp_path: Path
    ) -> None:
        folder = pictures(tmp_path / "in", {"cat": 40, "dog": 40}, size=8)
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from loopworks.data import intake\n"
            "from loopworks.data.stage import open_dataset\n"
            "from loopworks.store.home import open_home\n"
            "intake.CHUNK = 8\n"
            "def kill(done, _):\n"
            "    if done >= 32: os.kill(os.getpid(), signal.SIGKILL)\n"
            "open_dataset(open_home(Path(sys.argv[1])), 'pets').add(sys.argv[2], progress=kill)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(home.folder), str(folder)], check=False)
        assert done.returncode == -signal.SIGKILL
        kept = dataset.items(limit=100)
        assert 32 <= len(kept) < 80
        assert all(home.blobs.has(item.blob) for item in kept)
        report = dataset.add(folder)
        assert report.added == 80 - len(kept)
        assert dataset.counts()["by_class"] == {"cat": 40, "dog": 40}

    def test_an_item_by_reference_is_checked_on_every_read(
        self, home: Home, dataset: Dataset, pictures: Pictures, tmp_path: Path
    ) -> None:
        folder = pictures(tmp_path / "in", {"ca t%": 2, "dog": 1}, size=8)
        assert dataset.add(folder, by="reference").added == 3
        assert list(home.blobs.keys()) == []
        one, two, three = dataset.items()
        assert dataset.read(one) == (folder / "ca t%" / "000.png").read_bytes()
        (folder / "ca t%" / "000.png").write_bytes(b"other")
        (folder / "dog" / "000.png").unlink()
        for item, words in ((one, "must have SHA-256"), (three, "must still be there")):
            with pytest.raises(Damaged, match=words):
                dataset.read(item)
        assert dataset.read(two)

    def test_links_share_the_disk_space(self, home: Home, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> None:
        folder = pictures(tmp_path / "in", {"cat": 1, "dog": 1}, size=8)
        dataset.add(folder, by="link")
        item = dataset.items()[0]
        assert os.stat(folder / "cat" / "000.png").st_nlink == 2
        assert dataset.read(item) == (folder / "cat" / "000.png").read_bytes()
        with pytest.raises(Invalid, match="by must be copy, reference or link"):
            dataset.add(folder, by="move")  # type: ignore[arg-type]

    def test_a_blob_that_is_gone_is_damage(self, home: Home, labeled: Dataset) -> None:
        item = labeled.items()[0]
        home.blobs.delete(item.blob)
        with pytest.raises(Damaged, match="must be in the blobs"):
            labeled.read(item)


class TestLabel:
    def test_relabelling_keeps_the_history(self, labeled: Dataset) -> None:
        item = labeled.items(label="cat")[0]
        labeled.label({item.id: ["dog"]}, author="bob")
        assert labeled.item(item.id).labels == (Shape(label="dog", author="bob"),)
        assert [(event.author, event.before, event.after) for event in labeled.history(item.id)] == [
            ("ann", False, True),
            ("ann", None, [{"label": "cat", "source": "import", "author": "ann"}]),
            (
                "bob",
                [{"label": "cat", "source": "import", "author": "ann"}],
                [{"label": "dog", "source": "person", "author": "bob"}],
            ),
        ]

    def test_all_labels_of_a_call_hold_or_none(self, labeled: Dataset) -> None:
        first, second = ids(labeled)[:2]
        for bad, kind in ((["eel"], NotFound), (["cat", "dog"], Invalid), ([], Invalid)):
            with pytest.raises(kind):
                labeled.label({first: ["dog"], second: bad}, author="bob")
        with pytest.raises(NotFound, match="item"):
            labeled.label({first: ["dog"], "0" * 64: ["dog"]}, author="bob")
        assert labeled.item(first).labels[0].label == "cat"

    def test_two_people_at_one_item_do_not_overwrite_each_other(self, labeled: Dataset) -> None:
        item = labeled.items()[0]
        labeled.label({item.id: ["dog"]}, author="bob", rev=item.rev)
        with pytest.raises(Conflict, match=f"must be at revision {item.rev}; got {item.rev + 1}"):
            labeled.label({item.id: ["cat"]}, author="eve", rev={item.id: item.rev})
        assert labeled.item(item.id).labels[0].author == "bob"

    def test_clearing_leaves_the_item_unlabeled(self, labeled: Dataset) -> None:
        item = ids(labeled)[0]
        labeled.clear_labels([item], author="bob")
        assert labeled.counts()["unlabeled"] == 1
        assert [event.kind for event in labeled.history(item)] == ["item.add", "item.label", "item.clear"]
        with pytest.raises(NotFound):
            labeled.clear_labels(["nope"], author="bob")

    def test_no_class_at_all_is_an_answer_where_many_are_allowed(
        self, home: Home, pictures: Pictures, tmp_path: Path
    ) -> None:
        dataset = create_dataset(home, "tags", "image-classification", is_multi=True, classes=["cat", "dog"])
        dataset.add(pictures(tmp_path / "in", {"x": 3}, size=8), labels="none")
        first, second, third = ids(dataset)
        dataset.label({first: ["dog", "cat"], second: []}, author="ann")
        assert dataset.counts()["labeled"] == 2
        version = dataset.freeze()
        assert {row.item_id: [shape.label for shape in row.shapes] for row in version.rows()} == {
            first: ["cat", "dog"],
            second: [],
        }

    def test_classes_are_added_at_the_end_and_once(self, labeled: Dataset) -> None:
        assert labeled.add_classes(["eel", "cat", "eel"]) == ("eel",)
        assert labeled.schema.classes == ("cat", "dog", "eel")
        assert labeled.add_classes(["dog"]) == ()
        with pytest.raises(Invalid, match="'cat' and 'CAT'"):
            labeled.add_classes(["CAT"])

    def test_an_unknown_source_is_refused(self, labeled: Dataset) -> None:
        with pytest.raises(Invalid, match="source must be person, import or model"):
            labeled.label({ids(labeled)[0]: ["cat"]}, author="x", source="ghost")


class TestItems:
    def test_pages_hold_each_item_once(self, labeled: Dataset) -> None:
        seen: list[str] = []
        after = None
        while page := labeled.items(limit=7, after=after):
            seen += [item.id for item in page]
            after = page[-1].id
        assert len(seen) == len(set(seen)) == 20

    def test_filters_that_make_no_sense_are_refused(self, labeled: Dataset) -> None:
        for error, kind in (
            (Invalid, {"state": "done"}),
            (Invalid, {"limit": 0}),
            (NotFound, {"split": "tset"}),
            (NotFound, {"label": "eel"}),
            (NotFound, {"after": "0" * 64}),
        ):
            with pytest.raises(error):
                labeled.items(**kind)

    def test_an_item_is_found_by_the_beginning_of_its_id(self, labeled: Dataset) -> None:
        item = labeled.items()[0]
        assert labeled.item(item.id[:12]) == item
        with pytest.raises(NotFound):
            labeled.item("zz")


class TestSplit:
    def test_labelled_items_are_split_by_class(self, labeled: Dataset) -> None:
        assert labeled.split(test=0.25, val=0.25) == {"train": 10, "val": 5, "test": 5}
        assert labeled.counts()["by_split"] == {"test": 5, "train": 10, "val": 5}

    def test_items_in_a_split_stay_there(self, labeled: Dataset) -> None:
        labeled.split(test=0.25, val=0.25)
        before = {item.id: item.split for item in labeled.items(limit=100)}
        labeled.split(test=0.5, val=0.1, seed=3)
        assert {item.id: item.split for item in labeled.items(limit=100)} == before

    def test_unlabelled_items_get_no_split(self, labeled: Dataset) -> None:
        item = ids(labeled)[0]
        labeled.clear_labels([item], author="bob")
        labeled.split()
        assert labeled.item(item).split == ""

    def test_leaving_the_test_set_takes_force_and_is_written_down(self, labeled: Dataset) -> None:
        item = ids(labeled)[0]
        labeled.assign([item], "test", author="ann")
        with pytest.raises(Conflict, match="items of the test set must stay there; got 1 to move"):
            labeled.assign([item], "train")
        assert labeled.item(item).split == "test"
        labeled.assign([item], "train", author="bob", force=True)
        last = labeled.history(item)[-1]
        assert (last.kind, last.author, last.before, last.after) == ("item.split", "bob", "test", "train")

    def test_an_unknown_split_or_item_is_not_found(self, labeled: Dataset) -> None:
        with pytest.raises(NotFound, match="split"):
            labeled.assign(ids(labeled)[:1], "tset")
        with pytest.raises(NotFound, match="item"):
            labeled.assign(["nope"], "test")


class TestFreeze:
    def test_freezing_splits_first_and_is_found_again(self, home: Home, labeled: Dataset) -> None:
        version = labeled.freeze("first", author="ann")
        assert version.counts["by_split"] == {"test": 4, "train": 14, "val": 2}
        assert [one.id for one in labeled.versions()] == [version.id]
        for found in (labeled.version(version.id[:8]), open_version(home, version.id)):
            assert (found.id, found.number, found.message, found.author) == (version.id, 1, "first", "ann")
            assert found.dataset == "pets"
        with home.catalog.read() as tx:
            assert sources(tx, version.node) == [Node("dataset", "pets")]

    def test_the_same_state_is_the_same_version(self, labeled: Dataset) -> None:
        first = labeled.freeze("first")
        again = labeled.freeze("again")
        assert (again.id, again.message) == (first.id, "first")
        assert len(labeled.versions()) == 1

    def test_two_workspaces_freeze_the_same_images_to_the_same_id(self, tmp_path: Path, pictures: Pictures) -> None:
        folder = pictures(tmp_path / "in", {"cat": 12, "dog": 8}, size=8)
        found = []
        for turn in range(2):
            with create_home(tmp_path / f"w{turn}") as home:
                dataset = create_dataset(home, f"name-{turn}", "image-classification", classes=["cat", "dog"])
                if turn:
                    dataset.add(pictures(tmp_path / "more", {"eel": 1}, size=8, seed=77), labels="none")
                    dataset.add(folder, labels="none")
                    extra = dataset.items(state="unlabeled", limit=100)
                    assert len(extra) == 21
                dataset.add(folder)
                found.append(dataset.freeze(f"turn {turn}", author=str(turn)).id)
        assert found[0] == found[1]

    def test_unlabelled_items_are_left_out(self, labeled: Dataset) -> None:
        labeled.clear_labels(ids(labeled)[:3], author="bob")
        assert labeled.freeze().counts["items"] == 17

    def test_nothing_labelled_is_refused(self, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> None:
        dataset.add(pictures(tmp_path / "in", {"cat": 2}, size=8), labels="none")
        with pytest.raises(Invalid, match="must be labelled to be frozen; got no labelled item of 2"):
            dataset.freeze()

    def test_one_class_only_is_refused(self, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> None:
        dataset.add(pictures(tmp_path / "in", {"cat": 2}, size=8))
        with pytest.raises(Invalid, match="two classes or more; got only cat"):
            dataset.freeze()
        assert dataset.counts()["by_split"] == {"": 2}

    def test_a_class_with_one_image_is_a_warning(self, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> None:
        dataset.add(pictures(tmp_path / "in", {"cat": 20, "dog": 1}, size=8))
        version = dataset.freeze()
        assert [problem.message for problem in version.problems] == [
            "class 'dog' should have two images or more; got 1"
        ]
        assert {row.split for row in version.rows() if row.shapes[0].label == "dog"} == {"train"}

    def test_an_unknown_version_names_those_that_exist(self, labeled: Dataset) -> None:
        version = labeled.freeze()
        with pytest.raises(NotFound) as caught:
            labeled.version("ffff0000")
        assert version.id[:12] in caught.value.hint


def test_the_whole_stage_works_on_both_databases(tmp_path: Path, catalog_url: str, pictures: Pictures) -> None:
    with create_home(tmp_path / "w", {"catalog": catalog_url}) as home:
        dataset = create_dataset(home, "pets", "image-classification")
        assert dataset.add(pictures(tmp_path / "in", {"cat": 12, "dog": 8}, size=8)).added == 20
        first = dataset.freeze("first")
        dataset.label({dataset.items(label="cat")[0].id: ["dog"]}, author="bob")
        second = dataset.freeze("second")
        assert len(first.diff(second).changed) == 1
        assert [version.number for version in dataset.versions()] == [1, 2]
    with open_home(tmp_path / "w") as home:
        assert open_dataset(home, "pets").counts()["by_class"] == {"cat": 11, "dog": 9}


def test_four_people_label_at_once_and_nothing_is_lost(labeled: Dataset) -> None:
    wanted = ids(labeled)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for item in wanted[number::4]:
                labeled.label({item: ["dog"]}, author=f"person-{number}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert labeled.counts()["by_class"] == {"cat": 0, "dog": 20}
    assert {len(labeled.history(item)) for item in wanted} == {3}
