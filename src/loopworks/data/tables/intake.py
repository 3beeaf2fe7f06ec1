"""Adding rows: read, key, spool, merge. Adding the same again adds nothing; a killed import goes on where it was.

The rows of a file are known by their content: the second row of equal content within one file is another row, the same
row in another file is not. With an id column rows are known by it, and a row whose cells have changed is replaced.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import Problem
from loopworks.data.tables import keys, segments
from loopworks.data.tables.block import Block, Reader
from loopworks.data.tables.delimited import DelimitedReader
from loopworks.data.tables.records import JsonLinesReader, ParquetReader
from loopworks.data.tables.spool import Spool
from loopworks.data.tables.text import PACKED, open_text
from loopworks.store.home import Home
from loopworks.store.ids import canonical, sha256
from loopworks.store.segments import State

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], None]
DELIMITED = (".csv", ".tsv", ".tab", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
MOST_PROBLEMS = 1_000
"""Problems that are told one by one; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How files are read; what is empty is found out."""

    delimiter: str = ""
    quote: str = ""
    encoding: str = ""
    header: bool | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """How far the reading has got: all of it is in the checkpoint."""

    file: int = 0
    position: int = 0
    line: int = 0
    rows: int = 0
    names: list[str] = field(default_factory=list)
    declared: dict[str, str] = field(default_factory=dict)
    dialect: dict[str, Any] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)
    left_out: int = 0
    runs: list[tuple[int, str, int]] = field(default_factory=list)
    """(import number, file, line): from there on each row is one line further."""
    is_read: bool = False


def find(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The table files of paths, folders and patterns, by name.

    Raises:
        NotFound: a path does not exist.
        Invalid: no table file there.
    """
    import glob

    from loopworks.core.errors import NotFound

    found: list[Path] = []
    for one in [source] if isinstance(source, str | Path) else source:
        path = Path(one).expanduser()
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file))
        elif path.exists():
            found.append(path)
        elif matched := sorted(glob.glob(str(path), recursive=True)):
            found += [Path(name) for name in matched if Path(name).is_file()]
        else:
            raise NotFound("path", str(one), hint="check the path")
    if not found:
        raise Invalid(str(source), "CSV, TSV, Parquet or JSON lines", "no such file there")
    return list(dict.fromkeys(path.absolute() for path in found))


def kind_of(path: Path) -> str:
    """delimited, jsonl, parquet, or empty for another kind of file."""
    suffix = path.suffix.lower()
    if suffix in PACKED:
        suffix = path.with_suffix("").suffix.lower()
    for kind, known in (("delimited", DELIMITED), ("jsonl", JSON_LINES), ("parquet", PARQUET)):
        if suffix in known:
            return kind
    return ""


def open_reader(path: Path, options: Options) -> Reader:
    """A reader for the file.

    Raises: Invalid: no table file, or one that cannot be read.
    """
    kind = kind_of(path)
    if kind == "parquet":
        return ParquetReader(path)
    if kind == "jsonl":
        return JsonLinesReader(open_text(path, options.encoding))
    if kind == "delimited":
        text = open_text(path, options.encoding)
        delimiter = options.delimiter or ("\t" if ".tsv" in path.suffixes else "")
        return DelimitedReader(text, delimiter=delimiter, quote=options.quote, header=options.header)
    raise Invalid(str(path), "CSV, TSV, Parquet or JSON lines", path.suffix or "a file without a suffix")


