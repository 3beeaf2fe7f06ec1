"""Pascal VOC: one XML file per image, splits in ImageSets, masks as palette PNGs.

Source: Everingham et al. 2010, "The PASCAL visual object classes challenge", and its development kit.
"""

import posixpath
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loopworks.core import mask
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats import voc_masks, voc_write
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import (
    SMALL_LIMIT,
    Classes,
    Tree,
    bad,
    decode,
    outside,
    peek,
    read_bytes,
    read_text,
    size_of,
    split_of,
)
from loopworks.data.formats.voc_xml import encoding_of, read_object, recover, texts

_SIGN = re.compile(r"<annotation[\s>]")
_NOT = re.compile(r"<polygon>\s*<(?:pt|username)>|<annotations>")
_NAME = re.compile(rb"<object>\s*(?:<[a-z]+>[^<]*</[a-z]+>\s*|<[a-z]+/>\s*)*?<name>([^<]*)</name>")
_MASKS = ("SegmentationClass", "SegmentationClassPNG")
_NO_IMAGES = re.compile(r"(?:^|/)(?:SegmentationClass|SegmentationObject|Annotations)[^/]*/")
_SPLITS = ("train", "val", "test")


@plugins.add("format.voc")
@dataclass(frozen=True, slots=True, kw_only=True)
class Voc:
    """Pascal VOC: boxes with facts of objects in XML, class and object masks, splits in ImageSets."""

    def detect(self, root: Path, /) -> float:
        """0.95 with XML files of VOC, 0.8 for JPEGImages beside SegmentationClass, else 0."""
        if root.is_file():
            return 0.9 if root.suffix.lower() == ".xml" and _is_voc(root) else 0.0
        tree = Tree.of(root)
        looked = 0
        for name, path in tree.files.items():
            if name.lower().endswith(".xml"):
                looked += 1
                if _is_voc(Path(path)):
                    return 0.95
                if looked >= 8:
                    break
        folders = {part for name in tree.files for part in name.split("/")[:-1]}
        return 0.8 if "JPEGImages" in folders and folders & set(_MASKS) else 0.0

    def read(self, root: Path, /) -> Content:
        """The data set of a folder, or of one XML file and its image."""
        return _Reader.open(root).content()

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Write Annotations, ImageSets/Main and, where there are masks, SegmentationClass and SegmentationObject."""
        return voc_write.write(content, folder, put)


def _is_voc(path: Path) -> bool:
    text = peek(path)
    return bool(_SIGN.search(text)) and not _NOT.search(text)


def short_name(name: str) -> str:
    """What VOC calls an image: its path without the folder JPEGImages."""
    before, sign, after = f"/{name}".rpartition("/JPEGImages/")
    return f"{before}/{after}"[1:] if sign else name


def _listed_name(line: str, base: str, known: Container[str]) -> str:
    """The image that a line of ImageSets names: all of it where there is such an image, else its first word."""
    whole = line.strip()
    return whole if base + whole in known else whole.split()[0]


@dataclass(slots=True)
class _Reader:
    tree: Tree
    only: str = ""
    problems: list[Problem] = field(default_factory=list)
    classes: Classes = field(default_factory=lambda: Classes([]))
    labels: dict[int, str] = field(default_factory=dict)
    """Index in masks -> class."""
    colors: list[int] = field(default_factory=list)
    sets: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Files of ImageSets: path -> (text, encoding)."""
    splits: dict[str, str] = field(default_factory=dict)
    marked: dict[str, list[str]] = field(default_factory=dict)
    """Name of an image without ending -> classes that ImageSets gives it."""

    by_base: dict[str, list[str]] = field(default_factory=dict)
    """Name of an image without folders, with and without its ending -> where it lies."""

    @classmethod
    def open(cls, root: Path) -> "_Reader":
        reader = cls(Tree.of(root.parent if root.is_file() else root), root.name if root.is_file() else "")
        reader.classes = Classes(reader.problems)
        files = reader.tree.files
        if not any(name.endswith(".xml") for name in files) and not any(_mask_name(name) for name in files):
            raise Invalid(str(root), "Pascal VOC: XML files or SegmentationClass", "neither")
        for name in reader.tree.images():
            base = posixpath.basename(name)
            for key in (base, posixpath.splitext(base)[0]):
                reader.by_base.setdefault(key, []).append(name)
        reader._find_classes()
        reader._find_sets()
        return reader

    def content(self) -> Content:
        meta = {
            "sets": [[name, *kept] for name, kept in self.sets.items()],
            "labels": [[index, label] for index, label in self.labels.items()],
            "colors": self.colors,
        }
        return Content(
            schema=self.classes.schema(),
            records=self._records(),
            meta={"voc": meta},
            problems=self.problems,
        )

    def _find_classes(self) -> None:
        files = self.tree.files
        listed: list[str] = []
        for name in files:
            if posixpath.basename(name) in ("labelmap.txt", "class_names.txt") and name.count("/") <= 2:
                text = self._text(name)
                colors = voc_masks.read_colors(text)
                if colors:
                    known = voc_masks.palette()
                    index = {tuple(known[3 * at : 3 * at + 3]): at for at in range(256)}
                    for at, (color, label) in enumerate(colors.items()):
                        self.labels.setdefault(index.get(color, at), label)
                else:
                    listed = [line.strip() for line in text.splitlines() if line.strip()]
        if listed:
            start = 1 if listed[0] == "__ignore__" else 0
            self.labels = dict(enumerate(listed[start:]))
        has_masks = any(_mask_name(name) for name in files)
        if not self.labels and has_masks:
            self.labels = dict(enumerate(voc_masks.NAMES))
        self.labels = {key: self.classes.add(label, f"labels {key}") for key, label in self.labels.items()}
        names = set()
        for name, path in files.items():
            if name.endswith(".xml") and (not self.only or name == self.only):
                try:
                    data = read_bytes(Path(path), name, SMALL_LIMIT)
                    names |= _object_names(data, name)
                except (LoopworksError, UnicodeDecodeError, LookupError):
                    continue  # reading the record says it
        for label in sorted(names - {""}):
            self.classes.add(label, "object name")

    def _find_sets(self) -> None:
        known = {short_name(name) for name in self.tree.stems()}
        for name in self.tree.files:
            folder, sign, rest = f"/{name}".rpartition("/ImageSets/")
            if not sign or not rest.endswith(".txt"):
                continue
            text = self._text(name)
            base = folder[1:] + "/" if folder else ""
            stem = posixpath.basename(rest)[:-4]
            label, _, split = stem.rpartition("_")
            for line in text.splitlines():
                words = line.split()
                if not words:
                    continue
                if stem in _SPLITS:
                    self.splits.setdefault(base + _listed_name(line, base, known), stem)
                elif label and split in (*_SPLITS, "trainval") and len(words) > 1 and words[-1] == "1":
                    self.marked.setdefault(base + line.rstrip().rpartition(" ")[0].strip(), []).append(label)
        for label in sorted({label for labels in self.marked.values() for label in labels}):
            self.classes.add(label, "class of ImageSets")

    def _text(self, name: str) -> str:
        try:
            text, encoding = read_text(Path(self.tree.files[name]), name, SMALL_LIMIT)
        except Invalid as error:
            self.problems.append(Problem(where=name, error=error.code, message=error.message, hint=error.hint))
            return ""
        self.sets[name] = text, encoding
        return text

    def _records(self) -> Iterator[Record]:
        files = self.tree.files
        seen: set[str] = set()
        stems = self.tree.stems()
        for name in files:
            if name.lower().endswith(".xml") and (not self.only or name == self.only):
                record = self._annotated(name, stems)
                if record is None:
                    continue
                if record.extra["voc"]["image"] in seen:
                    self.problems.append(bad(name, f"image of {name}", "annotated by one file", record.name))
                    continue
                seen.add(record.extra["voc"]["image"])
                yield record
        if self.only:
            return
        for name in self.tree.images():
            if name not in seen and not _NO_IMAGES.search(name):
                yield self._more(Record(name=short_name(name), path=files[name], is_labeled=False), name, {}, [])

    def _annotated(self, file: str, stems: dict[str, str]) -> Record | None:
        """The record of an XML file; ``None`` where it is none of VOC or broken."""
        try:
            data = read_bytes(Path(self.tree.files[file]), file, SMALL_LIMIT)
            text, encoding = _decode(data, file)
            root, fault = recover(data, file)
        except Invalid as error:
            self.problems.append(Problem(where=file, error=error.code, message=error.message, hint=error.hint))
            return None
        if root.tag != "annotation":
            self.problems.append(bad(file, file, "an <annotation>", f"<{root.tag}>"))
            return None
        if fault:
            self.problems.append(
                Problem(where=file, error=Invalid.code, message=fault, hint="what is before it was read")
            )
        image = self._image(file, texts(root, "filename"), stems)
        if image is None:
            return None
        width, height = (_length(texts(root, f"size/{side}")) for side in ("width", "height"))
        path = self.tree.files.get(image, "")
        if not path:
            self.problems.append(bad(file, f"image {image} of {file}", "a file below the root", "nothing"))
        shapes: list[Shape] = []
        for at, element in enumerate(root.findall("object")):
            where = f"{file} object {at + 1}"
            try:
                name = texts(element, "name")
                if not name:
                    raise Invalid("name", "the name of a class", "nothing")
                shape = read_object(element, self.classes.find(name) or self.classes.add(name, where))
            except LoopworksError as error:
                self.problems.append(Problem(where=where, error=error.code, message=f"{where}: {error.message}"))
                continue
            box = shape.bounds
            if box and outside(box, width, height):
                self.problems.append(
                    bad(where, f"bndbox of {where}", f"inside {width} x {height}", list(box), "kept as it is")
                )
            elif box and not (box[2] and box[3]):
                self.problems.append(bad(where, f"bndbox of {where}", "wider and higher than 0", list(box), "kept"))
            shapes.append(replace(shape, extra=dump({"voc": {"object": at}})))
        kept = {"file": file, "text": "" if fault else text, "encoding": encoding}
        record = Record(name=short_name(image), path=path, width=width, height=height, shapes=tuple(shapes))
        return self._more(record, image, kept, shapes)

    def _image(self, file: str, given: str, stems: dict[str, str]) -> str | None:
        """Where the image of an XML file lies below the root; ``None`` where its name leads outside."""
        files = self.tree.files
        base = posixpath.basename(given.replace("\\", "/"))
        folder = posixpath.dirname(file)
        before, sign, after = _around(f"/{folder}/")
        tops = [f"{before}/{name}/{after}"[1:] for name in ("JPEGImages", "images", "Images", "")] if sign else []
        tops = [posixpath.normpath(top) + "/" if top.strip("/") else "" for top in tops]
        stem = posixpath.splitext(posixpath.basename(file))[0]
        for top in [*tops, folder + "/" if folder else ""]:
            if base and top + base in files:
                return top + base
            if top + stem in stems:
                return stems[top + stem]
        if ".." in given.replace("\\", "/").split("/"):
            self.problems.append(bad(file, f"filename of {file}", "a path below the folder that is imported", given))
            return None
        alike = [name for name in self.by_base.get(base or stem, ()) if not _NO_IMAGES.search(name)]
        if len(alike) == 1:  # images and annotations in folders called otherwise
            return alike[0]
        return (tops[0] if tops else folder + "/" if folder else "") + (base or stem + ".jpg")

    def _more(self, record: Record, image: str, kept: dict[str, Any], shapes: list[Shape]) -> Record:
        """Add split, classes of ImageSets and masks to a record."""
        stem = posixpath.splitext(record.name)[0]
        kept = {"image": image, "name": record.name, **kept}
        found = list(shapes)
        known = {shape.label for shape in shapes}
        marked = self.marked.get(stem, [])
        for label in dict.fromkeys(self.classes.find(label) or label for label in marked):
            if label not in known:
                found.append(Shape(label=label, source="import", extra=dump({"voc": {"marked": True}})))
        found += self._masks(image, kept)
        width, height = record.width, record.height
        if not width and record.path:
            width, height = size_of(record.path)
        return replace(
            record,
            width=width,
            height=height,
            split=self.splits.get(stem) or ("" if self.splits else split_of(*reversed(image.split("/")[:-1]))),
            shapes=tuple(found),
            is_labeled=record.is_labeled or bool(found) or "masks" in kept,
            extra={"voc": kept},
        )

    def _masks(self, image: str, kept: dict[str, Any]) -> list[Shape]:
        stem = posixpath.splitext(image)[0]
        before, sign, after = f"/{stem}".rpartition("/JPEGImages/")
        files = self.tree.files
        if not sign:
            return []
        place = next((p for n in _MASKS if (p := f"{before}/{n}/{after}.png"[1:]) in files), "")
        if not place:
            return []
        other = f"{before}/SegmentationObject/{after}.png"[1:]
        try:
            classes, colors, is_rgb = voc_masks.indexes(files[place], place)
            objects = voc_masks.indexes(files[other], other)[0] if other in files else None
            if objects is not None and objects.shape != classes.shape:
                raise Invalid(other, f"of the size of {place}", objects.shape[::-1])
        except Invalid as error:
            self.problems.append(Problem(where=place, error=error.code, message=error.message, hint=error.hint))
            return []
        if colors and not self.colors:
            self.colors += colors
        found, unknown = voc_masks.shapes_of(classes, objects, self.labels)
        for value in sorted(unknown):
            self.problems.append(bad(place, f"index {value} of {place}", "one of the classes", value))
        kept["masks"] = [place, other if objects is not None else ""]
        for key, pixels in (("void", classes), ("object_void", objects)):
            if pixels is not None and (pixels == voc_masks.VOID).any():
                kept[key] = mask.encode(pixels == voc_masks.VOID)
        if is_rgb:
            kept["is_rgb"] = True
        kept["mask_size"] = list(classes.shape)
        return [replace(shape, extra=dump({"voc": {"mask": index}})) for index, shape in found]


