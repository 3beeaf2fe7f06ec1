"""Writing COCO: entries that did not change come from their own text, the rest is written in the file's style."""

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from loopworks.core import mask
from loopworks.core.values import LabelSchema, Problem, Shape, dump
from loopworks.data.formats import coco_panoptic
from loopworks.data.formats.coco_shapes import patch, read_shape, write_shape
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import Classes, Losses, encode, json_facts, normal, split_of
from loopworks.data.formats.json_text import Style, fill

_PIECES = ['{"info": {}, "licenses": [], "images": [', '], "annotations": [', '], "categories": [', "]}\n"]
_SLOTS = ["images", "annotations", "categories"]


def write(content: Content, folder: Path, put: Put, *, by_split: bool = True) -> Iterator[Problem]:
    """Write all files of a data set; see ``Coco.write``."""
    writer = _Writer(content, folder, by_split)
    for record in content.records:
        if record.text is not None and not record.path:
            writer.losses.add("text item", "left out")
            continue
        writer.add(record)
        if record.path:
            put(record, record.name)
    writer.finish()
    yield from writer.losses.problems()


@dataclass(slots=True)
class _Out:
    """An annotation file that is being written."""

    name: str
    style: Style
    encoding: str = "utf-8"
    pieces: list[str] = field(default_factory=lambda: list(_PIECES))
    slots: list[str] = field(default_factory=lambda: list(_SLOTS))
    around: dict[str, Any] = field(default_factory=dict)
    categories: list[str] = field(default_factory=list)
    category_ids: dict[str, Any] = field(default_factory=dict)
    labels: dict[Any, str] = field(default_factory=dict)
    images: list[tuple[float, str]] = field(default_factory=list)
    annotations: list[tuple[float, str]] = field(default_factory=list)
    image_ids: set[Any] = field(default_factory=set)
    annotation_ids: set[Any] = field(default_factory=set)
    late_images: list[dict[str, Any]] = field(default_factory=list)
    late: list[tuple[dict[str, Any], Any]] = field(default_factory=list)
    """Annotations that need a new id, each with the image's body, whose id may be new too."""

    split: str = field(init=False)
    base: str = field(init=False)
    """The name without its folder."""

    def __post_init__(self) -> None:
        self.base = posixpath.basename(self.name)
        self.split = split_of(self.base, posixpath.dirname(self.name))

    def category(self, label: str) -> Any:
        """The id of a class, which becomes a category if it is none yet."""
        if label not in self.category_ids:
            key = 1 + max((int(key) for key in self.labels if isinstance(key, int | float)), default=0)
            self._add(key, label)
        return self.category_ids[label]

    def _add(self, key: int, label: str) -> None:
        self.category_ids[label] = key
        self.labels[key] = label
        self.categories.append(self.style.render({"id": key, "name": label, "supercategory": ""}, 2))

    def start(self, classes: tuple[str, ...]) -> None:
        """Give a new file its categories: ids from 1 in the order of the schema."""
        for label in classes:
            self.category(label)

    def text(self) -> str:
        key = max((int(key) for key in self.image_ids if isinstance(key, int | float)), default=0)
        for body in self.late_images:
            key += 1
            body["id"] = key
            self.images.append((float("inf"), self.style.render(body, 2)))
        key = max((int(key) for key in self.annotation_ids if isinstance(key, int | float)), default=0)
        for body, image in self.late:
            key += 1
            full = {"id": key, **body, "image_id": image["id"]}
            self.annotations.append((float("inf"), self.style.render({"id": 0, "image_id": 0} | full, 2)))
        lists = {
            "images": [text for _, text in sorted(self.images, key=_first)],
            "annotations": [text for _, text in sorted(self.annotations, key=_first)],
            "categories": self.categories,
        }
        around: dict[str, Any] = {}
        for slot in self.slots:
            opening, gap, closing, odd = self.around.get(slot) or (self.style.line(2), None, self.style.line(1), {})
            if gap is None and lists[slot]:
                opening, gap, closing = self.style.line(2), self.style.gap(2), self.style.line(1)
            elif not lists[slot] and (gap is not None or slot not in self.around):
                opening = closing = ""
                gap = None
            around[slot] = (opening, gap, closing, odd)
        return fill(self.pieces, self.slots, lists, around)


