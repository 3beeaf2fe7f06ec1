"""What a batch is made of: the items of a dataset, the files of a folder, the rows of files; in one order for good.

The order is written down when a batch begins, so that one that was killed goes on with the same items.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopworks.core.errors import Conflict, Invalid, LoopworksError, NotFound
from loopworks.core.image import SUFFIXES
from loopworks.core.values import Problem
from loopworks.data import media
from loopworks.data.files import IGNORED
from loopworks.data.stage import Dataset
from loopworks.data.tables import segments
from loopworks.data.tables.intake import Options, open_reader
from loopworks.infer import local
from loopworks.store.home import Home

ROWS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings of files of rows that are read piece by piece."""
ENDINGS = {"image": tuple(sorted(SUFFIXES)), "text": (".txt", ".md"), "row": ROWS}
PLAN = "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One item that is asked about, or why it cannot be; small, as it may travel to another machine."""

    name: str
    path: str = ""
    """Its file; read where the piece is worked on."""
    id: str = ""
    """Of an item of a dataset, whose bytes are in the blobs or behind ``uri``."""
    uri: str = ""
    content: Any = None
    """Bytes, text or row, where it has no file of its own."""
    problem: Problem | None = None

    def read(self, shelf: media.Shelf, kind: str) -> local.Asked:
        """What the model is asked about; ``kind`` is its medium."""
        if self.content is not None:
            asked: local.Asked = self.content
            return asked
        if self.id:
            data = media.read(shelf, self.id, self.uri, self.name)
            return data.decode("utf-8", "replace") if kind == "text" else data
        return Path(self.path)


class Pieces:
    """The pieces of a source; the same ones again each time they are asked for."""

    def __init__(self, home: Home, source: str, kind: str, folder: Path) -> None:
        """Find out what ``source`` is, and write down its order in ``folder``, or read what was written there before.

        Args:
            home: the workspace.
            source: name of a dataset, or an absolute path.
            kind: medium of the model: image, text, row.
            folder: of this batch.
        Raises: NotFound, Invalid: nothing there that such a model can be asked about.
        """
        self._home, self._kind = home, kind
        path = folder / PLAN
        if path.is_file():
            self._plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self._check()
            return
        self._plan = self._look(source)
        temp = path.with_suffix(".partial")
        temp.write_text(json.dumps(self._plan), encoding="utf-8")
        os.replace(temp, path)

    @property
    def total(self) -> int:
        """How many there are; 0: not known before they are read."""
        return int(self._plan["total"])

    def __iter__(self) -> Iterator[Piece]:
        """All of them, in order."""
        if "clock" in self._plan:
            return self._cells()
        if "ids" in self._plan:
            return self._items()
        return self._files()

    def _look(self, source: str) -> dict[str, Any]:
        if not os.path.isabs(source):
            from loopworks.data.stage import open_dataset

            return self._of_dataset(open_dataset(self._home, source))
        root = Path(source)
        if not root.exists():
            raise NotFound("path", source, hint="a dataset, a folder, or a file with rows")
        files = [root] if root.is_file() else sorted(_walk(root))
        wanted = [path for path in files if path.name.lower().endswith(ENDINGS[self._kind])]
        wanted = wanted or [path for path in files if path.name.lower().endswith(ROWS)]
        if not wanted:
            endings = ", ".join(ENDINGS[self._kind])
            raise Invalid(
                source, f"a place with files for a model of media {self._kind}", "none", f"endings: {endings}"
            )
        stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in wanted]
        are_rows = wanted[0].name.lower().endswith(ROWS)
        return {"source": source, "files": stamps, "rows": are_rows, "total": 0 if are_rows else len(stamps)}

    def _of_dataset(self, dataset: Dataset) -> dict[str, Any]:
        if dataset.task.media != self._kind:
            raise Invalid(f"dataset {dataset.name}", f"of media {self._kind}, as the model", dataset.task.media)
        told = {"source": dataset.name, "dataset": dataset.name}
        if dataset.is_table:
            live = dataset.table.live()
            return {**told, "clock": live.state.clock, "total": live.state.rows}
        ids = list(dataset.ids())
        return {**told, "ids": ids, "total": len(ids)}

    def _check(self) -> None:
        """A file of rows that has changed would give other rows under the same places."""
        for path, size, stamp in self._plan["files"] if self._plan.get("rows") else ():
            told = os.stat(path) if os.path.exists(path) else None
            if told is None or (told.st_size, told.st_mtime_ns) != (size, stamp):
                raise Conflict(f"{path} must stay as it was when the batch began; it has changed", "start a new batch")

    # ---- each kind of source

    def _dataset(self) -> Dataset:
        from loopworks.data.stage import open_dataset

        return open_dataset(self._home, str(self._plan["dataset"]))

    def _items(self) -> Iterator[Piece]:
        dataset = self._dataset()
        for key in self._plan["ids"]:
            try:
                item = dataset.item(key)
            except LoopworksError as error:  # deleted since the batch began
                yield Piece(name=key, problem=local.problem(error, key))
                continue
            yield Piece(name=item.name, id=item.id, uri=item.uri, content=item.text or None)

    def _cells(self) -> Iterator[Piece]:
        table = self._dataset().table
        live = table.live(int(self._plan["clock"]))
        names = [str(name) for name in live.state.body.get("names", [])]
        place = 0
        for part in table.scan(live, names):
            for row in segments.cells(part).to_pylist():
                place += 1
                yield Piece(name=f"{table.name} row {place}", content=row)

    def _files(self) -> Iterator[Piece]:
        root = Path(self._plan["source"])
        for path, *_ in self._plan["files"]:
            name = os.path.relpath(path, root if root.is_dir() else root.parent)
            if self._plan["rows"]:
                yield from self._rows(Path(path), name)
            else:
                yield Piece(name=name, path=path)

    def _rows(self, path: Path, name: str) -> Iterator[Piece]:
        place = 0
        for row in _read(path, name):
            if isinstance(row, Problem):
                yield Piece(name=row.where, problem=row)
                continue
            place += 1
            yield Piece(name=f"{name} row {place}", **self._asked(row, f"{name} row {place}"))

    def _asked(self, row: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A row for a model of rows; for others its column ``image`` (bytes, or as the Hub has it) or ``text``."""
        if self._kind == "row":
            return {"content": dict(row)}
        found = row.get(self._kind)
        if isinstance(found, Mapping):
            found = found.get("bytes")
        if not isinstance(found, bytes if self._kind == "image" else str):
            expected = "a column 'image' of bytes" if self._kind == "image" else "a column 'text' of text"
            got = f"columns {', '.join(row)}"
            return {"problem": local.problem(Invalid(name, f"a row with {expected}", got), name)}
        return {"content": found}


def _walk(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith(".") and name.lower() not in IGNORED)
        for file in files:
            path = Path(folder) / file
            if not file.startswith(".") and file.lower() not in IGNORED and path.is_file():
                yield path


def _read(path: Path, name: str) -> Iterator[dict[str, Any] | Problem]:
    """Rows of a file, a block at a time; a file that cannot be read is one problem, and the others go on."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path)
            return
        reader = open_reader(path, Options(header=True))
        yield from reader.layout.problems
        for block in reader.blocks():
            yield from block.cells.to_pylist()
            yield from block.problems
    except LoopworksError as error:
        yield local.problem(error, name)


def _parquet(path: Path) -> Iterable[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise Invalid(str(path), "a Parquet file", str(error)) from None
