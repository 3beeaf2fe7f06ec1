"""A task of Label Studio (whole, or of the short export JSON-MIN) as a record, and a record as a task."""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from loopworks.core.errors import Invalid
from loopworks.core.values import Problem, Shape
from loopworks.data.formats.contract import Record
from loopworks.data.formats.cvat_image import is_same
from loopworks.data.formats.inputs import ClassNames, Tally, is_outside, split_of
from loopworks.data.formats.jsontext import plain
from loopworks.data.formats.label_studio_results import KEY, is_region, labels_of, read_region, type_of, write_value

_MEDIA = ("image", "img", "image_url", "url", "photo", "picture", "video", "audio")
_ENDS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_AFTER = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
Size = Callable[[], tuple[int, int]] | None


@dataclass(slots=True)
class Found:
    """What a task says."""

    name: str = ""
    """The reference of the media, or the task's id for texts."""
    media: str = ""
    text: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    shapes: list[Shape] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(Place, message)."""
    size: tuple[int, int] = (0, 0)
    is_labeled: bool = False
    split: str = ""
    tags: tuple[str, ...] = ()
    is_multi: bool = False


def is_short(task: Mapping[str, Any]) -> bool:
    """Whether it is a task of JSON-MIN, which has no list of annotations."""
    return "annotations" not in task and "data" not in task


def results(task: Mapping[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any], Mapping[str, Any]]]:
    """(Place, result, annotation) of all that counts: not of predictions, drafts and skipped annotations."""
    if is_short(task):
        for name, value in _outputs(task):
            for at, one in enumerate(value if isinstance(value, list) else [value]):
                yield [name, at], _as_result(name, one), task
        return
    for at, annotation in enumerate(task.get("annotations") or task.get("completions") or []):
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        for n, result in enumerate(annotation.get("result") or []):
            if isinstance(result, dict) and result.get("type") != "relation":  # kept in the task, no shape
                yield [at, n], result, annotation


def _outputs(task: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What was labeled in JSON-MIN: regions anywhere, and what stands between the id and the annotator."""
    keys = list(task)
    start = keys.index("id") if "id" in keys else len(keys)
    stop = next((at for at, key in enumerate(keys) if key in _AFTER and at > start), len(keys))
    found = []
    for at, key in enumerate(keys):
        value = task[key]
        regions = isinstance(value, list) and bool(value) and all(is_region(one) for one in value)
        if key not in _AFTER and (regions or start < at < stop):
            found.append((key, value))
    return found


def _as_result(name: str, one: Any) -> dict[str, Any]:
    if isinstance(one, dict) and is_region(one):
        inner = labels_of(one)
        return {"from_name": name, "type": inner[0] if inner else "", "value": one, "id": one.get("id"), **_sizes(one)}
    if isinstance(one, dict):
        kind = next(iter(one), "")
        return {"from_name": name, "type": kind, "value": one}
    kind = "choices" if isinstance(one, str) else "number"
    return {"from_name": name, "type": kind, "value": {kind: [one] if kind == "choices" else one}}


def _sizes(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in ("original_width", "original_height") if key in value}


def read_task(task: Mapping[str, Any], names: ClassNames, measured: Size) -> Found:
    """All that a task says; ``measured`` gives the size of its image where the task does not."""
    out = Found()
    data = task if is_short(task) else task.get("data")
    data = data if isinstance(data, Mapping) else {}
    labeled = {name for name, _ in _outputs(task)} if is_short(task) else set()
    keys = [k for k, v in data.items() if isinstance(v, str) and k not in labeled and k not in _AFTER]
    media = next((k for k in keys if _is_media(k, data[k])), "")
    out.media = data[media] if media else ""
    text = "" if media else next((k for k in ("text", *keys) if k in keys), "")
    out.text = None if media else plain(data[text]) if text else ""
    out.name = out.media or f"task-{task.get('id')}"
    skip = {media, text, *labeled, *(("id", *_AFTER) if is_short(task) else ())}
    out.attributes = {k: plain(v) for k, v in data.items() if k not in skip}
    meta = task.get("meta")
    if isinstance(meta, Mapping) and not is_short(task):
        out.split = split_of(meta["split"]) if isinstance(meta.get("split"), str) else ""
        tags = meta.get("tags")
        out.tags = tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else ()
    _read_results(task, names, measured, out)
    return out


