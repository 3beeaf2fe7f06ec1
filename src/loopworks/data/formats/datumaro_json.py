"""Datumaro's JSON: ``annotations/SUBSET.json`` beside ``images/SUBSET/``, as Datumaro and Geti write it.

The text of each item is kept, so what did not change comes back byte for byte; annotations of types that we do not
know stay in it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape
from loopworks.data.formats import jsontext
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.cvat_image import is_same, say_same
from loopworks.data.formats.datumaro_shapes import KEY, read_shape, write_shape
from loopworks.data.formats.inputs import (
    ClassNames,
    Tally,
    Text,
    clean_name,
    find,
    inside,
    is_outside,
    peek,
    read_text,
    split_of,
)
from loopworks.data.formats.sheet import Sheet, SheetWriter, cut, in_order, lead_of

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@plugins.add("format.datumaro")
@dataclass(frozen=True, slots=True, kw_only=True)
class Datumaro:
    """Datumaro JSON: labels, boxes (turned too), polygons, polylines, points, ellipses, masks, captions, cuboids."""

    def detect(self, root: Path, /) -> float:
        """Sure where ``annotations/*.json`` begin with keys that only Datumaro writes."""
        return 0.95 if any(True for _ in _files(root)) else 0.0

    def read(self, root: Path, /) -> Content:
        """The data set at ``root``: a folder with ``annotations/``, that folder, or one JSON file."""
        files = list(_files(root)) or ([root] if root.is_file() else [])
        if not files:
            raise Invalid(str(root), "a folder with annotations/*.json of Datumaro", "no such file")
        base = root if root.is_dir() else root.parent
        if files[0].parent == base and base.name == "annotations":
            base = base.parent
        problems: list[Problem] = []
        names, subsets = ClassNames(), []
        for path in files:
            name = path.relative_to(base).as_posix()
            try:
                subsets.append(_open(path, name, names, problems))
            except Invalid as error:
                if len(files) == 1:
                    raise
                problems.append(Problem(where=name, error=error.code, message=error.message))
        problems += names.problems("categories")
        meta = {
            "files": [one.sheet.to_json() for one in subsets],
            "labels": {one.sheet.name: list(one.labels) for one in subsets},
        }
        content = Content(
            schema=names.schema(any(one.is_multi for one in subsets)), records=(), meta={KEY: meta}, problems=problems
        )
        content.records = _records(base, subsets, problems)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """The files that were read, or one per split; media go to ``images/SUBSET/``."""
        kept = content.meta.get(KEY, {})
        sheets = {sheet["name"]: Sheet.from_json(sheet) for sheet in kept.get("files", ())}
        labels: dict[str, list[str]] = {name: list(found) for name, found in kept.get("labels", {}).items()}
        tally, out = Tally(), SheetWriter(folder, sheets)
        for record in in_order(content.records, KEY):
            extra = record.extra.get(KEY, {})
            raw, sheet = extra.get("raw"), extra.get("file")
            if sheet not in sheets:
                subset = record.split or "default"
                sheet = next((n for n in sheets if PurePosixPath(n).stem == subset), f"annotations/{subset}.json")
                sheets.setdefault(sheet, _new_sheet(sheet))
            known = labels.setdefault(sheet, list(content.schema.classes))
            known += [name for name in content.schema.classes if name not in known]
            if isinstance(raw, str):
                text = _text(record, raw, known, sheet, tally)
            else:
                text = jsontext.dumps(_item(record, known, tally), jsontext.Layout(colon=":", comma=","))
            out.add(sheet, text, extra.get("lead"))
            if record.path:
                put(record, extra.get("media") or f"images/{PurePosixPath(sheet).stem}/{record.name}")
        if not sheets:
            sheets["annotations/default.json"] = _new_sheet("annotations/default.json")
        out.close(lambda sheet: _with_labels(sheet, labels.get(sheet.name, list(content.schema.classes))))
        yield from tally.problems("annotations")


@dataclass(slots=True)
class _Subset:
    source: Text
    sheet: Sheet
    spans: Sequence[tuple[int, int]]
    labels: Sequence[str]
    is_multi: bool


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        candidates = [root] if root.suffix.lower() == ".json" else []
    else:
        candidates = sorted((root / "annotations").glob("*.json")) or sorted(root.glob("*.json"))
    for path in candidates:
        if path.is_file():
            start = peek(path).lstrip()
            new = '"dm_format_version"' in start or '"media_type"' in start
            if start.startswith("{") and (
                new or ('"categories"' in start and '"label"' in start and '"infos"' in start)
            ):
                yield path


def _open(path: Path, name: str, names: ClassNames, problems: list[Problem]) -> _Subset:
    source = read_text(path, name)
    found = jsontext.cut(source, "items")
    if found.error:
        problems.append(Problem(where=name, error="invalid", message=found.error))
    if not found.has_list:
        raise Invalid(name, "an object with items", "no list of items")
    categories = found.members.get("categories")
    listed = categories.get("label") if isinstance(categories, Mapping) else None
    rows = listed.get("labels") if isinstance(listed, Mapping) else None
    labels = []
    for row in rows if isinstance(rows, list) else []:
        label = row.get("name") if isinstance(row, Mapping) else row
        labels.append(names.add(label) if isinstance(label, str) else "")
    is_multi = any(_labels_of(jsontext.loads(source.text[start:end])) > 1 for start, end in found.spans)
    sheet = cut(source, name, found.spans, found.start, found.end, ",")
    return _Subset(source, sheet, found.spans, labels, is_multi)


def _labels_of(item: Any) -> int:
    rows = item.get("annotations") if isinstance(item, Mapping) else None
    return sum(isinstance(row, Mapping) and row.get("type") == "label" for row in rows) if isinstance(rows, list) else 0


def _records(base: Path, subsets: Sequence[_Subset], problems: list[Problem]) -> Iterator[Record]:
    seen: set[str] = set()
    for one in subsets:
        ids: set[str] = set()
        subset = PurePosixPath(one.sheet.name).stem
        line, last = 1, 0
        for at, (start, end) in enumerate(one.spans):
            line, last = line + one.source.text.count("\n", last, start), start
            raw = one.source.text[start:end]
            item = jsontext.loads(raw)
            where = f"{one.sheet.name}: line {line}, item {at + 1}"
            if not isinstance(item, Mapping) or not isinstance(item.get("id"), str):
                problems.append(
                    Problem(where=where, error="invalid", message="item must be an object with an id; left out")
                )
                continue
            where += f" ({item['id']!r})"
            if item["id"] in ids:
                problems.append(Problem(where=where, error="invalid", message="an id that is there already; left out"))
                continue
            ids.add(item["id"])
            extra: dict[str, Any] = {"raw": raw, "file": one.sheet.name, "n": at}
            lead = lead_of(one.source.text, one.spans, at, one.sheet.between)
            if lead is not None:
                extra["lead"] = lead
            try:
                record, faults = _read_item(item, one.labels, split_of(subset), where)
                path = _media(base, subset, item, record.name)
            except Invalid as error:
                problems.append(Problem(where=where, error=error.code, message=f"{error.message}; left out"))
                continue
            problems += faults
            if path is None and record.text is None:
                problems.append(Problem(where=where, error="not_found", message="the file of its media is missing"))
            elif path is not None:
                extra["media"] = path.relative_to(base).as_posix()
            name = record.name if record.name not in seen else f"{subset}/{record.name}"
            if name in seen:
                problems.append(Problem(where=where, error="invalid", message="its media is there already; left out"))
                continue
            seen.add(name)
            yield replace(record, name=name, path=str(path) if path else "", extra={KEY: extra})


def _entry(item: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("image", "point_cloud", "video_frame", "video", "media"):
        if isinstance(item.get(key), Mapping):
            found: Mapping[str, Any] = item[key]
            return found
    return {}


def _media(base: Path, subset: str, item: Mapping[str, Any], name: str) -> Path | None:
    path = _entry(item).get("path", _entry(item).get("video_path"))
    told = [path] if isinstance(path, str) and path else [f"{item['id']}{end}" for end in _IMAGES]
    for one in told:
        inside(base, one)
    places = ("images/{1}/{0}", "images/{0}", "{0}", "{1}/{0}", "point_clouds/{1}/{0}", "videos/{1}/{0}")
    return find(base, (place.format(one, subset) for one in [*told, name] for place in places))


def _read_item(item: Mapping[str, Any], labels: Sequence[str], split: str, where: str) -> tuple[Record, list[Problem]]:
    problems: list[Problem] = []
    entry = _entry(item)
    path = entry.get("path", entry.get("video_path"))
    name = clean_name(path if isinstance(path, str) and path else item["id"])
    size = entry.get("size")
    height, width = (0, 0)
    if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 <= n < 1 << 20 for n in size):
        height, width = size
    shapes: list[Shape] = []
    unknown: dict[str, int] = {}
    rows = item.get("annotations")
    for at, row in enumerate(rows if isinstance(rows, list) else []):
        place = f"{where}, annotation {at + 1}"
        try:
            shape = read_shape(row, labels, (width, height), at)
        except Invalid as error:
            problems.append(Problem(where=place, error=error.code, message=f"{error.message}; left out"))
            continue
        if shape is None:
            unknown[str(row.get("type"))] = unknown.get(str(row.get("type")), 0) + 1
            continue
        if is_outside(shape, width, height):
            problems.append(
                Problem(where=place, error="invalid", message=f"lies outside the image of {width} x {height}; kept")
            )
        shapes.append(shape)
    problems += [
        Problem(where=where, error="invalid", message=f"annotations of type {kind!r} are not read ({count}x)")
        for kind, count in unknown.items()
    ]
    attributes = item.get("attr")
    record = Record(
        name=name,
        width=width,
        height=height,
        split=split,
        attributes=jsontext.plain(attributes) if isinstance(attributes, Mapping) else {},
        shapes=tuple(shapes),
    )
    return record, problems


def _text(record: Record, raw: str, labels: Sequence[str], sheet: str, tally: Tally) -> str:
    """The item as it was read where the record says the same, else with what changed."""
    item = jsontext.loads(raw)
    before, _ = _read_item(item, labels, split_of(PurePosixPath(sheet).stem), "")
    same = say_same(before.shapes, record.shapes)
    if same and dict(before.attributes) == dict(record.attributes):
        return raw
    changed = dict(item)
    known = {shape.origin[KEY]["at"]: shape for shape in before.shapes}
    rows = item["annotations"] if isinstance(item.get("annotations"), list) else []
    used: set[int] = set()
    out: list[Any] = []
    for shape in record.shapes:
        at = shape.origin.get(KEY, {}).get("at")
        if isinstance(at, int) and at in known and at not in used:
            used.add(at)
            new = [rows[at]] if is_same(known[at], shape) else write_shape(shape, labels, tally, rows[at])
        else:
            new = write_shape(shape, labels, tally, {})
        out += new
    unread = [row for at, row in enumerate(rows) if at not in known]
    changed["annotations"] = out + unread
    if dict(before.attributes) != dict(record.attributes):
        changed["attr"] = dict(record.attributes)
    return jsontext.dumps(changed, jsontext.layout(raw))


def _item(record: Record, labels: Sequence[str], tally: Tally) -> dict[str, Any]:
    rows = [row for shape in record.shapes for row in write_shape(shape, labels, tally, {})]
    item: dict[str, Any] = {"id": str(PurePosixPath(record.name).with_suffix("")), "annotations": rows}
    if record.attributes:
        item["attr"] = dict(record.attributes)
    image: dict[str, Any] = {"path": record.name}
    if record.width and record.height:
        image["size"] = [record.height, record.width]
    item["image"] = image
    if record.text is not None:
        tally.add("the words of a text have no place in Datumaro JSON")
    if record.tags:
        tally.add("tags of an item have no place in Datumaro JSON")
    if not record.is_labeled:
        tally.add("an item that nobody looked at became one with nothing on it")
    return item


def _new_sheet(name: str) -> Sheet:
    return Sheet(name, "", "]}", ",")


def _with_labels(sheet: Sheet, labels: Sequence[str]) -> Sheet:
    """The head as it was read, with the labels that came since; a new one where there is none."""
    tight = jsontext.Layout(colon=":", comma=",")
    form: Callable[[str], dict[str, Any]] = lambda name: {"name": name, "parent": "", "attributes": []}  # noqa: E731
    if not sheet.head:
        label = {"labels": [form(name) for name in labels], "label_groups": [], "attributes": []}
        head = {"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": {"label": label}}
        return replace(sheet, head=jsontext.dumps(head, tight)[:-1] + ',"items":[')
    found = jsontext.cut(Text(sheet.head + sheet.tail), "items")
    categories = found.members.get("categories")
    categories = categories if isinstance(categories, dict) else {}
    listed = categories.get("label")
    if not isinstance(listed, dict) or not isinstance(listed.get("labels"), list):
        return sheet
    new = labels[len(listed["labels"]) :]
    if not new:
        return sheet
    # The list of labels is the last thing that is looked for, so its place is found by what it says.
    for layout in (jsontext.layout(sheet.head), tight):
        for depth in range(4):
            base = layout.base if layout.indent is None else layout.indent * depth
            before = jsontext.dumps(listed["labels"], replace(layout, base=base))
            if sheet.head.count(before) == 1:
                rows = [*listed["labels"], *(form(name) for name in new)]
                return replace(sheet, head=sheet.head.replace(before, jsontext.dumps(rows, replace(layout, base=base))))
    members = {
        **found.members,
        "categories": {**categories, "label": {**listed, "labels": [*listed["labels"], *map(form, new)]}},
    }
    return replace(sheet, head=jsontext.dumps(members, tight)[:-1] + ',"items":[', tail="]}")
