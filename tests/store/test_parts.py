"""Frozen versions: the same state is the same id, parts are shared, a diff says what changed."""

import hashlib
import io
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopworks.core.errors import Damaged, NotFound, TooNew
from loopworks.core.values import LabelSchema, Shape
from loopworks.store import annotations, changes, datasets, frozen, items, packs, parts, tables
from loopworks.store.blobs import LocalBlobs
from loopworks.store.catalog import Catalog, open_catalog
from loopworks.store.ids import canonical, now, sha256
from loopworks.store.parts import Manifest

SCHEMA = LabelSchema(classes=("cat", "dog"))
State = Mapping[int, tuple[str, str]]
"""Number of an item -> class and split."""


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


class Place:
    """A catalog with one dataset, and blobs."""

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self.catalog = catalog
        self.blobs = LocalBlobs(folder)
        with catalog.begin() as tx:
            self.dataset = datasets.add(tx, "pets", "image-classification", SCHEMA).id

    def put(self, state: State) -> None:
        """Insert or relabel the items in the order given."""
        with self.catalog.begin() as tx:
            items.bring_back(tx, self.dataset, map(sha, state), author="ann", op="1")
            before = items.among(tx, self.dataset, map(sha, state))
            fresh = [self._row(number, split) for number, (_, split) in state.items() if sha(number) not in before]
            items.add(tx, self.dataset, fresh)
            labels = {sha(number): [Shape(label=label, author="ann")] for number, (label, _) in state.items()}
            annotations.write(tx, self.dataset, labels, before=before, author="ann")
            items.set_splits(tx, self.dataset, {sha(number): split for number, (_, split) in state.items()})

    def freeze(self) -> Manifest:
        with self.catalog.read() as tx:
            return parts.write(self.catalog, self.blobs, tx, self.dataset, "image-classification", SCHEMA)

    def rows(self, manifest: Manifest, split: str | None = None) -> list[parts.FrozenRow]:
        with self.catalog.read() as tx:
            return list(parts.rows(tx, self.blobs, manifest, split))

    def forget(self) -> None:
        """Let the next freeze read everything."""
        with self.catalog.begin() as tx:
            tx.execute(tables.dataset.update().values(frozen="", frozen_clock=0))

    def layout(self, manifest: Manifest) -> list[int]:
        with self.catalog.read() as tx:
            return [count for _, count in parts.layout_of(tx, manifest.id)]

    def take(self, numbers: list[int], *, is_delete: bool) -> None:
        with self.catalog.begin() as tx:
            there = items.among(tx, self.dataset, map(sha, numbers))
            if is_delete:
                items.delete(tx, self.dataset, there, author="ann", op="1")
            else:
                annotations.clear(tx, self.dataset, there, author="ann")

    def diff(self, before: Manifest, after: Manifest) -> parts.Diff:
        with self.catalog.read() as tx:
            return parts.diff(tx, self.blobs, before, after)

    def _row(self, number: int, split: str) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "id": sha(number),
            "name": f"{number}.png",
            "blob": sha(number),
            "uri": "",
            "stamp": "",
            "mime": "image/png",
            "width": 4,
            "height": 3,
            "size_bytes": 9,
            "split": split,
            "state": "labeled",
            "added_at": now(),
            "rev": 1,
        }


@pytest.fixture
def place(catalog: Catalog, tmp_path: Path) -> Place:
    return Place(catalog, tmp_path / "blobs")


def state(count: int) -> dict[int, tuple[str, str]]:
    return {n: ("cat" if n % 3 else "dog", ("train", "val", "test")[n % 3]) for n in range(count)}


def test_a_version_gives_back_what_was_frozen(place: Place) -> None:
    place.put(state(30))
    manifest = place.freeze()
    rows = place.rows(manifest)
    assert [row.item_id for row in rows] == sorted(map(sha, range(30)))
    assert {row.name: (row.shapes[0].label, row.split) for row in rows} == {
        f"{number}.png": said for number, said in state(30).items()
    }
    assert {row.split for row in place.rows(manifest, "val")} == {"val"}
    assert parts.read_manifest(place.blobs, manifest.id) == manifest
    assert manifest.counts == {
        "items": 30,
        "by_split": {"test": 10, "train": 10, "val": 10},
        "by_class": {"cat": 20, "dog": 10},
        "by_split_class": {
            "test": {"cat": 10, "dog": 0},
            "train": {"cat": 0, "dog": 10},
            "val": {"cat": 10, "dog": 0},
        },
    }


def test_an_empty_version_is_one_too(place: Place) -> None:
    manifest = place.freeze()
    assert manifest.parts == ()
    assert place.rows(manifest) == []


