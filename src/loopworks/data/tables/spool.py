"""Rows on their way in: cut by key into files on disk, so that an import of any size needs little memory.

At every checkpoint the lengths of the files are written down beside the place in the source, so that an import that was
killed goes on there.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.errors import Busy
from loopworks.data.tables import keys
from loopworks.data.tables.keys import Keys
from loopworks.store.blobs import write_error

if TYPE_CHECKING:
    import pyarrow as pa

FLUSH = 96 << 20
"""Bytes of rows that wait in memory."""


class Spool:
    """Rows by the first hex digits of their content's hash; one folder per import."""

    def __init__(self, folder: Path, digits: int) -> None:
        """Use ``folder``, and take it for this process alone.

        Raises: Busy: another process imports the same now.
        """
        import fcntl

        self.digits = digits
        self._folder = folder
        self._waiting: dict[int, list[Any]] = {}
        self._bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("w", encoding="utf-8")
        except OSError as error:
            raise write_error(folder, error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise Busy("the import must run once at a time; got another process at it", "wait for it") from None

    def resume(self) -> dict[str, Any] | None:
        """What ``checkpoint`` wrote last; the files are cut back to it. ``None`` where there is nothing sound."""
        path = self._folder / "checkpoint.json"
        try:
            body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._empty()
            return None
        lengths: dict[str, int] = body["lengths"]
        for name, length in lengths.items():
            file = self._folder / name
            if not file.is_file() or file.stat().st_size < length:
                self._empty()
                return None
        for file in self._folder.glob("*.arrows"):
            if file.name not in lengths:
                file.unlink()
            else:
                os.truncate(file, lengths[file.name])
        self.digits = body["digits"]
        return body

    def checkpoint(self, body: dict[str, Any]) -> None:
        """Write the rows that wait, and ``body`` beside them."""
        try:
            self.flush()
            lengths = {file.name: file.stat().st_size for file in self._folder.glob("*.arrows")}
            temp = self._folder / "checkpoint.tmp"
            temp.write_text(json.dumps({**body, "digits": self.digits, "lengths": lengths}), encoding="utf-8")
            os.replace(temp, self._folder / "checkpoint.json")
        except OSError as error:
            raise write_error(self._folder, error) from None

    @property
    def is_full(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._bytes >= FLUSH

    def add(self, rows: "pa.Table", where: Keys, kind: str = "rows") -> None:
        """Take rows.

        Args:
            rows: any table.
            where: the key that each goes by.
            kind: rows with equal columns or not, kept apart from other kinds.
        """
        places = keys.partitions(where, self.digits)
        order = np.argsort(places, kind="stable")
        sorted_rows = rows.take(order) if self.digits else rows
        marks = np.flatnonzero(np.diff(places[order])) + 1
        for start, stop in zip([0, *marks.tolist()], [*marks.tolist(), len(places)], strict=True):
            if stop > start:
                part = int(places[order[start]])
                self._waiting.setdefault(part if kind == "rows" else -1 - part, []).append(
                    sorted_rows.slice(start, stop - start)
                )
        self._bytes += rows.nbytes

    def put(self, part: int, rows: "pa.Table") -> None:
        """Take rows for a partition that the caller has chosen."""
        self._waiting.setdefault(part, []).append(rows)
        self._bytes += rows.nbytes

    def flush(self) -> None:
        """Write what waits in memory."""
        import pyarrow as pa

        for part, tables in self._waiting.items():
            table = pa.concat_tables(tables, promote_options="default").combine_chunks()
            options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            with self._path(part).open("ab") as file, pa.ipc.new_stream(file, table.schema, options=options) as out:
                out.write_table(table)
        self._waiting.clear()
        self._bytes = 0

    def read(self, part: int, kind: str = "rows") -> "Iterator[pa.Table]":
        """The rows of one partition, in the order they came."""
        import pyarrow as pa

        number = part if kind == "rows" else -1 - part
        path = self._path(number)
        if path.is_file():
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                while file.tell() < size:
                    with pa.ipc.open_stream(file) as stream:
                        yield stream.read_all()
        yield from self._waiting.get(number, [])

    def drop(self, kind: str) -> None:
        """Throw away the rows of a kind (other than rows)."""
        self._waiting = {part: tables for part, tables in self._waiting.items() if part >= 0}
        for file in self._folder.glob(f"{kind}-*.arrows"):
            file.unlink()

    def close(self, *, is_done: bool) -> None:
        """Let go of the folder, and remove it where the import is done."""
        self._lock.close()
        if is_done:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, part: int) -> Path:
        kind, number = ("rows", part) if part >= 0 else ("again", -1 - part)
        return self._folder / f"{kind}-{number:x}.arrows"

    def _empty(self) -> None:
        for file in self._folder.glob("*.arrows"):
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
