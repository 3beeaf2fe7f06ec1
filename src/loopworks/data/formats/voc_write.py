"""Writing Pascal VOC: an XML file that still says the same is written as it was."""

import json
import posixpath
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from loopworks.core.errors import LoopworksError
from loopworks.core.values import Problem, Shape
from loopworks.data.formats import voc_masks
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import Classes, Losses, encode, normal, split_of
from loopworks.data.formats.voc_xml import parse, read_object, texts, write_object

_INDENT = re.compile(r"<annotation[^>]*>\s*?\n([ \t]+)<")


def write(content: Content, folder: Path, put: Put) -> Iterator[Problem]:
    """Write a data set; see ``Voc.write``."""
    writer = _Writer(content, folder)
    for record in content.records:
        if record.text is not None and not record.path:
            writer.losses.add("text item", "left out")
            continue
        place = writer.add(record)
        if record.path:
            put(record, place)
    writer.finish()
    yield from writer.losses.problems()


class _Writer:
    def __init__(self, content: Content, folder: Path) -> None:
        self.folder = folder
        self.losses = Losses("voc")
        kept = content.meta.get("voc", {})
        self.meta: Mapping[str, Any] = kept if isinstance(kept, Mapping) else {}
        self.classes = Classes([])
        for label in content.schema.classes:
            self.classes.add(label, "class", quiet=True)
        labels = {str(label): int(index) for index, label in self.meta.get("labels", [])}
        self.is_new_map = not labels
        if not labels:
            start = 0 if content.schema.classes[:1] == ("background",) else 1
            labels = {label: at for at, label in enumerate(content.schema.classes, start)}
        self.labels = labels
        self.colors: list[int] = list(self.meta.get("colors", [])) or voc_masks.palette()
        self.splits: dict[str, str] = {}
        self.natural: dict[str, str] = {}
        self.marks: dict[str, list[str]] = {}
        self.used: set[str] = set()
        self.has_masks = False

    def add(self, record: Record) -> str:
        """Write a record's XML and masks; gives the place of its media."""
        kept = dict(record.extra.get("voc", {}))
        if kept.get("name") != record.name:
            kept = {}
        place: str = kept.get("image") or f"JPEGImages/{record.name}"
        stem = posixpath.splitext(record.name)[0]
        self.splits[stem] = record.split
        self.natural[stem] = split_of(*reversed(place.split("/")[:-1]))
        marks = [shape for shape in record.shapes if shape.kind == "class" and shape.attributes == "{}"]
        if marks:
            self.marks[stem] = [shape.label for shape in marks]
        masks = [shape for shape in record.shapes if shape.kind == "mask"]
        rest = [shape for shape in record.shapes if shape not in masks and shape not in marks]
        if masks or kept.get("masks"):
            self._masks(masks, kept, stem, record)
        is_told = bool(kept.get("text")) or bool(rest) or (record.is_labeled and not masks and not marks)
        if is_told and (kept.get("text") or rest or "masks" not in kept):
            file = kept.get("file") or f"Annotations/{stem}.xml"
            if file.casefold() in self.used:
                file = f"Annotations/{record.name}.xml"
            self.used.add(file.casefold())
            text, encoding = self._xml(record, rest, kept, bool(masks))
            path = self.folder / normal(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(text, encoding))
        return place

    def finish(self) -> None:
        """Write ImageSets, and the names of classes where masks need them."""
        kept = {name: (text, encoding) for name, text, encoding in self.meta.get("sets", [])}
        splits: dict[str, str] = {}
        marks: dict[str, set[str]] = {}
        for name, (text, _) in kept.items():
            stem = posixpath.basename(name)[:-4]
            label, _, split = stem.rpartition("_")
            base = f"/{name}".rpartition("/ImageSets/")[0][1:]
            for line in text.splitlines():
                words = line.split()
                top = base + "/" if base else ""
                if words and stem in ("train", "val", "test"):
                    splits.setdefault(top + _listed_name(line, top, self.splits), stem)
                elif label and split in ("train", "val", "test", "trainval") and words[1:] and words[-1] == "1":
                    key = top + line.rstrip().rpartition(" ")[0].strip()
                    marks.setdefault(key, set()).add(self.classes.find(label) or label)
        now = {stem: split for stem, split in self.splits.items() if split}
        is_same_split = splits == now if splits else self.natural == self.splits
        is_same = is_same_split and all(set(labels) <= marks.get(stem, set()) for stem, labels in self.marks.items())
        for name, (text, encoding) in kept.items():
            if is_same or "ImageSets/" not in name:
                self._save(name, text, encoding)
        if not is_same:
            for split in ("train", "val", "test"):
                names = [stem for stem, other in self.splits.items() if other == split]
                if names:
                    self._save(f"ImageSets/Main/{split}.txt", "".join(f"{name}\n" for name in names))
            self._marks()
        if self.has_masks and self.is_new_map:
            known = {index: label for label, index in self.labels.items()}
            lines = ["# label:color_rgb:parts:actions"]
            for index in sorted({0, *known}):
                color = ",".join(map(str, self.colors[3 * index : 3 * index + 3]))
                lines.append(f"{known.get(index, 'background')}:{color}::")
            self._save("labelmap.txt", "\n".join(lines) + "\n")

    def _marks(self) -> None:
        """Classes of whole images, one file per class and split as VOC has them."""
        for split in ("train", "val", "test", ""):
            stems = [stem for stem, other in self.splits.items() if other == split]
            labels = sorted({label for stem in stems for label in self.marks.get(stem, ())})
            if labels and not split:
                self.losses.add("class label of an image without a split", "left out")
                continue
            for label in labels:
                lines = [f"{stem} {' 1' if label in self.marks.get(stem, ()) else '-1'}\n" for stem in stems]
                self._save(f"ImageSets/Main/{label.replace('/', '_')}_{split}.txt", "".join(lines))

    def _xml(self, record: Record, shapes: list[Shape], kept: Mapping[str, Any], has_masks: bool) -> tuple[str, str]:
        text: str = kept.get("text", "")
        encoding: str = kept.get("encoding", "utf-8")
        root, objects = ElementTree.Element("annotation"), []
        old: dict[int, Shape] = {}
        if text:
            root = parse(encode(text, encoding), kept["file"])
            objects = root.findall("object")
            for at, element in enumerate(objects):
                name = texts(element, "name")
                try:
                    old[at] = read_object(element, self.classes.find(name) or name)
                except LoopworksError:
                    continue  # it was left out when the file was read
        else:
            _fill_head(root, record, has_masks)
        new: list[tuple[int, Shape]] = []
        for shape in shapes:
            if shape.kind in ("caption", "value"):
                self.losses.add(shape.kind, "left out")
                continue
            new.append((shape.origin.get("voc", {}).get("object", -1), shape))
        if text and [at for at, _ in new] == list(old) and all(_same(old[at], shape) for at, shape in new):
            return text, encoding
        for element in objects:
            root.remove(element)
        for at, shape in new:
            if at in old and _same(old[at], shape):
                root.append(objects[at])
            else:
                root.append(write_object(shape, self.losses, objects[at] if at in old else None))
        found = _INDENT.search(text)
        ElementTree.indent(root, found[1] if found else "\t")
        body = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
        head = text[: text.index("<annotation")] if "<annotation" in text else ""
        return head + body + (text[len(text.rstrip()) :] if text else "\n"), encoding

    def _masks(self, masks: list[Shape], kept: Mapping[str, Any], stem: str, record: Record) -> None:
        self.has_masks = True
        size = kept.get("mask_size") or [int(x) for x in masks[0].points[0]]
        taken = {shape.origin.get("voc", {}).get("mask") for shape in masks}
        following = iter(index for index in range(1, 255) if index not in taken)
        numbered: list[tuple[int, Shape]] = []
        for shape in masks:
            if shape.attributes != "{}":
                self.losses.add("fact of a mask", "left out")
            index = shape.origin.get("voc", {}).get("mask") if kept else None
            if index is None:
                index = next(following, 0)
            if index == 0 or self.labels.setdefault(shape.label, len(self.labels) + 1) > 254:
                self.losses.add("mask beyond the 254th", "left out")
                continue
            numbered.append((index, shape))
        classes, objects = voc_masks.draw(
            numbered, self.labels, (size[0], size[1]), (kept.get("void", ""), kept.get("object_void", ""))
        )
        place, other = kept.get("masks") or (
            f"SegmentationClass/{stem}.png",
            f"SegmentationObject/{stem}.png",
        )
        if kept.get("masks") == [place, ""] and len({shape.label for _, shape in numbered}) == len(numbered):
            other = ""
        voc_masks.save(classes, self.colors, self.folder / normal(place), bool(kept.get("is_rgb")))
        if other:
            voc_masks.save(objects, self.colors, self.folder / normal(other), bool(kept.get("is_rgb")))

    def _save(self, name: str, text: str, encoding: str = "utf-8") -> None:
        path = self.folder / normal(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(text, encoding))


def _listed_name(line: str, base: str, known: Container[str]) -> str:
    whole = line.strip()
    return whole if base + whole in known else whole.split()[0]


def _same(old: Shape, new: Shape) -> bool:
    return (old.label, old.kind, old.points, old.attributes) == (new.label, new.kind, new.points, new.attributes)


def _fill_head(root: ElementTree.Element, record: Record, has_masks: bool) -> None:
    ElementTree.SubElement(root, "folder").text = posixpath.dirname(f"JPEGImages/{record.name}")
    ElementTree.SubElement(root, "filename").text = posixpath.basename(record.name)
    size = ElementTree.SubElement(root, "size")
    for name, value in (("width", record.width), ("height", record.height), ("depth", 3)):
        ElementTree.SubElement(size, name).text = json.dumps(value)
    ElementTree.SubElement(root, "segmented").text = "1" if has_masks else "0"