def test_a_version_stays_what_it_was_when_the_dataset_moves_on(place: Place) -> None:
    place.put(state(20))
    first = place.freeze()
    rows = place.rows(first)
    place.put({3: ("cat", "train"), 50: ("dog", "test")})
    assert place.rows(first) == rows
    assert place.freeze().id != first.id


@given(
    content=st.dictionaries(
        st.integers(0, 60), st.tuples(st.sampled_from(["cat", "dog"]), st.sampled_from(["train", "val", "test"]))
    ),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None)
def test_the_same_state_has_the_same_id_in_every_workspace(
    tmp_path_factory: pytest.TempPathFactory, content: dict[int, tuple[str, str]], seed: int
) -> None:
    """Other order of insertion, other times, other ids of rows, a detour over other labels: the id is the same."""
    ids = []
    for turn in range(2):
        folder = tmp_path_factory.mktemp("place")
        catalog = open_catalog(f"sqlite:///{folder / 'catalog.db'}", busy_timeout_s=1)
        place = Place(catalog, folder / "blobs")
        order = list(content)
        if turn:
            random.Random(seed).shuffle(order)
            place.put({number: ("dog", "train") for number in order[:5]})
        place.put({number: content[number] for number in order})
        ids.append(place.freeze().id)
        catalog.close()
    assert ids[0] == ids[1]


def test_another_label_split_author_or_schema_is_another_id(place: Place) -> None:
    place.put(state(10))
    seen = {place.freeze().id}
    for change in ({0: ("cat", "train")}, {0: ("cat", "test")}, {99: ("cat", "test")}):
        place.put(change)
        seen.add(place.freeze().id)
    with place.catalog.read() as tx:
        wider = LabelSchema(classes=("cat", "dog", "eel"))
        seen.add(parts.write(place.catalog, place.blobs, tx, place.dataset, "image-classification", wider).id)
        seen.add(parts.write(place.catalog, place.blobs, tx, place.dataset, "another-task", SCHEMA).id)
    assert len(seen) == 6


