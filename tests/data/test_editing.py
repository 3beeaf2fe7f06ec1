"""Delete, tag, describe and undo as a user has them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.data.stage import Dataset


@pytest.fixture
def catalog(catalog_url: str) -> str:
    """Everything here runs on SQLite and on PostgreSQL."""
    return catalog_url


def test_deleted_items_come_back_by_undo(labeled: Dataset) -> None:
    gone = [item.id for item in labeled.items(label="cat", limit=3)]
    before = [item.to_json() for item in labeled.items()]
    op = labeled.delete(gone, author="ann", reason="blurred")
    assert labeled.counts()["by_class"] == {"cat": 9, "dog": 8}
    (newest, *_) = labeled.operations()
    assert (newest.id, newest.what, newest.items, newest.reason) == (op, "delete", 3, "blurred")
    done = labeled.undo(op[:20], author="bob")
    assert (done.undoes, done.items) == (op, 3)
    after = [item.to_json() for item in labeled.items()]
    assert [{**one, "rev": 0} for one in after] == [{**one, "rev": 0} for one in before]
    with pytest.raises(NotFound, match="item"):
        labeled.delete(["0" * 64])


def test_adding_a_deleted_item_brings_it_back_as_it_was(
    labeled: Dataset, tmp_path: Path, pictures: Callable[..., Path]
) -> None:
    item = labeled.items(label="dog")[0]
    labeled.assign([item.id], "test")
    labeled.tag_items([item.id], "night")
    labeled.delete([item.id])
    report = labeled.add(tmp_path / "labeled", author="bob")
    assert (report.added, report.known) == (0, 20)
    back = labeled.item(item.id)
    assert (back.split, back.tags, back.labels) == ("test", ("night",), item.labels)
    assert [event.kind for event in labeled.history(item.id)][-1] == "item.return"


def test_an_import_is_undone_as_a_whole(labeled: Dataset) -> None:
    (op,) = (one for one in labeled.operations() if one.what == "add")
    labeled.undo(op.id)
    assert labeled.counts()["items"] == 0
    labeled.undo(labeled.operations()[0].id)
    assert labeled.counts()["by_class"] == {"cat": 12, "dog": 8}


def test_labels_splits_tags_and_attributes_are_undone(labeled: Dataset) -> None:
    item = labeled.items(label="cat")[0].id
    steps: list[Callable[[], str]] = [
        lambda: labeled.label({item: ["dog"]}, author="bob"),
        lambda: labeled.clear_labels([item], author="bob"),
        lambda: labeled.assign([item], "val"),
        lambda: labeled.tag_items([item], "night", "rain"),
        lambda: labeled.untag([item], "rain", "sun"),
        lambda: labeled.describe([item], {"camera": "A3", "at": {"hour": 7}}),
        lambda: labeled.describe([item], {"camera": None}),
    ]
    seen = []
    for step in steps:
        seen.append((labeled.item(item), step()))
    assert labeled.item(item).tags == ("night",)
    assert labeled.item(item).attributes == {"at": {"hour": 7}}
    for before, op in reversed(seen):
        labeled.undo(op)
        now = labeled.item(item)
        assert (now.labels, now.split, now.tags, now.attributes) == (
            before.labels, before.split, before.tags, before.attributes,
        )  # fmt: skip


def test_splitting_is_an_operation(labeled: Dataset) -> None:
    labeled.split()
    (newest, *_) = labeled.operations()
    assert (newest.what, newest.items) == ("split", 20)
    with pytest.raises(Conflict, match="of the test set"):
        labeled.undo(newest.id)


def test_what_changes_nothing_is_no_operation(labeled: Dataset) -> None:
    count = len(labeled.operations())
    item = labeled.items()[0].id
    labeled.untag([item], "night")
    labeled.describe([item], {"camera": None})
    assert len(labeled.operations()) == count


@pytest.mark.parametrize("tag", ["", " night", "x" * 101])
def test_a_tag_must_be_plain_text(labeled: Dataset, tag: str) -> None:
    with pytest.raises(Invalid, match="tag must be"):
        labeled.tag_items([labeled.items()[0].id], tag)


def test_values_that_json_does_not_have_are_refused(labeled: Dataset) -> None:
    with pytest.raises(Invalid, match="plain JSON"):
        labeled.describe([labeled.items()[0].id], {"x": float("nan")})
