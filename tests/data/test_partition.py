"""Splits of a dataset by group and time: told in figures, remembered, and never out of test again."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loopworks.core.errors import Invalid
from loopworks.data.partition import moment
from loopworks.data.stage import Dataset, create_dataset
from loopworks.store import items
from loopworks.store.home import Home

Pictures = Callable[..., Path]


@pytest.fixture
def shots(home: Home, dataset: Dataset, pictures: Pictures, tmp_path: Path) -> Dataset:
    """40 labelled pictures of eight cameras, one a minute."""
    dataset.add(pictures(tmp_path / "shots", {"cat": 20, "dog": 20}, size=8))
    known = {
        item.id: {"camera": f"c{n % 8}", "taken": f"2024:05:01 12:{n:02}:00"}
        for n, item in enumerate(dataset.items(limit=100))
    }
    describe(home, dataset, known)
    return dataset


def describe(home: Home, dataset: Dataset, known: dict[str, dict[str, Any]]) -> None:
    with home.catalog.begin() as tx:
        items.change(tx, dataset.id, "attributes", known)


def cameras(dataset: Dataset) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in dataset.items(limit=100):
        found.setdefault(item.attributes["camera"], set()).add(item.split)
    return found


def test_a_camera_is_in_one_split_and_the_figures_say_so(shots: Dataset) -> None:
    counts = shots.split(by="camera")
    assert sum(counts.values()) == 40
    assert all(counts.values())
    assert all(len(found) == 1 for found in cameras(shots).values())
    figures = shots.split_figures()
    assert sum(figures.groups.values()) == 8
    assert (figures.straddling, figures.ungrouped) == ((), 0)
    body = figures.to_json()
    assert (body["by"], body["splits"], body["unsplit"]) == ("camera", counts, 0)
    assert sum(body["by_class"]["cat"].values()) == 20


def test_what_is_added_later_follows_its_group_also_when_it_is_frozen(
    home: Home, shots: Dataset, pictures: Pictures, tmp_path: Path
) -> None:
    shots.split(by="camera")
    before = cameras(shots)
    old = {item.id for item in shots.items(limit=100)}
    shots.add(pictures(tmp_path / "more", {"cat": 8, "dog": 8}, size=9, seed=3))
    new = [item.id for item in shots.items(limit=100) if item.id not in old]
    describe(home, shots, {item: {"camera": f"c{n % 8}"} for n, item in enumerate(new)})
    shots.freeze("grown")
    assert cameras(shots) == before


def test_the_newest_are_the_test_set(shots: Dataset) -> None:
    assert shots.split(time="taken") == {"train": 28, "val": 4, "test": 8}
    at = {item.attributes["taken"]: item.split for item in shots.items(limit=100)}
    assert [at[moment] for moment in sorted(at)] == ["train"] * 28 + ["val"] * 4 + ["test"] * 8
    figures = shots.split_figures()
    assert (figures.rule.time, figures.mixed) == ("taken", 0)


def test_folders_are_groups_without_any_attribute(home: Home, pictures: Pictures, tmp_path: Path) -> None:
    dataset = create_dataset(home, "walks", "image-classification")
    for place in ("a", "b", "c", "d"):
        dataset.add(pictures(tmp_path / place, {"cat": 3, "dog": 3}, size=8, seed=ord(place)))
    dataset.split(by="folder")
    folders = {(item.name.rpartition("/")[0], item.split) for item in dataset.items(limit=100)}
    assert len(folders) == 2


def test_items_without_the_attribute_are_groups_of_their_own(home: Home, shots: Dataset) -> None:
    some = [item.id for item in shots.items(limit=5)]
    describe(home, shots, dict.fromkeys(some, {}))
    shots.split(by="camera")
    assert shots.split_figures().ungrouped == 5


def test_groups_that_straddle_already_are_told_and_items_in_test_stay(shots: Dataset) -> None:
    first = [item.id for item in shots.items(limit=100) if item.attributes["camera"] == "c0"]
    shots.assign(first[:1], "test")
    shots.assign(first[1:2], "train")
    shots.split(by="camera")
    assert shots.split_figures().straddling == ("c0",)
    assert [shots.item(item).split for item in first] == ["test", "train", "test", "test", "test"]


def test_an_unknown_attribute_names_those_that_exist(shots: Dataset) -> None:
    with pytest.raises(Invalid, match="by must be an attribute of the items; got patient") as caught:
        shots.split(by="patient")
    assert caught.value.hint == "known: camera, folder, taken"
    with pytest.raises(Invalid, match="time must be an attribute of every item"):
        shots.split(time="patient")
    with pytest.raises(Invalid, match=r"camera of cat/000\.png must be a number or a time"):
        shots.split(time="camera")
    with pytest.raises(Invalid, match="one at a time"):
        shots.split(by="camera", time="taken")
    assert shots.counts()["by_split"] == {"": 40}


def test_by_when_they_were_added(shots: Dataset, pictures: Pictures, tmp_path: Path) -> None:
    old = {item.id for item in shots.items(limit=100)}
    shots.add(pictures(tmp_path / "more", {"cat": 5, "dog": 5}, size=9, seed=3))
    shots.split(time="added_at")
    tested = {item.id for item in shots.items(limit=100) if item.split == "test"}
    assert len(tested) == 10
    assert not tested & old


def test_a_test_item_stays_one_through_a_second_import_that_says_otherwise(
    labeled: Dataset, pictures: Pictures, tmp_path: Path
) -> None:
    labeled.split()
    before = {item.id for item in labeled.items(split="test")}
    folder = pictures(tmp_path / "again", {"cat": 12, "dog": 8}, size=8)
    report = labeled.add(folder, split="train")
    assert report.known == 20
    assert {item.id for item in labeled.items(split="test")} == before


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (12, 12.0),
        (1.5, 1.5),
        ("1970-01-01T00:01:00", 60.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970:01:01 00:00:10", 10.0),
        ("1970-01-02", 86400.0),
        (datetime(1970, 1, 1, tzinfo=UTC), 0.0),
    ],
)
def test_times_are_read_in_the_usual_spellings(value: Any, at: float) -> None:
    assert moment(value, "x") == at


@pytest.mark.parametrize("value", ["", "soon", True, float("nan"), [], "12.5.2024"])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(Invalid, match="x must be a number or a time"):
        moment(value, "x")