def note_classes(task: Mapping[str, Any], names: ClassNames) -> bool:
    """Put the classes that a task uses into ``names``; gives whether its image has several."""
    out = Found()
    _read_results(task, names, None, out)
    return out.is_multi


def _is_media(key: str, value: str) -> bool:
    path = value.split("?")[0].lower()
    known = value.startswith(("/data/", "s3://", "gs://", "azure-blob://", "http://", "https://")) or path.endswith(
        _ENDS
    )
    return known or (key in _MEDIA and not any(c in value for c in "\n\0"))


def _read_results(task: Mapping[str, Any], names: ClassNames, measured: Size, out: Found) -> None:
    rows = list(results(task))
    if not is_short(task):
        annotations = task.get("annotations") or task.get("completions") or []
        out.is_labeled = any(isinstance(a, Mapping) and not a.get("was_cancelled") for a in annotations)
    else:
        out.is_labeled = "annotation_id" in task or bool(rows)
    companions: dict[tuple[Any, Any], list[tuple[list[Any], dict[str, Any]]]] = {}
    keys = [(at[0], str(result.get("id"))) for at, result, _ in rows]
    for key, (at, result, _) in zip(keys, rows, strict=True):
        companions.setdefault(key, []).append((at, result))
    done: set[tuple[Any, Any]] = set()
    for key, (at, result, owner) in zip(keys, rows, strict=True):
        group = companions[key] if result.get("id") is not None else [(at, result)]
        region = next((row for row in group if is_region(row[1].get("value"))), None)
        if region is not None and result.get("id") is not None:
            if key in done:
                continue
            done.add(key)
            at, result = region
        value = result.get("value")
        where = f"annotation {at[0]!r}, result {at[1]!r}"
        if not isinstance(value, Mapping):
            out.problems.append((where, f"value must be an object; got {type(value).__name__}"))
        elif region is not None:
            if measured is None and len(group) == 1:
                told = labels_of(value)
                names.add(told[1][0] if told and told[1] else "")
                continue
            others = [row[1] for row in group if row[0] != at] if len(group) > 1 else []
            _region(at, result, others, owner, names, measured, out, where)
        elif isinstance(value.get("choices"), list):
            chosen = [c for c in value["choices"] if isinstance(c, str)]
            out.is_multi |= len(chosen) > 1
            for choice in chosen:
                label, by = names.add(choice), _author(owner)
                out.shapes.append(Shape(label=label, source="import", author=by, extra=_extra(at)))
        else:
            name = result.get("from_name")
            kind = result.get("type")
            found = value.get(kind) if isinstance(kind, str) and kind in value else dict(value)
            out.attributes.setdefault(name if isinstance(name, str) else "result", plain(found))


def _extra(at: list[Any]) -> str:
    if isinstance(at[0], int):
        return f'{{"{KEY}":{{"at":[{at[0]},{at[1]}]}}}}'
    return f'{{"{KEY}":{{"at":{_json(at)}}}}}'


def _json(at: list[Any]) -> str:
    return json.dumps(at, separators=(",", ":"), ensure_ascii=False)


def _region(
    at: list[Any], result: Mapping[str, Any], others: list[dict[str, Any]], owner: Mapping[str, Any],
    names: ClassNames, measured: Size, out: Found, where: str,
) -> None:  # fmt: skip
    value = result["value"]
    labels, facts = labels_of(value), {}
    for other in others:
        more = other.get("value")
        if not isinstance(more, Mapping):
            continue
        labels = labels or labels_of(more)
        kind = other.get("type")
        if isinstance(kind, str) and kind in more and not kind.endswith("labels"):
            facts[str(other.get("from_name"))] = plain(more[kind])
    classes = labels[1] if labels else []
    if measured is None:
        names.add(classes[0] if classes else "")
        return
    if len(classes) > 1:
        facts["labels"] = plain(classes[1:])
    size = tuple(
        n if isinstance((n := result.get(k)), int) and 0 < n < 1 << 20 else 0
        for k in ("original_width", "original_height")
    )
    width, height = (size[0], size[1]) if all(size) else measured()
    out.size = out.size if all(out.size) else (width, height)
    try:
        shape = read_region(
            value, (width, height), names.add(classes[0]) if classes else "", facts, _extra(at), _author(owner)
        )
    except Invalid as error:
        out.problems.append((where, f"{error.message}; left out"))
        return
    if not shape.label:
        out.problems.append((where, "class must be given; got none"))
    if is_outside(shape, width, height):
        out.problems.append((where, f"lies outside the image of {width} x {height}; kept"))
    out.shapes.append(shape)


