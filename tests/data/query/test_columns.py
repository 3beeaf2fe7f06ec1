"""Columns are made for large datasets alone, outlive a process, and give nothing back that is gone."""

from pathlib import Path
from typing import Any

import pytest

from loopworks.core.values import LabelSchema
from loopworks.data.look import Look
from loopworks.store import columns, datasets, erasing, items, words
from loopworks.store.home import Home, create_home
from loopworks.store.ids import now


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "home")


def fill(home: Home, count: int) -> Look:
    row = {"uri": "", "stamp": "", "mime": "image/png", "height": 1, "split": "", "state": "unlabeled", "rev": 1}
    with home.catalog.begin() as tx:
        dataset = datasets.add(tx, "d", "image-classification", LabelSchema(classes=("a", "b"))).id
        ids = [f"{i:064x}" for i in range(count)]
        items.add(tx, dataset, [
            {**row, "dataset": dataset, "id": key, "blob": key, "name": f"{i}.png", "width": i, "size_bytes": -i,
             "added_at": now()}
            for i, key in enumerate(ids)
        ], author="ann", op="o")  # fmt: skip
    return Look(home, dataset)


def widths(look: Look, query: str, sort: str = "") -> list[int]:
    return [item.width for item in look.find(query, sort=sort)]


def test_a_small_dataset_has_no_columns(home: Home) -> None:
    assert widths(fill(home, 5), "width > 2", "-width") == [4, 3]
    assert not (home.cache / "columns").exists()


def test_columns_are_read_once_and_mapped_by_the_next_process(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MIN_ITEMS", 5)
    look = fill(home, 5)
    assert widths(look, "width > 2", "size") == [4, 3]
    columns.forget(home.catalog)
    monkeypatch.setattr(columns.Columns, "read", lambda *_: pytest.fail("read anew"))
    assert widths(look, "width > 2", "size") == [4, 3]
    assert look.count("width > 2") == 2


def test_what_is_erased_is_in_no_answer_and_in_no_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MIN_ITEMS", 3)
    look = fill(home, 5)
    assert widths(look, "width > 2", "size") == [4, 3]
    erasing.erase(home, [f"{4:064x}"], reason="asked for", author="ann")
    assert widths(look, "width > 2", "size") == [3]
    assert look.count("") == 4
    assert not any(b"4.png" in path.read_bytes() for path in home.cache.rglob("*") if path.is_file())


def test_broken_files_are_read_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MIN_ITEMS", 5)
    look = fill(home, 5)
    assert widths(look, "width > 2", "size") == [4, 3]
    columns.forget(home.catalog)
    for path in (home.cache / "columns").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:40])
    assert widths(look, "width > 2", "size") == [4, 3]


def test_a_full_disk_costs_files_and_no_answer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MIN_ITEMS", 5)
    look = fill(home, 5)
    (home.cache / "columns").write_text("no folder")
    assert widths(look, "width > 2", "size") == [4, 3]


def test_words_of_a_large_dataset_are_mapped_and_follow_changes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MIN_ITEMS", 5)
    monkeypatch.setattr(words, "having", lambda *_: pytest.fail("the index of words was asked"))
    look = fill(home, 6)
    dataset = look._dataset
    assert widths(look, "match('PNG') and not match('3')", "-width") == [5, 4, 2, 1, 0]
    assert widths(look, "match('png nothing')") == []
    with home.catalog.begin() as tx:
        items.add_tags(tx, dataset, {f"{2:064x}": ["night"]})
        items.delete(tx, dataset, [f"{5:064x}"], author="ann", op="o")
    assert widths(look, "match('night')") == [2]
    assert (look.count("match('png')"), look.count("not match('night')")) == (5, 4)
    monkeypatch.setattr(columns, "MAX_CHANGED", 0)
    monkeypatch.setattr(columns, "MAX_RENEWED", 1)
    monkeypatch.setattr(columns.Columns, "_read_words", renewed_only(columns.Columns._read_words))
    assert widths(look, "match('night')") == [2]
    columns.forget(home.catalog)
    assert widths(look, "match('night') or match('4')", "-width") == [4, 2]


def renewed_only(read: Any) -> Any:
    def checked(self: columns.Columns, *given: Any) -> Any:
        assert self._since is not None, "the words of all items were read again"
        return read(self, *given)

    return checked


def test_broken_words_are_read_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MIN_ITEMS", 5)
    look = fill(home, 5)
    assert widths(look, "match('3')") == [3]
    columns.forget(home.catalog)
    for path in (home.cache / "columns").rglob("words/*/texts"):
        path.write_bytes(path.read_bytes()[:40])
    assert widths(look, "match('3')") == [3]
