"""Rows of descriptors on disk: written once, read by content id, shared by all datasets of a workspace.

A descriptor has a folder of its own in the cache with *segments*: NumPy files of (id, row) that never change. A new
computation adds a segment; many small ones are merged. So two processes may add at the same time, and a killed one
leaves whole segments behind.
"""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.store.blobs import write_error

SEGMENTS = 24
"""So many files are merged into one."""
_HEX = re.compile(r"[0-9a-f]{64}")
IN_MEMORY = 256 << 20
"""Bytes; larger answers are mapped from a temporary file."""


class Cache:
    """The rows of one descriptor."""

    def __init__(self, folder: Path, key: str, width: int, dtype: str) -> None:
        """Rows of ``width`` numbers in ``folder/key``; nothing is read or made yet."""
        self.folder = folder / key
        self._type = np.dtype([("id", "V32"), ("row", dtype, (width,))])
        self._open: dict[str, NDArray[Any]] = {}
        self._at: dict[bytes, tuple[str, int]] = {}

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that have no row yet, in order."""
        self._refresh()
        return [one for one in ids if _key(one) not in self._at]

    def add(self, ids: Sequence[str], rows: NDArray[Any]) -> None:
        """Keep rows; one that is there already is not doubled.

        Raises: NoSpace, Denied: the cache cannot be written.
        """
        table = np.zeros(len(ids), self._type)
        table["id"] = np.frombuffer(b"".join(map(_key, ids)), "V32")
        table["row"] = rows
        self._write(table)
        self._refresh()
        if len(self._open) > SEGMENTS:
            self._merge()

    def read(self, ids: Sequence[str]) -> NDArray[Any]:
        """The rows of ``ids``, which all must be there, in order; shape ``(len(ids), width)``."""
        self._refresh()
        places: dict[str, list[tuple[int, int]]] = {}
        for at, one in enumerate(ids):
            name, row = self._at[_key(one)]
            places.setdefault(name, []).append((at, row))
        out = _room((len(ids), *self._type["row"].shape), self._type["row"].base, self.folder)
        for name, pairs in places.items():
            to, take = np.array(pairs).T
            for part in range(0, len(to), 65_536):  # so that a large file is not held twice
                out[to[part : part + 65_536]] = self._open[name]["row"][take[part : part + 65_536]]
        return out

    def forget(self, ids: Iterable[str]) -> int:
        """Remove the rows of ``ids`` for good, for an erasure; gives how many there were."""
        self._refresh()
        gone = {_key(one) for one in ids} & self._at.keys()
        for name in {self._at[one][0] for one in gone}:
            old = self._open[name]
            keep = np.array([one not in gone for one in _keys(old)], np.bool_)
            if keep.any():
                self._write(np.array(old[keep]))
            self._drop([name])
        self._refresh()
        return len(gone)

    def _refresh(self) -> None:
        """Open what other processes wrote meanwhile, and let go of what they merged."""
        names = {path.name for path in self.folder.glob("*.npy")} if self.folder.is_dir() else set()
        if gone := self._open.keys() - names:
            for name in gone:
                del self._open[name]
            self._at = {one: place for one, place in self._at.items() if place[0] not in gone}
        for name in sorted(names - self._open.keys()):
            with contextlib.suppress(FileNotFoundError):  # merged by another process since the listing
                found = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
                if found.dtype != self._type:
                    continue
                self._open[name] = found
                for row, one in enumerate(_keys(found)):
                    self._at.setdefault(one, (name, row))

    def _merge(self) -> None:
        names = list(self._open)
        fresh = np.concatenate([self._open[name] for name in names])
        _, first = np.unique(np.array(fresh["id"]).view("S32"), return_index=True)
        self._write(fresh[np.sort(first)])
        self._drop(names)
        self._refresh()

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def _write(self, table: NDArray[Any]) -> None:
        name = f"{secrets.token_hex(8)}.npy"
        temp = self.folder / f"{name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temp.open("wb") as file:
                np.save(file, table, allow_pickle=False)
            os.replace(temp, self.folder / name)
        except OSError as error:
            temp.unlink(missing_ok=True)
            raise write_error(self.folder, error) from None


def _key(item: str) -> bytes:
    """The 32 bytes of a content id; ids of another form are hashed to as many."""
    return bytes.fromhex(item) if _HEX.fullmatch(item) else hashlib.sha256(item.encode()).digest()


def _keys(table: NDArray[Any]) -> list[bytes]:
    raw = table["id"].tobytes()
    return [raw[at : at + 32] for at in range(0, len(raw), 32)]


def _room(shape: tuple[int, ...], dtype: Any, folder: Path) -> NDArray[Any]:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:  # the map keeps the bytes for as long as somebody uses them
        file.truncate(size)
        found: NDArray[Any] = np.memmap(file, dtype, "r+", shape=shape)
        return found