def test_the_id_does_not_depend_on_how_parquet_is_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of pyarrow, or another size of row groups, writes other bytes; the version must not notice."""
    place.put(state(40))
    first = place.freeze()
    place.forget()
    monkeypatch.setattr(packs, "GROUP", 7)
    held = set(place.blobs.keys())
    assert place.freeze() == first
    assert set(place.blobs.keys()) > held
    assert [row.item_id for row in place.rows(first)] == sorted(map(sha, range(40)))


def test_a_freeze_after_a_change_reads_and_writes_the_changed_leaves_alone(place: Place) -> None:
    place.put(state(1100))
    first = place.freeze()
    assert (first.digits, place.layout(first)) == (2, [1100])
    assert place.freeze() == first
    place.put({7: ("dog", "train"), 8: ("cat", "test")})
    second = place.freeze()
    base, delta = place.layout(second)
    assert base == 1100
    assert 2 <= delta < 40
    assert [row.item_id for row in place.rows(second)] == sorted(map(sha, range(1100)))
    whole = place.rows(second)
    place.forget()
    assert place.freeze() == second
    assert place.rows(second) == whole


def test_what_is_changed_back_is_the_version_before_and_writes_nothing(place: Place) -> None:
    place.put(state(50))
    first = place.freeze()
    held = set(place.blobs.keys())
    place.put({3: ("cat", "train")})
    place.put({3: state(50)[3]})
    assert place.freeze() == first
    assert set(place.blobs.keys()) == held


def test_many_packs_become_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PACKS", 3)
    place.put(state(60))
    sizes = []
    for turn in range(6):
        place.put({turn: ("dog", "val")})
        manifest = place.freeze()
        sizes.append(len(place.layout(manifest)))
        assert {row.name for row in place.rows(manifest, "val")} >= {f"{number}.png" for number in range(turn + 1)}
    assert sizes == [1, 2, 3, 1, 2, 3]


@given(steps=st.lists(st.dictionaries(st.integers(0, 30), st.sampled_from(["cat", "dog", "", "gone"])), max_size=4))
@settings(max_examples=6, deadline=None)
def test_freezing_step_by_step_gives_what_freezing_at_once_gives(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("place")
    catalog = open_catalog(f"sqlite:///{folder / 'catalog.db'}", busy_timeout_s=1)
    place = Place(catalog, folder / "blobs")
    place.put({number: ("cat", "train") for number in range(20)})
    manifest = place.freeze()
    seen = {manifest.id: (manifest, place.rows(manifest))}
    for step in steps:
        place.put({number: (label, "train") for number, label in step.items() if label in ("cat", "dog")})
        place.take([number for number, label in step.items() if label == ""], is_delete=False)
        place.take([number for number, label in step.items() if label == "gone"], is_delete=True)
        manifest = place.freeze()
        found = place.rows(manifest)
        place.forget()
        assert place.freeze() == manifest
        assert place.rows(manifest) == found
        assert manifest.counts["items"] == len(found)
        seen[manifest.id] = (manifest, found)
    for old, rows in seen.values():
        assert place.rows(old) == rows
    catalog.close()


def test_all_that_is_known_of_an_item_is_frozen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MASK", 10)
    box = Shape(label="cat", kind="box", points=((1, 2, 3.5, 4),), attributes='{"occluded":true}', extra='{"coco":{}}')
    mask = Shape(label="dog", kind="mask", points=((3.0, 4.0),), mask="0" * 40)
    place.put(state(3))
    with place.catalog.begin() as tx:
        facts = changes.Facts(labels=(box, mask), tags=("night", "rain"), attributes={"camera": "A3", "n": 1.5})
        changes.apply(tx, place.dataset, {sha(1): facts}, author="ann", op="1")
        items.change(tx, place.dataset, "extra", {sha(1): {"coco": {"id": 7}}})
        items.change(tx, place.dataset, "text", {sha(1): "a text"})
    manifest = place.freeze()
    (row,) = [row for row in place.rows(manifest) if row.item_id == sha(1)]
    assert row.shapes == (box, mask)
    assert (row.tags, row.facts, row.origin) == (("night", "rain"), {"camera": "A3", "n": 1.5}, {"coco": {"id": 7}})
    assert (row.text, row.size_bytes) == ("a text", 9)
    with place.catalog.read() as tx:
        assert hashlib.sha256(b"0" * 40).hexdigest() in parts.keys(tx, place.blobs, manifest)
        assert parts.find(tx, place.blobs, manifest, sha(1)) == row
        assert parts.find(tx, place.blobs, manifest, sha(99)) is None


@pytest.mark.parametrize(("count", "digits"), [(0, 1), (1024, 1), (1025, 2), (2000, 2), (1_000_000, 4), (4_194_305, 5)])
def test_the_cut_is_a_function_of_the_number_of_items(count: int, digits: int) -> None:
    assert frozen.digits(count) == digits


def test_a_diff_says_what_was_added_removed_and_changed(place: Place) -> None:
    place.put(state(40))
    first = place.freeze()
    with place.catalog.begin() as tx:
        annotations.clear(tx, place.dataset, items.among(tx, place.dataset, [sha(5)]), author="ann")
    place.put({1: ("dog", "val"), 2: ("cat", "train"), 90: ("dog", "train")})
    second = place.freeze()
    diff = place.diff(first, second)
    assert [row.name for row in diff.added] == ["90.png"]
    assert [row.name for row in diff.removed] == ["5.png"]
    assert {change.name for change in diff.changed} == {"1.png", "2.png"}
    assert diff.by_class == {"cat": (26, 24), "dog": (14, 16)}
    back = place.diff(second, first)
    assert [row.name for row in back.added] == ["5.png"]
    assert place.diff(second, second) == parts.Diff(added=(), removed=(), changed=(), by_class={})


@given(changed=st.sets(st.integers(0, 39)), added=st.sets(st.integers(100, 120)))
@settings(max_examples=8, deadline=None)
def test_a_diff_is_exactly_what_was_done(
    tmp_path_factory: pytest.TempPathFactory, changed: set[int], added: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("place")
    catalog = open_catalog(f"sqlite:///{folder / 'catalog.db'}", busy_timeout_s=1)
    place = Place(catalog, folder / "blobs")
    place.put({number: ("cat", "train") for number in range(40)})
    first = place.freeze()
    place.put({number: ("dog", "train") for number in changed | added})
    diff = place.diff(first, place.freeze())
    catalog.close()
    assert {change.item_id for change in diff.changed} == set(map(sha, changed))
    assert {row.item_id for row in diff.added} == set(map(sha, added))
    assert diff.removed == ()


def test_a_diff_counts_annotations_and_moves(place: Place) -> None:
    place.put({number: ("cat", "train") for number in range(4)})
    first = place.freeze()
    box = Shape(label="dog", kind="box", points=((1.0, 2.0, 3.0, 4.0),))
    cat = Shape(label="cat", author="ann")
    with place.catalog.begin() as tx:
        wanted = {
            sha(0): changes.Facts(labels=(cat, box)),
            sha(1): changes.Facts(labels=(Shape(label="dog", author="ann"),)),
            sha(2): changes.Facts(split="val", tags=("night",)),
            sha(3): changes.Facts(is_here=False),
        }
        changes.apply(tx, place.dataset, wanted, author="ann", op="1")
    diff = place.diff(first, place.freeze())
    assert diff.annotations == {
        "cat": {"added": 0, "removed": 1, "changed": 1},
        "dog": {"added": 1, "removed": 0, "changed": 0},
    }
    assert diff.moves == {"train>val": 1}
    body = diff.to_json()
    assert (len(body["added"]), body["removed"], len(body["changed"])) == (0, [sha(3)], 3)
    assert {k: v for k, v in body["annotations"].items() if k != "by_class"} == {"added": 1, "removed": 1, "changed": 1}
    (moved,) = [one for one in body["changed"] if one["item"] == sha(2)]
    assert (moved["before"]["tags"], moved["after"]["tags"]) == ([], ["night"])


def test_large_versions_are_cut_finer_and_compare_with_small_ones(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(state(20))
    monkeypatch.setattr(frozen, "LEAF", 2)
    small = place.freeze()
    place.put({number: ("cat", "train") for number in range(20, 40)})
    large = place.freeze()
    assert (small.digits, large.digits) == (1, 2)
    assert {row.name for row in place.diff(small, large).added} == {f"{number}.png" for number in range(20, 40)}
    assert [row.item_id for row in place.rows(large)] == sorted(map(sha, range(40)))


def test_rows_that_are_gone_are_damage_and_freezing_again_mends_it(place: Place) -> None:
    place.put(state(10))
    manifest = place.freeze()
    with place.catalog.read() as tx:
        (victim, *_) = sorted(parts.keys(tx, place.blobs, manifest) - {manifest.id, manifest.leaves})
    place.blobs.delete(victim)
    with pytest.raises(Damaged, match="of a version must be there; got nothing"):
        place.rows(manifest)
    assert place.freeze() == manifest
    assert len(place.rows(manifest)) == 10


def test_changed_bytes_of_a_pack_or_manifest_are_damage(place: Place) -> None:
    place.put(state(10))
    manifest = place.freeze()
    with place.catalog.read() as tx:
        keys = parts.keys(tx, place.blobs, manifest)
    assert keys == set(place.blobs.keys())
    for key in keys:
        path = place.blobs.path(key)
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged, match="pack of a version must have SHA-256"):
        place.rows(manifest)
    with pytest.raises(Damaged, match="manifest of version"):
        parts.read_manifest(place.blobs, manifest.id)
    with pytest.raises(Damaged, match="leaves of version"):
        frozen.read_leaves(place.blobs, manifest)


def test_an_unknown_version_is_not_found(place: Place) -> None:
    with pytest.raises(NotFound):
        parts.read_manifest(place.blobs, "0" * 64)


def test_a_version_of_a_newer_format_is_refused(place: Place) -> None:
    data = canonical({"format": 3})
    place.blobs.put_bytes(data)
    with pytest.raises(TooNew, match="must be of format 2 or older; got 3"):
        parts.read_manifest(place.blobs, sha256(data))


def test_a_version_of_format_1_is_read_and_compared(place: Place) -> None:
    """As the first release wrote it: one Parquet part per first digit, named in the manifest by its rows."""
    place.put(state(20))
    now_is = place.freeze()
    old = as_first(place, place.rows(now_is), now_is)
    assert parts.read_manifest(place.blobs, old.id) == old
    assert [(row.item_id, row.shapes) for row in place.rows(old)] == [
        (row.item_id, row.shapes) for row in place.rows(now_is)
    ]
    assert len(place.rows(old, "val")) == 6 + 1
    assert place.diff(old, now_is) == parts.Diff(added=(), removed=(), changed=(), by_class={})
    place.put({1: ("dog", "val"), 50: ("cat", "train")})
    diff = place.diff(old, place.freeze())
    assert ([row.name for row in diff.added], [change.name for change in diff.changed]) == (["50.png"], ["1.png"])
    with place.catalog.read() as tx:
        assert parts.find(tx, place.blobs, old, sha(3)) is not None
        assert len(parts.keys(tx, place.blobs, old)) == 1 + len(old.parts)


def as_first(place: Place, rows: list[parts.FrozenRow], like: Manifest) -> Manifest:
    plain = ("item_id", "name", "blob", "uri", "mime", "width", "height", "split")
    cut = []
    for prefix in "0123456789abcdef":
        held = [row for row in rows if row.item_id.startswith(prefix)]
        if not held:
            continue
        columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in held] for name in plain}
        columns["labels"] = [[shape.to_json() for shape in row.shapes] for row in held]
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out)
        digest = sha256(repr(columns).encode())
        cut.append(frozen.Part(prefix=prefix, digest=digest, rows=len(held)))
        with place.catalog.begin() as tx:
            tx.execute(
                tables.part.insert().values(digest=digest, blob=place.blobs.put_bytes(out.getvalue()), rows=len(held))
            )
    made = replace(like, format=1, digits=1, leaves="", parts=tuple(cut))
    place.blobs.put_bytes(made.to_bytes())
    return made
