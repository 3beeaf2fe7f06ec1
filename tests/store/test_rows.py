"""The functions over rows, on SQLite and PostgreSQL."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.values import LabelSchema, Shape
from loopworks.store import (
    annotations,
    datasets,
    deployments,
    events,
    items,
    leases,
    lineage,
    models,
    tallies,
    versions,
)
from loopworks.store.catalog import Catalog
from loopworks.store.ids import BATCH, canonical, new_id
from loopworks.store.lineage import Edge, Node

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
CAT, DOG = Shape(label="cat", author="ann"), Shape(label="dog", author="ann")


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def insert(tx: Connection, dataset: str, count: int, **more: Any) -> list[str]:
    """Items 0..count-1, named so that the order of names is not the order of ids."""
    rows = [
        {
            "dataset": dataset,
            "id": sha(number),
            "name": f"{number:03}.png",
            "blob": sha(number),
            "uri": "",
            "stamp": "",
            "mime": "image/png",
            "width": 4,
            "height": 3,
            "size_bytes": 5_000_000_000,
            "split": "",
            "state": "unlabeled",
            "added_at": NOON,
            "rev": 1,
            **more,
        }
        for number in range(count)
    ]
    items.add(tx, dataset, rows)
    return [sha(number) for number in range(count)]


def say(tx: Connection, dataset: str, labels: dict[str, list[Shape]], at: datetime | None = None) -> None:
    annotations.write(tx, dataset, labels, before=items.among(tx, dataset, labels), author="ann", at=at)


def test_new_ids_sort_by_the_time_they_were_made() -> None:
    made = [new_id() for _ in range(2000)]
    assert made == sorted(set(made))
    assert {len(one) for one in made} == {32}


def test_canonical_json_has_one_spelling() -> None:
    assert canonical({"b": 1, "a": ["é"]}) == '{"a":["é"],"b":1}'.encode()


def test_a_dataset_name_is_taken_once(catalog: Catalog, dataset: str) -> None:
    with pytest.raises(Conflict, match="'pets', which exists"), catalog.begin() as tx:
        datasets.add(tx, "pets", "image-classification", LabelSchema())
    with catalog.read() as tx:
        assert datasets.get(tx, "pets").id == dataset
        assert datasets.by_id(tx, dataset).schema == LabelSchema(classes=("cat", "dog"))


def test_an_unknown_dataset_names_those_that_exist(catalog: Catalog, dataset: str) -> None:
    with pytest.raises(NotFound) as caught, catalog.read() as tx:
        datasets.get(tx, "pest")
    assert caught.value.hint == "known: pets"


def test_items_are_found_by_id_beginning_and_name(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = insert(tx, dataset, 20)
        assert items.get(tx, dataset, ids[3]).name == "003.png"
        assert items.get(tx, dataset, ids[3][:10]).id == ids[3]
        assert items.get(tx, dataset, "003.png").id == ids[3]
        assert items.get(tx, dataset, ids[3]).size_bytes == 5_000_000_000
        with pytest.raises(Invalid, match="which fits several"):
            items.get(tx, dataset, next(a[0] for a in ids if sum(b[0] == a[0] for b in ids) > 1))
        for unknown in ("", "zebra", "0" * 64):
            with pytest.raises(NotFound, match="item"):
                items.get(tx, dataset, unknown)


def test_pages_by_name_hold_every_item_once(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        insert(tx, dataset, 25)
        names: list[str] = []
        after = None
        while page := items.page(tx, dataset, limit=10, after=after):
            names += [item.name for item in page]
            after = page[-1].id
    assert names == [f"{number:03}.png" for number in range(25)]


def test_items_of_one_name_are_paged_too(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = insert(tx, dataset, 7, name="same.png")
        first = items.page(tx, dataset, limit=4)
        rest = items.page(tx, dataset, limit=4, after=first[-1].id)
    assert [item.id for item in first + rest] == sorted(ids)


def test_pages_are_filtered_by_state_split_and_class(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = insert(tx, dataset, 6)
        say(tx, dataset, {ids[0]: [CAT], ids[1]: [DOG], ids[2]: [CAT]})
        items.set_splits(tx, dataset, {ids[0]: "test", ids[5]: "test"})

        def names(**kind: Any) -> list[str]:
            return [item.name[:3] for item in items.page(tx, dataset, **kind)]

        assert names(state="labeled") == ["000", "001", "002"]
        assert names(state="unlabeled") == ["003", "004", "005"]
        assert names(split="test") == ["000", "005"]
        assert names(split="") == ["001", "002", "003", "004"]
        assert names(label="cat") == ["000", "002"]
        assert names(label="cat", split="test", state="labeled") == ["000"]


def test_counts_are_those_of_the_rows(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        assert tallies.read(tx, dataset) == {"items": 0, "labeled": 0, "unlabeled": 0, "by_split": {}, "by_class": {}}
        ids = insert(tx, dataset, 5)
        say(tx, dataset, {ids[0]: [CAT], ids[1]: [CAT, DOG]})
        say(tx, dataset, {ids[0]: [DOG]})
        items.set_splits(tx, dataset, {ids[0]: "val"})
        assert tallies.read(tx, dataset) == {
            "items": 5,
            "labeled": 2,
            "unlabeled": 3,
            "by_split": {"": 4, "val": 1},
            "by_class": {"cat": 1, "dog": 2},
        }


def test_relabelling_closes_the_old_row_and_keeps_it(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        (item,) = insert(tx, dataset, 1)
        say(tx, dataset, {item: [CAT]}, NOON)
        say(tx, dataset, {item: [DOG]}, NOON + timedelta(hours=1))
        rows = annotations.of_item(tx, dataset, item)
        log = events.of_item(tx, dataset, item)
        assert items.get(tx, dataset, item).labels == (DOG,)
        assert items.get(tx, dataset, item).rev == 3
    assert [(row.label, row.rev, row.deleted_at) for row in rows] == [
        ("cat", 2, NOON + timedelta(hours=1)),
        ("dog", 3, None),
    ]
    assert [row.event for row in rows] == [event.id for event in log]
    assert [(event.before, event.after) for event in log] == [
        (None, [CAT.to_json()]),
        ([CAT.to_json()], [DOG.to_json()]),
    ]


def test_clearing_keeps_the_history(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = insert(tx, dataset, 2)
        say(tx, dataset, {ids[0]: [CAT]})
        annotations.clear(tx, dataset, items.among(tx, dataset, ids), author="bob")
        assert items.get(tx, dataset, ids[0]).state == "unlabeled"
        assert items.get(tx, dataset, ids[0]).labels == ()
        assert [event.kind for event in events.of_item(tx, dataset, ids[0])] == ["item.label", "item.clear"]
        assert events.of_item(tx, dataset, ids[1]) == []


def test_more_items_than_one_statement_takes_are_handled(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        keys = insert(tx, dataset, BATCH * 2 + 3)
        say(tx, dataset, {item: [CAT] for item in keys})
        say(tx, dataset, {item: [DOG] for item in keys})
        assert tallies.read(tx, dataset)["by_class"] == {"dog": len(keys)}
        assert len(items.among(tx, dataset, keys)) == len(keys)
        assert {item.labels for item in items.page(tx, dataset, limit=len(keys))} == {(DOG,)}


def test_the_rows_behind_a_frozen_item_are_those_of_its_time(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        (item,) = insert(tx, dataset, 1)
        say(tx, dataset, {item: [CAT]}, NOON)
        say(tx, dataset, {item: [DOG]}, NOON + timedelta(hours=1))
        say(tx, dataset, {item: [CAT]}, NOON + timedelta(hours=3))
        (fact,) = annotations.behind(tx, dataset, item, [CAT], NOON + timedelta(hours=2))
    assert fact.created_at == NOON


def test_two_people_never_hold_one_item(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:
        ids = insert(tx, dataset, 5)

        def take(who: str, count: int, minutes: int = 0) -> list[str]:
            return leases.take(
                tx, dataset, ids, who=who, count=count, seconds=300, at=NOON + timedelta(minutes=minutes)
            )

        assert take("ann", 2) == ids[:2]
        assert take("bob", 2) == ids[2:4]
        assert take("ann", 2) == ids[:2]  # renewed, not more
        assert take("eve", 9) == ids[4:]
        assert take("eve", 9, minutes=6) == ids  # all have run out
        assert leases.held(tx, dataset, NOON + timedelta(minutes=7)) == dict.fromkeys(ids, "eve")
        leases.release(tx, dataset, ids[:1], who="ann")
        leases.release(tx, dataset, ids[1:2], who="eve")
        assert set(leases.held(tx, dataset, NOON + timedelta(minutes=7))) == {ids[0], *ids[2:]}


def test_a_version_is_recorded_once_and_numbered(catalog: Catalog, dataset: str) -> None:
    with catalog.begin() as tx:

        def add(key: str) -> tuple[int, bool]:
            row, is_new = versions.add(tx, dataset, key * 64, task="t", message="", author="", count=1)
            return row.number, is_new

        assert [add("a"), add("b"), add("a")] == [(1, True), (2, True), (1, False)]
        assert [row.parent for row in versions.every(tx, dataset)] == ["", "a" * 64]
        assert versions.get(tx, "bb").number == 2
        versions.add(tx, dataset, "ab" * 32, task="t", message="", author="", count=1)
        with pytest.raises(Invalid, match="which begins several"):
            versions.get(tx, "a", dataset)
        for unknown in ("", "c", "zebra"):
            with pytest.raises(NotFound, match="version"):
                versions.get(tx, unknown, dataset)


def add_model(tx: Connection, name: str) -> models.Model:
    return models.add(tx, name, bundle="b", run="r", version="v", task="t", variant="onnx", metrics={"a": 0.5})


def test_models_are_numbered_by_name_and_found_by_alias(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        assert [add_model(tx, name).number for name in ("a", "b", "a")] == [1, 1, 2]
        models.set_alias(tx, "a", "champion", 1)
        models.set_alias(tx, "a", "champion", 2)
        assert models.aliases(tx, "a") == {"champion": 2}
        assert {model.ref for model in models.every(tx)} == {"a:1", "b:1", "a:2"}
        assert models.every(tx)[0].metrics == {"a": 0.5}
        with pytest.raises(NotFound, match="model"):
            models.set_alias(tx, "a", "challenger", 3)


def test_a_new_revision_ends_the_old_one_and_keeps_it(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        add_model(tx, "a")
        for variant in ("fp32", "int8"):
            deployments.add(tx, "shop", model="a", number=1, variant=variant)
        assert deployments.get(tx, "shop").variant == "int8"
        assert [row.ended_at is None for row in deployments.history(tx, "shop")] == [False, True]
        assert deployments.end(tx, "shop").revision == 2
        assert deployments.every(tx) == []
        with pytest.raises(NotFound, match="deployment"):
            deployments.end(tx, "shop")
        with pytest.raises(NotFound, match="model"):
            deployments.add(tx, "shop", model="a", number=9, variant="fp32")


def test_lineage_is_followed_both_ways_through_every_branch(catalog: Catalog) -> None:
    a, b, c, d = (Node("x", name) for name in "abcd")
    with catalog.begin() as tx:
        for source, target in ((a, b), (a, c), (b, d), (c, d), (a, b)):
            lineage.link(tx, source, target)
        assert lineage.back(tx, d) == [Edge(b, d), Edge(c, d), Edge(a, b), Edge(a, c)]
        assert set(lineage.on(tx, a)) == {Edge(a, b), Edge(a, c), Edge(b, d), Edge(c, d)}
        assert lineage.back(tx, a) == []


def test_a_circle_in_the_lineage_does_not_hang(catalog: Catalog) -> None:
    a, b = Node("x", "a"), Node("x", "b")
    with catalog.begin() as tx:
        lineage.link(tx, a, b)
        lineage.link(tx, b, a)
        assert set(lineage.back(tx, a)) == {Edge(a, b), Edge(b, a)}
