"""Frozen versions: the same state is the same id, parts are shared, a diff says what changed."""

import hashlib
import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopworks.core.errors import Damaged, NotFound, TooNew
from loopworks.core.values import LabelSchema, Shape
from loopworks.store import annotations, datasets, items, parts, tables
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
    """Another release of pyarrow writes other bytes; the version must not notice."""
    place.put(state(10))
    first = place.freeze()
    with place.catalog.begin() as tx:
        tx.execute(tables.part.delete())
    written = parts._parquet

    def other(rows: list[parts.FrozenRow]) -> bytes:
        out = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(written(rows))), out, compression="gzip")
        return out.getvalue()

    monkeypatch.setattr(parts, "_parquet", other)
    blobs = set(place.blobs.keys())
    assert place.freeze() == first
    assert set(place.blobs.keys()) > blobs
    assert [row.item_id for row in place.rows(first)] == sorted(map(sha, range(10)))


def test_parts_that_did_not_change_are_not_written_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(state(200))
    first = place.freeze()
    written: list[int] = []
    parquet = parts._parquet

    def watched(rows: list[parts.FrozenRow]) -> bytes:
        written.append(len(rows))
        return parquet(rows)

    monkeypatch.setattr(parts, "_parquet", watched)
    assert place.freeze() == first
    assert written == []
    place.put({7: ("dog", "train")})
    second = place.freeze()
    assert len(written) == 1
    assert len({part.digest for part in first.parts} & {part.digest for part in second.parts}) == 15


def test_writing_a_part_twice_gives_the_same_bytes(place: Place) -> None:
    place.put(state(50))
    rows = place.rows(place.freeze())
    assert parts._parquet(rows) == parts._parquet(rows)


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


def test_large_versions_are_cut_finer_and_compare_with_small_ones(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(state(20))
    small = place.freeze()
    monkeypatch.setattr(parts, "WIDE", 21)
    place.put({20: ("cat", "train")})
    large = place.freeze()
    assert (small.digits, large.digits) == (1, 2)
    assert [row.name for row in place.diff(small, large).added] == ["20.png"]
    assert [row.item_id for row in place.rows(large)] == sorted(map(sha, range(21)))


def test_a_part_that_is_gone_is_damage_and_freezing_again_mends_it(place: Place) -> None:
    place.put(state(10))
    manifest = place.freeze()
    with place.catalog.read() as tx:
        (victim, *_) = sorted(parts.keys(tx, manifest) - {manifest.id})
    place.blobs.delete(victim)
    with pytest.raises(Damaged, match="of a version must be there; got nothing"):
        place.rows(manifest)
    assert place.freeze() == manifest
    assert len(place.rows(manifest)) == 10


def test_changed_bytes_of_a_part_or_manifest_are_damage(place: Place) -> None:
    place.put(state(10))
    manifest = place.freeze()
    with place.catalog.read() as tx:
        keys = parts.keys(tx, manifest)
    assert keys == set(place.blobs.keys())
    for key in keys:
        path = place.blobs.path(key)
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged, match="part . of a version must have SHA-256"):
        place.rows(manifest)
    with pytest.raises(Damaged, match="manifest of version"):
        parts.read_manifest(place.blobs, manifest.id)


def test_an_unknown_version_is_not_found(place: Place) -> None:
    with pytest.raises(NotFound):
        parts.read_manifest(place.blobs, "0" * 64)


def test_a_version_of_a_newer_format_is_refused(place: Place) -> None:
    data = canonical({"format": 2})
    place.blobs.put_bytes(data)
    with pytest.raises(TooNew, match="must be of format 1 or older; got 2"):
        parts.read_manifest(place.blobs, sha256(data))
