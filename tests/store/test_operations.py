"""Delete, tag, change and undo on both databases: what an operation changed comes back, and nothing else does."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.values import LabelSchema, Shape
from loopworks.store import changes, datasets, events, items, operations, tables, tallies
from loopworks.store.catalog import Catalog, open_catalog
from loopworks.store.changes import Facts
from loopworks.store.ids import new_id

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
CAT, DOG = Shape(label="cat", author="ann"), Shape(label="dog", author="ann")
BOX = Shape(label="cat", author="ann", kind="box", points=((1.0, 2.0, 3.5, 4.0),), attributes='{"occluded":true}')


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def put(tx: Connection, dataset: str, count: int, **more: Any) -> list[str]:
    plain = {
        "dataset": dataset, "uri": "", "stamp": "", "mime": "image/png", "width": 4, "height": 3, "size_bytes": 9,
        "split": "", "state": "unlabeled", "added_at": NOON, "rev": 1,
    }  # fmt: skip
    ids = [sha(number) for number in range(count)]
    rows = [{**plain, "id": key, "name": f"{n:03}.png", "blob": key, **more} for n, key in enumerate(ids)]
    items.add(tx, dataset, rows)
    return ids


def do(tx: Connection, dataset: str, wanted: dict[str, Facts], what: str = "edit") -> str:
    op = new_id()
    count = changes.apply(tx, dataset, wanted, author="bob", op=op)
    operations.record(tx, dataset, op, what, count=count, author="bob")
    return op


def state(tx: Connection, dataset: str, ids: list[str]) -> dict[str, Facts]:
    return changes.read(tx, dataset, ids)


def test_every_part_of_an_item_comes_back(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 3)
        do(tx, dataset, {ids[0]: Facts(labels=(BOX,), tags=("night",), attributes={"camera": "A3"}, split="val")})
        before, counts = state(tx, dataset, ids), tallies.read(tx, dataset)
        op = do(tx, dataset, {
            ids[0]: Facts(labels=(DOG, CAT), tags=("day",), attributes={}, split="train"),
            ids[1]: Facts(labels=(CAT,), is_here=False),
        })  # fmt: skip
        assert state(tx, dataset, ids) != before
        assert tallies.read(tx, dataset)["items"] == 2
        done = operations.undo(tx, dataset, op, author="eve")
        assert state(tx, dataset, ids) == before
        assert tallies.read(tx, dataset) == counts
        assert (done.what, done.items, done.author, done.undoes) == ("undo", 2, "eve", op)


def test_an_undo_can_be_undone_and_not_twice(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 2)
        op = do(tx, dataset, {ids[0]: Facts(labels=(CAT,))})
        after = state(tx, dataset, ids)
        undo = operations.undo(tx, dataset, op[:20], author="eve")
        with pytest.raises(Conflict, match="must not be undone yet"):
            operations.undo(tx, dataset, op, author="eve")
        operations.undo(tx, dataset, undo.id, author="eve")
        assert state(tx, dataset, ids) == after
        assert [(one.what, one.is_undone) for one in operations.every(tx, dataset)] == [
            ("undo", False), ("undo", True), ("edit", True),
        ]  # fmt: skip


def test_what_was_changed_since_is_a_conflict_unless_forced(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 2)
        op = do(tx, dataset, {key: Facts(labels=(CAT,)) for key in ids})
        do(tx, dataset, {ids[1]: Facts(labels=(DOG,))})
        with pytest.raises(Conflict, match="got 1 changed since"):
            operations.undo(tx, dataset, op, author="eve")
        operations.undo(tx, dataset, op, author="eve", force=True)
        assert [facts["labels"] for facts in state(tx, dataset, ids).values()] == [None, None]


def test_a_change_of_another_part_is_no_conflict(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 1)
        op = do(tx, dataset, {ids[0]: Facts(tags=("night",))})
        do(tx, dataset, {ids[0]: Facts(labels=(CAT,))})
        operations.undo(tx, dataset, op, author="eve")
        (facts,) = state(tx, dataset, ids).values()
        assert (facts["tags"], facts["labels"]) == ((), (CAT,))


def test_an_item_leaves_the_test_set_by_force_alone(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 1)
        op = do(tx, dataset, {ids[0]: Facts(split="test")})
        with pytest.raises(Conflict, match="of the test set must stay there"):
            operations.undo(tx, dataset, op, author="eve")
        operations.undo(tx, dataset, op, author="eve", force=True)
        assert state(tx, dataset, ids)[ids[0]]["split"] == ""


def test_adding_is_undone_unless_somebody_worked_on_the_items(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        op = new_id()
        ids = put(tx, dataset, 1)
        row = tx.execute(select(tables.item)).mappings().one()
        more = {**row, "id": sha(7), "name": "7.png"}
        items.add(tx, dataset, [more], author="ann", op=op)
        operations.record(tx, dataset, op, "add", count=1)
        tagged = do(tx, dataset, {sha(7): Facts(tags=("x",))})
        with pytest.raises(Conflict, match="such as the tags of"):
            operations.undo(tx, dataset, op, author="eve")
        assert set(items.among(tx, dataset, [*ids, sha(7)])) == {*ids, sha(7)}
        operations.undo(tx, dataset, tagged, author="eve")
        operations.undo(tx, dataset, op, author="eve")
        assert set(items.among(tx, dataset, [*ids, sha(7)])) == set(ids)


def test_deleted_items_are_invisible_and_come_back_whole(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 3)
        do(tx, dataset, {ids[0]: Facts(labels=(CAT,), tags=("night",), split="test")})
        whole = items.among(tx, dataset, ids)[ids[0]]
        items.delete(tx, dataset, [ids[0]], author="ann", op="1")
        assert len(items.page(tx, dataset)) == 2
        assert items.among(tx, dataset, ids).keys() == {ids[1], ids[2]}
        assert items.labeled_splits(tx, dataset) == ({}, {})
        assert tallies.read(tx, dataset)["by_class"] == {}
        with pytest.raises(NotFound, match="item"):
            items.get(tx, dataset, "000.png")
        assert items.deleted(tx, dataset, ids) == {ids[0]}
        assert items.bring_back(tx, dataset, ids, author="ann", op="2") == {ids[0]}
        back = items.among(tx, dataset, ids)[ids[0]]
        assert (back.labels, back.tags, back.split) == (whole.labels, whole.tags, whole.split)
        assert back.changed > whole.changed
        kinds = [event.kind for event in events.of_item(tx, dataset, ids[0])]
        assert kinds[-2:] == ["item.delete", "item.return"]


def test_every_change_moves_the_clock_of_the_item(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 1)
        last = items.among(tx, dataset, ids)[ids[0]].changed
        wanted: list[Facts] = [
            {"labels": (CAT,)}, {"labels": None}, {"split": "val"}, {"tags": ("a",)}, {"tags": ()},
            {"attributes": {"a": 1}}, {"is_here": False}, {"is_here": True},
        ]  # fmt: skip
        for facts in wanted:
            do(tx, dataset, {ids[0]: facts})
            now = items.among(tx, dataset, ids, deleted=True)[ids[0]].changed
            assert now > last, facts
            last = now


def test_what_is_so_already_writes_nothing(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 1)
        do(tx, dataset, {ids[0]: Facts(labels=(BOX,), tags=("a", "b"), attributes={"x": 1.5})})
        count = len(events.of_item(tx, dataset, ids[0]))
        same = state(tx, dataset, ids)
        assert changes.apply(tx, dataset, same, author="bob", op=new_id()) == 0
        assert len(events.of_item(tx, dataset, ids[0])) == count


def test_an_operation_is_found_by_the_beginning_of_its_id(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 1)
        ops = [do(tx, dataset, {ids[0]: Facts(tags=(tag,))}) for tag in "ab"]
        assert operations.get(tx, dataset, ops[1][:16]).id == ops[1]
        with pytest.raises(Invalid, match="which begins several"):
            operations.get(tx, dataset, ops[0][:4])
        for unknown in ("", "zebra", "0" * 32):
            with pytest.raises(NotFound, match="operation") as caught:
                operations.get(tx, dataset, unknown)
        assert ops[0][: operations.SHOWN] in caught.value.hint


def test_a_finding_that_an_operation_fixed_is_open_again(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = put(tx, dataset, 1)
        op = do(tx, dataset, {ids[0]: Facts(is_here=False)})
        table = tables.finding
        row = {"id": "f", "dataset": dataset, "kind": "dark", "items": ids, "detail": {}, "created_at": NOON}
        tx.execute(insert(table).values(**row, state="fixed", op=op))
        operations.undo(tx, dataset, op, author="eve")
        assert tx.execute(select(table.c.state, table.c.op)).one() == ("open", "")


FACTS = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.sampled_from([None, (), (CAT,), (DOG, BOX)]),
        "split": st.sampled_from(["", "train", "val"]),
        "tags": st.sampled_from([(), ("a",), ("a", "b")]),
        "attributes": st.sampled_from([{}, {"camera": "A"}, {"n": [1, 2.5], "é": None}]),
        "is_here": st.booleans(),
    },
)


@given(edits=st.lists(st.dictionaries(st.integers(0, 3), FACTS, max_size=4), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_undoing_all_from_the_last_to_the_first_is_the_beginning(
    tmp_path_factory: pytest.TempPathFactory, edits: list[dict[int, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("place")
    catalog = open_catalog(f"sqlite:///{folder / 'catalog.db'}", busy_timeout_s=1)
    with catalog.begin() as tx:
        dataset = datasets.add(tx, "pets", "image-classification", LabelSchema(classes=("cat", "dog"))).id
        ids = put(tx, dataset, 4)
        seen = [(state(tx, dataset, ids), tallies.read(tx, dataset))]
        for edit in edits:
            do(tx, dataset, {sha(number): facts for number, facts in edit.items()})
            seen.append((state(tx, dataset, ids), tallies.read(tx, dataset)))
        for op in operations.every(tx, dataset):
            operations.undo(tx, dataset, op.id, author="eve")
        assert (state(tx, dataset, ids), tallies.read(tx, dataset)) == seen[0]
        kept = tallies.read(tx, dataset)
        tallies.recount(tx, dataset)
        assert tallies.read(tx, dataset) == kept
    catalog.close()
