"""LabelMe JSON (versions 3 to 5): one file per image, beside it or with the image inside.

Source: the files of https://github.com/wkentaro/labelme as its versions 4.0 and 5.7 write them.
"""

import base64
import binascii
import json
import posixpath
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import (
    SMALL_LIMIT,
    Classes,
    Losses,
    Tree,
    bad,
    encode,
    json_facts,
    normal,
    outside,
    peek,
    read_text,
    size_of,
    split_of,
)
from loopworks.data.formats.json_text import fill, load, parse
from loopworks.data.formats.labelme_shapes import read_shape, write_shape

_SIGNS = (re.compile(r'"shapes"\s*:\s*\['), re.compile(r'"imagePath"\s*:'))
_DATA = re.compile(r'("imageData"\s*:\s*)"([A-Za-z0-9+/=\\]*)"')


@plugins.add("format.labelme")
@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMe:
    """LabelMe JSON: rectangles, polygons, circles, lines, points, masks, flags of images."""

    def detect(self, root: Path, /) -> float:
        """0.95 for JSON files with shapes and imagePath."""
        if root.is_file():
            return 0.95 if root.suffix.lower() == ".json" and _is_labelme(root) else 0.0
        looked = 0
        for name, path in Tree.of(root).files.items():
            if name.lower().endswith(".json"):
                looked += 1
                if _is_labelme(Path(path)):
                    return 0.95
                if looked >= 8:
                    break
        return 0.0

    def read(self, root: Path, /) -> Content:
        """The data set of a folder, or one file; images that only the JSON holds are unpacked for the import."""
        tree = Tree.of(root.parent if root.is_file() else root)
        names = [root.name] if root.is_file() else [n for n in tree.files if n.lower().endswith(".json")]
        stems, problems = tree.stems(), list[Problem]()
        found_names = []
        for name in names:
            if root.is_file() or _SIGNS[0].search(peek(Path(tree.files[name]))):
                found_names.append(name)
            elif posixpath.splitext(name)[0] in stems:
                got = "an empty file" if not Path(tree.files[name]).stat().st_size else "other JSON"
                problems.append(bad(name, name, "LabelMe JSON with shapes and imagePath", got))
        names = found_names
        if not names:
            raise Invalid(str(root), "LabelMe: JSON files with shapes and imagePath", "none")
        classes = Classes(problems)
        found, flags = _labels(tree, names)
        for label in found:
            classes.add(label, "label", quiet=True)
        for label in flags:
            classes.add(label, "flag", quiet=True)
        content = _Content(schema=classes.schema(), records=(), meta={"labelme": {}}, problems=problems)
        content.records = _records(tree, names, classes, content)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Write a JSON file beside every image; one that still says the same is written as it was."""
        losses = Losses("labelme")
        classes = Classes([])
        for label in content.schema.classes:
            classes.add(label, "label", quiet=True)
        used: set[str] = set()
        for record in content.records:
            if record.text is not None and not record.path:
                losses.add("text item", "left out")
                continue
            kept = record.extra.get("labelme", {})
            kept = kept if kept.get("name") == record.name else {}
            if record.path and not kept.get("inside"):
                put(record, record.name)
            if not record.is_labeled and not record.shapes:
                continue
            place = kept.get("file") or posixpath.splitext(record.name)[0] + ".json"
            if place.casefold() in used:
                place = record.name + ".json"
            used.add(place.casefold())
            path = folder / normal(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(_text(record, place, kept, classes, losses), kept.get("encoding", "utf-8")))
        yield from losses.problems()


@dataclass(slots=True, kw_only=True)
class _Content(Content):
    """A data set some of whose images were unpacked; they are there as long as it is."""

    unpacked: "_Folder | None" = None

    def place(self, name: str) -> Path:
        """Where an image from inside a file may be unpacked."""
        if self.unpacked is None:
            self.unpacked = _Folder()
        path = Path(self.unpacked.name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _Folder:
    """A folder that goes when nobody needs it any more."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="loopworks-labelme-")
        weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)


def _is_labelme(path: Path) -> bool:
    text = peek(path)
    return all(sign.search(text) for sign in _SIGNS)