class Intake:
    """One call of ``Table.add``: reads the files into a spool; ``merge.py`` takes them from there."""

    def __init__(self, home: Home, dataset: str, state: State, paths: Sequence[Path], options: Options) -> None:
        """Begin, or go on with what a killed import left."""
        stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        self.sizes = [stamp[1] for stamp in stamps]
        self._id_column = str(state.body.get("id", ""))
        shown = [getattr(options, name) for name in Options.__slots__]
        name = sha256(canonical([home.folder.name, dataset, stamps, shown, self._id_column]))[:24]
        guess = state.rows + sum(self.sizes) // 40
        self.spool = Spool(home.cache / "imports" / name, min(2, segments.digits_for(guess)))
        found = self.spool.resume()
        self.session = Session(**found["session"]) if found else Session()
        self._paths, self._options = paths, options

    def read(self, progress: Progress | None = None) -> Session:
        """Read the rest of the files; what cannot be read is a problem, and the others go on."""
        told, total = self.session, max(1, sum(self.sizes))
        while not told.is_read and told.file < len(self._paths):
            path = self._paths[told.file]
            try:
                self._file(path, progress, total)
            except LoopworksError as error:
                if error.code not in ("invalid", "not_found", "denied"):
                    raise
                self._problem(Problem(where=str(path), error=error.code, message=error.message, hint=error.hint))
            told.file, told.position, told.line = told.file + 1, 0, 0
        told.is_read = True
        return told

    def _file(self, path: Path, progress: Progress | None, total: int) -> None:
        told = self.session
        reader = open_reader(path, self._options)
        layout = reader.layout
        if not told.position:
            for problem in layout.problems:
                self._problem(problem, is_row=False)
            if not told.dialect and layout.dialect:
                told.dialect = dict(layout.dialect)
            self._names(layout.names, layout.declared)
        before = sum(self.sizes[: told.file])
        share = 1.0
        for block in reader.blocks(told.position, told.line):
            self._block(path, block)
            self._names(block.cells.column_names, reader.layout.declared)
            told.position, told.line = block.position, block.line
            if self.spool.is_full:
                self.spool.checkpoint({"session": _plain(told)})
            if progress:
                at = min(int(block.position * share), self.sizes[told.file])
                progress(before + at, total)

    def _block(self, path: Path, block: Block) -> None:
        import pyarrow as pa

        told = self.session
        for problem in block.problems:
            self._problem(problem)
        cells = block.cells
        runs = list(block.runs)
        if cells.num_rows and self._id_column:
            cells, runs = self._with_id(path, cells, runs)
        told.runs += [(told.rows + row, str(path), line) for row, line in runs]
        if not cells.num_rows:
            return
        content = keys.contents(cells)
        known_by = content
        if self._id_column:
            known_by = id_keys(cells.column(self._id_column).combine_chunks())
        count = cells.num_rows
        columns = {
            "_key": keys.as_arrow(known_by),
            "_hash": keys.as_arrow(content),
            "_order": pa.array(np.arange(told.rows, told.rows + count)),
            "_file": pa.array(np.full(count, told.file, np.int32)),
        }
        for name in cells.column_names:
            columns[":" + name] = cells.column(name)
        self.spool.add(pa.table(columns), known_by)
        told.rows += count

    def _with_id(self, path: Path, cells: "pa.Table", runs: list[tuple[int, int]]) -> tuple[Any, list[tuple[int, int]]]:
        """Leave out the rows that have no id."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._id_column not in cells.column_names:
            raise Invalid(str(path), f"a table with the id column {self._id_column!r}", "one without")
        bare = pc.utf8_trim_whitespace(cells.column(self._id_column).combine_chunks())
        has = pc.fill_null(pc.not_equal(bare, ""), False).to_numpy(zero_copy_only=False)
        if has.all():
            return cells, runs
        lines = line_numbers(runs, cells.num_rows)
        for line in lines[~has].tolist():
            where = f"{path}:{line}"
            message = f"{where} must have a value in the id column {self._id_column!r}; got none"
            self._problem(Problem(where=where, error="invalid", message=message, hint="the rest is kept"))
        kept = lines[has]
        starts = np.flatnonzero(np.diff(kept, prepend=-2) != 1)
        return cells.filter(pa.array(has)), [(int(at), int(kept[at])) for at in starts]

    def _names(self, names: Sequence[str], declared: Mapping[str, str]) -> None:
        told = self.session
        told.names += [name for name in names if name not in told.names]
        told.declared.update(declared)

    def _problem(self, problem: Problem, *, is_row: bool = True) -> None:
        told = self.session
        told.left_out += is_row
        if len(told.problems) < MOST_PROBLEMS:
            told.problems.append(problem.to_json())


def id_keys(cells: "pa.Array") -> keys.Keys:
    """The key of each row by its id, blanks around it aside."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return keys.hashes(pc.binary_join_element_wise(pa.scalar("id"), pc.utf8_trim_whitespace(cells), "\x1f"))


def line_numbers(runs: Sequence[tuple[int, int]], count: int) -> Any:
    """The line of each of ``count`` rows."""
    if not runs:
        return np.arange(1, count + 1)
    rows = np.array([row for row, _ in runs])
    lines = np.array([line for _, line in runs])
    at = np.arange(count)
    place = np.maximum(np.searchsorted(rows, at, side="right") - 1, 0)
    return lines[place] + at - rows[place]


def place_of(session: Session, number: int) -> str:
    """FILE:LINE of the row with this number within the import."""
    best = ("", 0, 0)
    for start, path, line in session.runs:
        if start <= number:
            best = (path, line, start)
    return f"{best[0]}:{best[1] + number - best[2]}" if best[0] else ""


def _plain(session: Session) -> dict[str, Any]:
    return {name: getattr(session, name) for name in session.__slots__}
