"""What a file format promises: plug-ins named ``format.NAME`` that read a folder into records and write records out.

Readers and writers know nothing of the store. ``Importer`` and ``Exporter`` beside this file are where records become
items and items become records.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from loopworks.core.values import LabelSchema, Problem, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One item as a format tells it: where its media lies, and what is said of it."""

    name: str
    """Path of the media as the format names it, relative to the root of the import, with slashes. Unique."""
    path: str = ""
    """Where the media lies on this machine; empty where it is missing (the reader says so) or for a text."""
    data: bytes | None = None
    """The media itself, where the format holds it inside a file of its own (Parquet); ``path`` is empty then."""
    text: str | None = None
    """The item itself, for formats whose items are texts."""
    width: int = 0
    """In pixels, as the format says; 0 where it says nothing. The importer measures the file itself."""
    height: int = 0
    split: str = ""
    """train, val, test, or empty: the format does not say."""
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the item (camera, time, captions ...), as plain JSON."""
    shapes: tuple[Shape, ...] = ()
    """In the order of the file."""
    is_labeled: bool = True
    """Whether somebody looked at it; an item with no shapes may be labeled: there is nothing on it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Format name -> what only that format knows of the item (its id, its licence number ...), as plain JSON."""


@dataclass(slots=True, kw_only=True)
class Content:
    """A whole data set on its way in or out."""

    schema: LabelSchema
    """Classes in the format's own order."""
    records: Iterable[Record]
    """Read once, in the order of the file; a reader makes them while one iterates."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Format name -> what only that format knows of the data set (info, licences, category ids ...), as plain JSON."""
    problems: list[Problem] = field(default_factory=list)
    """What was left out and why; a reader adds to it while one iterates, so read it after the records."""


Put = Callable[[Record, str], None]
"""Places the media of a record at a path relative to the folder that is written (a hard link or a copy)."""


class Format(Protocol):
    """A file format. A frozen dataclass: its fields are its options, and building it does no work.

    A reader keeps the good rest: one ``Problem`` for each thing left out, naming file and position (line, index or
    id), never an exception for bad content inside. It raises ``Invalid`` only where nothing can be read at all.
    Names of media that lead outside the root are problems, not paths.
    """

    def detect(self, root: Path, /) -> float:
        """How sure it is that ``root`` (a file or folder) is of this format, in 0..1; looks at little and is quick."""

    def read(self, root: Path, /) -> Content:
        """The data set at ``root``, a file or folder."""

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Write the data set into ``folder``, which is empty; gives what the format cannot hold, as problems.

        What ``meta`` and ``extra`` keep under this format's own name is written as it was.
        """
