"""Tags of versions, restoring one, branches, and merging them three-way."""

import pytest

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.values import Shape
from loopworks.data.stage import Dataset, create_dataset, open_dataset
from loopworks.store.home import Home


@pytest.fixture
def catalog(catalog_url: str) -> str:
    """Everything here runs on SQLite and on PostgreSQL."""
    return catalog_url


def said(dataset: Dataset) -> dict[str, tuple[object, ...]]:
    return {
        item.id: (item.labels, item.split, item.tags, dict(item.attributes), item.name)
        for item in dataset.items(limit=100)
    }


def cats(dataset: Dataset) -> list[str]:
    return [item.id for item in dataset.items(label="cat", split="train", limit=100)]


def test_a_tag_means_a_version_until_it_is_moved(labeled: Dataset) -> None:
    first = labeled.freeze()
    labeled.label({cats(labeled)[0]: ["dog"]}, author="bob")
    second = labeled.freeze()
    assert labeled.tag(first.id, "gold", author="ann") == ""
    assert labeled.version("gold").id == first.id
    assert labeled.tag(second.id[:12], "gold") == first.id
    assert labeled.tags() == {"gold": second.id}
    for bad in ("", "a b", "abc123", "x" * 65):
        with pytest.raises(Invalid, match="tag must be"):
            labeled.tag(first.id, bad)
    with pytest.raises(NotFound):
        labeled.tag("0" * 64, "v1")


def test_a_restored_version_is_the_live_set_again(labeled: Dataset) -> None:
    labeled.tag_items(cats(labeled)[:2], "night") if cats(labeled) else None
    version = labeled.freeze()
    before = said(labeled)
    train = cats(labeled)
    labeled.label({train[0]: ["dog"]}, author="bob")
    labeled.clear_labels([train[1]], author="bob")
    labeled.delete([train[2]])
    labeled.tag_items([train[3]], "rain")
    labeled.assign([train[4]], "val")
    changed = said(labeled)
    report = labeled.restore(version.id[:12], author="ann")
    assert (report.changed, report.kept_in_test) == (5, 0)
    assert said(labeled) == before
    assert labeled.freeze().id == version.id
    labeled.undo(report.operation)
    assert said(labeled) == changed
    assert labeled.restore(version.id).changed == 5
    assert labeled.restore(version.id).operation == ""


def test_an_item_of_the_test_set_stays_there_when_a_version_is_restored(labeled: Dataset) -> None:
    version = labeled.freeze()
    item = cats(labeled)[0]
    labeled.assign([item], "test")
    assert labeled.restore(version.id).kept_in_test == 1
    assert labeled.item(item).split == "test"


def test_a_branch_begins_as_the_version(home: Home, labeled: Dataset) -> None:
    version = labeled.freeze()
    blobs = set(home.blobs.keys())
    branch = labeled.branch("trial", author="bob")
    assert said(branch) == said(labeled)
    assert branch.freeze().id == version.id
    assert set(home.blobs.keys()) == blobs
    with pytest.raises(Conflict, match="must be free"):
        labeled.branch("trial")
    with pytest.raises(Invalid, match="dataset name"):
        labeled.branch("a b")
    with pytest.raises(Invalid, match="frozen to be branched"):
        create_dataset(home, "empty", "image-classification").branch("x")


