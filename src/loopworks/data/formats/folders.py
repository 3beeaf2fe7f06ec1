"""``format.folders``: images in folders, one folder per class, with or without folders for the splits around them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ConfigDict

from loopworks.core.errors import LoopworksError
from loopworks.core.image import SUFFIXES
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data import files
from loopworks.data.files import Found, Labels
from loopworks.data.formats.contract import Content, Put, Record

_LOOK = 2000  # entries that detection looks at before it gives up


@plugins.add("format.folders")
@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Images as ``SPLIT/CLASS/NAME``, ``CLASS/NAME`` or without classes."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    labels: Labels = "auto"
    """auto: classes where there are class folders; folders: there must be some; none: no labels."""
    known: tuple[str, ...] = ()
    """Classes that exist already: a folder called like one is a class, not a folder around the classes."""

    def detect(self, root: Path) -> float:
        """Little, and only where there are images: every annotated format has images in folders too."""
        if root.is_file():
            return 0.1 if root.suffix.lower() in SUFFIXES else 0.0
        for seen, path in enumerate(root.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                return 0.1
            if seen > _LOOK:
                break
        return 0.05 if root.is_dir() else 0.0

    def read(self, root: Path) -> Content:
        """The images below ``root``; see ``files.find``."""
        finding = files.find(root, self.labels, self.known)
        return Content(
            schema=LabelSchema(classes=finding.classes),
            records=[record_of(found) for found in finding.files],
            problems=list(finding.problems),
        )

    def write(self, content: Content, folder: Path, put: Put) -> Iterator[Problem]:
        """The images as ``SPLIT/CLASS/NAME``, ready to be added again.

        Two files of one name in a class are told apart by a number. An image of several classes lies in the folder of
        each of them; one without a class directly in its split's folder.
        """
        names = folder_names(content.schema.classes)
        records = list(content.records)
        has_splits = any(record.split for record in records)
        if has_splits and (unsplit := sum(not record.split for record in records)):
            message = f"every image must have a split to be put into split folders; got {unsplit} without one"
            yield Problem(where=str(folder), error="invalid", message=message, hint="split first; no split was written")
            has_splits = False
        lost: dict[str, int] = {}
        taken: set[str] = set()
        for record in records:
            if record.text is not None:
                lost["text item"] = lost.get("text item", 0) + 1
                continue
            classes = list(dict.fromkeys(shape.label for shape in record.shapes if shape.label in names))
            for shape in record.shapes:
                if shape.kind != "class":
                    what = f"place of a {shape.kind}" if shape.label else shape.kind
                    lost[what] = lost.get(what, 0) + 1
            split = record.split if has_splits else ""
            for place in [names[label] for label in classes] or [""]:
                put(record, _free(f"{split}/{place}".strip("/"), record.name, taken))
        for what, count in lost.items():
            message = f"folders must hold classes alone; got {count} times a {what}"
            yield Problem(where=str(folder), error="invalid", message=message, hint="export as jsonl or coco keeps it")


def record_of(found: Found) -> Record:
    """What folders say of an image."""
    said = (Shape(label=found.label, source="import"),) if found.label else ()
    return Record(name=found.name, path=found.path, split=found.split, shapes=said, is_labeled=bool(found.label))


def folder_names(classes: Sequence[str]) -> dict[str, str]:
    """A folder name for each class: itself, or where it is no good as one, something close to it."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for name in classes:
        plain = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", name)
        plain = re.sub(r"^\.+", "_", plain)[:100] or "_"
        while plain.casefold() in taken:
            plain += "_"
        taken.add(plain.casefold())
        names[name] = plain
    return names


def _free(place: str, name: str, taken: set[str]) -> str:
    pure = PurePosixPath(PurePosixPath(name.replace("\\", "/")).name or "item")
    for number in range(1, 1_000_000):
        candidate = pure.name if number == 1 else f"{pure.stem}-{number}{pure.suffix}"
        full = f"{place}/{candidate}".lstrip("/")
        if full.casefold() not in taken:
            taken.add(full.casefold())
            return full
    raise LoopworksError(f"no free name for {name!r} in {place!r}")
