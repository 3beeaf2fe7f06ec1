"""Cityscapes: ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` with ``gtFine/SPLIT/CITY/*_gtFine_{instanceIds,...}``.

Classes and their ids are the published ones. Source: Cordts et al. 2016, "The Cityscapes dataset".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Problem, Shape, dump
from loopworks.data.formats.color_map import ColorMap
from loopworks.data.formats.color_masks import instance_shape, load_mask, paint, save_mask
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.cvat_image import is_same
from loopworks.data.formats.inputs import Tally, clean_name, find, measure, read_text, split_of

KEY = "cityscapes"
_IMAGE = "_leftImg8bit.png"
_NAMES = [
    "unlabeled",
    "ego vehicle",
    "rectification border",
    "out of roi",
    "static",
    "dynamic",
    "ground",
    "road",
    "sidewalk",
    "parking",
    "rail track",
    "building",
    "wall",
    "fence",
    "guard rail",
    "bridge",
    "tunnel",
    "pole",
    "polegroup",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "caravan",
    "trailer",
    "train",
    "motorcycle",
    "bicycle",
]
_RGB = [
    "000000",
    "000000",
    "000000",
    "000000",
    "000000",
    "6f4a00",
    "510051",
    "804080",
    "f423e8",
    "faaaa0",
    "e6968c",
    "464646",
    "66669c",
    "be9999",
    "b4a5b4",
    "966464",
    "96785a",
    "999999",
    "999999",
    "faaa1e",
    "dcdc00",
    "6b8e23",
    "98fb98",
    "4682b4",
    "dc143c",
    "ff0000",
    "00008e",
    "000046",
    "003c64",
    "00005a",
    "00006e",
    "005064",
    "0000e6",
    "770b20",
]
_PLATE = ("license plate", -1, "00008e")


@plugins.add("format.cityscapes")
@dataclass(frozen=True, slots=True, kw_only=True)
class Cityscapes:
    """Cityscapes: a class and an instance in every pixel, or polygons where only these are there."""

    def detect(self, root: Path, /) -> float:
        """Sure where the two folders are there."""
        return 0.95 if (root / "leftImg8bit").is_dir() and any(_truths(root)) else 0.0

    def read(self, root: Path, /) -> Content:
        """The data set in the folder ``root``."""
        if not (root / "leftImg8bit").is_dir():
            raise Invalid(str(root), "a folder with leftImg8bit and gtFine", "none")
        truth = next(iter(_truths(root)), "gtFine")
        problems: list[Problem] = []
        # Without polygons, which spell the names, the classes are called as Datumaro calls them: without blanks.
        is_spelled = next((root / truth).rglob("*_polygons.json"), None) is not None
        colors = _colors(is_spelled)
        content = Content(
            schema=LabelSchema(classes=colors.names), records=(), problems=problems, meta={KEY: {"truth": truth}}
        )
        content.records = _records(root, truth, colors, problems)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Images, instance ids, label ids, colours; the polygons that were read where nothing changed."""
        truth = content.meta.get(KEY, {}).get("truth", "gtFine")
        ids = {_key(name): number for name, number in _colors(True).values.items()}
        tally = Tally()
        for record in content.records:
            extra = record.extra.get(KEY, {})
            stem = extra.get("stem") or _stem(record)
            if record.path:
                put(record, f"leftImg8bit/{stem}{_IMAGE}")
            base = folder / clean_name(f"{truth}/{stem}_{truth}")
            base.parent.mkdir(parents=True, exist_ok=True)
            kept = extra.get("polygons")
            if isinstance(kept, str) and _is_unchanged(record, extra):
                Path(f"{base}_polygons.json").write_bytes(kept.encode("utf-8"))
            kinds = extra.get("kinds", ["instanceIds", "labelIds", "color"])
            _write_masks(record, base, kinds, ids, tally)
        yield from tally.problems("masks")


def _truths(root: Path) -> Iterator[str]:
    yield from (name for name in ("gtFine", "gtCoarse") if (root / name).is_dir())


def _colors(is_spelled: bool) -> ColorMap:
    rows: list[list[Any]] = [[n, at, *bytes.fromhex(c)] for at, (n, c) in enumerate(zip(_NAMES, _RGB, strict=True))]
    rows.append([_PLATE[0], _PLATE[1], *bytes.fromhex(_PLATE[2])])
    return ColorMap.from_json(rows if is_spelled else [[_key(row[0]), *row[1:]] for row in rows])


def _key(name: str) -> str:
    return name.replace(" ", "").lower()


def _stem(record: Record) -> str:
    """SPLIT/CITY/name for a record that came from elsewhere."""
    name = record.name.rsplit(".", 1)[0].replace("/", "_").replace(" ", "_")
    return f"{record.split or 'train'}/{name.split('_')[0]}/{name}"


