"""Folders of images with folders of masks: one PNG per image, a class in every pixel, as CamVid and SegNet have it.

A mask holds class numbers (modes L, P) or the colours of a map file (RGB): ``classes.csv``, ``class_dict.csv`` or
``label_colors.txt``. Lists (``train.txt``: ``image mask`` per line) pair the files; without them folders do:
``train``/``trainannot``, ``train``/``train_labels``, ``images``/``masks``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Problem, Shape, dump
from loopworks.data.formats.color_map import VOID, ColorMap, color, parse_map
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.inputs import Tally, clean_name, find, inside, measure, read_text, split_of
from loopworks.data.formats.sheet import in_order

KEY = "color-masks"
_MAPS = ("classes.csv", "class_dict.csv", "label_colors.txt")
_ENDS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_ANNOT = ("{}annot", "{}_annot", "{}_labels", "{}_masks")
_PAIRS = (("images", "masks"), ("images", "labels"), ("images", "annot"), ("images", "annotations"), ("image", "mask"))


@plugins.add("format.color-masks")
@dataclass(frozen=True, slots=True, kw_only=True)
class ColorMasks:
    """Masks with class numbers or colours beside their images (CamVid, SegNet)."""

    images: str = ""
    """Folder of the images, where the usual names do not say it."""
    masks: str = ""
    """Folder of their masks."""
    colors: str = ""
    """File with the classes and their colours, in the folder of the data set."""
    pixels: Literal["index", "color"] = "index"
    """What new masks hold: class numbers, or the colours of the map."""

    def detect(self, root: Path, /) -> float:
        """Sure where a map of colours and a folder of masks are there."""
        if not root.is_dir():
            return 0.0
        has_map = any((root / name).is_file() for name in _MAPS)
        folders = bool(_folders(root))
        return (
            0.9
            if has_map and (folders or _lists(root))
            else 0.6
            if any(m.endswith("annot") for _, m in _folders(root))
            else 0.0
        )

    def read(self, root: Path, /) -> Content:
        """The data set in the folder ``root``."""
        if not root.is_dir():
            raise Invalid(str(root), "a folder with images and masks", "no folder")
        problems: list[Problem] = []
        files = {name: read_text(root / name, name).text for name in _map_names(root, self.colors)}
        lists = _lists(root)
        files |= lists
        pairs = list(_listed(root, lists, problems)) or list(_paired(root, self, problems))
        if not pairs:
            raise Invalid(
                str(root), "lists or folders that pair images and masks", "none", "name them: --images, --masks"
            )
        name = next((n for n in files if n not in lists), "")
        colors = parse_map(files[name], name, problems) if name else _numbered(root, pairs)
        content = Content(
            schema=LabelSchema(classes=colors.names), records=(), problems=problems,
            meta={KEY: {"files": files, "map": colors.to_json(), "map_file": name}},
        )  # fmt: skip
        content.records = _records(root, pairs, colors, problems)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Images and masks at their places, lists and the map of colours."""
        kept = content.meta.get(KEY, {})
        colors = ColorMap.from_json(kept["map"]) if kept else ColorMap()
        count = len(colors.names)
        colors = colors.with_classes(content.schema.classes)
        tally, lines = Tally(), dict[str, list[str]]()
        files: Mapping[str, str] = kept.get("files", {})
        listed = {line.strip() for name, text in files.items() if name in _LISTS for line in text.splitlines()}
        used: set[str] = set()
        for record in in_order(content.records, KEY):
            if record.text is not None:
                tally.add("a text cannot be an image with a mask; it was left out")
                continue
            extra = record.extra.get(KEY, {})
            place = extra.get("mask") or f"annot/{PurePosixPath(record.name).with_suffix('.png')}"
            if place in used:
                place = f"annot/{record.name}.png"
            used.add(place)
            image = extra.get("image") or record.name
            if record.path:
                put(record, image)
            array = paint(record, colors.values, extra.get("rest", ()), tally)
            if array is not None:
                mode = extra.get("mode") or ("RGB" if self.pixels == "color" else "L")
                save_mask(folder / clean_name(place), array, mode, colors, extra.get("palette", ""))
            pair = f"{image}\t{place}" if " " in image + place else f"{image} {place}"
            lines.setdefault(extra.get("list") or f"{record.split or 'all'}.txt", []).append(extra.get("line") or pair)
        for name, text in files.items():
            if name in _LISTS:
                same = [line for line in text.splitlines() if line.strip()] == lines.get(name, [])
                data = text if same else "".join(f"{line}\n" for line in lines.pop(name, []))
                lines.pop(name, None)
            else:
                data = text if len(colors.names) == count else colors.spell(name)
            (folder / clean_name(name)).write_bytes(data.encode("utf-8"))
        for name, rows in lines.items():
            if not kept or listed:
                (folder / name).write_bytes("".join(f"{row}\n" for row in rows).encode("utf-8"))
        if not kept.get("map_file"):
            (folder / "classes.csv").write_bytes(colors.spell("classes.csv").encode("utf-8"))
        yield from tally.problems("masks")


