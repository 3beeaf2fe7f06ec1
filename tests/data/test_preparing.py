"""Large datasets are read before the first question: after a large import, and in the background of a server."""

import threading
from pathlib import Path

import pytest
from PIL import Image

import loopworks as lw
from loopworks.core.errors import LoopworksError
from loopworks.core.values import Shape
from loopworks.data import preparing
from loopworks.data.preparing import Preparer
from loopworks.data.stage import Dataset
from loopworks.store import columns, look


def pictures(folder: Path, begin: int, end: int) -> Path:
    for i in range(begin, end):
        path = folder / "a" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (i + 1, 2)).save(path)
    return folder


def first_pages(dataset: Dataset) -> list[int]:
    """How many items each of the usual kinds of questions finds, with no reading of columns allowed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns.Columns, "_scan", lambda *_: pytest.fail("columns were read for a question"))
        queries = ("width > 2", "label = 'a'", "tag = 'night'", "attributes.speed > 1", "match('png')")
        return [len(dataset.find(query, sort="-width")) for query in queries]


def test_a_large_import_is_ready_for_its_first_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MIN_ITEMS", 5)
    with lw.open(tmp_path / "space") as space:
        dataset = space.dataset("d", task="image-classification")
        dataset.add(pictures(tmp_path / "one", 0, 5))
        columns.forget(space.home.catalog)  # as in another process
        assert first_pages(dataset)[:2] == [3, 5]
        assert first_pages(dataset)[4] == 5


def test_a_small_import_into_a_large_dataset_pays_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lw.open(tmp_path / "space") as space:
        dataset = space.dataset("d", task="image-classification")
        dataset.add(pictures(tmp_path / "one", 0, 6))
        monkeypatch.setattr(columns, "MIN_ITEMS", 5)
        monkeypatch.setattr(preparing, "IMPORTED", 0.5)
        dataset.add(pictures(tmp_path / "two", 6, 7))
        assert not (space.home.cache / "columns").exists()


def test_a_server_gets_datasets_ready_and_follows_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lw.open(tmp_path / "space") as space:
        dataset = space.dataset("d", task="image-classification")
        dataset.add(pictures(tmp_path / "one", 0, 6))
        keys = sorted(item.id for item in dataset.items())
        for i, key in enumerate(keys):
            dataset.describe([key], {"speed": i})
        monkeypatch.setattr(columns, "MIN_ITEMS", 5)
        monkeypatch.setattr(columns, "MANY_CHANGED", 0)
        monkeypatch.setattr(columns, "MAX_RENEWED", 1)
        monkeypatch.setattr(preparing, "LOOK_S", 0.01)
        monkeypatch.setattr(preparing, "SHARE", 0)  # a slow look on a busy machine would put the next one off
        done, plain = threading.Semaphore(0), look.prepare

        def told(*given: object) -> None:
            plain(*given)  # type: ignore[arg-type]
            done.release()

        monkeypatch.setattr(look, "prepare", told)
        preparer = Preparer(space.home)
        try:
            assert done.acquire(timeout=20)
            assert first_pages(dataset) == [4, 6, 0, 4, 6]
            dataset.tag_items([keys[0]], "night")
            assert done.acquire(timeout=20)
            assert first_pages(dataset) == [4, 6, 1, 4, 6]
            dataset.look.keep("m:1", {keys[0]: [(Shape(label="a", source="model"), 0.5)]})
            assert done.acquire(timeout=20)
            with monkeypatch.context() as patch:
                patch.setattr(columns.Columns, "_scan", lambda *_: pytest.fail("read for a question"))
                assert [item.id for item in dataset.find("prediction.score > 0.1")] == [keys[0]]
        finally:
            preparer.close()


def test_a_failing_database_does_not_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preparing, "LOOK_S", 0.01)
    monkeypatch.setattr(preparing, "SHARE", 0)  # a slow look on a busy machine would put the next one off
    tried = threading.Semaphore(0)

    def fail(*_: object) -> None:
        tried.release()
        raise LoopworksError("the disk is on fire")

    monkeypatch.setattr(Preparer, "_look", fail)
    with lw.open(tmp_path / "space") as space:
        preparer = Preparer(space.home)
        assert tried.acquire(timeout=20)
        assert tried.acquire(timeout=20)
        preparer.close()
    assert "the disk is on fire" in caplog.text
