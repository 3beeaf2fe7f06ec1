"""COCO: instances, person keypoints, captions and panoptic segments, one JSON file per split.

What the file says of an image or an annotation is kept as its own text beside the values, so that an export writes
every entry that did not change exactly as it was (``json_text``). Source: https://cocodataset.org/#format-data.
"""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.image import SUFFIXES
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats import coco_panoptic, coco_write
from loopworks.data.formats.coco_shapes import read_shape
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import (
    LIMIT,
    Classes,
    Tree,
    bad,
    json_facts,
    normal,
    outside,
    peek,
    read_text,
    split_of,
)
from loopworks.data.formats.json_text import Entries, Sheet, parse

LISTS = ("images", "annotations", "categories")
_SIGNS = tuple(re.compile(rf'"{name}"\s*:\s*\[') for name in LISTS)
_OTHERS = re.compile(r'"(?:items|captures|shapes)"\s*:\s*\[')
_DEEP = 4


@plugins.add("format.coco")
@dataclass(frozen=True, slots=True, kw_only=True)
class Coco:
    """COCO JSON: boxes, polygons, masks as run lengths, keypoints, captions, panoptic segments."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    by_split: bool = True
    """Whether images are written into a file per split; false: back into the file that they came from, so that a single
    file comes back as it was also after items were split."""

    def detect(self, root: Path, /) -> float:
        """0.95 for a JSON file with images and annotations, or a folder that has one near its top."""
        return 0.95 if next(iter(_files(root)), None) else 0.0

    def read(self, root: Path, /) -> Content:
        """The data set of a file or folder; several files are splits or kinds of annotations of the same images."""
        return _Reader.open(root).content()

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Write ``annotations/instances_SPLIT.json``, or the files that the data set came from."""
        return coco_write.write(content, folder, put, by_split=self.by_split)


def _files(root: Path) -> Iterator[str]:
    """Paths of COCO files below ``root`` (which may be one), in order of name."""
    if root.is_file():
        if root.suffix.lower() == ".json" and looks_like_coco(peek(root)):
            yield root.name
        return
    waiting = [("", 0)]
    while waiting:
        prefix, depth = waiting.pop(0)
        try:
            entries = sorted(os.scandir(root / prefix), key=lambda entry: entry.name)
        except OSError:
            continue
        seen = 0
        for entry in entries:
            if entry.name.startswith(".") or entry.is_symlink():
                continue
            ending = posixpath.splitext(entry.name)[1].lower()
            if ending == ".json" and entry.is_file():
                seen += 1
                # A folder with a JSON file for each image is no COCO; looking at a few of them tells.
                if seen <= 16 and looks_like_coco(peek(Path(entry.path))):
                    yield prefix + entry.name
            elif depth < _DEEP and ending not in SUFFIXES and entry.is_dir():
                waiting.append((f"{prefix}{entry.name}/", depth + 1))


def looks_like_coco(text: str) -> bool:
    """Whether the beginning and end of a file have the lists that COCO has, and not those of others."""
    found = [bool(sign.search(text)) for sign in _SIGNS]
    return text.lstrip("\ufeff \t\r\n").startswith("{") and sum(found) >= 2 and not _OTHERS.search(text)


@dataclass(slots=True)
class _File:
    """One annotation file as it was read."""

    name: str
    sheet: Sheet
    encoding: str
    split: str
    labels: dict[Any, str] = field(default_factory=dict)
    by_image: dict[Any, list[int]] = field(default_factory=dict)
    """Id of an image -> places of its annotations."""

    @property
    def folder(self) -> str:
        return posixpath.dirname(self.name)

    @property
    def is_headless(self) -> bool:
        """Whether the file has no categories (or was cut off before them), so that no annotation has a class."""
        lists = self.sheet.lists
        has_some = "categories" in lists and bool(lists["categories"].values)
        return not has_some and _needs_classes(lists.get("annotations"))

    def meta(self) -> dict[str, Any]:
        lists = self.sheet.lists
        return {
            "name": self.name,
            "encoding": self.encoding,
            "style": self.sheet.style.to_json(),
            "pieces": self.sheet.pieces,
            "slots": self.sheet.slots,
            "around": {name: entries.around() for name, entries in lists.items()},
            "categories": lists["categories"].texts if "categories" in lists else [],
        }


