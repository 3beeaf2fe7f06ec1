"""Whatever the user names - files, folders, patterns, archives, videos, URLs - as local places that can be read."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.image import SUFFIXES
from loopworks.core.values import Problem
from loopworks.data import files
from loopworks.data.files import Found, Source
from loopworks.store.home import Home

Tick = Callable[["Step"], None]
"""Takes how far the work is; may raise ``Cancelled``."""
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a long piece of work is."""

    what: str
    """unpacking, fetching, decoding, adding: what is counted."""
    done: int
    """Files (or frames) so far."""
    total: int = 0
    """All of them; 0: not known."""
    size: int = 0
    """Bytes so far."""
    total_size: int = 0
    """All bytes; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One place to read items from."""

    path: Path
    """Folder or file that a format reads; of loose images: the folder that their names are relative to."""
    name: str
    """What the user called it, for messages."""
    prefix: str = ""
    """Goes before the name of each item (a folder that a pattern matched: ``NAME/``)."""
    images: tuple[Found, ...] = ()
    """Not empty: loose images (given one by one or by a pattern) or frames of videos; these, and no format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the bytes of a file lie for good, for items that are kept by reference."""

    uri: str
    stamp: str
    """Size and time (or etag) as first seen."""


@dataclass(slots=True)
class Opened:
    """A source that is ready to be read. Paths of records are given back to it for all that is asked of a file."""

    roots: list[Root] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """What was left out while opening, and why."""
    _scratch: list[tuple[str, str]] = field(default_factory=list)
    """Folder of ours -> what the user calls its content; the first that fits counts."""
    _origins: dict[str, Origin] = field(default_factory=dict)
    _facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def read(self, path: str) -> bytes:
        """All bytes of a file of this source; ``OSError`` as from any file."""
        with open(path, "rb") as file:
            return file.read()

    def origin(self, path: str, facts: os.stat_result | None = None) -> Origin | None:
        """Where the file lies for good; ``None``: only here (unpacked, decoded), so its bytes must be copied."""
        known = self._origins.get(path)
        if known is not None or self.is_scratch(path):
            return known
        facts = facts or os.stat(path)
        return Origin(uri=Path(path).as_uri(), stamp=f"{facts.st_size}:{facts.st_mtime_ns}")

    def is_scratch(self, path: str) -> bool:
        """Whether the file is ours and goes when this is closed: taking it by a hard link is safe and saves a copy."""
        return any(path.startswith(folder) for folder, _ in self._scratch)

    def facts(self, path: str) -> Mapping[str, Any]:
        """What the source itself knows of a file, as attributes of its item: a frame's video, index and time."""
        return self._facts.get(path, _NONE)

    def told(self, problem: Problem) -> Problem | None:
        """A reader's problem in the user's words: no path of ours in it; ``None`` where it is none.

        A folder's videos, for instance, are no images, but they were taken in another way.
        """
        if problem.where in self._taken:
            return None
        for folder, name in self._scratch:
            if folder in problem.where or folder in problem.message or folder in problem.hint:
                problem = replace(
                    problem,
                    where=problem.where.replace(folder, name),
                    message=problem.message.replace(folder, name),
                    hint=problem.hint.replace(folder, name),
                )
        return problem


@contextmanager
def open_source(
    home: Home, source: Source, *, labels: files.Labels = "auto", tick: Tick | None = None
) -> Iterator[Opened]:
    """Make ``source`` readable: what is packed is unpacked, what is far away fetched, videos become frames.

    What that makes lies in the workspace's cache. It is removed when the block ends well; after an error or a kill it
    stays, and the next run of the same import goes on with it.

    Args:
        home: the workspace.
        source: a file, folder, pattern (``*``, ``**``), archive, video or URL, or a list of these.
        labels: auto, folders or none, as in ``files.find``.
        tick: takes how far the opening is.
    Raises:
        NotFound: a path does not exist, or a pattern fits nothing.
        Invalid: a path that leads nowhere, or an archive that cannot be read at all or is a bomb.
    """
    opened = Opened()
    loose: list[str] = []
    for one in [source] if isinstance(source, str | Path) else source:
        _open_one(opened, str(one), loose)
    if loose:
        _add_loose(opened, loose)
    yield opened


def _open_one(opened: Opened, given: str, loose: list[str]) -> None:
    path = Path(given).expanduser()
    if not os.path.lexists(path) and glob.has_magic(given):
        _open_pattern(opened, path)
        return
    root = _resolved(path)
    if root.is_dir() or root.suffix.lower() not in SUFFIXES:
        opened.roots.append(Root(path=root, name=given))
    else:
        loose.append(str(root))


def _open_pattern(opened: Opened, path: Path) -> None:
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise NotFound("path", str(path), hint="no file matches the pattern")
    base = files.before_magic(path)
    plain = []
    for match in map(Path, matches):
        if not match.is_dir():
            plain.append(str(match.absolute()))
        elif "**" not in path.parts:  # with **, the files below match by themselves
            opened.roots.append(Root(path=_resolved(match), name=str(match), prefix=f"{match.name}/"))
    if any(Path(one).suffix.lower() in SUFFIXES for one in plain):
        found = files.pick(plain, base)
        opened.problems += found.problems
        opened.roots.append(Root(path=base, name=str(path), images=found.files))
    else:
        opened.roots += [Root(path=_resolved(Path(one)), name=one) for one in plain]


def _add_loose(opened: Opened, paths: Sequence[str]) -> None:
    """Images that were named one by one: their names are those of the files alone."""
    images: list[Found] = []
    for path in dict.fromkeys(paths):
        found = files.pick([path], Path(path).parent)
        images += found.files
        opened.problems += found.problems
    if images:
        opened.roots.append(Root(path=Path(images[0].path).parent, name=images[0].path, images=tuple(images)))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except FileNotFoundError:
        hint = "check the spelling; relative paths start in the current folder"
        raise NotFound("path", str(path), hint=hint) from None
    except (OSError, RuntimeError) as error:
        raise Invalid(str(path), "a file or folder", f"a path that leads nowhere ({error})") from None