def _author(owner: Mapping[str, Any]) -> str:
    found = owner.get("completed_by", owner.get("annotator", ""))
    if isinstance(found, Mapping):
        found = found.get("email") or found.get("id")
    return plain(found) if isinstance(found, str) else str(found) if isinstance(found, int) else ""


def places(media: str) -> tuple[str, list[str]]:
    """The short name of a reference, and where its file may lie in the folder of the export.

    Raises: Invalid: a reference without a file name.
    """
    parts = urlsplit(media)
    if "d=" in parts.query and "local-files" in parts.path:
        path = unquote(parts.query.split("d=", 1)[1].split("&")[0])
        return path, [path, f"images/{path}", PurePosixPath(path).name, f"images/{PurePosixPath(path).name}"]
    path = unquote(parts.path) if parts.scheme or media.startswith("/") else media
    short = path.removeprefix("/data/").lstrip("/") if not parts.scheme else f"{parts.netloc}{path}"
    name = PurePosixPath(path).name
    if not name or name in (".", ".."):
        raise Invalid("reference of the media", "a path or address with a file name", media)
    is_remote = bool(parts.scheme) or media.startswith("/")
    found = [short, f"images/{name}", name, f"images/{short}", f"media/{short}"]
    plain = _UPLOAD.sub("", name)  # an upload gets eight signs before its name
    if plain != name and is_remote:
        found += [plain, f"images/{plain}"]
    return (name if is_remote else path), found