class _Writer:
    def __init__(self, content: Content, folder: Path, by_split: bool) -> None:
        self.by_split = by_split
        self.losses = Losses("coco")
        self.folder = folder
        self.schema = content.schema
        self.files: dict[str, _Out] = {}
        self.ids: dict[str, set[Any]] = {}
        """File -> ids that the image under way has in it; two where the file names it twice."""
        kept = content.meta.get("coco", {})
        metas = kept.get("files", []) if isinstance(kept, Mapping) else []
        classes = Classes([])
        for meta in metas:
            out = _restore(meta, classes)
            self.files[out.name] = out
        renamed = _renamed(classes.names, content.schema)
        for out in self.files.values():
            _rename(out, renamed)

    def add(self, record: Record) -> None:
        """Write an image into its files, and what is said of it."""
        kept = record.extra.get("coco", {})
        entries = [
            entry
            for entry in kept.get("in", [])
            if entry["file"] in self.files and (not self.by_split or self.files[entry["file"]].split == record.split)
        ]
        bodies: dict[str, dict[str, Any]] = {}
        self.ids = {}
        labels = [shape.label for shape in record.shapes if shape.kind == "class"]
        said: dict[str, Any] = {}
        for entry in entries:
            said = json.loads(entry["text"]) | said
        for entry in entries:
            out = self.files[entry["file"]]
            change = _changes(said, record, labels)
            body = self._image(out, entry, record, change, record.name == kept.get("name"))
            bodies.setdefault(out.name, body)
            self.ids.setdefault(out.name, set()).add(body.get("id"))
        segments: dict[str, list[tuple[int, Shape]]] = {}
        for shape in record.shapes:
            if shape.kind != "class":
                self._shape(shape, record, bodies, segments)
            elif shape.attributes != "{}":
                self.losses.add("fact of a class label", "left out")
        if not bodies or (not entries and all(self._is_captions(name) for name in bodies)):
            self._new_image(self._primary(record.split), record, bodies, labels)
        if labels:
            for _ in labels:
                self.losses.add("class label of a whole image", "written as the field 'labels' of the image")
        for entry in entries:
            if "panoptic" in entry:
                self._panoptic(entry, record, segments.get(entry["file"], []), bodies[entry["file"]])

    def finish(self) -> None:
        """Write the files."""
        if not self.files:
            self._primary("")
        for out in self.files.values():
            path = self.folder / normal(out.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(out.text(), out.encoding))

    @staticmethod
    def _is_captions(name: str) -> bool:
        return posixpath.basename(name).startswith("captions")

    def _primary(self, split: str, kind: str = "instances") -> _Out:
        """The file for new entries of a split."""
        name = f"annotations/{kind}_{split or 'default'}.json"
        for out in self.files.values():
            if out.split != split:
                continue
            starts = out.base.startswith
            if not starts(("captions", "panoptic")) if kind == "instances" else starts(kind):
                return out
        first = next(iter(self.files.values()), None)
        out = _Out(name, Style())
        if first and kind == "instances":
            out.categories = list(first.categories)
            out.category_ids, out.labels = dict(first.category_ids), dict(first.labels)
            out.style = first.style
            if first.style.indent:
                out.categories = [out.style.render(json.loads(text), 2) for text in first.categories]
        if kind == "instances":
            out.start(self.schema.classes)
        if out.style.indent:
            line = out.style.line(1)
            empty = "{" + line + f'"info"{out.style.colon}' + "{}," + line + f'"licenses"{out.style.colon}[],' + line
            names = [f'"{slot}"{out.style.colon}[' for slot in _SLOTS]
            out.pieces = [empty + names[0], f"],{line}{names[1]}", f"],{line}{names[2]}", "]\n}\n"]
        self.files[name] = out
        return out

    def _image(
        self, out: _Out, entry: Mapping[str, Any], record: Record, change: dict[str, Any], is_same_name: bool
    ) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(entry["text"])
        new: dict[str, Any] = body | change
        if not is_same_name:
            new["file_name"] = record.name
        key = body["id"]
        if key in out.image_ids:
            new.pop("id")
            out.late_images.append({"id": 0, **new})
            return out.late_images[-1]
        out.image_ids.add(key)
        out.images.append((entry["at"], entry["text"] if new == body else out.style.render(new, 2)))
        return new

    def _new_image(
        self, out: _Out, record: Record, bodies: dict[str, dict[str, Any]], labels: list[str]
    ) -> dict[str, Any]:
        body = {"id": 0, "width": record.width, "height": record.height, "file_name": record.name}
        body |= _changes({}, record, labels)
        bodies[out.name] = body
        out.late_images.append(body)
        return body

    def _shape(
        self,
        shape: Shape,
        record: Record,
        bodies: dict[str, dict[str, Any]],
        segments: dict[str, list[tuple[int, Shape]]],
    ) -> None:
        kept = shape.origin.get("coco", {})
        if kept.get("file") in bodies and "segment" in kept:
            segments.setdefault(kept["file"], []).append((kept["segment"], shape))
            return
        places = [place for place in kept.get("in", []) if place["file"] in bodies]
        if places and self._keep(shape, places, bodies):
            return
        kind = "captions" if shape.kind == "caption" else "instances"
        own = kept.get("in", ())[:1] if not self.by_split else ()
        out = next((self.files[place["file"]] for place in own if place["file"] in bodies), None)
        out = out or self._primary(record.split, kind)
        image = bodies.get(out.name)
        if image is None:
            image = self._new_image(out, record, bodies, [] if kind == "captions" else _classes(record))
        if shape.kind == "value":
            self.losses.add("value", "left out")
            return
        body = write_shape(shape, self.losses)
        if kind == "instances":
            if not shape.label:
                self.losses.add("shape without a class", "written with a category of its own")
            body = {"category_id": out.category(shape.label), **body}
        out.late.append((body, image))

    def _keep(self, shape: Shape, places: list[Any], bodies: dict[str, dict[str, Any]]) -> bool:
        """Write an annotation from its text into each file that had it; false where it does not fit there any more."""
        found: list[tuple[_Out, Any, dict[str, Any], Shape]] = []
        for place in places:
            out = self.files[place["file"]]
            body = _load(place["text"])
            key, category = body.get("id"), body.get("category_id")
            if body.get("image_id") not in self.ids.get(out.name, ()) or not all(map(_is_plain, (key, category))):
                return False
            if key is not None and key in out.annotation_ids:
                return False
            label = "" if "caption" in body else out.labels.get(category)
            if label is None:
                return False
            found.append((out, place, body, read_shape(body, label)[0]))
        old = found[0][3]
        if len(found) > 1:
            facts: dict[str, Any] = {}
            for *_, part in found:
                facts = {**part.facts, **facts}
            old = replace(old, attributes=dump(facts))
        is_same = (old.label, old.kind, old.points, old.mask, old.attributes) == (
            shape.label,
            shape.kind,
            shape.points,
            shape.mask,
            shape.attributes,
        )
        for out, place, body, part in found:
            if "id" in body:
                out.annotation_ids.add(body["id"])
            if is_same:
                out.annotations.append((place["at"], place["text"]))
                continue
            new = patch(body, old if len(found) > 1 else part, shape, self.losses)
            if shape.label != part.label:
                new["category_id"] = out.category(shape.label)
            out.annotations.append((place["at"], out.style.render(new, 2)))
        return True

    def _panoptic(
        self, entry: Mapping[str, Any], record: Record, segments: list[tuple[int, Shape]], image: dict[str, Any]
    ) -> None:
        kept = entry["panoptic"]
        out = self.files[entry["file"]]
        body: dict[str, Any] = json.loads(kept["text"])
        old = {part["id"]: part for part in body["segments_info"] if isinstance(part, dict) and "id" in part}
        new = []
        for value, shape in segments:
            part = dict(old.get(value, {"id": value}))
            if out.labels.get(part.get("category_id")) != shape.label:
                part["category_id"] = out.category(shape.label)
            mark = shape.origin["coco"].get("mark")
            if shape.kind == "mask" and mark != coco_panoptic.text_mark(shape.mask):
                box = mask.bounds(shape.mask, int(shape.points[0][0])) or (0, 0, 0, 0)
                part |= {"area": mask.area(shape.mask), "bbox": list(box)}
            new.append(part)
        is_same = new == [part for part in body["segments_info"] if isinstance(part, dict)]
        text = kept["text"] if is_same else out.style.render(body | {"segments_info": new}, 2)
        out.annotations.append((kept["at"], text))
        size = next((shape.points[0] for _, shape in segments if shape.kind == "mask"), None)
        height, width = (int(x) for x in size) if size else (record.height, record.width)
        if isinstance(body.get("file_name"), str):
            place = coco_panoptic.png_place(out.name, normal(body["file_name"]))
            coco_panoptic.save(coco_panoptic.draw(segments, height, width), self.folder / place)


