"""The cache of rows: incremental, shared, whole after a merge, and forgetful on demand."""

import hashlib
from pathlib import Path

import numpy as np

from loopworks.data.features.cache import SEGMENTS, Cache


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def rows(ids: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([[int(one[:4], 16), int(one[4:8], 16)] for one in ids], np.float32)


def test_rows_come_back_in_the_order_asked_for_and_are_seen_by_another_process(tmp_path: Path) -> None:
    ids = [key(n) for n in range(10)]
    mine, other = Cache(tmp_path, "look", 2, "float32"), Cache(tmp_path, "look", 2, "float32")
    assert mine.missing(ids) == ids
    mine.add(ids[:6], rows(ids[:6]))
    other.add(ids[6:], rows(ids[6:]))
    assert mine.missing(ids) == []
    assert (mine.read(ids[::-1]) == rows(ids[::-1])).all()


def test_many_segments_become_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "look", 2, "float32")
    ids = [key(n) for n in range(SEGMENTS + 3)]
    for one in ids:
        cache.add([one], rows([one]))
    assert len(list((tmp_path / "look").glob("*.npy"))) < SEGMENTS
    assert (cache.read(ids) == rows(ids)).all()


def test_forgotten_rows_are_gone_from_the_disk(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "look", 2, "float32")
    ids = [key(n) for n in range(5)]
    cache.add(ids, rows(ids))
    assert cache.forget([ids[2], key(99)]) == 1
    fresh = Cache(tmp_path, "look", 2, "float32")
    assert fresh.missing(ids) == [ids[2]]
    assert not any(bytes.fromhex(ids[2]) in path.read_bytes() for path in (tmp_path / "look").iterdir())


def test_a_file_of_another_width_is_passed_over(tmp_path: Path) -> None:
    Cache(tmp_path, "look", 3, "float32").add([key(0)], np.zeros((1, 3), np.float32))
    assert Cache(tmp_path, "look", 2, "float32").missing([key(0)]) == [key(0)]
