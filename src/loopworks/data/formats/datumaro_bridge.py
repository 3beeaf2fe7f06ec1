"""Formats that only Datumaro knows (MOT, WIDER FACE, Open Images, MNIST ...), read and written by Datumaro itself."""

import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopworks.core import mask as masks
from loopworks.core.errors import Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import Classes, Losses, bad, split_of
from loopworks.data.formats.inputs import peek

_STAGED = ".media"
_SIGNS = {
    "open_images": re.compile(r"-annotations-(bbox|human-imagelabels|object-segmentation)\.csv$"),
    "wider_face": re.compile(r"(^|/)wider_face_\w+_bbx_gt\.txt$"),
    "mot_seq": re.compile(r"(^|/)gt/gt\.txt$"),
    "mnist": re.compile(r"-labels-idx1-ubyte(\.gz)?$"),
}
"""Kind of Datumaro -> names of files that only it has."""
_LABEL_ME = re.compile(r"<annotation>.*<polygon>.*<pt>", re.DOTALL)
_FILES, _TEXTS = 20_000, 8  # how many names, and how many XML files, are looked at


def unread(root: Path) -> Problem | None:
    """What to tell where a folder is taken as plain images, and labels lie in it that the bridge could read."""
    for name, kind in _kinds(root):
        hint = f"pip install 'loopworks[formats]', and add it with --format datumaro-bridge --option kind={kind}"
        return bad(name, "labels", "of a format that is known; the images were taken as plain folders", kind, hint)
    return None


def _kinds(root: Path) -> Iterator[tuple[str, str]]:
    """(File, kind of Datumaro) of the files that tell one."""
    seen = texts = 0
    for folder, inner, names in os.walk(root):
        inner.sort()
        for name in sorted(names):
            seen += 1
            path = Path(folder, name)
            place = path.relative_to(root).as_posix()
            yield from ((place, kind) for kind, sign in _SIGNS.items() if sign.search(place))
            if name.lower().endswith(".xml") and texts < _TEXTS:
                texts += 1
                if _LABEL_ME.search(peek(path)):
                    yield place, "label_me"
        if seen > _FILES:
            return


@plugins.add("format.datumaro-bridge")
@dataclass(frozen=True, slots=True, kw_only=True)
class DatumaroBridge:
    """Any format of the Datumaro package, named by ``kind``; needs the extra ``formats``."""

    kind: str = ""
    """Datumaro's name of the format: mot_seq, wider_face, open_images, label_me, mnist ..."""

    def detect(self, root: Path, /) -> float:  # noqa: ARG002
        """0: never chosen by itself; the kind has to be named."""
        return 0.0

    def read(self, root: Path, /) -> Content:
        """The data set as Datumaro reads it.

        Raises:
            Missing: Datumaro is not installed.
            Invalid: no such kind, or Datumaro refuses the whole data set.
        """
        dm = _load()
        self._check(dm.Environment().importers)
        try:
            found = dm.Dataset.import_from(str(root), self.kind)
            items = list(found)
        except Exception as error:  # Datumaro's readers raise whatever their parsers do
            raise Invalid(str(root), f"{self.kind} that Datumaro reads", f"{type(error).__name__}: {error}") from error
        problems: list[Problem] = []
        classes = Classes(problems)
        labels = found.categories().get(dm.AnnotationType.label, ())
        names = [classes.add(one.name, f"label {at}") for at, one in enumerate(labels)]
        content = Content(schema=classes.schema(), records=(), problems=problems)
        content.records = (_record(item, root, names, problems) for item in items)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Write through Datumaro's exporter; what it cannot hold is told as far as its own reader sees it missing.

        Raises:
            Missing: Datumaro is not installed.
            Invalid: no such kind, or its exporter refuses the data set.
        """
        dm = _load()
        environment = dm.Environment()
        self._check(environment.exporters)
        losses = Losses(f"datumaro-bridge ({self.kind})")
        ids = {name: at for at, name in enumerate(content.schema.classes)}
        items, said, has_media = [], Counter[str](), False
        for at, record in enumerate(content.records):
            if record.text is not None:
                losses.add("text item", "left out")
                continue
            place = f"{_STAGED}/{at}{Path(record.name).suffix}"
            put(record, place)
            is_placed = (folder / place).is_file()
            has_media = has_media or is_placed
            source = str(folder / place) if is_placed else record.path
            shapes = [one for shape in record.shapes for one in _annotations(dm, shape, ids, losses)]
            said.update(one.type.name for one in shapes)
            media = dm.Image.from_file(path=source) if source else None
            name, subset = str(Path(record.name).with_suffix("")), record.split or "default"
            items.append(dm.DatasetItem(id=name, subset=subset, media=media, annotations=shapes))
        try:
            made = dm.Dataset.from_iterable(items, categories=list(content.schema.classes), media_type=dm.Image)
            made.export(str(folder), self.kind, save_media=has_media)
        except Exception as error:  # as above: an exporter raises whatever it meets
            raise Invalid(self.kind, "able to hold the data set", f"{type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(folder / _STAGED, ignore_errors=True)
        yield from losses.problems()
        if self.kind in environment.importers:
            yield from self._missing(dm, folder, said)

    def _check(self, known: Any) -> None:
        if self.kind not in known:
            raise Invalid("kind", f"one of Datumaro's: {', '.join(sorted(known))}", repr(self.kind))

    def _missing(self, dm: Any, folder: Path, said: Counter[str]) -> Iterator[Problem]:
        """What Datumaro's own reader does not find in what its exporter wrote."""
        try:
            kept = Counter(
                one.type.name for item in dm.Dataset.import_from(str(folder), self.kind) for one in item.annotations
            )
        except Exception as error:  # some exporters write what their reader refuses, such as annotations without media
            yield bad(self.kind, "what was written", "readable by Datumaro", f"{type(error).__name__}: {error}")
            return
        for name, count in sorted((said - kept).items()):
            yield bad(self.kind, f"annotations of type {name}", f"{said[name]} after writing", str(said[name] - count))