@dataclass(slots=True)
class _Reader:
    root: Path
    tree: Tree
    files: list[_File]
    classes: Classes
    problems: list[Problem]

    @classmethod
    def open(cls, root: Path) -> "_Reader":
        problems: list[Problem] = []
        base = root
        if root.is_file():
            base = root.parent.parent if root.parent.name.lower() == "annotations" else root.parent
            names = [root.relative_to(base).as_posix()]
        else:
            names = list(_files(root))
        if not names:
            raise Invalid(str(root), "COCO JSON with images and annotations", "none", "name its file")
        classes = Classes(problems)
        files = []
        for name in names:
            try:
                text, encoding = read_text(base / name, name, LIMIT)
                sheet = parse(text, LISTS, name)
            except Invalid as error:
                if len(names) == 1:
                    raise
                problems.append(Problem(where=name, error=error.code, message=error.message, hint=error.hint))
                continue
            file = _File(name, sheet, encoding, split_of(posixpath.basename(name), posixpath.dirname(name)))
            if sheet.fault:
                hint = "the entries before it were read"
                if file.is_headless:
                    count = len(sheet.lists["annotations"].values)
                    hint = f"the images before it were read; its {count} annotations have no class without categories"
                problems.append(Problem(where=name, error=Invalid.code, message=f"{name} {sheet.fault}", hint=hint))
            elif file.is_headless:
                count = len(sheet.lists["annotations"].values)
                hint = f"its images were read; its {count} annotations have no class"
                problems.append(bad(name, f"categories of {name}", "a list of the classes", "none", hint))
            file.labels = read_categories(sheet.lists["categories"].values, classes, name) if _has(sheet) else {}
            files.append(file)
        return cls(base, Tree.of(base), files, classes, problems)

    def content(self) -> Content:
        """All that the files say."""
        return Content(
            schema=self.classes.schema(),
            records=self._records(),
            meta={"coco": {"files": [file.meta() for file in self.files]}},
            problems=self.problems,
        )

    def _records(self) -> Iterator[Record]:
        found: dict[str, list[tuple[_File, int]]] = {}
        for file in self.files:
            ids = self._images(file, found)
            self._annotations(file, ids)
        for name, places in found.items():
            yield self._record(name, places)

    def _images(self, file: _File, found: dict[str, list[tuple[_File, int]]]) -> set[Any]:
        """Add the images of a file to ``found``; gives their ids."""
        ids: set[Any] = set()
        entries = file.sheet.lists.get("images")
        here: set[str] = set()
        for at, body in enumerate(entries.values if entries else ()):
            where = f"{file.name} images[{at}]"
            try:
                key, name = self._image(file, body, where)
            except LoopworksError as error:
                self.problems.append(
                    Problem(where=where, error=error.code, message=f"{where}: {error.message}", hint=error.hint)
                )
                continue
            if key in ids:
                self.problems.append(bad(where, f"id of {where}", "used once in its file", key))
                continue
            if name in here:
                hint = "what is said of both entries was put together"
                self.problems.append(bad(where, f"file_name of {where}", "used once in its file", name, hint))
            ids.add(key)
            here.add(name)
            found.setdefault(name, []).append((file, at))
        return ids

    def _image(self, file: _File, body: Any, where: str) -> tuple[Any, str]:
        if not isinstance(body, dict) or not _is_id(body.get("id")):
            raise Invalid("an image", "an object with a number or text as its id", str(body)[:80])
        return body["id"], self._place(file, body.get("file_name"))

    def _place(self, file: _File, given: Any) -> str:
        """Where the media of ``file_name`` lies below the root; its own name where it is nowhere."""
        plain = normal(given, file.folder) if isinstance(given, str) and given.startswith("..") else normal(given)
        files = self.tree.files
        for name in candidates(plain, file.name, file.split):
            if name in files:
                return name
        if plain in self.tree.outside:
            raise Invalid("file name", "a path below the folder that is imported", f"{plain}, a link that leads out")
        return plain

    def _annotations(self, file: _File, ids: set[Any]) -> None:
        entries = file.sheet.lists.get("annotations")
        seen: set[Any] = set()
        by_image = file.by_image
        if file.is_headless:
            return
        for at, body in enumerate(entries.values if entries else ()):
            key = body.get("image_id") if isinstance(body, dict) else None
            own = body.get("id") if isinstance(body, dict) else None
            problem: tuple[str, str, Any] | None = None
            if not isinstance(body, dict):
                problem = ("an annotation", "an object", str(body)[:80])
            elif not _is_id(key) or key not in ids:
                problem = ("image_id", "the id of an image of the file", key)
            elif own is not None and not _is_id(own):
                problem = ("id", "a number or text", own)
            elif own is not None and own in seen:
                problem = ("id", "used once in its file", own)
            if problem:
                where = f"{file.name} annotations[{at}]"
                self.problems.append(bad(where, f"{problem[0]} of {where}", problem[1], problem[2]))
                continue
            if own is not None:
                seen.add(own)
            by_image.setdefault(key, []).append(at)

    def _record(self, name: str, places: list[tuple[_File, int]]) -> Record:
        kept: list[dict[str, Any]] = []
        shapes: list[Shape] = []
        known: dict[tuple[Any, ...], int] = {}
        body: dict[str, Any] = {}
        for file, at in places:
            images = file.sheet.lists["images"]
            body = images.values[at] | body
            entry: dict[str, Any] = {"file": file.name, "at": at, "text": images.texts[at]}
            kept.append(entry)
            self._shapes(file, images.values[at], shapes, known, entry)
        width, height = (_length(body.get(key)) for key in ("width", "height"))
        path = self.tree.files.get(name, "")
        if not path:
            self.problems.append(
                bad(f"{places[0][0].name} images[{places[0][1]}]", f"image {name}", "a file below the root", "nothing")
            )
        labels = body.get("labels")
        for label in labels if isinstance(labels, list) else ():
            found = self.classes.find(label) if isinstance(label, str) else None
            if found:
                shapes.append(Shape(label=found, source="import"))
        tags = body.get("tags")
        facts = body.get("attributes")
        return Record(
            name=name,
            path=path,
            width=width,
            height=height,
            split=places[0][0].split,
            tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
            attributes=json_facts(facts) if isinstance(facts, dict) else {},
            shapes=tuple(shapes),
            is_labeled=body.get("labeled", True) is not False and not all(file.is_headless for file, _ in places),
            extra={"coco": {"name": name, "in": kept}},
        )

    def _shapes(
        self, file: _File, image: Mapping[str, Any], shapes: list[Shape], known: dict[tuple[Any, ...], int], entry: Any
    ) -> None:
        annotations = file.sheet.lists.get("annotations")
        if annotations is None:
            return
        width, height = _length(image.get("width")), _length(image.get("height"))
        for at in file.by_image.get(image["id"], ()):
            body = annotations.values[at]
            where = f"{file.name} annotations[{at}]"
            if "segments_info" in body:
                got = coco_panoptic.read(body, self.tree, file.name, file.labels, where, self.problems)
                entry["panoptic"] = {"at": at, "text": annotations.texts[at]}
                shapes += [replace(shape, extra=_segment(file.name, value, shape)) for value, shape in got]
                continue
            category = body.get("category_id")
            label = "" if "caption" in body else file.labels.get(category) if _is_id(category) else None
            try:
                if label is None:
                    raise Invalid("category_id", "the id of a category of the file", body.get("category_id"))
                shape, odd = read_shape(body, label)
            except LoopworksError as error:
                self.problems.append(
                    Problem(where=where, error=error.code, message=f"{where}: {error.message}", hint=error.hint)
                )
                continue
            for fault in odd:
                self.problems.append(Problem(where=where, error=Invalid.code, message=f"{where} {fault}"))
            bounds = shape.bounds
            if bounds and outside(bounds, width, height):
                self.problems.append(
                    bad(where, f"bbox of {where}", f"inside {width} x {height}", list(bounds), "kept as it is")
                )
            mine = {"file": file.name, "at": at, "text": annotations.texts[at]}
            # The same object in two files (instances and keypoints) is one shape that both files get back.
            same = known.get((body.get("id"), shape.label, shape.points, shape.mask)) if len(self.files) > 1 else None
            if same is not None and shapes[same].origin["coco"]["in"][-1]["file"] != file.name:
                other = shapes[same]
                places = [*other.origin["coco"]["in"], mine]
                shapes[same] = replace(
                    other,
                    attributes=dump({**shape.facts, **other.facts}),
                    extra=dump({"coco": {"in": places}}),
                )
                continue
            if len(self.files) > 1:
                known[body.get("id"), shape.label, shape.points, shape.mask] = len(shapes)
            shapes.append(replace(shape, extra=dump({"coco": {"in": [mine]}})))


