"""Sources: whatever is named becomes items - out of archives, object stores and videos - and goes on after a kill."""

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loopworks.core.errors import Busy, Cancelled, Damaged, Invalid, NotFound
from loopworks.data import archives, sources
from loopworks.data.scratch import Scratch
from loopworks.data.sources import Step, open_source
from loopworks.data.stage import Dataset, open_dataset
from loopworks.data.video import Frames, read_table
from loopworks.store import datasets, remote
from loopworks.store.home import Home

Pictures = Callable[..., Path]


def zip_of(folder: Path, archive: Path, more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder))
        for name, data in (more or {}).items():
            out.writestr(name, data)
    return archive


def said(dataset: Dataset) -> list[tuple[str, list[str]]]:
    return [(item.name, [shape.label for shape in item.labels]) for item in dataset.items(limit=1000)]


def left(home: Home) -> list[str]:
    """What lies in the scratch folder, without the locks."""
    root = home.cache / "sources"
    return [path.name for path in root.iterdir() if path.is_dir()] if root.exists() else []


@pytest.fixture
def archive(pictures: Pictures, tmp_path: Path) -> Path:
    return zip_of(pictures(tmp_path / "pets", {"cat": 3, "dog": 2}, size=8), tmp_path / "pets.zip")


class TestArchives:
    def test_an_archive_is_read_like_its_folder(self, dataset: Dataset, archive: Path, home: Home) -> None:
        steps: list[Step] = []
        report = dataset.add(archive, tick=steps.append)
        assert (report.added, report.problems) == (5, ())
        assert said(dataset)[0] == ("cat/000.png", ["cat"])
        assert report.classes == ("cat", "dog")
        assert left(home) == []
        assert (steps[-1].what, steps[-1].done, steps[-1].total) == ("unpacking", 5, 5)
        assert steps[-1].size == steps[-1].total_size > 0

    def test_adding_it_again_or_as_a_folder_adds_nothing(self, dataset: Dataset, archive: Path) -> None:
        dataset.add(archive)
        assert (dataset.add(archive).added, dataset.add(archive.with_suffix("")).known) == (0, 5)

    def test_what_comes_out_of_an_archive_is_copied_also_by_reference(self, dataset: Dataset, archive: Path) -> None:
        dataset.add(archive, by="reference")
        archive.unlink()
        assert {item.uri for item in dataset.items()} == {""}
        for item in dataset.items():
            dataset.verify(item)

    def test_problems_name_the_archive_and_no_path_of_ours(
        self, dataset: Dataset, pictures: Pictures, tmp_path: Path, home: Home
    ) -> None:
        bad = {"../up.png": b"x", "cat/broken.png": b"no image", "notes.txt": b"x", "in.zip": b"PK"}
        archive = zip_of(pictures(tmp_path / "pets", {"cat": 1, "dog": 1}, size=8), tmp_path / "pets.zip", bad)
        report = dataset.add(archive)
        assert report.added == 2
        assert len(report.problems) == 4
        for problem in report.problems:
            assert problem.where.startswith(f"{archive}/")
            assert str(home.cache) not in f"{problem}"

    def test_an_import_that_was_stopped_goes_on_with_what_was_unpacked(
        self, dataset: Dataset, archive: Path, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(step: Step) -> None:
            if step.done == 2:
                raise Cancelled

        with pytest.raises(Cancelled):
            dataset.add(archive, tick=stop)
        (kept,) = left(home)
        before = {path.name: path.stat() for path in (home.cache / "sources" / kept / "content").rglob("*.png")}
        assert len(before) == 2
        again: list[dict[str, os.stat_result]] = []
        run = archives.unpack

        def watch(archive: Path, folder: Path, *rest: Any, **named: Any) -> Any:
            done = run(archive, folder, *rest, **named)
            again.append({path.name: path.stat() for path in folder.rglob("*.png")})
            return done

        monkeypatch.setattr(archives, "unpack", watch)
        assert dataset.add(archive).added == 5
        assert left(home) == []
        assert all(again[0][name].st_mtime_ns == stat.st_mtime_ns for name, stat in before.items())

    def test_an_archive_that_was_unpacked_whole_is_not_unpacked_again(
        self, dataset: Dataset, archive: Path, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(KeyboardInterrupt), open_source(home, archive):
            raise KeyboardInterrupt
        monkeypatch.setattr(archives, "unpack", None)
        assert dataset.add(archive).added == 5

    def test_a_bomb_leaves_nothing_behind(
        self, dataset: Dataset, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(archives, "EARLY", 1000)
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr("a.png", bytes(10_000_000))
        with pytest.raises(Invalid, match="times its size"):
            dataset.add(tmp_path / "a.zip")
        assert left(home) == []

    def test_two_imports_of_one_archive_do_not_meet(self, dataset: Dataset, archive: Path, home: Home) -> None:
        with open_source(home, archive), pytest.raises(Busy, match="one import at a time"):
            dataset.add(archive)
        assert dataset.add(archive).added == 5

    def test_archives_folders_files_and_patterns_are_named_together(
        self, dataset: Dataset, archive: Path, pictures: Pictures, tmp_path: Path
    ) -> None:
        more = pictures(tmp_path / "more", {"cat": 1, "owl": 2}, size=9, seed=5)
        single = pictures(tmp_path / "x", {"cat": 1}, size=11, seed=7) / "cat/000.png"
        report = dataset.add([archive, str(more), f"{tmp_path}/x/*/0*.png", str(single)])
        assert (report.added, report.known) == (9, 1)
        assert report.classes == ("cat", "dog", "owl")

    def test_a_disk_without_room_is_told_before_anything_is_written(
        self, dataset: Dataset, archive: Path, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from loopworks.core.errors import NoSpace

        monkeypatch.setattr("loopworks.data.scratch.ROOM", 1 << 62)
        with pytest.raises(NoSpace, match="must have room"):
            dataset.add(archive)
        assert list((home.cache / "sources").rglob("*.png")) == []


KILLED = """
import os, signal, sys
import loopworks as lw

def kill(step):
    if step.done == 30:
        os.kill(os.getpid(), signal.SIGKILL)

def kill_adding(done, total):
    if done >= 256:
        os.kill(os.getpid(), signal.SIGKILL)

with lw.open(sys.argv[1]) as space:
    target = space.dataset("killed", task="image-classification")
    if sys.argv[3] == "unpacking":
        target.add(sys.argv[2], tick=kill)
    else:
        target.add(sys.argv[2], progress=kill_adding)
"""


def test_an_import_that_was_killed_goes_on_where_it_was(home: Home, pictures: Pictures, tmp_path: Path) -> None:
    archive = zip_of(pictures(tmp_path / "pets", {"cat": 300, "dog": 300}, size=4), tmp_path / "pets.zip")
    words = [sys.executable, "-c", KILLED, str(home.folder), str(archive)]
    assert subprocess.run([*words, "unpacking"], check=False).returncode == -signal.SIGKILL
    assert len(list((home.cache / "sources").rglob("*.png"))) == 30
    assert subprocess.run([*words, "adding"], check=False).returncode == -signal.SIGKILL
    dataset = open_dataset(home, "killed")
    before = dataset.counts()["items"]
    assert 256 <= before < 600
    report = dataset.add(archive)
    assert (report.added, report.known) == (600 - before, before)
    assert dataset.counts()["by_class"] == {"cat": 300, "dog": 300}
    for item in dataset.items(limit=1000):
        dataset.verify(item)
    assert left(home) == []


def test_what_nobody_took_up_again_for_a_week_is_removed(home: Home) -> None:
    old = Scratch(home, "old")
    old.release()
    for path in (old.folder, home.cache / "sources" / f"{old.folder.name}.lock"):
        os.utime(path, (0, 0))
    Scratch(home, "new").release()
    assert left(home) != []
    assert old.folder.name not in left(home)


class TestObjectStores:
    @pytest.fixture
    def url(self, bucket: str, s3_environment: None, pictures: Pictures, tmp_path: Path) -> str:
        """Five labelled pictures and an archive of them."""
        import obstore

        store = remote._client(f"s3://{bucket}")[1]
        folder = pictures(tmp_path / "far", {"cat": 3, "dog": 2}, size=8)
        for path in folder.rglob("*.png"):
            obstore.put(store, f"set/{path.relative_to(folder)}", path.read_bytes())
        obstore.put(store, "pets.zip", zip_of(folder, tmp_path / "far.zip").read_bytes())
        return f"s3://{bucket}"

    def test_a_folder_is_copied_in(self, dataset: Dataset, url: str, home: Home) -> None:
        steps: list[Step] = []
        report = dataset.add(f"{url}/set/", tick=steps.append)
        assert (report.added, report.problems, left(home)) == (5, (), [])
        assert said(dataset)[0] == ("cat/000.png", ["cat"])
        assert {step.what for step in steps} == {"fetching"}
        assert (steps[-1].done, steps[-1].total, steps[-1].size) == (5, 5, steps[-1].total_size)
        assert dataset.add(f"{url}/set/").added == 0

    def test_by_reference_only_the_address_is_kept_and_every_read_is_checked(self, dataset: Dataset, url: str) -> None:
        import obstore

        assert dataset.add(f"{url}/set/", by="reference").added == 5
        item = dataset.items(limit=1)[0]
        assert item.uri == f"{url}/set/{item.name}"
        assert item.stamp.startswith(f"{item.size_bytes}:")
        dataset.verify(item)
        obstore.put(remote._client(url)[1], f"set/{item.name}", b"another picture")
        with pytest.raises(Damaged, match=f"{url}/set/{item.name} must have SHA-256"):
            dataset.read(item)
        obstore.delete(remote._client(url)[1], f"set/{item.name}")
        with pytest.raises(Damaged, match="must still be there"):
            dataset.read(item)

    def test_single_objects_patterns_and_archives_are_read(self, dataset: Dataset, url: str) -> None:
        assert dataset.add(f"{url}/set/cat/000.png").added == 1
        assert dataset.add(f"{url}/set/*/001.png").added == 2
        report = dataset.add(f"{url}/pets.zip")
        assert (report.added, report.known, report.labeled) == (2, 3, 3)
        with pytest.raises(NotFound, match="path"):
            dataset.add(f"{url}/nowhere/")

    def test_a_fetch_that_was_stopped_goes_on(
        self, dataset: Dataset, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetched: list[str] = []
        fetch = remote.fetch

        def watch(entry: remote.Entry, target: Path) -> None:
            fetched.append(entry.name)
            fetch(entry, target)

        monkeypatch.setattr(remote, "fetch", watch)

        def stop(step: Step) -> None:
            raise Cancelled

        monkeypatch.setattr(sources, "FETCHES", 1)
        with pytest.raises(Cancelled):
            dataset.add(f"{url}/set/", tick=stop)
        first = len(fetched)
        assert first < 5
        assert dataset.add(f"{url}/set/").added == 5
        assert len(fetched) == 5


@pytest.mark.video
class TestVideos:
    @pytest.fixture
    def film(self) -> Callable[..., Path]:
        """``film(path, frames, gray=...)`` writes a short video."""
        import av
        import numpy as np

        def write(path: Path, count: int = 20, seed: int = 0) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(path), "w") as out:
                stream: Any = out.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                for i in range(count):
                    pixels = np.full((48, 64, 3), (seed * 50 + i * 10) % 256, np.uint8)
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    frame.pts = i
                    out.mux(stream.encode(frame))
                out.mux(stream.encode())
            return path

        return write

    def test_frames_become_items_that_know_their_place(
        self, dataset: Dataset, film: Callable[..., Path], tmp_path: Path, home: Home
    ) -> None:
        report = dataset.add(film(tmp_path / "street.mp4"), frames=Frames(every=5))
        assert (report.added, report.problems, left(home)) == (4, (), [])
        items = dataset.items()
        assert [item.name for item in items] == [f"street.mp4/0000{n:02}.png" for n in (0, 5, 10, 15)]
        assert [item.attributes["frame"] for item in items] == [0, 5, 10, 15]
        assert [item.attributes["time_s"] for item in items] == [0.0, 0.2, 0.4, 0.6]
        assert {shape.label for item in items for shape in item.labels} == set()
        with home.blobs.open(items[0].id) as file, Image.open(file) as image:
            assert (image.format, image.size) == ("PNG", (64, 48))

    def test_the_video_and_its_table_of_frames_are_kept(
        self, dataset: Dataset, film: Callable[..., Path], tmp_path: Path, home: Home
    ) -> None:
        video = film(tmp_path / "street.mp4")
        dataset.add(video, frames=Frames(at=(3,)))
        with home.catalog.read() as tx:
            kept = datasets.meta(tx, dataset.id)["video"]
        (key,) = kept
        assert dataset.items()[0].attributes["video"] == key
        assert home.blobs.read(key) == video.read_bytes()
        table = read_table(home.blobs.read(kept[key]["frames"]))
        assert (len(table.pts), table.time_s(3)) == (kept[key]["count"], 0.12) == (20, 0.12)

    def test_the_same_video_twice_adds_nothing_and_other_frames_add_those(
        self, dataset: Dataset, film: Callable[..., Path], tmp_path: Path
    ) -> None:
        video = film(tmp_path / "street.mp4")
        assert dataset.add(video, frames=Frames(every=5)).added == 4
        assert dataset.add(video, frames=Frames(every=5)).added == 0
        assert dataset.add(video, frames=Frames(at=(0, 1))).added == 1

    def test_by_reference_the_video_stays_where_it_is(
        self, dataset: Dataset, film: Callable[..., Path], tmp_path: Path, home: Home
    ) -> None:
        video = film(tmp_path / "street.mp4")
        dataset.add(video, frames=Frames(every=5), by="reference")
        with home.catalog.read() as tx:
            ((key, kept),) = datasets.meta(tx, dataset.id)["video"].items()
        assert (kept["blob"], kept["uri"]) == ("", video.as_uri())
        assert not home.blobs.has(key)
        for item in dataset.items():
            dataset.verify(item)

    def test_videos_in_folders_and_archives_have_the_class_of_their_folder(
        self, dataset: Dataset, film: Callable[..., Path], pictures: Pictures, tmp_path: Path
    ) -> None:
        folder = pictures(tmp_path / "set", {"walk": 1, "run": 1}, size=8)
        film(folder / "walk/a.mp4", 3)
        film(folder / "run/b.mp4", 3, seed=2)
        (folder / "run/c.mp4").write_bytes(b"no video")
        report = dataset.add(zip_of(folder, tmp_path / "set.zip"), frames=Frames(every=2))
        assert said(dataset) == [
            ("run/000.png", ["run"]),
            ("run/b.mp4/000000.png", ["run"]),
            ("run/b.mp4/000002.png", ["run"]),
            ("walk/000.png", ["walk"]),
            ("walk/a.mp4/000000.png", ["walk"]),
            ("walk/a.mp4/000002.png", ["walk"]),
        ]
        assert [problem.where for problem in report.problems] == [f"{tmp_path}/set.zip/run/c.mp4"]

    def test_a_video_without_a_choice_of_frames_is_refused_and_in_a_folder_listed(
        self, dataset: Dataset, film: Callable[..., Path], pictures: Pictures, tmp_path: Path
    ) -> None:
        folder = pictures(tmp_path / "set", {"walk": 1, "run": 1}, size=8)
        video = film(folder / "walk/a.mp4", 3)
        with pytest.raises(Invalid, match="a choice of its frames") as caught:
            dataset.add(video)
        assert "--every" in caught.value.hint
        report = dataset.add(folder)
        assert report.added == 2
        assert [problem.where for problem in report.problems] == [str(video)]

    def test_a_decoding_that_was_stopped_goes_on(
        self, dataset: Dataset, film: Callable[..., Path], tmp_path: Path, home: Home
    ) -> None:
        video = film(tmp_path / "street.mp4")

        def stop(step: Step) -> None:
            assert (step.what, step.total) == ("decoding", 20)
            if step.done == 12:
                raise Cancelled

        with pytest.raises(Cancelled):
            dataset.add(video, frames=Frames(every=2), tick=stop)
        assert len(left(home)) == 1
        assert dataset.add(video, frames=Frames(every=2)).added == 10
        assert left(home) == []
