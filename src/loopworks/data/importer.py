"""From what a user names to rows: open the source, choose the format of each place, read it, bring its records in."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Protocol

from loopworks.core.contracts import Task
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import LabelSchema
from loopworks.data import preparing
from loopworks.data.files import Labels, Source
from loopworks.data.formats import detect
from loopworks.data.formats.contract import Content, Record
from loopworks.data.formats.datumaro_bridge import unread
from loopworks.data.formats.folders import Folders, record_of
from loopworks.data.intake import AddReport, By, Intake, Progress
from loopworks.data.sources import Opened, Root, Tick, open_source
from loopworks.data.video import Frames
from loopworks.store import datasets as rows
from loopworks.store.blobs import LocalBlobs
from loopworks.store.home import Home
from loopworks.store.items import SPLITS

_PEEK = 2000  # records that are looked at to tell what a new dataset is for


class Target(Protocol):
    """The dataset that takes the records."""

    @property
    def id(self) -> str:
        """Id in the catalog."""

    @property
    def task(self) -> Task:
        """Its task kind."""

    @property
    def schema(self) -> LabelSchema:
        """Its classes now."""

    def add_classes(self, names: Iterable[str], *, author: str = "") -> tuple[str, ...]:
        """Add classes after those that exist, and give those that are new."""


@dataclass(slots=True)
class _Place:
    """One place, read: its format and what it holds."""

    root: Root
    format: str
    content: Content
    is_plain: bool
    """Whether it is images in folders, without annotations of their own."""
    is_signed: bool = False
    total: int = 0
    """Records; 0: not known before they are read."""
    peeked: list[Record] = field(default_factory=list)


@dataclass(slots=True)
class Import:
    """A source that is open and understood; nothing is written yet."""

    home: Home
    opened: Opened
    by: By
    author: str
    split: str
    places: list[_Place]

    def guess(self) -> tuple[str, bool]:
        """The task kind that the first records fit, and whether an item carries several classes.

        Boxes, polygons, captions: object-detection (semantic-segmentation where there are masks alone); texts:
        text-classification; otherwise image-classification.
        """
        for place in self.places:
            place.peeked = place.peeked or list(islice(iter(place.content.records), _PEEK))
            place.content.records = chain(place.peeked, _rest(place))
        seen = [record for place in self.places for record in place.peeked]
        kinds = {shape.kind for record in seen for shape in record.shapes}
        if any(record.text is not None for record in seen):
            return "text-classification", _several(seen)
        if kinds - {"class", "value"}:
            has_masks_alone = "mask" in kinds and kinds <= {"mask", "class", "caption"}
            return ("semantic-segmentation" if has_masks_alone else "object-detection"), False
        return "image-classification", _several(seen)

    def run(self, target: Target, progress: Progress | None = None) -> AddReport:
        """Bring all records into ``target``.

        Raises:
            Invalid: class names that clash; nothing is imported.
            NoSpace: the disk is full; what was added before stays.
        """
        fresh = target.add_classes(_classes(self.places), author=self.author)
        meta = [place.content.meta for place in self.places if place.content.meta]
        meta += [self.opened.meta] if self.opened.meta else []
        if meta:
            _remember(self.home, target.id, meta)
        counted = Intake(
            self.home, target.id, target.task, target.schema, self.by, self.author, self.split, self.opened
        )
        total = sum(place.total for place in self.places)
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, max(done, total))

        told = [one for problem in self.opened.problems if (one := self.opened.told(problem))]
        for place in self.places:
            counted.policy = "merge" if place.is_plain else "distinct"
            counted.is_signed = place.is_signed
            counted.run(_named(place), tell)
            told += [one for problem in place.content.problems if (one := self.opened.told(problem))]
        counted.finish()
        preparing.after_import(self.home, target.id, counted.added + counted.labeled + counted.returned)
        told += [one for problem in counted.problems if (one := self.opened.told(problem))]
        return AddReport(
            added=counted.added,
            known=counted.known,
            labeled=counted.labeled,
            relabeled=counted.relabeled,
            classes=fresh,
            formats=tuple(place.format for place in self.places),
            problems=tuple(told),
        )


@contextmanager
def prepare(
    home: Home,
    source: Source,
    *,
    format: str = "auto",
    options: Mapping[str, Any] | None = None,
    labels: Labels = "auto",
    known: Sequence[str] = (),
    by: By = "copy",
    author: str = "",
    split: str = "",
    frames: Frames | None = None,
    tick: Tick | None = None,
) -> Iterator[Import]:
    """Open a source and read its formats; what it was unpacked to is removed at the end of the block.

    Args:
        home: the workspace.
        source: a file, folder, pattern, archive, video or URL, or a list of these.
        format: name of a format (``detect.names``), or auto: the one that is surest of each place.
        options: of the format; needs its name.
        labels: for images in folders: auto, folders or none.
        known: classes that exist already.
        by: copy, link or reference.
        author: who gave the labels, where the source does not say it.
        split: train, val or test for all of them; by default what the source says.
        frames: which frames of videos become items.
        tick: takes how far fetching, unpacking and decoding are.
    Raises:
        NotFound: a path, format or split does not exist.
        Invalid: no format knows the source, an option is wrong, or nothing in it can be read.
    """
    if by not in ("copy", "reference", "link"):
        raise Invalid("by", "copy, reference or link", by)
    if by == "link" and not isinstance(home.blobs, LocalBlobs):
        raise Invalid("by", "copy or reference for blobs in an object store", by)
    if split and split not in SPLITS:
        raise NotFound("split", split, SPLITS)
    if labels not in ("auto", "folders", "none"):
        raise Invalid("labels", "auto, folders or none", labels)
    if options and format == "auto":
        raise Invalid("options", "given together with the format that they are for", dict(options))
    if format != "auto":
        detect.build(format, options)
    if labels != "auto" and format == "auto":
        format = "folders"
    with open_source(home, source, labels=labels, known=known, frames=frames, by=by, tick=tick) as opened:
        places = [_read(root, format, options or {}, labels, known) for root in opened.roots]
        if not places:
            first = f"; the first of its problems: {opened.problems[0].message}" if opened.problems else ""
            raise Invalid(str(source), "a place with data", f"nothing that can be read{first}")
        yield Import(home, opened, by, author, split, places)


def _read(root: Root, format: str, options: Mapping[str, Any], labels: Labels, known: Sequence[str]) -> _Place:
    if root.images:
        found = [record_of(one) for one in root.images]
        classes = tuple(sorted({one.label for one in root.images if one.label}))
        content = Content(schema=LabelSchema(classes=classes), records=found)
        return _Place(root, "folders", content, is_plain=True, total=len(found))
    path, is_guessed = root.path, format == "auto"
    if is_guessed:
        match = detect.detect(path)
        format, path = match.name, match.root
    chosen = detect.build(format, options)
    if isinstance(chosen, Folders):
        chosen = replace(chosen, labels=labels if labels != "auto" else chosen.labels, known=tuple(known))
    content = chosen.read(path)
    if is_guessed and isinstance(chosen, Folders) and (told := unread(path)) is not None:
        content.problems.append(told)
    total = len(content.records) if isinstance(content.records, Sized) else 0
    is_signed = bool(getattr(type(chosen), "is_signed", False))
    return _Place(root, format, content, isinstance(chosen, Folders), is_signed, total)


def _classes(places: Sequence[_Place]) -> list[str]:
    """All classes: in each format's own order, those of folders by name."""
    plain = sorted({name for place in places if place.is_plain for name in place.content.schema.classes})
    own = [name for place in places if not place.is_plain for name in place.content.schema.classes]
    return list(dict.fromkeys([*own, *plain]))


def _named(place: _Place) -> Iterable[Record]:
    if not place.root.prefix:
        return place.content.records
    return (replace(record, name=f"{place.root.prefix}{record.name}") for record in place.content.records)


def _rest(place: _Place) -> Iterator[Record]:
    found = place.content.records
    return iter(found) if isinstance(found, Iterator) else islice(iter(found), len(place.peeked), None)


def _several(seen: Iterable[Record]) -> bool:
    return any(len({shape.label for shape in record.shapes if shape.kind == "class"}) > 1 for record in seen)


def _remember(home: Home, dataset: str, metas: Iterable[Mapping[str, Any]]) -> None:
    with home.catalog.begin() as tx:
        old = rows.meta(tx, dataset)
        grown: Mapping[str, Any] = old
        for meta in metas:
            grown = _merged(grown, meta)
        if grown != old:
            rows.set_meta(tx, dataset, grown)


def _merged(old: Any, new: Any) -> Any:
    """``new`` over ``old``; objects are merged key by key, so that a second file of a set does not hide the first."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**old, **{key: _merged(old[key], value) if key in old else value for key, value in new.items()}}
    return new