def _changes(said: Mapping[str, Any], record: Record, labels: list[str]) -> dict[str, Any]:
    """Fields of an image's body that must change for it to say what is known of the item."""
    change: dict[str, Any] = {}
    inner = said.get("attributes")
    if dict(record.attributes) != (json_facts(inner) if isinstance(inner, dict) else {}):
        change["attributes"] = dict(record.attributes)
    for key, now in (("tags", list(record.tags)), ("labels", labels)):
        found = said.get(key)
        if now != ([text for text in found if isinstance(text, str)] if isinstance(found, list) else []):
            change[key] = now
    if record.is_labeled != (said.get("labeled", True) is not False):
        change["labeled"] = record.is_labeled
    return change


def _classes(record: Record) -> list[str]:
    return [shape.label for shape in record.shapes if shape.kind == "class"]


def _restore(meta: Mapping[str, Any], classes: Classes) -> _Out:
    out = _Out(meta["name"], Style.from_json(meta.get("style")), meta.get("encoding", "utf-8"))
    out.categories = list(meta.get("categories", []))
    if meta.get("pieces"):
        out.pieces, out.slots, out.around = meta["pieces"], meta["slots"], meta["around"]
    for at, text in enumerate(out.categories):
        body = json.loads(text)
        key = body.get("id") if isinstance(body, dict) else None
        if key is None or isinstance(key, list | dict | bool) or key in out.labels:
            continue
        label = classes.add(body.get("name", ""), f"{out.name} categories[{at}] {key}", quiet=True)
        out.labels[key] = label
        out.category_ids.setdefault(label, key)
    return out