_LISTS = ("train.txt", "val.txt", "test.txt", "trainval.txt", "all.txt")


@dataclass(frozen=True, slots=True)
class _Pair:
    image: str
    mask: str
    list: str = ""
    line: str = ""
    split: str = ""
    where: str = ""


def _map_names(root: Path, told: str) -> list[str]:
    if told:
        inside(root, told)
        return [told]
    return [name for name in _MAPS if (root / name).is_file()][:1]


def _lists(root: Path) -> dict[str, str]:
    """Lists of pairs: name -> text."""
    found = {name: read_text(root / name, name).text for name in _LISTS if (root / name).is_file()}
    return {name: text for name, text in found.items() if re.match(r"\s*\S+[ \t]+\S+\.png", text, re.IGNORECASE)}


def _listed(root: Path, lists: Mapping[str, str], problems: list[Problem]) -> Iterator[_Pair]:
    for name, text in lists.items():
        for at, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            where = f"{name}: line {at}"
            parts = line.strip().split("\t") if "\t" in line else line.strip().split()
            if len(parts) != 2:
                problems.append(
                    Problem(where=where, error="invalid", message=f"an image and a mask expected; got {line!r}")
                )
                continue
            # SegNet's lists name places of another machine: /SegNet/CamVid/train/a.png.
            image, cut = (_shorten(root, part) for part in parts)
            yield _Pair(image, cut, name, line, split_of(PurePosixPath(name).stem), where)


