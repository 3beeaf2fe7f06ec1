"""Bringing records into a dataset: read, hash, look, store, and only then write the rows."""

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from loopworks.core.contracts import Task
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data.arrivals import Arrived, Receiver, receive
from loopworks.data.files import problem
from loopworks.data.formats.contract import Record
from loopworks.data.known import Places, Policy
from loopworks.data.sources import Opened
from loopworks.jobs.spread import WINDOW, is_spread, spread
from loopworks.store import annotations, erasing, events, items, operations
from loopworks.store.blobs import LocalBlobs, Writer
from loopworks.store.home import Home
from loopworks.store.ids import batches, new_id, now

log = logging.getLogger(__name__)

By = Literal["copy", "reference", "link"]
Progress = Callable[[int, int], None]
CHUNK = 256  # files in one transaction: a killed import loses at most so many, and no other writer waits long
THREADS = 4  # more than the cores: most of the time a thread waits for the disk to say that a file is safe
_NOTES = frozenset({"class", "caption", "value"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport:
    """What an import did."""

    added: int
    """New items."""
    known: int
    """Files whose bytes were in the dataset already."""
    labeled: int
    """Items that were known without a label, and have one now."""
    relabeled: int = 0
    """Items that were known, and whose label the source now says differently."""
    classes: tuple[str, ...]
    """Classes that the dataset did not have before."""
    formats: tuple[str, ...] = ()
    """Formats that were read, one for each place."""
    problems: tuple[Problem, ...]
    """What was left out, each with the reason; the rest was kept."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "added": self.added,
            "known": self.known,
            "labeled": self.labeled,
            "relabeled": self.relabeled,
            "classes": list(self.classes),
            "formats": list(self.formats),
            "problems": [one.to_json() for one in self.problems],
        }


@dataclass(frozen=True, slots=True)
class Taken:
    """A record that passed the door."""

    record: Record
    key: str
    """SHA-256 of its bytes."""
    row: dict[str, Any]

    @property
    def where(self) -> str:
        """What to call it in a problem."""
        return self.record.path or self.record.name


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
    opened: Opened
    policy: Policy = "merge"
    is_signed: bool = False
    """Whether the source itself says who gave each label, so that an empty author means one."""
    added: int = 0
    known: int = 0
    labeled: int = 0
    relabeled: int = 0
    returned: int = 0
    """Of the known ones: items that were deleted, and are there again."""
    op: str = field(default_factory=new_id)
    problems: list[Problem] = field(default_factory=list)
    misfits: Counter[str] = field(default_factory=Counter)
    """Kind of shape that is no answer to the dataset's question -> how many were left out."""
    places: Places = field(default_factory=Places)

    def run(self, records: Iterable[Record], tell: Callable[[int], None]) -> None:
        """Import the records, a chunk at a time; while one chunk is made safe and written, the next one is read.

        A kill loses the chunks under way and leaves no row without its bytes; running it again adds the rest.
        ``tell`` takes the number of records that each written chunk had.
        """
        pending: Future[int] | None = None
        writer: Writer | None = None
        with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(1) as keeper:
            try:
                on_cluster = is_spread(self.home.settings)
                for chunk in batches(records, WINDOW if on_cluster else CHUNK):
                    writer = self.home.blobs.writer()
                    if on_cluster:
                        looked = self._on_cluster(chunk)
                    else:
                        looked = list(readers.map(self._take, chunk, repeat(writer)))
                    if pending:
                        tell(pending.result())
                    pending = keeper.submit(self._keep, writer, looked)
                if pending:
                    tell(pending.result())
            except BaseException:
                readers.shutdown(cancel_futures=True)
                if writer:
                    writer.abort()
                raise
        with self.home.catalog.begin() as tx:
            count = self.added + self.labeled + self.relabeled + self.returned
            operations.record(tx, self.dataset, self.op, "add", count=count, author=self.author)
        log.info("import done dataset=%s added=%d known=%d", self.dataset, self.added, self.known)

    def _take(self, record: Record, writer: Writer) -> Taken | Problem | None:
        """Read, check and store one record's bytes; ``None`` where it has none, which its reader has told."""
        if record.text is not None:
            return self._text(record, record.text)
        where = record.path or (record.name if record.data is not None else "")
        if not where:
            return None

        def store(data: bytes, key: str) -> None:
            self._store(record.path, data, key, writer)

        most = self.home.settings.max_image_pixels
        kept = store if record.data is not None or self._is_kept(where) else None
        return self._taken(record, receive(where, self.opened.read, kept, most, data=record.data))

    def _is_kept(self, path: str) -> bool:
        """Whether the bytes are stored, and not only where they lie."""
        try:
            return self.by != "reference" or self.opened.origin(path) is None
        except OSError:
            return False  # gone: reading it will say so

    def _taken(self, record: Record, arrived: Arrived | Problem) -> Taken | Problem:
        if isinstance(arrived, Problem):
            return arrived
        where = record.path
        origin = self.opened.origin(where) if self.by == "reference" and record.data is None else None
        return Taken(
            replace(record, data=None),
            arrived.key,
            {
                **self._row(record),
                "blob": "" if origin else arrived.key,
                "uri": origin.uri if origin else "",
                "stamp": origin.stamp if origin else "",
                "mime": arrived.mime,
                "width": arrived.width,
                "height": arrived.height,
                "size_bytes": arrived.size_bytes,
                "attributes": {**record.attributes, **self.opened.facts(where)},
            },
        )

    def _on_cluster(self, chunk: Sequence[Record]) -> list[Taken | Problem | None]:
        """``_take`` for many records, as Ray Data jobs."""
        home = self.home
        receiver = Receiver(
            blobs=home.settings.blobs, folder=str(home.folder / "blobs"), max_pixels=home.settings.max_image_pixels
        )
        files = [record for record in chunk if record.text is None and record.data is None and record.path]
        asked = [(record.path, self._is_kept(record.path)) for record in files]
        arrived = iter(spread(receiver, asked, home.settings))
        looked: list[Taken | Problem | None] = []
        for record in chunk:
            if record.text is not None:
                looked.append(self._text(record, record.text))
            elif record.data is not None:  # it lies in this process's memory
                with home.blobs.writer() as writer:
                    looked.append(self._take(record, writer))
            else:
                looked.append(self._taken(record, next(arrived)) if record.path else None)
        return looked

    def _text(self, record: Record, text: str) -> Taken | Problem:
        data = text.encode("utf-8", "surrogatepass")
        try:
            if not text.strip():
                raise Invalid(record.name, "a text", "an empty one")
            data.decode()
        except UnicodeDecodeError:
            return problem(record.name, Invalid(record.name, "Unicode text", "half characters"))
        except Invalid as error:
            return problem(record.name, error)
        row = {**self._row(record), "blob": "", "uri": "", "stamp": "", "mime": "text/plain", "width": 0, "height": 0}
        row |= {"size_bytes": len(data), "text": text, "attributes": dict(record.attributes)}
        return Taken(record, hashlib.sha256(data).hexdigest(), row)

    def _row(self, record: Record) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "name": record.name,
            "split": self.split or record.split,
            "state": "unlabeled",
            "rev": 1,
            "text": "",
            "extra": dict(record.extra),
        }

    def _store(self, path: str, data: bytes, key: str, writer: Writer) -> None:
        blobs = self.home.blobs
        is_linked = self.by == "link" and path and "://" not in path
        if not (is_linked and isinstance(blobs, LocalBlobs) and blobs.link(Path(path), key)):
            writer.add(data, key)

    def _keep(self, writer: Writer, looked: Sequence[Taken | Problem | None]) -> int:
        """Make the bytes safe, then write the rows of one chunk in one transaction."""
        with writer:
            pass
        self.problems += [one for one in looked if isinstance(one, Problem)]
        taken = [one for one in looked if isinstance(one, Taken)]
        with self.home.catalog.begin() as tx:
            taken = self._allowed(tx, taken)
            self._bring_back(tx, {one.key for one in taken})
            placed, before = self.places.find(tx, self.dataset, self.policy, taken)
            before |= self._bring_back(tx, {item for item, _ in placed} - before.keys())
            first: dict[str, Taken] = {}
            for item, one in placed:
                first.setdefault(item, one)
            labels = self._labels(tx, placed, before)
            moment = now()
            fresh = {item: one for item, one in first.items() if item not in before}
            rows = [
                {**one.row, "id": item, "added_at": moment, "state": "labeled" if item in labels else "unlabeled"}
                for item, one in fresh.items()
            ]
            items.add(tx, self.dataset, rows, author=self.author, op=self.op)
            annotations.write(tx, self.dataset, labels, before=before, author=self.author, at=moment, op=self.op)
            self._move(tx, first, before)
            self._describe(tx, first, before)
        self.added += len(fresh)
        self.known += len(taken) - len(fresh)
        for item in labels.keys() & before.keys():
            if before[item].state == "unlabeled":
                self.labeled += 1
            else:
                self.relabeled += self.policy == "distinct"
        for one in taken:
            self._compare_size(one)
        return len(looked)

    def _allowed(self, tx: Any, taken: list[Taken]) -> list[Taken]:
        """All but those whose bytes were erased for good."""
        erased = erasing.refused(tx, {one.key for one in taken})
        for one in taken:
            if one.key in erased:
                message = f"{one.where} must not be what was erased; got bytes that were erased for good"
                self.problems.append(Problem(where=one.where, error="denied", message=message, hint="leave it out"))
        return [one for one in taken if one.key not in erased]

    def _bring_back(self, tx: Any, ids: set[str]) -> dict[str, items.Item]:
        """Deleted items that are added again, as they were."""
        back = items.bring_back(tx, self.dataset, sorted(ids), author=self.author, op=self.op)
        self.returned += len(back)
        return items.among(tx, self.dataset, back)

    def _labels(
        self, tx: Any, placed: Sequence[tuple[str, Taken]], before: Mapping[str, items.Item]
    ) -> dict[str, tuple[Shape, ...]]:
        """What the records say, where that is news."""
        news: dict[str, tuple[Shape, ...]] = {}
        said = {key: item.labels for key, item in before.items() if item.state == "labeled"}
        for item, one in placed:
            if not one.record.is_labeled:
                continue
            shapes = self._fitting(one)
            if shapes is None:
                continue
            if self.policy == "merge":
                shapes = self._merged(one, shapes, said.get(item))
            elif item in said and not self._is_news(tx, item, one, shapes, said[item]):
                continue
            if shapes is not None:
                said[item] = news[item] = shapes
        return news

    def _fitting(self, one: Taken) -> tuple[Shape, ...] | None:
        """The record's shapes as the task has them; what does not fit is told, the rest kept."""
        kinds = self.task.kinds | _NOTES if "box" in self.task.kinds else self.task.kinds
        shapes = [self._signed(shape) for shape in one.record.shapes if shape.kind in kinds]
        self.misfits.update(shape.kind for shape in one.record.shapes if shape.kind not in kinds)
        if not shapes and one.record.shapes:
            return None
        try:
            return self.task.check(shapes, self.schema)
        except LoopworksError as error:
            if not shapes:
                return None  # nothing is no answer here
            classes, has_places = self.schema.classes, "box" in self.task.kinds
            good = [
                shape
                for shape in shapes
                if shape.kind == "caption"
                or shape.label in classes
                or (has_places and not shape.label and shape.kind != "class")  # a place of no class: nobody said which
            ]
            if len(good) == len(shapes):
                self.problems.append(problem(one.where, error))
                return None
            where = one.where
            for name in sorted({shape.label for shape in shapes} - {shape.label for shape in good}):
                message = f"class of {where} must be one of the dataset's; got {name!r}"
                self.problems.append(Problem(where=where, error="not_found", message=message))
            return self._fitting(replace(one, record=replace(one.record, shapes=tuple(good)))) if good else None

    def _signed(self, shape: Shape) -> Shape:
        if self.is_signed or shape.author or (shape.source != "person" and not self.author):
            return shape
        return replace(shape, source="import" if shape.source == "person" else shape.source, author=self.author)

    def _merged(self, one: Taken, shapes: tuple[Shape, ...], old: tuple[Shape, ...] | None) -> tuple[Shape, ...] | None:
        """Folders: the same bytes in two of them are a problem, unless an item may carry several classes."""
        fresh = [shape for shape in shapes if not any(other.label == shape.label for other in old or ())]
        if not fresh:
            return None
        if old is not None and not self.schema.is_multi:
            self.problems.append(_twice(one.where, old, fresh[0]))
            return None
        return self.task.check([*(old or ()), *fresh], self.schema)

    def _is_news(self, tx: Any, item: str, one: Taken, shapes: tuple[Shape, ...], old: tuple[Shape, ...]) -> bool:
        """Whether a source says something else than what holds; what a person said since is never overwritten."""
        if shapes == old or [_content(shape) for shape in shapes] == [_content(shape) for shape in old]:
            return False
        by_person = any(shape.source == "person" for shape in old) and all(s.source != "person" for s in shapes)
        if not by_person:
            return True
        told = [event.after for event in events.of_item(tx, self.dataset, item) if event.kind == "item.label"]
        plain = [_content(shape) for shape in shapes]
        if all([_content(Shape.from_json(one)) for one in after or ()] != plain for after in told):
            self.problems.append(_twice(one.where, old, shapes[0] if shapes else None))
        return False

    def _move(self, tx: Any, first: Mapping[str, Taken], before: Mapping[str, items.Item]) -> None:
        """Splits that the source names, for known items that have none yet."""
        wanted = {key: str(one.row["split"]) for key, one in first.items() if key in before and one.row["split"]}
        splits = {key: split for key, split in wanted.items() if not before[key].split}
        items.set_splits(tx, self.dataset, splits)
        events.add(tx, [self._event("item.split", key, "", split) for key, split in splits.items()])

    def _event(self, kind: str, item: str, before: Any, after: Any) -> dict[str, Any]:
        make = functools.partial(events.make, kind, dataset=self.dataset, item=item, author=self.author, op=self.op)
        return make(before=before, after=after)

    def _describe(self, tx: Any, first: Mapping[str, Taken], before: Mapping[str, items.Item]) -> None:
        """Tags of all, and what is known of items that were there before: new facts are added, none is lost."""
        items.add_tags(tx, self.dataset, {item: one.record.tags for item, one in first.items() if one.record.tags})
        logged = []
        changed: dict[str, dict[str, Any]] = {"attributes": {}, "extra": {}}
        for item, one in first.items():
            old = before.get(item)
            if old is None:
                continue
            for column, now_is in (("attributes", old.attributes), ("extra", old.extra)):
                grown = {**now_is, **one.row[column]}
                if grown != now_is:
                    changed[column][item] = grown
                    if column == "attributes":
                        logged.append(self._event("item.attributes", item, dict(now_is), grown))
        for column, values in changed.items():
            items.change(tx, self.dataset, column, values)
        events.add(tx, logged)

    def _compare_size(self, one: Taken) -> None:
        said, found = (one.record.width, one.record.height), (one.row["width"], one.row["height"])
        if one.record.text is None and all(said) and said != found:
            message = (
                f"size of {one.where} must be what its annotation says, {said[0]} x {said[1]}; "
                f"got {found[0]} x {found[1]}"
            )
            hint = "the item was kept with the file's own size, its coordinates as they were written"
            self.problems.append(Problem(where=one.where, error="invalid", message=message, hint=hint))

    def finish(self) -> None:
        """Tell what was counted rather than listed."""
        for kind, count in sorted(self.misfits.items()):
            message = f"shapes must be of a kind that {self.task.name} has; got {count} of kind {kind}"
            hint = "add it to a dataset of another task kind, such as object-detection, to keep them"
            self.problems.append(Problem(where=kind, error="invalid", message=message, hint=hint))


def _content(shape: Shape) -> tuple[Any, ...]:
    """What a shape says, whoever said it."""
    return shape.label, shape.kind, shape.points, shape.mask, shape.attributes, shape.extra


def _twice(where: str, old: Sequence[Shape], new: Shape | None) -> Problem:
    have = ", ".join(dict.fromkeys(shape.label for shape in old))
    said = repr(new.label) if new else "nothing"
    return Problem(
        where=where,
        error="conflict",
        message=f"{where} must have one class; got {said}, and the same bytes are {have!r} already",
        hint="the label that was there is kept; relabel the item if it is wrong",
    )