def _object_names(data: bytes, file: str) -> set[str]:
    """Names of the objects of an XML file; plain files are not parsed for it, which would take twice the time."""
    names = _NAME.findall(data)
    is_plain = b"\0" not in data[:64] and not any(b"&" in name for name in names)
    if is_plain and len(names) == data.count(b"<object"):
        return {name.decode(encoding_of(data) or "utf-8").strip() for name in names}
    return {texts(element, "name") for element in recover(data, file)[0].findall("object")}


def _around(folder: str) -> tuple[str, str, str]:
    """What stands before and after the last folder called Annotations, however it is written."""
    at = folder.casefold().rfind("/annotations/")
    return (folder[:at], "/", folder[at + len("/annotations/") :]) if at >= 0 else ("", "", folder)


def _mask_name(name: str) -> bool:
    return any(f"/{folder}/" in f"/{name}" for folder in _MASKS)


def _decode(data: bytes, name: str) -> tuple[str, str]:
    encoding = encoding_of(data)
    if encoding and encoding not in ("utf-8", "utf8", "utf-16"):
        try:
            return data.decode(encoding), encoding
        except (UnicodeDecodeError, LookupError):
            raise Invalid(name, f"text in {encoding}, as it says", "other bytes") from None
    return decode(data, name)


def _length(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        return 0
    return int(value) if 0 <= value < 1 << 31 else 0