def _labels(tree: Tree, names: list[str]) -> tuple[list[str], list[str]]:
    """Labels of shapes and names of flags in all files, sorted; what cannot be read is said when records are made."""
    labels: set[str] = set()
    flags: set[str] = set()
    for name in names:
        try:
            sheet = parse(
                _DATA.sub(r"\1null", read_text(Path(tree.files[name]), name, SMALL_LIMIT)[0]), ("shapes",), name
            )
        except LoopworksError:
            continue
        for body in sheet.lists["shapes"].values if "shapes" in sheet.lists else ():
            if isinstance(body, dict) and isinstance(body.get("label"), str) and body["label"].strip():
                labels.add(body["label"].strip())
        flags |= set(_true_flags(sheet.others.get("flags")))
    return sorted(labels), sorted(flags - labels)


def _true_flags(found: Any) -> list[str]:
    if not isinstance(found, dict):
        return []
    return [name.strip() for name, value in found.items() if value is True and name.strip()]


def _records(tree: Tree, names: list[str], classes: Classes, content: _Content) -> Iterator[Record]:
    problems = content.problems
    seen: set[str] = set()
    for file in names:
        try:
            record = _record(tree, file, classes, content)
        except LoopworksError as error:
            problems.append(Problem(where=file, error=error.code, message=error.message, hint=error.hint))
            continue
        if record.name in seen:
            problems.append(bad(file, f"imagePath of {file}", "annotated by one file", record.name))
            continue
        seen.add(record.name)
        yield record
    folders = {posixpath.dirname(name) for name in seen}
    for name in tree.images():
        if name not in seen and posixpath.dirname(name) in folders:
            split = split_of(*reversed(name.split("/")[:-1]))
            yield Record(name=name, path=tree.files[name], split=split, is_labeled=False)


def _record(tree: Tree, file: str, classes: Classes, content: _Content) -> Record:
    problems = content.problems
    text, encoding = read_text(Path(tree.files[file]), file, SMALL_LIMIT)
    found = _DATA.search(text)
    data = found[2] if found else ""
    short = _DATA.sub(r"\1null", text, count=1) if found else text
    sheet = parse(short, ("shapes",), file)
    if sheet.fault:
        problems.append(Problem(where=file, error=Invalid.code, message=f"{file} {sheet.fault}"))
    given = sheet.others.get("imagePath")
    if sheet.fault and given is None:
        stem = posixpath.splitext(file)[0]
        given = posixpath.basename(tree.stems().get(stem, stem + ".jpg"))
    name = _place(tree, file, given)
    kept: dict[str, Any] = {"file": file, "name": name, "encoding": encoding}
    path = tree.files.get(name, "")
    raw = _unpack(data, file, problems)
    if path and raw is not None and Path(path).read_bytes() == raw:
        kept["data"] = "image"
    elif raw is not None and not path:
        path = str(content.place(name))
        Path(path).write_bytes(raw)
        kept |= {"data": "image", "inside": True}
    elif data:
        kept["data"] = data
    if not path:
        problems.append(bad(file, f"image {name} of {file}", "a file below the root", "nothing"))
    if not sheet.fault:
        kept["text"] = short
    width, height = (_length(sheet.others.get(key)) for key in ("imageWidth", "imageHeight"))
    if not width or not height:
        width, height = size_of(path) if path else (0, 0)
    kept["size"] = [width, height]
    shapes: list[Shape] = []
    for at, body in enumerate(sheet.lists["shapes"].values if "shapes" in sheet.lists else ()):
        where = f"{file} shapes[{at}]"
        try:
            if not isinstance(body, dict) or not isinstance(body.get("label"), str) or not body["label"].strip():
                raise Invalid("a shape", "an object with a label", str(body)[:80])
            shape = read_shape(body, classes.add(body["label"], where), (width, height))
        except LoopworksError as error:
            problems.append(Problem(where=where, error=error.code, message=f"{where}: {error.message}"))
            continue
        box = shape.bounds
        if box and outside(box, width, height):
            problems.append(
                bad(where, f"points of {where}", f"inside {width} x {height}", list(box), "kept as they are")
            )
        shapes.append(replace(shape, extra=dump({"labelme": {"shape": at}})))
    for flag in _true_flags(sheet.others.get("flags")):
        label = classes.find(flag) or classes.add(flag, f"{file} flags")
        shapes.append(Shape(label=label, source="import", extra=dump({"labelme": {"flag": flag}})))
    return Record(
        name=name,
        path=path,
        width=width,
        height=height,
        split=split_of(*reversed(name.split("/")[:-1])),
        attributes=_facts(sheet.others.get("attributes")),
        shapes=tuple(shapes),
        extra={"labelme": kept},
    )


