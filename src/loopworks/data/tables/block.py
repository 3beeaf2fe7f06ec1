"""What every reader of table files gives: rows as text, a block at a time, and where to go on after a kill."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from loopworks.core.values import Problem

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of a file."""

    cells: "pa.Table"
    """Text columns, one chunk each; null: the file has no such cell."""
    position: int
    """Where to go on, in the reader's own measure."""
    line: int
    """Line where the next block begins, from 1."""
    runs: Sequence[tuple[int, int]] = ()
    """(row of this block, its line): from there on each row is one line further."""
    problems: Sequence[Problem] = ()
    """What was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a file says of itself before its first row."""

    names: tuple[str, ...] = ()
    declared: Mapping[str, str] = field(default_factory=dict)
    """Column -> text where the file says that it is text."""
    dialect: Mapping[str, Any] = field(default_factory=dict)
    """Delimiter, encoding ... of a text file, for an export that looks like it."""
    problems: Sequence[Problem] = ()


class Reader(Protocol):
    """One file being read."""

    @property
    def layout(self) -> Layout:
        """What it says of itself; columns may still come (JSON lines)."""

    def blocks(self, position: int = 0, line: int = 0) -> Iterator[Block]:
        """Its rows from the beginning, or from where a block said."""