def _records(root: Path, truth: str, colors: ColorMap, problems: list[Problem]) -> Iterator[Record]:
    images = root / "leftImg8bit"
    stems = {p.relative_to(images).as_posix().removesuffix(_IMAGE) for p in images.rglob(f"*{_IMAGE}")}
    for kind in ("instanceIds.png", "labelIds.png", "polygons.json"):
        end = f"_{truth}_{kind}"
        stems |= {p.relative_to(root / truth).as_posix().removesuffix(end) for p in (root / truth).rglob(f"*{end}")}
    for stem in sorted(stems):
        image = find(images, [f"{stem}{_IMAGE}"])
        if image is None:
            missing = f"leftImg8bit/{stem}{_IMAGE}"
            problems.append(Problem(where=missing, error="not_found", message="the image is missing"))
        size = measure(str(image)) if image else (0, 0)
        extra: dict[str, Any] = {"stem": stem, "kinds": []}
        found = {
            kind: find(root / truth, [f"{stem}_{truth}_{kind}.png"]) for kind in ("instanceIds", "labelIds", "color")
        }
        extra["kinds"] = [kind for kind, path in found.items() if path]
        shapes: list[Shape] = []
        is_read, where = False, f"{truth}/{stem}"
        try:
            cut = found["instanceIds"] or found["labelIds"]
            if cut is not None:
                where = cut.relative_to(root).as_posix()
                array, mode, _ = load_mask(cut, where)
                extra["mode"] = mode if mode in ("L", "I") else None
                if array.ndim != 2 or (size != (0, 0) and array.shape != size[::-1]):
                    raise Invalid(f"size of {where}", f"{size[0]} x {size[1]}, one channel", array.shape[::-1])
                size = (array.shape[1], array.shape[0])
                shapes, extra["rest"] = _instances(array.astype(np.int64), colors, where, problems)
                is_read = True
            told = find(root / truth, [f"{stem}_{truth}_polygons.json"])
            if told is not None:
                text = read_text(told, told.name).text
                extra["polygons"] = text
                if cut is None:
                    shapes, size = _polygons(text, f"{truth}/{stem}", size, problems)
        except Invalid as error:
            problems.append(Problem(where=where, error=error.code, message=error.message))
        if not (extra["kinds"] or "polygons" in extra):
            problems.append(Problem(where=f"{truth}/{stem}", error="not_found", message="its masks are missing"))
        extra["said"] = [shape.to_json() for shape in shapes] if "polygons" in extra else None
        yield Record(
            name=f"{stem}{_IMAGE}", path=str(image) if image else "", width=size[0], height=size[1],
            split=split_of(stem.split("/")[0]), shapes=tuple(shapes), is_labeled=is_read or bool(shapes),
            extra={KEY: {k: v for k, v in extra.items() if v is not None}},
        )  # fmt: skip


def _instances(
    array: Any, colors: ColorMap, where: str, problems: list[Problem]
) -> tuple[list[Shape], list[list[Any]]]:
    """Id (class, or class x 1000 + number of the thing) -> shape; 0 (unlabeled) is what no shape covers."""
    names = dict(zip(colors.numbers, colors.names, strict=True))
    shapes, rest = [], []
    for value in np.unique(array).tolist():
        if value == 0:
            continue  # the writer gives 0 back wherever nothing is drawn
        number, thing = (value // 1000, value % 1000) if value >= 1000 else (value, None)
        if number in names:
            shapes.append(instance_shape(names[number], array == value, {} if thing is None else {"instance": thing}))
            continue
        rest.append([value, mask.encode(array == value)])
        problems.append(Problem(where=where, error="invalid", message=f"id {value} is of no class"))
    return shapes, rest


def _polygons(
    text: str, where: str, size: tuple[int, int], problems: list[Problem]
) -> tuple[list[Shape], tuple[int, int]]:
    try:
        body = json.loads(text)
        objects = body["objects"]
        size = (int(body["imgWidth"]), int(body["imgHeight"])) if size == (0, 0) else size
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Invalid("polygons", "JSON with objects", repr(error)) from None
    known, shapes = {_key(name): name for name in _NAMES} | {_key(_PLATE[0]): _PLATE[0]}, list[Shape]()
    for at, one in enumerate(objects if isinstance(objects, list) else []):
        try:
            name = one["label"]
            label = known.get(_key(name)) or known[_key(name.removesuffix("group"))]
            facts = {"group": True} if _key(name) not in known else {}
            row = tuple(float(n) for point in one["polygon"] for n in point)
            shapes.append(Shape(label=label, source="import", kind="polygon", points=(row,), attributes=dump(facts)))
        except (KeyError, TypeError, ValueError, AttributeError, Invalid) as error:
            problems.append(Problem(where=f"{where}, object {at + 1}", error="invalid", message=f"{error}; left out"))
    return shapes, size


def _is_unchanged(record: Record, extra: Mapping[str, Any]) -> bool:
    said: Sequence[Any] = extra.get("said", ())
    return len(said) == len(record.shapes) and all(
        is_same(Shape.from_json(one), shape) for one, shape in zip(said, record.shapes, strict=True)
    )


def _write_masks(record: Record, base: Path, kinds: Sequence[str], ids: Mapping[str, int], tally: Tally) -> None:
    values, shapes = dict[str, int](), list[Shape]()
    for at, shape in enumerate(record.shapes):
        number = ids.get(_key(shape.label))
        if number is None:
            tally.add(f"class {shape.label!r} is none of Cityscapes; left out")
            continue
        thing = shape.facts.get("instance")
        is_thing = isinstance(thing, int) and not isinstance(thing, bool) and 0 <= thing < 1000 and number > 0
        values[str(at)] = number * 1000 + thing if is_thing and thing is not None else number
        shapes.append(Shape(label=str(at), kind=shape.kind, points=shape.points, mask=shape.mask))
    extra = record.extra.get(KEY, {})
    painted = Record(name=record.name, width=record.width, height=record.height, shapes=tuple(shapes))
    array = paint(painted, values, extra.get("rest", ()), tally)
    if array is None:
        return
    plain = np.where(array == -256, 0, np.where(array < -1, -1 - array, array))  # what is of no class is "unlabeled"
    colors = _colors(True)
    for kind in kinds:
        path = Path(f"{base}_{kind}.png")
        if kind == "instanceIds":
            save_mask(path, np.where(plain < 0, 0, plain), extra.get("mode") or "I;16", colors)
        else:
            single = np.where(plain >= 1000, plain // 1000, np.where(plain < 0, 0, plain))
            save_mask(path, single, "RGBA" if kind == "color" else "L", colors)