@dataclass(slots=True)
class Writer:
    """Makes tasks."""

    tally: Tally = field(default_factory=Tally)
    last_id: int = 0
    used: dict[str, str] = field(default_factory=dict)
    """Type of result -> its tag in the labeling configuration."""

    def note_id(self, task: Any) -> None:
        """Keep new ids above those that are taken."""
        number = task.get("id") if isinstance(task, Mapping) else None
        if isinstance(number, int) and not isinstance(number, bool):
            self.last_id = max(self.last_id, number)

    def new(self, record: Record) -> dict[str, Any]:
        """A whole task."""
        self.last_id += 1
        if record.text is None:
            data: dict[str, Any] = {"image": f"/data/local-files/?d={quote(record.name)}"}
        else:
            data = {"text": record.text}
        data |= {k: v for k, v in record.attributes.items() if k not in data}
        meta: dict[str, Any] = {}
        if record.split:
            meta["split"] = record.split
        if record.tags:
            meta["tags"] = list(record.tags)
        task: dict[str, Any] = {"id": self.last_id, "annotations": [], "data": data, "meta": meta}
        if record.is_labeled or record.shapes:
            self._fill(task, record, list(record.shapes), [])
        return task

    def changed(self, raw: Mapping[str, Any], before: Found, record: Record) -> dict[str, Any] | None:
        """The task with what the record says now; ``None`` where that cannot be said in its form."""
        task = copy.deepcopy(dict(raw))
        old = {_json(s.origin[KEY]["at"]): s for s in before.shapes}
        groups: dict[str, list[Shape]] = {}
        for shape in before.shapes:
            groups.setdefault(_json(shape.origin[KEY]["at"]), []).append(shape)
        now: dict[str, list[Shape]] = {}
        for shape in record.shapes:
            at = shape.origin.get(KEY, {}).get("at")
            now.setdefault(_json(at) if isinstance(at, list) else "", []).append(shape)
        keep = [
            key for key in old if len(now.get(key, [])) == len(groups[key]) and all(map(is_same, now[key], groups[key]))
        ]
        fresh = [shape for key, shapes in now.items() if key not in keep for shape in shapes]
        if is_short(task):
            if fresh:
                return None
            gone = {key: s for key, s in old.items() if key not in keep}
            for name, value in _outputs(task):
                if isinstance(value, list):
                    task[name] = [one for n, one in enumerate(value) if _json([name, n]) not in gone]
                elif _json([name, 0]) in gone:
                    del task[name]
            return task
        gone_ids = {
            (at[0], str(result.get("id")), at[1])
            for at, result, _ in results(raw)
            if _json(at) in old and _json(at) not in keep
        }
        annotations = task.get("annotations") or task.get("completions") or []
        for at, annotation in enumerate(annotations):
            if isinstance(annotation, dict) and isinstance(annotation.get("result"), list):
                lost = {(i, r) for a, i, r in gone_ids if a == at}
                annotation["result"] = [
                    one
                    for n, one in enumerate(annotation["result"])
                    if not any(
                        n == r or (i != "None" and isinstance(one, dict) and str(one.get("id")) == i) for i, r in lost
                    )
                ]
        data = task.get("data")
        if isinstance(data, dict):
            known = {k: v for k, v in before.attributes.items() if k in data}
            data |= {k: v for k, v in record.attributes.items() if before.attributes.get(k) != v}
            for key in known.keys() - record.attributes.keys():
                del data[key]
        if (record.split, record.tags) != (before.split, before.tags):
            meta = dict(task["meta"]) if isinstance(task.get("meta"), Mapping) else {}
            task["meta"] = meta | {"split": record.split, "tags": list(record.tags)}
        self._fill(task, record, fresh, annotations)
        return task

    def _fill(self, task: dict[str, Any], record: Record, shapes: list[Shape], annotations: list[Any]) -> None:
        """Append results to the annotations of their authors."""
        authors = dict.fromkeys([shape.author for shape in shapes] or ([""] if not annotations else []))
        for author in authors:
            rows: list[dict[str, Any]] = []
            for shape in (s for s in shapes if s.author == author):
                rows += self._results(shape, record, len(rows))
            home = next(
                (a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled") and _author(a) == author),
                None,
            )
            if home is not None:
                home["result"] = [*(home.get("result") or []), *rows]
                continue
            by: Any = int(author) if author.isascii() and author.isdigit() and len(author) < 18 else {"email": author}
            owner = {"completed_by": by} if author else {}
            body = {**owner, "result": rows, "was_cancelled": False, "ground_truth": False}
            task["annotations"] = [*(task.get("annotations") or []), body]

    def _results(self, shape: Shape, record: Record, count: int) -> list[dict[str, Any]]:
        kind = type_of(shape)
        if not kind:
            self.tally.add(f"a {shape.kind} has no place in Label Studio and was left out")
            return []
        try:
            values = write_value(shape, (record.width, record.height))
        except Invalid:
            self.tally.add("the size of an image is not known; its regions were left out")
            return []
        if shape.kind == "points" and len(values) > 1:
            self.tally.add("points of one shape became one key point each")
        if shape.kind == "polygon" and len(values) > 1:
            self.tally.add("a polygon of several parts became one polygon per part")
        facts, out = shape.facts, []
        more = facts.pop("labels", [])
        labels = [shape.label, *(one for one in (more if isinstance(more, list) else []) if isinstance(one, str))]
        rest = [
            k for k in facts if shape.kind != "value" or k not in ("start", "end", "startOffset", "endOffset", "text")
        ]
        for n, value in enumerate(values):
            kind_now = "polygonlabels" if "points" in value else kind
            self.used.setdefault(kind_now, TAG_NAMES[kind_now])
            head: dict[str, Any] = {}
            if shape.kind not in ("class", "value"):
                head = {"original_width": record.width, "original_height": record.height, "image_rotation": 0}
            ident = f"r{record.name.encode().hex()[-6:]}{count + n}"
            to = "text" if record.text is not None else "image"
            body = {**head, "value": {**value, kind_now: labels}, "id": ident, "from_name": kind_now, "to_name": to}
            out.append({**body, "type": kind_now, "origin": "manual"})
            for name in rest:
                if isinstance(facts[name], str):
                    text = {"value": {"textarea": facts[name]}, "id": ident, "from_name": name, "to_name": to}
                else:
                    text = {"value": {"number": facts[name]}, "id": ident, "from_name": name, "to_name": to}
                out.append({**text, "type": next(iter(text["value"])), "origin": "manual"})
        return out


TAG_NAMES = {
    "rectanglelabels": "RectangleLabels",
    "polygonlabels": "PolygonLabels",
    "brushlabels": "BrushLabels",
    "keypointlabels": "KeyPointLabels",
    "ellipselabels": "EllipseLabels",
    "choices": "Choices",
    "labels": "Labels",
}


def problems_of(found: Found, where: str) -> list[Problem]:
    """The task's problems with their place in the file."""
    return [Problem(where=f"{where}, {place}", error="invalid", message=text) for place, text in found.problems]
