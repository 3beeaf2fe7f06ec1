"""Whatever the user names - files, folders, patterns, archives, videos, URLs - as local places that can be read."""

import glob
import hashlib
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from loopworks.core.errors import Damaged, Denied, Invalid, NotFound
from loopworks.core.image import SUFFIXES
from loopworks.core.values import Problem
from loopworks.data import archives, files
from loopworks.data.archives import is_archive
from loopworks.data.files import Found, Source
from loopworks.data.scratch import Scratch, problems_from, problems_json
from loopworks.data.video import Frames, FrameTable, extract, is_video, table_bytes
from loopworks.store import erasing, remote
from loopworks.store.blobs import LocalBlobs
from loopworks.store.home import Home

FETCHES = 8  # requests under way at once; each waits for the network
CHOOSE = (
    "every=25 takes every 25th frame, at=(0, 50) these, scenes=0.3 one for each scene (--every, --frames, --scenes)"
)
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
    meta: dict[str, Any] = field(default_factory=dict)
    """What the data set must remember of it: ``video``: SHA-256 -> name, blob, table of frames ..."""

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
        if problem.where in self._taken and problem not in self.problems:
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
    home: Home,
    source: Source,
    *,
    labels: files.Labels = "auto",
    known: Collection[str] = (),
    frames: Frames | None = None,
    by: str = "copy",
    tick: Tick | None = None,
) -> Iterator[Opened]:
    """Make ``source`` readable: what is packed is unpacked, what is far away fetched, videos become frames.

    What that makes lies in the workspace's cache. It is removed when the block ends well; after an error or a kill it
    stays, and the next run of the same import goes on with it.

    Args:
        home: the workspace.
        source: a file, folder, pattern (``*``, ``**``), archive, video or URL, or a list of these.
        labels: auto, folders or none, as in ``files.find``.
        known: classes that exist already.
        frames: which frames of videos become items.
        by: copy, link or reference; by reference a video stays where it is too.
        tick: takes how far the opening is.
    Raises:
        NotFound: a path does not exist, or a pattern fits nothing.
        Invalid: a path that leads nowhere, an archive that cannot be read at all or is a bomb, or a video when
            ``frames`` are not chosen.
        Busy: another import reads the same archive, URL or video.
    """
    opening = _Opening(home, labels, known, frames, by, tick or (lambda step: None))
    try:
        for one in [source] if isinstance(source, str | Path) else source:
            opening.take(str(one))
        opening.add_loose()
        yield opening.opened
    except BaseException:
        for scratch in opening.scratches:
            scratch.release()
        raise
    for scratch in opening.scratches:
        scratch.remove()