def _shorten(root: Path, name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith("/") and ".." not in parts:
        for start in range(1, len(parts)):
            if find(root, ["/".join(parts[start:])]):
                return "/".join(parts[start:])
    return name


def _folders(root: Path) -> list[tuple[str, str]]:
    try:
        names = sorted(p.name for p in root.iterdir() if p.is_dir())
    except OSError:
        return []
    found = [(n, form.format(n)) for n in names for form in _ANNOT if form.format(n) in names]
    return found + [(a, b) for a, b in _PAIRS if a in names and b in names]


def _paired(root: Path, form: ColorMasks, problems: list[Problem]) -> Iterator[_Pair]:
    folders = [(form.images or "images", form.masks)] if form.masks else _folders(root)
    for images, cuts in folders:
        inside(root, images), inside(root, cuts)
        at_hand = {p.relative_to(root / cuts).as_posix() for p in (root / cuts).rglob("*.png")}
        for path in sorted((root / images).rglob("*")):
            if path.suffix.lower() in _ENDS and path.is_file():
                name = path.relative_to(root / images)
                forms = (f"{name.with_suffix('')}{end}.png" for end in ("", "_L", "_mask", "_label", "_labels"))
                cut = next((one for one in forms if one in at_hand), None)
                where = f"{images}/{name.as_posix()}"
                if cut is None:
                    problems.append(Problem(where=where, error="not_found", message="its mask is missing"))
                image = path.relative_to(root).as_posix()
                yield _Pair(image, f"{cuts}/{cut}" if cut else "", "", "", split_of(images), where)


def _numbered(root: Path, pairs: Sequence[_Pair]) -> ColorMap:
    """Without a map, classes are called by their numbers."""
    found: set[int] = set()
    for pair in pairs:
        path = find(root, [pair.mask]) if pair.mask else None
        array = load_mask(path)[0] if path else None
        if array is not None and array.ndim == 2:
            found |= set(np.unique(array).tolist()) - {VOID}
    return ColorMap.from_json([[str(n), n, *color(n + 1)] for n in sorted(found)])


def load_mask(path: Path, name: str = "mask") -> tuple[NDArray[Any], str, str]:
    """Pixels, mode and palette (as hexadecimal digits) of a mask.

    Raises: Invalid: no image, or of a mode that no mask has.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            mode, palette = image.mode, bytes(image.getpalette() or b"").hex() if image.mode == "P" else ""
            array = np.asarray(image.convert("L") if mode == "1" else image)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Invalid(name, "an image", str(error)) from None
    if mode not in ("1", "L", "P", "RGB", "RGBA", "I", "I;16"):
        raise Invalid(f"mode of {name}", "L, P, I, RGB or RGBA", mode)
    return array, mode, palette


def _records(root: Path, pairs: Sequence[_Pair], colors: ColorMap, problems: list[Problem]) -> Iterator[Record]:
    seen: set[str] = set()
    for at, pair in enumerate(pairs, 1):
        try:
            name = clean_name(pair.image)
        except Invalid as error:
            problems.append(Problem(where=pair.where, error=error.code, message=error.message))
            continue
        if name in seen:
            problems.append(Problem(where=pair.where, error="invalid", message=f"{name} is there already; left out"))
            continue
        seen.add(name)
        image = find(root, [name])
        if image is None:
            problems.append(Problem(where=pair.where, error="not_found", message=f"image {name!r} is missing"))
        size = measure(str(image)) if image else (0, 0)
        shapes: tuple[Shape, ...] = ()
        extra: dict[str, Any] = {"image": name, "mask": pair.mask, "list": pair.list, "line": pair.line, "n": at}
        path = find(root, [pair.mask]) if pair.mask else None
        try:
            if path is None and pair.mask:
                raise Invalid("mask", "a file inside the folder of the data set", pair.mask)
            if path is not None:
                array, mode, palette = load_mask(path, pair.mask)
                if size != (0, 0) and array.shape[:2] != size[::-1]:
                    raise Invalid(
                        f"size of {pair.mask}",
                        f"{size[0]} x {size[1]}, as the image",
                        f"{array.shape[1]} x {array.shape[0]}",
                    )
                size = (array.shape[1], array.shape[0])
                shapes, rest = read_mask(array, colors, pair.mask, problems)
                extra |= {"mode": mode, "rest": rest} | ({"palette": palette} if palette else {})
        except Invalid as error:
            problems.append(Problem(where=pair.where or pair.mask, error=error.code, message=error.message))
        yield Record(
            name=name, path=str(image) if image else "", width=size[0], height=size[1], split=pair.split, shapes=shapes,
            is_labeled=path is not None, extra={KEY: {k: v for k, v in extra.items() if v}},
        )  # fmt: skip


def read_mask(
    array: NDArray[Any], colors: ColorMap, where: str, problems: list[Problem]
) -> tuple[tuple[Shape, ...], list[list[Any]]]:
    """One shape per class in a mask, and the values that are of no class as (value, run lengths)."""
    if array.ndim == 3:
        flat = array[..., :3].astype(np.int64) @ (65536, 256, 1)
        known = {r << 16 | g << 8 | b: n for n, (r, g, b) in zip(colors.names, colors.rgb, strict=True)}
    else:
        flat = array.astype(np.int64)
        known = dict(zip(colors.numbers, colors.names, strict=True))
    shapes, rest = [], []
    for value in np.unique(flat).tolist():
        runs = mask.encode(flat == value)
        if value in known:
            size = (float(flat.shape[0]), float(flat.shape[1]))
            shapes.append(Shape(label=known[value], source="import", kind="mask", points=(size,), mask=runs))
            continue
        rest.append([value, runs])
        if value != VOID or array.ndim == 3:
            said = f"colour ({value >> 16}, {value >> 8 & 255}, {value & 255})" if array.ndim == 3 else f"value {value}"
            count = int((flat == value).sum())
            problems.append(Problem(where=where, error="invalid", message=f"{said} is of no class ({count} pixels)"))
    return tuple(shapes), rest


def paint(record: Record, values: Mapping[str, int], rest: Sequence[Any], tally: Tally) -> NDArray[np.int64] | None:
    """Class numbers of an item's pixels; -1 - value for what is of no class; ``None`` where the size is not known."""
    height, width = record.height, record.width
    cuts = [s for s in record.shapes if s.kind == "mask"]
    if cuts:
        height, width = (int(n) for n in cuts[0].points[0])
    if not (height and width):
        if record.shapes:
            tally.add("the size of an image is not known; its mask was left out")
        return None
    out = np.full((height, width), -1 - VOID, np.int64)
    for value, runs in rest:
        out[mask.decode(runs, height, width)] = -1 - value
    for shape in record.shapes:
        if shape.kind == "mask" and shape.points[0] == (height, width):
            inside_ = mask.decode(shape.mask, height, width)
        elif shape.kind in ("polygon", "obb"):
            inside_ = mask.draw(shape.points, height, width)
            tally.add("polygons became pixels")
        elif shape.kind == "box":
            x, y, w, h = shape.points[0]
            inside_ = mask.draw([(x, y, x + w, y, x + w, y + h, x, y + h)], height, width)
            tally.add("boxes became pixels")
        else:
            tally.add(f"a {shape.kind} has no place in a mask and was left out")
            continue
        if shape.label not in values:
            tally.add(f"class {shape.label!r} is not in the schema; left out")
            continue
        if (out[inside_] >= 0).any():
            tally.add("masks of an image overlap; the later one was kept")
        out[inside_] = values[shape.label]
    return out


def save_mask(path: Path, array: NDArray[np.int64], mode: str, colors: ColorMap, palette: str = "") -> None:
    """A mask as PNG: class numbers, or colours for the modes that have them."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    plain = np.where(array < 0, -1 - array, array)
    if mode in ("RGB", "RGBA"):
        out = np.stack([plain >> 16, plain >> 8 & 255, plain & 255], axis=-1)
        out[plain == VOID] = (224, 224, 192) if (array == -1 - VOID).any() else 0
        for number, rgb in zip(colors.numbers, colors.rgb, strict=True):
            out[array == number] = rgb
        if mode == "RGBA":
            out = np.concatenate([out, np.full((*plain.shape, 1), 255)], axis=-1)
        Image.fromarray(out.astype(np.uint8)).save(path, "PNG")
        return
    if plain.max(initial=0) > 255 or mode in ("I", "I;16"):
        Image.fromarray(plain.astype(np.uint16 if mode != "I" else np.int32)).save(path, "PNG")
        return
    image = Image.fromarray(plain.astype(np.uint8))
    if mode == "P":
        image = Image.frombytes("P", image.size, plain.astype(np.uint8).tobytes())
        image.putpalette(bytes.fromhex(palette) or bytes(range(256)) * 3)
    image.save(path, "PNG")


def instance_shape(label: str, inside_: NDArray[np.bool_], facts: Mapping[str, Any]) -> Shape:
    """A mask shape with facts."""
    size = (float(inside_.shape[0]), float(inside_.shape[1]))
    return Shape(
        label=label, source="import", kind="mask", points=(size,), mask=mask.encode(inside_), attributes=dump(facts)
    )
