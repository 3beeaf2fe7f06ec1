"""Frozen versions as the later stages read them: rows, pixels, targets, diff, facts, export."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loopworks.core import image
from loopworks.core.errors import Conflict, Damaged, Invalid, NoSpace, NotFound
from loopworks.core.values import ImageRule
from loopworks.data.stage import Dataset, create_dataset
from loopworks.store.home import Home


@pytest.fixture
def catalog(catalog_url: str) -> str:
    """Everything here runs on SQLite and on PostgreSQL."""
    return catalog_url


Pictures = Callable[..., Path]
RULE = ImageRule(height=6, width=5)


def test_rows_are_those_of_the_split_in_order_of_id(labeled: Dataset) -> None:
    version = labeled.freeze()
    rows = version.rows()
    assert [row.item_id for row in rows] == sorted(item.id for item in labeled.items(limit=100))
    assert {split: len(version.rows(split)) for split in ("train", "val", "test")} == version.counts["by_split"]
    assert rows[0].read() == labeled.read(labeled.item(rows[0].item_id))
    with pytest.raises(NotFound, match="split"):
        version.rows("tset")


def test_pixels_and_targets_are_in_the_order_of_rows(labeled: Dataset) -> None:
    version = labeled.freeze()
    rows = version.rows("train")
    pixels = version.pixels(RULE, "train")
    assert (pixels.shape, pixels.dtype.name) == ((14, 6, 5, 3), "uint8")
    for row, picture in zip(rows, pixels, strict=True):
        np.testing.assert_array_equal(picture, image.decode(row.read(), RULE))
    targets = version.targets("train")
    assert (targets.shape, targets.dtype.name) == ((14, 2), "float32")
    assert [version.schema.classes[i] for i in targets.argmax(axis=1)] == [row.shapes[0].label for row in rows]


def test_pixels_are_decoded_once(labeled: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    version = labeled.freeze()
    seen: list[tuple[int, int]] = []
    first = version.pixels(RULE, "train", progress=lambda done, all_: seen.append((done, all_)))
    assert seen == [(14, 14)]
    monkeypatch.setattr(image, "decode", None)
    np.testing.assert_array_equal(labeled.version(version.id).pixels(RULE, "train"), first)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    with pytest.raises(TypeError):  # another rule is another file
        version.pixels(ImageRule(height=7, width=5), "train")


def test_pixels_of_an_empty_split_are_none(labeled: Dataset) -> None:
    labeled.assign([item.id for item in labeled.items(limit=100)], "train")
    version = labeled.freeze()
    assert version.pixels(RULE, "test").shape == (0, 6, 5, 3)
    assert version.targets("test").shape == (0, 2)
    assert {problem.where for problem in version.problems} == {"split val", "split test"}


def test_damage_in_the_middle_of_an_image_is_found_when_it_is_decoded(
    home: Home, dataset: Dataset, tmp_path: Path, image_file: Callable[..., bytes]
) -> None:
    """The door lets it in, because the file has its end; training must say which file it is."""
    for name, seed in (("cat", 1), ("dog", 2)):
        (tmp_path / "in" / name).mkdir(parents=True)
        data = image_file("PNG", seed=seed)
        (tmp_path / "in" / name / "x.png").write_bytes(data)
        (tmp_path / "in" / name / "y.png").write_bytes(image_file("PNG", seed=seed + 10))
    broken = bytearray(image_file("PNG", seed=1))
    broken[len(broken) // 2] ^= 0xFF
    (tmp_path / "in" / "cat" / "x.png").write_bytes(broken)
    assert dataset.add(tmp_path / "in").problems == ()
    with pytest.raises(Invalid, match="cat/x.png must be a whole image"):
        dataset.freeze().pixels(RULE)
    assert list((home.cache / "pixels").iterdir()) == []


def test_pixels_of_a_blob_that_is_gone_are_damage(home: Home, labeled: Dataset) -> None:
    version = labeled.freeze()
    home.blobs.delete(version.rows("train")[0].item_id)
    with pytest.raises(Damaged, match="must be in the blobs"):
        version.pixels(RULE, "train")


def test_a_full_disk_is_said_before_anything_is_mapped(labeled: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    version = labeled.freeze()
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("loopworks.data.version.shutil.disk_usage", lambda path: full)
    with pytest.raises(NoSpace):
        version.pixels(RULE, "train")


def test_a_diff_names_what_changed(labeled: Dataset) -> None:
    first = labeled.freeze()
    cat, other = labeled.items(label="cat")[:2]
    labeled.label({cat.id: ["dog"]}, author="bob")
    labeled.clear_labels([other.id], author="bob")
    body = first.diff(labeled.freeze()).to_json()
    assert body["removed"] == [other.id]
    (change,) = body["changed"]
    assert (change["item"], change["before"]["labels"], change["after"]["labels"]) == (cat.id, ["cat"], ["dog"])
    assert body["by_class"] == {"cat": {"before": 12, "after": 10}, "dog": {"before": 8, "after": 9}}


def test_facts_lead_from_a_version_back_to_who_said_it(labeled: Dataset) -> None:
    item = labeled.items(label="cat")[0]
    labeled.label({item.id: ["dog"]}, author="bob")
    version = labeled.freeze()
    labeled.label({item.id: ["cat"]}, author="eve")
    (node,) = version.facts(item.id)
    assert node.kind == "annotation"
    assert (node.facts["label"], node.facts["source"], node.facts["author"]) == ("dog", "person", "bob")
    (event,) = (event for event in labeled.history(item.id) if event.author == "bob")
    assert (node.facts["event"], node.facts["at"]) == (event.id, event.at.isoformat())
    with pytest.raises(NotFound, match="item"):
        version.facts("0" * 64)


def test_an_export_added_again_is_the_same_dataset(home: Home, labeled: Dataset, tmp_path: Path) -> None:
    version = labeled.freeze()
    assert version.export(tmp_path / "out").items == 20
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "val", "test"}
    copy = create_dataset(home, "copy", "image-classification")
    copy.add(tmp_path / "out", author="ann")

    def said(dataset: Dataset) -> dict[str, tuple[str, str]]:
        return {item.id: (item.split, item.labels[0].label) for item in dataset.items(limit=100)}

    assert said(copy) == said(labeled)
    with pytest.raises(Conflict, match="must be an empty or new folder"):
        version.export(tmp_path / "out")


def test_an_export_by_link_takes_no_space(home: Home, labeled: Dataset, tmp_path: Path) -> None:
    version = labeled.freeze()
    version.export(tmp_path / "out", by="link")
    files = [path for path in (tmp_path / "out").rglob("*.png")]
    assert len(files) == 20
    assert {path.stat().st_nlink for path in files} == {2}


def test_names_that_clash_or_lead_out_are_made_safe(
    home: Home, tmp_path: Path, image_file: Callable[..., bytes]
) -> None:
    dataset = create_dataset(home, "odd", "image-classification", classes=["../up", "a/b", "a_b", "..", "x"])
    for number, folder in enumerate(("one", "two", "three", "four", "five")):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "same.png").write_bytes(image_file("PNG", seed=number))
    dataset.add(tmp_path / "in", labels="none", split="train")
    items = dataset.items()
    names = ["../up", "a/b", "a_b", "x", "x"]
    dataset.label({item.id: [name] for item, name in zip(items, names, strict=True)}, author="ann")
    dataset.freeze().export(tmp_path / "out")
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/**/*.png"))
    assert len(found) == 5
    assert {path.split("/")[1] for path in found} == {"__up", "a_b", "a_b_", "x"}
    assert sum(path.endswith("x/same.png") for path in found) == 1
    assert not (tmp_path / "up").exists()


def test_a_version_by_reference_says_so(home: Home, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", {"cat": 3, "dog": 3}, size=8)
    dataset.add(folder, by="reference")
    version = dataset.freeze()
    assert version.is_by_reference
    assert version.rows()[0].uri.startswith("file:///")
    assert version.pixels(RULE).shape == (6, 6, 5, 3)
    (folder / "cat" / "000.png").write_bytes(b"changed")
    with pytest.raises(Damaged, match="must have SHA-256"):
        version.pixels(ImageRule(height=4, width=4))


def test_a_version_is_plain_json(labeled: Dataset) -> None:
    body = labeled.freeze("first", author="ann").to_json()
    assert body["counts"]["by_class"] == {"cat": 12, "dog": 8}
    assert (body["message"], body["author"], body["number"], body["parent"]) == ("first", "ann", 1, "")