def _load() -> Any:
    try:
        import datumaro
    except ImportError:
        raise Missing("datumaro", "formats", "formats that only Datumaro reads") from None
    return datumaro


def _record(item: Any, root: Path, names: list[str], problems: list[Problem]) -> Record:
    path = str(getattr(item.media, "path", None) or "")
    is_there = bool(path) and Path(path).is_file()
    data = None
    if is_there and Path(path).is_relative_to(root):
        name = Path(path).relative_to(root).as_posix()
    else:
        name = f"{item.subset}/{item.id}{Path(path).suffix or '.png'}"
    if not is_there and item.media is not None and item.media.has_data:
        data = _png(item.media.data)
    if not is_there and data is None:
        problems.append(bad(name, "media", "a file that is there", path or "none"))
    size = getattr(item.media, "size", None) or (0, 0)
    shapes = []
    for at, one in enumerate(item.annotations):
        try:
            shapes.append(_shape(one, names))
        except (Invalid, IndexError, ValueError) as error:
            problems.append(bad(f"{name}, annotation {at}", one.type.name, "a shape that Loopworks holds", str(error)))
    return Record(
        name=name,
        path=path if is_there else "",
        data=data,
        width=int(size[1]),
        height=int(size[0]),
        split=split_of(item.subset),
        attributes=_plain(item.attributes),
        shapes=tuple(shapes),
        is_labeled=bool(shapes),
        extra={"datumaro-bridge": {"id": item.id, "subset": item.subset}},
    )


def _png(pixels: Any) -> bytes:
    import numpy as np
    from PIL import Image

    array = np.asarray(pixels).clip(0, 255).astype(np.uint8)
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] == 1 else array[..., 2::-1]  # Datumaro's arrays are BGR
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(out, "PNG")
    return out.getvalue()


def _plain(found: Any) -> dict[str, Any]:
    return dict(json.loads(json.dumps(dict(found), default=str)))


def _shape(one: Any, names: list[str]) -> Shape:
    kind = one.type.name
    at = getattr(one, "label", None)
    facts = _plain(one.attributes) | ({"group": one.group} if one.group else {})
    label = "" if at is None else names[at]
    if kind == "caption":
        return Shape(label="", kind="caption", source="import", attributes=dump(facts | {"text": one.caption}))
    base: dict[str, Any] = {"label": label, "source": "import", "attributes": dump(facts)}
    if kind == "label":
        return Shape(**base)
    if kind == "mask":
        pixels = one.image.astype(bool)
        rows = ((float(pixels.shape[0]), float(pixels.shape[1])),)
        return Shape(kind="mask", points=rows, mask=masks.encode(pixels), **base)
    if kind == "bbox":
        return Shape(kind="box", points=(tuple(float(x) for x in one.get_bbox()),), **base)
    if kind == "ellipse":
        x, y, width, height = (float(value) for value in one.get_bbox())
        row = (x + width / 2, y + height / 2, width / 2, height / 2, 0.0)
        return Shape(kind="ellipse", points=(row,), **base)
    if kind in ("polygon", "polyline", "points"):
        return Shape(kind=kind, points=(tuple(float(x) for x in one.points),), **base)
    raise Invalid("type", "label, bbox, polygon, polyline, points, mask, ellipse or caption", kind)


def _annotations(dm: Any, shape: Shape, ids: dict[str, int], losses: Losses) -> Iterator[Any]:
    facts = shape.facts
    text = facts.pop("text", "") if shape.kind == "caption" else ""
    rest = {"attributes": facts, "group": facts.pop("group", 0)}
    if shape.kind == "caption":
        yield dm.Caption(text, **rest)
        return
    rest["label"] = ids.get(shape.label)
    if shape.kind == "class":
        yield dm.Label(**rest)
    elif shape.kind == "box":
        yield dm.Bbox(*shape.points[0], **rest)
    elif shape.kind == "mask":
        height, width = (int(value) for value in shape.points[0])
        yield dm.Mask(masks.decode(shape.mask, height, width), **rest)
    elif shape.kind in ("polygon", "obb"):
        yield from (dm.Polygon(list(row), **rest) for row in shape.points)
    elif shape.kind == "polyline":
        yield dm.PolyLine(list(shape.points[0]), **rest)
    elif shape.kind == "points":
        yield dm.Points(list(shape.points[0]), **rest)
    elif shape.kind == "ellipse" and not shape.points[0][4]:
        x, y, rx, ry, _ = shape.points[0]
        yield dm.Ellipse(x - rx, y - ry, x + rx, y + ry, **rest)
    else:
        losses.add(f"{shape.kind} shape", "left out")