def candidates(name: str, file: str, split: str) -> Iterator[str]:
    """Where the media of ``file_name`` may lie below the root, the likeliest place first."""
    folder = posixpath.dirname(file)
    stem = re.sub(r"^(instances|person_keypoints|captions|panoptic|stuff|image_info)_", "", posixpath.basename(file))
    stem = stem.rsplit(".", 1)[0]
    above = posixpath.dirname(folder)
    places = [folder, above] if folder else [""]
    for place in dict.fromkeys([*places, ""]):
        base = place + "/" if place else ""
        yield base + name
        for inner in dict.fromkeys((stem, split)):
            if inner:
                yield f"{base}images/{inner}/{name}"
                yield f"{base}{inner}/{name}"
                yield f"{base}{inner}/images/{name}"
        for inner in ("images", "data", "JPEGImages", "img"):
            yield f"{base}{inner}/{name}"


def read_categories(found: list[Any], classes: Classes, where: str) -> dict[Any, str]:
    """Id of a category -> class; what is no category is a problem of ``classes``."""
    labels: dict[Any, str] = {}
    for at, body in enumerate(found):
        place = f"{where} categories[{at}]"
        key = body.get("id") if isinstance(body, dict) else None
        if not isinstance(body, dict) or not _is_id(key) or key is None:
            classes.problems.append(bad(place, place, "an object with a number or text as its id", str(body)[:80]))
        elif key in labels:
            classes.problems.append(bad(place, f"id of {place}", "used once in its file", key))
        else:
            labels[key] = classes.add(body.get("name", ""), f"{place} {key}")
    return labels


def _segment(file: str, value: int, shape: Shape) -> str:
    return dump({"coco": {"file": file, "segment": value, "mark": coco_panoptic.text_mark(shape.mask)}})


def _needs_classes(entries: Entries | None) -> bool:
    """Whether there are annotations with a class; captions need none, even where they name one."""
    found = [one for one in entries.values if isinstance(one, dict)] if entries is not None else []
    return any("category_id" in one for one in found) and not any("caption" in one for one in found)


def _has(sheet: Sheet) -> bool:
    return "categories" in sheet.lists


def _is_id(value: Any) -> bool:
    """A number or text; some tools write 1.0 for 1, which mean the same."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int | str) and not isinstance(value, bool)


def _length(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1 << 31 else 0
