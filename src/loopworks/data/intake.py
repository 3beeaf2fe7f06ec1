"""Bringing files into a dataset: read, hash, look, store, and only then write the rows."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from loopworks.core.contracts import Task
from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data import door
from loopworks.data.files import Finding, Found, problem, unreadable
from loopworks.store import annotations, events, items
from loopworks.store.blobs import LocalBlobs, Writer
from loopworks.store.home import Home
from loopworks.store.ids import batches, now

log = logging.getLogger(__name__)

By = Literal["copy", "reference", "link"]
Progress = Callable[[int, int], None]
CHUNK = 256  # files in one transaction: a killed import loses at most so many, and no other writer waits long
THREADS = 4  # more than the cores: most of the time a thread waits for the disk to say that a file is safe
MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport:
    """What an import did."""

    added: int
    """New items."""
    known: int
    """Files whose bytes were in the dataset already."""
    labeled: int
    """Items that were known without a label, and have one now."""
    classes: tuple[str, ...]
    """Classes that the dataset did not have before."""
    problems: tuple[Problem, ...]
    """Files that were left out, each with the reason; the rest was kept."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "added": self.added,
            "known": self.known,
            "labeled": self.labeled,
            "classes": list(self.classes),
            "problems": [one.to_json() for one in self.problems],
        }


@dataclass(frozen=True, slots=True)
class _Taken:
    """A file that passed the door."""

    found: Found
    key: str
    row: dict[str, Any]


@dataclass(slots=True)
class Intake:
    """One import under way."""

    home: Home
    dataset: str
    task: Task
    schema: LabelSchema
    by: By
    author: str
    split: str
    added: int = 0
    known: int = 0
    labeled: int = 0
    problems: list[Problem] = field(default_factory=list)

    def run(self, finding: Finding, progress: Progress | None) -> None:
        """Import all files, a chunk at a time; while one chunk is made safe and written, the next one is read.

        A kill loses the chunks under way and leaves no row without its bytes; running it again adds the rest.
        """
        self.problems += finding.problems
        total, done = len(finding.files), 0
        pending: Future[int] | None = None
        writer: Writer | None = None
        with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(1) as keeper:
            try:
                for chunk in batches(finding.files, CHUNK):
                    writer = self.home.blobs.writer()
                    looked = list(readers.map(self._take, chunk, repeat(writer)))
                    if pending:
                        done += pending.result()
                        _tell(progress, done, total)
                    pending = keeper.submit(self._keep, writer, looked)
                if pending:
                    done += pending.result()
                    _tell(progress, done, total)
            except BaseException:
                readers.shutdown(cancel_futures=True)
                if writer:
                    writer.abort()
                raise
        log.info("import done dataset=%s added=%d known=%d", self.dataset, self.added, self.known)

    def _take(self, found: Found, writer: Writer) -> _Taken | Problem:
        """Read, check and store one file."""
        where = found.path
        try:
            facts = os.stat(where)
            if facts.st_size > MAX_BYTES:
                raise Invalid(where, f"at most {MAX_BYTES} bytes", facts.st_size)
            with open(where, "rb") as file:
                data = file.read()
        except OSError as error:
            return unreadable(where, error)
        except Invalid as error:
            return problem(where, error)
        key = hashlib.sha256(data).hexdigest()
        try:
            width, height, mime = door.look(data, where, self.home.settings.max_image_pixels)
        except Invalid as error:
            return problem(where, error)
        is_there = self.by != "reference" and self._store(found, data, key, writer)
        row = {
            "dataset": self.dataset,
            "id": key,
            "name": found.name,
            "blob": key if is_there else "",
            "uri": "" if is_there else Path(where).as_uri(),
            "stamp": "" if is_there else f"{facts.st_size}:{facts.st_mtime_ns}",
            "mime": mime,
            "width": width,
            "height": height,
            "size_bytes": len(data),
            "split": self.split or found.split,
            "state": "labeled" if found.label else "unlabeled",
            "rev": 1,
        }
        return _Taken(found, key, row)

    def _store(self, found: Found, data: bytes, key: str, writer: Writer) -> bool:
        blobs = self.home.blobs
        linked = self.by == "link" and isinstance(blobs, LocalBlobs) and blobs.link(Path(found.path), key)
        if not linked:
            writer.add(data, key)
        return True

    def _keep(self, writer: Writer, looked: Sequence[_Taken | Problem]) -> int:
        """Make the bytes safe, then write the rows of one chunk in one transaction."""
        with writer:
            pass
        self.problems += [one for one in looked if isinstance(one, Problem)]
        taken = [one for one in looked if isinstance(one, _Taken)]
        first: dict[str, _Taken] = {}
        for one in taken:
            first.setdefault(one.key, one)
        with self.home.catalog.begin() as tx:
            before = items.among(tx, self.dataset, first)
            moment = now()
            items.add(
                tx, self.dataset, [{**one.row, "added_at": moment} for key, one in first.items() if key not in before]
            )
            labels = self._labels(taken, before)
            annotations.write(tx, self.dataset, labels, before=before, author=self.author, at=moment)
            self._move(tx, first, before)
        self.added += sum(key not in before for key in first)
        self.known += len(taken) - sum(key not in before for key in first)
        self.labeled += sum(before[key].state == "unlabeled" for key in labels if key in before)
        return len(looked)

    def _labels(self, taken: Sequence[_Taken], before: dict[str, items.Item]) -> dict[str, tuple[Shape, ...]]:
        """What the folders say, where that is news; a file in two class folders is a problem unless multi-label."""
        said: dict[str, tuple[Shape, ...]] = {
            key: item.labels for key, item in before.items() if item.state == "labeled"
        }
        news: dict[str, tuple[Shape, ...]] = {}
        for one in taken:
            if not one.found.label:
                continue
            shape = Shape(label=one.found.label, source="import", author=self.author)
            old = said.get(one.key)
            if old is not None and any(other.label == shape.label for other in old):
                continue
            if old is not None and not self.schema.is_multi:
                self.problems.append(_twice(one.found.path, old, shape))
                continue
            said[one.key] = news[one.key] = self.task.check([*(old or ()), shape], self.schema)
        return news

    def _move(self, tx: Any, first: dict[str, _Taken], before: dict[str, items.Item]) -> None:
        """Splits that folders name, for known items that have none yet."""
        wanted = {key: str(one.row["split"]) for key, one in first.items() if key in before and one.row["split"]}
        splits = {key: split for key, split in wanted.items() if not before[key].split}
        items.set_splits(tx, self.dataset, splits)
        logged = [
            events.make("item.split", dataset=self.dataset, item=key, author=self.author, before="", after=split)
            for key, split in splits.items()
        ]
        events.add(tx, logged)


def _twice(where: str, old: Sequence[Shape], new: Shape) -> Problem:
    have = ", ".join(shape.label for shape in old)
    return Problem(
        where=where,
        error="conflict",
        message=f"{where} must have one class; got {new.label!r}, and the same bytes are {have!r} already",
        hint="the label that was there is kept; relabel the item if it is wrong",
    )


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress(done, total)


def finish(intake: Intake, classes: Sequence[str]) -> AddReport:
    """The report of an import that ran."""
    return AddReport(
        added=intake.added,
        known=intake.known,
        labeled=intake.labeled,
        classes=tuple(classes),
        problems=tuple(intake.problems),
    )
