"""SQL on both databases says of random data and queries what the plain Python check of each item says."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopworks.core.query import Node, Sort
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.data.query.evaluate import holds
from loopworks.data.query.parser import parse, parse_sort
from loopworks.store import annotations, columns, datasets, items, look, postings, predictions, words
from loopworks.store.catalog import Catalog, open_catalog

START = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = ("a", "B", "街道", "a%", "[x]", "é", "pothole main", "z'\"", "A3")
WORDS = st.sampled_from(TEXTS)
NUMBERS = st.sampled_from((-1, 0, 1, 2, 2.5, 100, 640, 3_000_000_000))
FACTS = st.dictionaries(
    st.sampled_from(("camera", "n", "相")),
    st.one_of(WORDS, NUMBERS, st.booleans(), st.none(), st.just(""), st.just([1])), max_size=3,
)  # fmt: skip
SHAPES = st.lists(
    st.one_of(
        st.builds(lambda label, x, w, facts: Shape(
            label=label, author="ann", kind="box", points=((x, 0.0, w, 2.0),), attributes=dump(facts)),
            st.sampled_from(("car", "街")), st.sampled_from((0.0, 5.5)), st.sampled_from((1.0, 50.0)), FACTS),
        st.builds(lambda label, source: Shape(label=label, source=source),
                  st.sampled_from(("car", "dog")), st.sampled_from(("person", "model"))),
        st.builds(lambda text: Shape(label="", kind="caption", attributes=dump({"text": text})), WORDS),
    ), max_size=3,
)  # fmt: skip
ITEMS = st.lists(
    st.fixed_dictionaries({
        "name": WORDS, "text": st.one_of(st.just(""), WORDS), "width": st.sampled_from((0, 100, 640, 60_000)),
        "height": st.sampled_from((0, 100, 60_000)), "split": st.sampled_from(("", "train", "test")),
        "day": st.integers(0, 3), "attributes": FACTS, "tags": st.sets(st.sampled_from(("night", "夜")), max_size=2),
        "shapes": st.one_of(st.none(), SHAPES), "is_gone": st.sampled_from((False, False, False, True)),
        "guesses": st.lists(st.tuples(st.sampled_from(("m:1", "m:2")), st.sampled_from(("car", "dog")),
                                      st.sampled_from((0.0, 0.25, 0.5, 1.0))), max_size=2),
    }), max_size=6,
)  # fmt: skip


def quoted(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


OPERATORS = st.sampled_from(("=", "!=", "<", "<=", ">", ">="))
TEXT_FIELDS = (
    "name",
    "text",
    "split",
    "state",
    "tag",
    "label",
    "author",
    "source",
    "prediction.label",
    "prediction.model",
)
NUMBER_FIELDS = (
    "width",
    "height",
    "area",
    "size",
    "box.width",
    "box.area",
    "prediction.score",
    "prediction.uncertainty",
)
ANY_FIELDS = ("attributes.camera", "attributes.n", "attributes.相", "shape.attributes.n")
SAID = st.one_of(WORDS, st.sampled_from(("train", "car", "night", "labeled", "m:1", "ann")))
PATTERNS = st.sampled_from(("a%", "%", "_", "%o%", "[x]", "a\\%", "", "街%", "%'%"))
SHAPE_TESTS = st.one_of(
    st.sampled_from(("label = 'car'", "not label = 'car'", "kind = 'box'", "box.width > 5", "author is missing",
                     "shape.attributes.n > 0", "label != 'car' or box.x < 1", "shape.attributes.camera = 'A3'")),
)  # fmt: skip
ATOMS = st.one_of(
    st.builds(lambda f, o, v: f"{f} {o} {quoted(v)}", st.sampled_from(TEXT_FIELDS), OPERATORS, SAID),
    st.builds(lambda f, o, v: f"{f} {o} {v}", st.sampled_from(NUMBER_FIELDS), OPERATORS, NUMBERS),
    st.builds(lambda f, o, v: f"{f} {o} {quoted(v)}", st.sampled_from(ANY_FIELDS), OPERATORS, st.one_of(SAID, NUMBERS)),
    st.builds(lambda f, v: f"{f} = {quoted(v)}", st.sampled_from(ANY_FIELDS), st.booleans()),
    st.builds(lambda f, n: f"{f} is {n}missing", st.sampled_from(TEXT_FIELDS + NUMBER_FIELDS + ANY_FIELDS),
              st.sampled_from(("", "not "))),
    st.builds(lambda f, n, p: f"{f} {n}like {quoted(p)}", st.sampled_from((*TEXT_FIELDS, *ANY_FIELDS)),
              st.sampled_from(("", "not ")), PATTERNS),
    st.builds(lambda f, v: f"{f} in ({', '.join(map(quoted, v))})", st.sampled_from(ANY_FIELDS),
              st.lists(st.one_of(SAID, NUMBERS, st.booleans()), max_size=3)),
    st.builds(lambda f, n, v: f"{f} {n}in ({', '.join(map(quoted, v))})", st.sampled_from(TEXT_FIELDS),
              st.sampled_from(("", "not ")), st.lists(SAID, max_size=3)),
    st.builds(lambda f, a, b: f"{f} between {a} and {b}", st.sampled_from(NUMBER_FIELDS + ANY_FIELDS),
              NUMBERS, NUMBERS),
    st.builds(lambda a, b: f"{a} between {quoted(b)} and 'z'", st.sampled_from(TEXT_FIELDS + ANY_FIELDS), SAID),
    st.builds(lambda o, d: f"added_at {o} '2026-01-0{d}'", OPERATORS, st.integers(1, 5)),
    st.builds(lambda t, o, n: f"count({t}) {o} {n}", st.one_of(SHAPE_TESTS, st.sampled_from(("car", "*"))), OPERATORS,
              st.integers(0, 2)),
    st.builds(lambda t: f"any({t})", SHAPE_TESTS),
    st.builds(lambda t: f"match({quoted(t)})", st.sampled_from((
        "a", "POTHOLE", "main pothole", "街道", "道", "e", "night", "夜"))),
    st.sampled_from(("width > height", "prediction.label != label", "prediction.label = label",
                     "name = attributes.camera",
                     "attributes.n < width", "box.width >= attributes.n", "tag = label", "true", "false",
                     "prediction.model = 'm:1'", "prediction.model like 'm%'")),
)  # fmt: skip
QUERIES = st.recursive(
    ATOMS,
    lambda parts: st.one_of(
        st.builds(lambda a, o, b: f"({a} {o} {b})", parts, st.sampled_from(("and", "or")), parts),
        st.builds(lambda a: f"not ({a})", parts),
    ),
    max_leaves=4,
)
MATCHES = st.builds(
    lambda t: f"match({quoted(t)})",
    st.sampled_from((
        "a",
        "POTHOLE",
        "main pothole",
        "pothole nothing",
        "街道",
        "道",
        "e",
        "night",
        "夜",
        "z",
        "a3",
        "new",
        "x",
        "nothing",
    )),
)
WORD_QUERIES = st.recursive(
    MATCHES,
    lambda parts: st.one_of(
        st.builds(lambda a, o, b: f"({a} {o} {b})", parts, st.sampled_from(("and", "or")), st.one_of(parts, ATOMS)),
        st.builds(lambda a: f"not ({a})", parts),
    ),
    max_leaves=3,
)
CHANGES = (
    "label",
    "clear",
    "delete",
    "return",
    "tag",
    "facts",
    "score",
    "add",
    "other process",
    "take in",
    "read anew",
)
SORTS = ("", "-name", "id", "-size", "width", "-area", "count", "-count", "prediction.score", "-prediction.uncertainty",
         "attributes.n", "-attributes.n", "added_at", "-split")  # fmt: skip


@pytest.fixture
def opened(catalog_url: str) -> Iterator[Catalog]:
    catalog = open_catalog(catalog_url, busy_timeout_s=5)
    yield catalog
    catalog.close()


def fill(catalog: Catalog, rows: list[dict[str, Any]], number: int) -> tuple[str, set[str]]:
    """A new dataset with these items, and the ids of those that are deleted."""
    import sqlalchemy as sa

    from loopworks.store import tables

    ids = [f"{i:064x}" for i in range(len(rows))]
    gone = {key for key, row in zip(ids, rows, strict=True) if row["is_gone"]}
    with catalog.begin() as tx:
        dataset = datasets.add(tx, f"d{number}", "object-detection", LabelSchema(classes=("car", "dog", "街"))).id
        items.add(tx, dataset, [
            {"dataset": dataset, "id": key, "blob": key, "uri": "", "stamp": "", "mime": "image/png",
             "name": row["name"], "text": row["text"], "attributes": row["attributes"], "width": row["width"],
             "height": row["height"], "size_bytes": row["width"] * 7, "split": row["split"], "rev": 1,
             "state": "labeled" if row["shapes"] is not None else "unlabeled",
             "added_at": START + timedelta(days=row["day"])}
            for key, row in zip(ids, rows, strict=True)
        ])  # fmt: skip
        said = {key: row["shapes"] for key, row in zip(ids, rows, strict=True) if row["shapes"] is not None}
        annotations.write(tx, dataset, said, before={}, author="ann")
        tags = [
            {"dataset": dataset, "tag": t, "item": k} for k, row in zip(ids, rows, strict=True) for t in row["tags"]
        ]
        if tags:
            tx.execute(sa.insert(tables.item_tag), tags)
        for model in ("m:1", "m:2"):
            predictions.write(tx, dataset, model, {
                key: [(Shape(label=label, source="model"), score) for m, label, score in row["guesses"] if m == model]
                for key, row in zip(ids, rows, strict=True)
            })  # fmt: skip
        items.delete(tx, dataset, sorted(gone), author="ann", op="o")
    words.catch_up(catalog, dataset)
    return dataset, gone


def expected(catalog: Catalog, dataset: str, node: Node, ids: list[str]) -> list[str]:
    with catalog.read() as tx:
        found = items.among(tx, dataset, ids)
        guesses = predictions.of_items(tx, dataset, ids, look.scope(tx, dataset, node))
    return sorted(key for key, item in found.items() if holds(node, item, guesses.get(key, ())))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    rows=ITEMS,
    queries=st.lists(st.one_of(QUERIES, WORD_QUERIES), min_size=8, max_size=12),
    order=st.sampled_from(SORTS),
)
def test_sql_agrees_with_the_plain_check(
    opened: Catalog, rows: list[dict[str, Any]], queries: list[str], order: str
) -> None:
    with opened.read() as tx:
        number = len(datasets.every(tx))
    dataset, _ = fill(opened, rows, number)
    for query in queries:
        node = parse(query)
        wanted = expected(opened, dataset, node, [f"{i:064x}" for i in range(len(rows))])
        with opened.read() as tx:
            assert list(look.ids(tx, dataset, node)) == wanted, query
            assert look.count(tx, dataset, node) == len(wanted), query
            whole = [item.id for item in look.page(tx, dataset, node, sort=parse_sort(order), limit=100)]
            assert sorted(whole) == wanted
            assert paged(tx, dataset, node, parse_sort(order)) == whole, (query, order)


def paged(tx: Any, dataset: str, node: Node, sort: Sort) -> list[str]:
    """All pages of two, one after the other."""
    found: list[str] = []
    while page := look.page(tx, dataset, node, sort=sort, limit=2, after=found[-1] if found else None):
        found += [item.id for item in page]
        assert len(found) < 100
    return found


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    rows=ITEMS, queries=st.lists(st.one_of(QUERIES, WORD_QUERIES), min_size=4, max_size=7),
    order=st.sampled_from(SORTS),
    changes=st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 5)), max_size=4),
)  # fmt: skip
def test_columns_agree_with_sql_before_and_after_changes(
    opened: Catalog, tmp_path: Path, rows: list[dict[str, Any]], queries: list[str], order: str,
    changes: list[tuple[str, int]],
) -> None:  # fmt: skip
    with opened.read() as tx:
        number = len(datasets.every(tx))
    dataset, _ = fill(opened, rows, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "MIN_ITEMS", 0)
        patch.setattr(postings, "BLOCK", 7)
        for what, at in [("", 0), *changes]:
            change(opened, dataset, what, f"{at:064x}")
            patch.setattr(columns, "MAX_CHANGED", 0 if what in ("take in", "read anew") else 5)
            patch.setattr(columns, "MAX_RENEWED", 0 if what == "read anew" else 2)
            for query in queries:
                node, sort = parse(query), parse_sort(order)
                with opened.read() as tx:
                    whole = [item.id for item in look.page(tx, dataset, node, sort=sort, limit=100)]
                    assert sorted(whole) == expected(opened, dataset, node, items.every(tx, dataset)), query
                    fast = [
                        item.id for item in look.fast_page(opened, tmp_path, tx, dataset, node, sort=sort, limit=100)
                    ]
                    assert fast == whole, (query, order)
                    assert look.fast_count(opened, tmp_path, tx, dataset, node) == len(whole), query
                    for i, after in enumerate(whole):
                        rest = look.fast_page(opened, tmp_path, tx, dataset, node, sort=sort, limit=2, after=after)
                        assert [item.id for item in rest] == whole[i + 1 : i + 3], (query, order)


def change(catalog: Catalog, dataset: str, what: str, key: str) -> None:
    """One of the ways in which items change, where there is such an item."""
    if what == "other process":
        columns.forget(catalog)
    words.catch_up(catalog, dataset)
    with catalog.begin() as tx:
        before = items.among(tx, dataset, [key])
        if what == "add":
            row = {"blob": key, "uri": "", "stamp": "", "mime": "image/png", "name": "new", "width": 7, "height": 640}
            more = {"size_bytes": 1, "split": "test", "rev": 1, "state": "unlabeled", "added_at": START}
            new = f"{len(items.every(tx, dataset)) + 10:064x}"
            items.add(tx, dataset, [{"dataset": dataset, "id": new, **row, **more}], author="ann", op="o")
        elif what == "return":
            items.bring_back(tx, dataset, [key], author="ann", op="o")
        elif what == "score" and items.every(tx, dataset):
            guess = (Shape(label="dog", source="model"), 0.75)
            predictions.write(tx, dataset, "m:1", {items.every(tx, dataset)[0]: [guess, guess]})
        elif before and what == "label":
            annotations.write(tx, dataset, {key: [Shape(label="dog")]}, before=before, author="bob")
            items.set_splits(tx, dataset, {key: "val"})
        elif before and what == "clear":
            annotations.clear(tx, dataset, before, author="bob")
        elif before and what == "delete":
            items.delete(tx, dataset, [key], author="bob", op="o")
        elif before and what == "tag":
            items.set_tags(tx, dataset, {key: ["夜", "new"]}, before)
        elif before and what == "facts":
            items.change(tx, dataset, "attributes", {key: {"camera": "a%", "n": 2.5}})
    words.catch_up(catalog, dataset)