def _renamed(names: list[str], schema: LabelSchema) -> dict[str, str]:
    """Old -> new name of the classes that stand in the same place under another name."""
    return {
        old: new
        for old, new in zip(names, schema.classes, strict=False)
        if old != new and old not in schema.classes and new not in names
    }


def _rename(out: _Out, renamed: Mapping[str, str]) -> None:
    if not any(label in renamed for label in out.category_ids):
        return
    for at, text in enumerate(out.categories):
        body = json.loads(text)
        if isinstance(body, dict) and not isinstance(body.get("id"), list | dict):
            label = out.labels.get(body.get("id"), "")
            if label in renamed:
                out.categories[at] = out.style.render(body | {"name": renamed[label]}, 2)
    out.labels = {key: renamed.get(label, label) for key, label in out.labels.items()}
    out.category_ids = {renamed.get(label, label): key for label, key in out.category_ids.items()}


def _load(text: str) -> dict[str, Any]:
    try:
        return orjson.loads(text)  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        return json.loads(text)  # type: ignore[no-any-return]  # NaN, which orjson refuses and many tools write


def _first(entry: tuple[float, str]) -> float:
    return entry[0]


def _is_plain(value: Any) -> bool:
    """Whether it can be an id: a broken file may have a list there."""
    return value is None or isinstance(value, int | float | str)
