"""Erasing an item for good, and collecting what nothing leads to."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from loopworks.core.errors import Denied, Invalid, NotFound
from loopworks.core.values import ImageRule, Shape
from loopworks.data.stage import Dataset, create_dataset, open_version
from loopworks.data.video import Frames
from loopworks.store import datasets, erasing, garbage, tables
from loopworks.store.home import Home


@pytest.fixture
def catalog(catalog_url: str) -> str:
    """Everything here runs on SQLite and on PostgreSQL."""
    return catalog_url


def traces(home: Home, text: str) -> list[str]:
    """Blobs and tables that hold a text."""
    found = [key for key in sorted(home.blobs.keys()) if text.encode() in home.blobs.read(key)]
    with home.catalog.read() as tx:
        for table in tables.metadata.sorted_tables:
            found += [table.name for row in tx.execute(select(table)) if text in str(row)]
    return found


def test_an_erased_item_is_gone_from_everything_but_its_tombstone(home: Home, labeled: Dataset, tmp_path: Path) -> None:
    victim = labeled.items(label="cat")[0]
    labeled.describe([victim.id], {"camera": "secret-person"})
    labeled.tag_items([victim.id], "face")
    first = labeled.freeze("first")
    labeled.tag(first.id, "gold")
    other = labeled.items(label="dog")[0]
    labeled.label({other.id: [s.label for s in other.labels]}, author="bob")
    second = labeled.freeze("second")
    branch = labeled.branch("trial")
    labeled.clear_labels([victim.id], author="ann")
    third = labeled.freeze("third")
    rows = {version.id: version.rows() for version in (first, second, third)}
    report = labeled.erase([victim.id], reason="asked to be forgotten", author="ann")
    assert report.datasets == ("pets", "trial")
    assert set(report.versions) == {first.id, second.id}
    for dataset in (labeled, branch):
        with pytest.raises(NotFound, match="item"):
            dataset.item(victim.id)
        assert dataset.counts()["items"] == 19
    assert traces(home, "secret-person") == []
    assert not home.blobs.has(victim.id)
    assert set(traces(home, victim.id)) == {"event", "tombstone"}
    for old in (first, second):
        with pytest.raises(NotFound) as caught:
            open_version(home, old.id)
        new = open_version(home, report.versions[old.id])
        assert new.id in caught.value.hint
        assert [row.item_id for row in new.rows()] == [r.item_id for r in rows[old.id] if r.item_id != victim.id]
        assert new.counts["by_class"] == {"cat": 11, "dog": 8}
    assert open_version(home, report.versions[first.id]).message == "first"
    assert report.versions[second.id] == third.id  # without the item they are the same
    assert labeled.version("gold").id == report.versions[first.id]
    assert labeled.version(third.id).rows() == rows[third.id]
    assert labeled.freeze().id == third.id
    again = labeled.add(tmp_path / "labeled", author="eve")
    assert (again.added, [problem.error for problem in again.problems]) == (0, ["denied"])
    with pytest.raises(Invalid, match="reason must be given"):
        labeled.erase([other.id], reason=" ")


def holds(folder: Path, *needles: bytes) -> list[str]:
    """Files below a folder that hold one of these bytes, packed Parquet files unpacked; or are called so."""
    found = []
    for path in sorted(folder.rglob("*")):
        text = path.read_bytes() if path.is_file() else b""
        if text[:4] == b"PAR1":
            text += str(pq.read_table(path).to_pydict()).encode()
        if any(needle in text or needle in str(path.relative_to(folder)).encode() for needle in needles):
            found.append(str(path.relative_to(folder)))
    return found


@pytest.mark.parametrize("is_frozen", [True, False])
def test_no_file_of_the_workspace_holds_what_was_erased(
    home: Home, labeled: Dataset, image_file: Callable[..., bytes], tmp_path: Path, *, is_frozen: bool
) -> None:
    secret = image_file("PNG", seed=77, size=(64, 48))
    (tmp_path / "more" / "cat").mkdir(parents=True)
    (tmp_path / "more" / "cat" / "quetzal.png").write_bytes(secret)
    labeled.add(tmp_path / "more", author="ann")
    (victim,) = labeled.find("name like '%quetzal%'")
    labeled.describe([victim.id], {"person": "xylophon"})
    labeled.look.search("quetzal xylophon")  # files its words
    labeled.look.keep("seer:1", {victim.id: [(Shape(label="cat", attributes='{"note":"zanzibar"}'), 0.5)]})
    labeled.embed("look")
    labeled.embed("near")
    labeled.clean.check()
    if is_frozen:
        version = labeled.freeze("first")
        version.pixels(ImageRule(height=8, width=8))
        version.export(tmp_path / "workspace" / "cache" / "exports" / "x")
    labeled.label({victim.id: ["dog"]}, author="ann")
    labeled.clear_labels([victim.id], author="ann")
    (tmp_path / "workspace" / "cache" / "thumbnail.jpg").write_bytes(secret)
    shutil.rmtree(tmp_path / "more")
    folder, core = tmp_path, secret[-200:-100]
    assert holds(folder, core)
    is_sqlite = home.catalog.is_sqlite
    assert not is_sqlite or holds(folder, b"quetzal")
    report = labeled.erase([victim.id], reason="asked to be forgotten", author="ann")
    assert report.is_scrubbed
    labeled.look.search("cat")
    assert holds(folder, core, b"quetzal", b"xylophon", b"zanzibar") == []
    assert traces(home, "quetzal") == traces(home, "xylophon") == traces(home, "zanzibar") == []
    assert holds(folder, victim.id.encode()) == (["catalog.db"] if is_sqlite else [])  # the tombstone


def test_a_frame_is_erased_with_its_video(home: Home, tmp_path: Path) -> None:
    def film(path: Path) -> Path:
        with av.open(str(path), "w") as out:
            stream: Any = out.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for shade in range(20, 220, 20):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), "rgb24")))
            out.mux(stream.encode())
        return path

    street = create_dataset(home, "street", "object-detection")
    other = create_dataset(home, "other", "object-detection")
    path = film(tmp_path / "okapi.mp4")
    street.add(path, frames=Frames(every=2))
    other.add(path, frames=Frames(at=(0, 3, 4), encoding="jpeg"))
    elsewhere = create_dataset(home, "elsewhere", "object-detection")
    assert elsewhere.add(path, frames=Frames(at=(9,)), by="reference").added == 1
    video = street.items()[0].attributes["video"]
    victim = next(item for item in street.items() if item.attributes["frame"] == 4)
    twin = next(item for item in other.items() if item.attributes["frame"] == 4)
    core = path.read_bytes()[1000:1100]
    assert holds(home.folder, core)
    assert twin.id != victim.id
    report = street.erase([victim.id], reason="a face")
    assert report.videos == (video,)
    assert (set(report.items), report.datasets) == ({victim.id, twin.id}, ("other", "street"))
    assert holds(home.folder, core) == []
    with home.catalog.read() as tx:
        assert [datasets.meta(tx, one.id) for one in datasets.every(tx)] == [{}, {}, {}]
        assert erasing.refused(tx, [video, victim.id, twin.id]) == {video, victim.id, twin.id}
    assert [item.attributes["frame"] for item in street.items()] == [0, 2, 6, 8]
    assert [len(street.read(item)) > 0 for item in street.items()] == [True] * 4
    with pytest.raises(Denied, match=r"okapi\.mp4 was erased from this workspace"):
        street.add(path, frames=Frames(every=2))
    assert holds(home.folder, core) == []
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "okapi.mp4")
    again = film(tmp_path / "folder" / "zebra.mp4")
    again.write_bytes(again.read_bytes() + b"\0" * 16)  # another file, of the same frames
    listed = street.add(tmp_path / "folder", frames=Frames(at=(4, 6)))
    assert [problem.error for problem in listed.problems] == ["denied", "denied"]  # the video, and the frame itself
    assert [item.attributes["frame"] for item in street.items()] == [0, 2, 6, 8]


def test_a_collection_takes_what_nothing_leads_to_after_the_grace_period(
    home: Home, labeled: Dataset, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    version = labeled.freeze()
    labeled.label({labeled.items(label="cat")[0].id: ["dog"]}, author="bob")
    second = labeled.freeze()
    labeled.delete([item.id for item in labeled.items(limit=2)])
    lost = home.blobs.put_bytes(b"nothing leads to this")
    before = set(home.blobs.keys())
    young = garbage.collect(home.catalog, home.blobs, grace_s=3600, dry_run=False)
    assert (young.blobs, young.spared, set(home.blobs.keys())) == (0, 1, before)
    dry = garbage.collect(home.catalog, home.blobs, grace_s=0)
    assert (dry.blobs, dry.size_bytes, dry.is_dry_run, set(home.blobs.keys())) == (1, 21, True, before)
    done = garbage.collect(home.catalog, home.blobs, grace_s=0, dry_run=False)
    assert (done.blobs, set(home.blobs.keys())) == (1, before - {lost})
    assert len(version.rows()) == len(second.rows()) == 20
    assert all(row.read() for row in second.rows())


def test_what_is_written_again_is_young_again(home: Home) -> None:
    import os

    key = home.blobs.put_bytes(b"old")
    assert key == hashlib.sha256(b"old").hexdigest()
    os.utime(home.folder / "blobs" / key[:2] / key, (1, 1))
    home.blobs.put_bytes(b"old")
    assert garbage.collect(home.catalog, home.blobs, grace_s=60, dry_run=False).spared == 1
    assert home.blobs.has(key)