def _place(tree: Tree, file: str, given: Any) -> str:
    """Where the image of a file lies below the root; a path of another machine is looked for beside the file."""
    folder = posixpath.dirname(file)
    try:
        return normal(given, folder)
    except Invalid:
        if not isinstance(given, str) or ".." in given.replace("\\", "/").split("/"):
            raise
        beside = posixpath.join(folder, posixpath.basename(given.replace("\\", "/")))
        if beside not in tree.files:
            raise
        return beside


def _facts(found: Any) -> dict[str, Any]:
    return json_facts(found) if isinstance(found, dict) else {}


def _unpack(data: str, file: str, problems: list[Problem]) -> bytes | None:
    if not data:
        return None
    try:
        return base64.b64decode(data.replace("\\/", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        problems.append(bad(file, f"imageData of {file}", "base64", str(error)))
        return None


def _text(record: Record, place: str, kept: Mapping[str, Any], classes: Classes, losses: Losses) -> str:
    flags = [shape.label for shape in record.shapes if shape.kind == "class"]
    shapes = [shape for shape in record.shapes if shape.kind != "class"]
    if not kept.get("text"):
        return _new_text(record, place, shapes, flags, losses)
    sheet = parse(kept["text"], ("shapes",), place)
    entries = sheet.lists.get("shapes")
    size = (kept["size"][0], kept["size"][1])
    texts: list[str] = []
    for shape in shapes:
        at = shape.origin.get("labelme", {}).get("shape", -1)
        body = entries.values[at] if entries and 0 <= at < len(entries.values) else None
        if entries and body is not None and _same(body, shape, classes, size):
            texts.append(entries.texts[at])
        else:
            texts += [sheet.style.render(new, 2) for new in _bodies(shape, losses, body)]
    if entries is None:
        return _new_text(record, place, shapes, flags, losses)
    around = entries.around()
    if texts != entries.texts:
        style = sheet.style
        around = [style.line(2), style.gap(2), style.line(1), {}] if texts else ["", None, "", {}]
    text = fill(sheet.pieces, sheet.slots, {"shapes": texts}, {"shapes": around})
    before = [classes.find(flag) or flag for flag in _true_flags(sheet.others.get("flags"))]
    is_changed = sorted(before) != sorted(flags) or _facts(sheet.others.get("attributes")) != dict(record.attributes)
    if is_changed:
        whole = load(text, place)
        known = {name: False for name in whole.get("flags") or {}}
        whole["flags"] = known | dict.fromkeys(flags, True)
        if record.attributes or "attributes" in whole:
            whole["attributes"] = dict(record.attributes)
        text = sheet.style.render(whole) + text[len(text.rstrip()) :]
    data = kept.get("data", "")
    if data == "image":
        data = base64.b64encode(Path(record.path).read_bytes()).decode("ascii") if record.path else ""
    return re.sub(r'("imageData"\s*:\s*)null', lambda found: f'{found[1]}"{data}"', text, count=1) if data else text


def _same(body: Any, shape: Shape, classes: Classes, size: tuple[int, int]) -> bool:
    try:
        label = classes.find(body["label"]) or body["label"]
        old = read_shape(body, label, size)
    except (LoopworksError, KeyError, TypeError, AttributeError):
        return False
    return (old.label, old.kind, old.points, old.mask, old.attributes) == (
        shape.label,
        shape.kind,
        shape.points,
        shape.mask,
        shape.attributes,
    )


def _bodies(shape: Shape, losses: Losses, old: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    parts = [replace(shape, points=(row,)) for row in shape.points] if shape.kind == "polygon" else [shape]
    if len(parts) > 1:
        losses.add("polygon of several parts", "written as one polygon for each part")
    for part in parts:
        body = write_shape(part, losses, old)
        if body is not None:
            yield body


def _new_text(record: Record, place: str, shapes: list[Shape], flags: list[str], losses: Losses) -> str:
    folder = posixpath.dirname(place)
    body: dict[str, Any] = {
        "version": "5.7.0",
        "flags": dict.fromkeys(flags, True),
        "shapes": [body for shape in shapes for body in _bodies(shape, losses, None)],
        "imagePath": posixpath.relpath(record.name, folder or "."),
        "imageData": None,
        "imageHeight": record.height,
        "imageWidth": record.width,
    }
    if record.attributes:
        body["attributes"] = dict(record.attributes)
    return json.dumps(body, indent=2, ensure_ascii=False)


def _length(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1 << 31 else 0