@dataclass(slots=True)
class _Opening:
    """A source on its way to be readable."""

    home: Home
    labels: files.Labels
    known: Collection[str]
    frames: Frames | None
    by: str
    tick: Tick
    opened: Opened = field(default_factory=Opened)
    scratches: list[Scratch] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)

    def take(self, given: str) -> None:
        """Open one of the things that the user named."""
        if remote.is_url(given):
            self._fetch(given)
            return
        if given.startswith("file://"):
            given = unquote(urlsplit(given).path)
        path = Path(given).expanduser()
        if not os.path.lexists(path) and glob.has_magic(given):
            self._match(path)
        else:
            self._take_local(_resolved(path), given)

    def add_loose(self) -> None:
        """Images that were named one by one: their names are those of the files alone."""
        images: list[Found] = []
        for path in dict.fromkeys(self.loose):
            found = files.pick([path], Path(path).parent)
            images += found.files
            self.opened.problems += found.problems
        if images:
            parent = Path(images[0].path).parent
            self.opened.roots.append(Root(path=parent, name=images[0].path, images=tuple(images)))

    def _take_local(self, path: Path, shown: str, prefix: str = "") -> None:
        if path.is_dir():
            self._take_folder(path, shown, prefix)
        elif is_archive(path.name):
            self._unpack(path, shown, prefix)
        elif is_video(path.name):
            if self.frames is None:
                raise Invalid(shown, "taken with a choice of its frames", "a video and no choice", CHOOSE)
            self._decode(Found(path=str(path), name=f"{prefix}{path.name}"), shown)
        elif path.suffix.lower() in SUFFIXES:
            self.loose.append(str(path))
        else:
            self.opened.roots.append(Root(path=path, name=shown, prefix=prefix))

    def _match(self, path: Path) -> None:
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise NotFound("path", str(path), hint="no file matches the pattern")
        plain = []
        for match in map(Path, matches):
            if not match.is_dir():
                plain.append(match.absolute())
            elif "**" not in path.parts:  # with **, the files below match by themselves
                self._take_folder(_resolved(match), str(match), f"{match.name}/")
        self._take_matches(plain, files.before_magic(path), str(path))

    def _take_matches(self, paths: Sequence[Path], base: Path, shown: str) -> None:
        """Single files that a pattern fits; images keep their path below ``base`` as name."""
        plain = [path for path in paths if not is_archive(path.name) and not is_video(path.name)]
        for path in paths:
            if is_archive(path.name) or is_video(path.name):
                self._take_local(path, str(path))
        if any(path.suffix.lower() in SUFFIXES for path in plain):
            found = files.pick(map(str, plain), base)
            self.opened.problems += found.problems
            self.opened.roots.append(Root(path=base, name=shown, images=found.files))
        else:
            self.opened.roots += [Root(path=_resolved(path), name=str(path)) for path in plain]

    def _take_folder(self, path: Path, shown: str, prefix: str = "") -> None:
        videos, has_more = _videos(path)
        if has_more or not videos:
            self.opened.roots.append(Root(path=path, name=shown, prefix=prefix))
        found = [Found(path=one, name=prefix + one.removeprefix(f"{path}/")) for one in videos]
        if self.labels != "none":
            found = files.labelled(found, self.known)
        for one in found:
            self.opened._taken.add(one.path)
            try:
                if self.frames is None:
                    raise Invalid(one.path, "taken with a choice of its frames", "a video and no choice", CHOOSE)
                self._decode(one, f"{shown.rstrip('/')}/{one.name.removeprefix(prefix)}")
            except (Denied, Invalid) as error:  # one bad video of many
                self.opened.problems.append(files.problem(one.path, error))

    def _scratch(self, what: str, shown: str) -> Scratch:
        scratch = Scratch(self.home, what)
        self.scratches.append(scratch)
        self.opened._scratch.append((f"{scratch.content}/", shown))
        return scratch

    def _unpack(self, path: Path, shown: str, prefix: str = "") -> None:
        facts = path.stat()
        scratch = self._scratch(f"{shown}\n{path}\n{facts.st_size}:{facts.st_mtime_ns}", f"{shown}/")
        before = scratch.ready()
        if before is None:
            with path.open("rb") as file:
                key = hashlib.file_digest(file, "sha256").hexdigest()
            with self.home.catalog.read() as tx:
                if erasing.refused(tx, [key]):
                    raise Denied(
                        f"{shown} was erased from this workspace, with a frame of it", "add its frames as images"
                    )

            def told(done: int, total: int, size: int, total_size: int) -> None:
                self.tick(Step(what="unpacking", done=done, total=total, size=size, total_size=total_size))

            try:
                problems = archives.unpack(
                    path, scratch.content, self.home.settings, name=shown, told=told, room=scratch.check_room
                )
            except Invalid:
                scratch.remove()  # no archive, or a bomb: there is nothing to go on with
                raise
            before = {"problems": problems_json(problems)}
            scratch.finish(before)
        self.opened.problems += problems_from(before["problems"])
        self._take_folder(scratch.content, shown, prefix)

    def _fetch(self, url: str) -> None:
        """Bring what lies at a URL here; by reference too, because an item's id is the hash of its bytes."""
        found = remote.entries(url)
        listing = hashlib.sha256("\n".join(sorted(f"{one.name} {one.stamp}" for one in found)).encode()).hexdigest()
        base = found[0].uri.removesuffix(found[0].name)
        scratch = self._scratch(f"{url}\n{listing}", base)
        wanted: list[tuple[remote.Entry, Path]] = []
        for entry in found:
            try:
                target = scratch.content / archives.safe_name(entry.name)
                target.parent.mkdir(parents=True, exist_ok=True)
            except (Invalid, OSError) as error:
                reason = error.message if isinstance(error, Invalid) else (error.strerror or str(error))
                bad = Invalid(entry.uri, "named so that the disk takes it", reason)
                self.opened.problems.append(files.problem(entry.uri, bad))
                continue
            wanted.append((entry, target))
            self.opened._origins[str(target)] = Origin(uri=entry.uri, stamp=entry.stamp)
        self._fetch_all(scratch, wanted)
        paths = [target for _, target in wanted if target.exists()]
        if set(url.partition("://")[2]) & set("*?"):
            self._take_matches(sorted(paths), scratch.content, url)
        elif len(found) == 1 and url.endswith(found[0].name):
            for path in paths:
                self._take_local(path, url)
        else:
            self._take_folder(scratch.content, url)

    def _fetch_all(self, scratch: Scratch, wanted: Sequence[tuple[remote.Entry, Path]]) -> None:
        total_size = sum(entry.size for entry, _ in wanted)
        waiting = [(entry, target) for entry, target in wanted if not target.exists()]
        scratch.check_room(sum(entry.size for entry, _ in waiting))
        done = len(wanted) - len(waiting)
        size = total_size - sum(entry.size for entry, _ in waiting)
        with ThreadPoolExecutor(FETCHES) as pool:
            under_way = {pool.submit(remote.fetch, entry, target): entry for entry, target in waiting}
            try:
                for future in as_completed(under_way):
                    entry = under_way[future]
                    try:
                        future.result()
                    except (Damaged, Denied) as error:  # of this object alone
                        self.opened.problems.append(files.problem(entry.uri, error))
                    done, size = done + 1, size + entry.size
                    self.tick(Step(what="fetching", done=done, total=len(wanted), size=size, total_size=total_size))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _decode(self, video: Found, shown: str) -> None:
        assert self.frames is not None
        path = Path(video.path)
        facts = path.stat()
        scratch = self._scratch(f"{shown}\n{path}\n{facts.st_size}:{facts.st_mtime_ns}\n{self.frames}", f"{shown}/")
        before = scratch.ready()
        if before is None:
            with path.open("rb") as file:
                key = hashlib.file_digest(file, "sha256").hexdigest()
            with self.home.catalog.read() as tx:
                if erasing.refused(tx, [key]):
                    raise Denied(
                        f"{shown} was erased from this workspace, with a frame of it", "add its frames as images"
                    )

            def told(done: int, total: int) -> None:
                self.tick(Step(what="decoding", done=done, total=total))

            most = self.home.settings.max_image_pixels
            table, picked, problems = extract(
                path, scratch.content, self.frames, name=shown, max_pixels=most, told=told
            )
            before = self._keep(path, key, video.name, table)
            before |= {
                "problems": problems_json(problems),
                "picked": [[one.file, one.index, one.time_s] for one in picked],
            }
            scratch.finish(before)
        self.opened.problems += problems_from(before["problems"])
        self.opened.meta.setdefault("video", {})[before["id"]] = before["video"]
        images = []
        for file, index, time_s in before["picked"]:
            at = f"{scratch.content}/{file}"
            facts_of = {"video": before["id"], "frame": index}
            self.opened._facts[at] = facts_of if time_s is None else {**facts_of, "time_s": time_s}
            images.append(replace(video, path=at, name=f"{video.name}/{file}"))
        if images:
            self.opened.roots.append(Root(path=scratch.content, name=shown, images=tuple(images)))

    def _keep(self, path: Path, key: str, name: str, table: FrameTable) -> dict[str, Any]:
        """Store the video's bytes (unless it stays where it is) and its table of frames among the blobs."""
        blobs = self.home.blobs
        origin = self.opened.origin(str(path)) if self.by == "reference" else None
        if origin is None and not (self.by == "link" and isinstance(blobs, LocalBlobs) and blobs.link(path, key)):
            with path.open("rb") as file:
                blobs.put(file)
        facts = {
            "name": name,
            "blob": "" if origin else key,
            "uri": origin.uri if origin else "",
            "stamp": origin.stamp if origin else "",
            "frames": blobs.put(io.BytesIO(table_bytes(table))),
            "count": len(table.pts),
        }
        return {"id": key, "video": facts}


def _videos(folder: Path) -> tuple[list[str], bool]:
    """Videos below a folder in order of name, and whether there are other files."""
    found: list[str] = []
    has_more = False
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower() in files.IGNORED:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif is_video(entry.name) and os.path.isfile(entry.path):
                        found.append(entry.path)
                    else:
                        has_more = True
        except OSError:
            has_more = True  # whoever reads the folder tells it
    return sorted(found), has_more


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except FileNotFoundError:
        hint = "check the spelling; relative paths start in the current folder"
        raise NotFound("path", str(path), hint=hint) from None
    except (OSError, RuntimeError) as error:
        raise Invalid(str(path), "a file or folder", f"a path that leads nowhere ({error})") from None