def test_what_one_side_changed_is_merged(home: Home, labeled: Dataset) -> None:
    labeled.freeze()
    branch = labeled.branch("trial")
    a, b, c, d, e, *_ = cats(labeled)
    branch.label({a: [Shape(label="dog", author="bob")]}, author="bob")
    branch.tag_items([b], "night")
    branch.describe([c], {"camera": "A3"})
    branch.delete([d])
    branch.add_classes(["eel"])
    labeled.tag_items([b], "rain")
    labeled.describe([c], {"weather": "wet"})
    labeled.label({e: ["dog"]}, author="ann")
    before = said(labeled)
    planned = labeled.merge("trial", dry_run=True)
    assert said(labeled) == before
    report = labeled.merge("trial", author="eve")
    assert (report.added, report.changed, report.conflicts) == (0, 4, ())
    assert planned.to_json() == {**report.to_json(), "operation": ""}
    assert labeled.item(a).labels == (Shape(label="dog", author="bob"),)
    assert labeled.item(b).tags == ("night", "rain")
    assert labeled.item(c).attributes == {"camera": "A3", "weather": "wet"}
    assert labeled.item(e).labels[0].label == "dog"
    assert d not in said(labeled)
    assert labeled.schema.classes == ("cat", "dog", "eel")
    labeled.undo(report.operation)
    assert said(labeled) == before


def test_what_both_changed_is_a_conflict_that_a_rule_decides(labeled: Dataset) -> None:
    labeled.freeze()
    branch = labeled.branch("trial")
    first, second, *_ = cats(labeled)
    branch.label({first: ["dog"]}, author="bob")
    labeled.clear_labels([first], author="ann")
    labeled.describe([second], {"camera": "A"})
    branch.describe([second], {"camera": "B", "more": 1})
    with pytest.raises(Conflict, match="got 2 conflicts"):
        labeled.merge("trial")
    (clash, other) = sorted(labeled.merge("trial", dry_run=True).conflicts, key=lambda one: one.part, reverse=True)
    assert (clash.item, clash.part, clash.ours, clash.taken) == (first, "labels", None, "")
    assert (other.item, other.base, other.ours["camera"], other.theirs["camera"]) == (second, {}, "A", "B")
    ours = labeled.merge("trial", rule="ours")
    assert labeled.item(first).labels == ()
    assert labeled.item(second).attributes == {"camera": "A", "more": 1}
    labeled.undo(ours.operation)
    with pytest.raises(Invalid, match="rule must be"):
        labeled.merge("trial", rule="mine")  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["theirs", "newest"])
def test_theirs_and_newest_take_the_other_side(labeled: Dataset, rule: str) -> None:
    labeled.freeze()
    branch = labeled.branch("trial")
    first, second, *_ = cats(labeled)
    labeled.label({first: [Shape(label="dog", author="ann")]}, author="ann")
    branch.clear_labels([first], author="bob")
    branch.clear_labels([second], author="bob")
    labeled.label({second: [Shape(label="dog", author="ann")]}, author="ann")
    labeled.merge("trial", rule=rule)  # type: ignore[arg-type]
    assert labeled.item(first).labels == ()
    assert [shape.label for shape in labeled.item(second).labels] == ([] if rule == "theirs" else ["dog"])


def test_an_item_in_test_on_either_side_is_in_test(labeled: Dataset) -> None:
    labeled.freeze()
    branch = labeled.branch("trial")
    first, second, *_ = cats(labeled)
    labeled.assign([first], "test")
    branch.assign([first], "val")
    branch.assign([second], "test")
    report = labeled.merge("trial", rule="theirs")
    assert report.kept_in_test == 1
    assert {labeled.item(first).split, labeled.item(second).split} == {"test"}


def test_a_second_merge_begins_where_the_first_ended(home: Home, labeled: Dataset) -> None:
    labeled.freeze()
    branch = labeled.branch("trial")
    item = cats(labeled)[0]
    branch.label({item: ["dog"]}, author="bob")
    labeled.merge("trial")
    labeled.label({item: ["cat"]}, author="ann")
    assert labeled.merge("trial").changed == 0
    assert labeled.item(item).labels[0].label == "cat"
    assert open_dataset(home, "trial").merge("pets").changed == 1


def test_strangers_cannot_be_merged(home: Home, labeled: Dataset) -> None:
    create_dataset(home, "other", "image-classification")
    with pytest.raises(Invalid, match="two without a version in common"):
        labeled.merge("other")
