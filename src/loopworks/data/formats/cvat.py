"""CVAT XML 1.1, "CVAT for images": one file (or one per subset or task) that lists images with their shapes.

What is read comes back byte for byte where it did not change: the text of each image is kept beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.data.formats import xmltext
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.cvat_image import Rules, Writer, read_image
from loopworks.data.formats.inputs import ClassNames, Tally, Text, find, peek, read_text
from loopworks.data.formats.sheet import Sheet, SheetWriter, cut, in_order, lead_of

KEY = "cvat"


@plugins.add("format.cvat")
@dataclass(frozen=True, slots=True, kw_only=True)
class Cvat:
    """CVAT XML 1.1 for images: boxes (turned too), polygons, polylines, points, ellipses, masks, skeletons, tags."""

    def detect(self, root: Path, /) -> float:
        """Sure where an XML file starts with CVAT's root and its meta or images."""
        return 0.95 if any(True for _ in _files(root)) else 0.0

    def read(self, root: Path, /) -> Content:
        """The data set at ``root``: an XML file, or a folder with XML files in it or in its folders."""
        files = list(_files(root))
        if not files:
            raise Invalid(str(root), "CVAT XML for images, or a folder with it", "no such file", "see docs/formats.md")
        base = root if root.is_dir() else root.parent
        problems: list[Problem] = []
        names, tasks = ClassNames(), []
        for path in files:
            try:
                tasks.append(_open(path, path.relative_to(base).as_posix(), names, problems))
            except Invalid as error:
                if len(files) == 1:
                    raise
                problems.append(
                    Problem(where=path.relative_to(base).as_posix(), error=error.code, message=error.message)
                )
        problems += names.problems("labels")
        rules = {task.name: Rules(names, task.types) for task in tasks}
        meta = {
            "files": [task.sheet.to_json() for task in tasks],
            "rules": {name: one.to_json() for name, one in rules.items()},
        }
        content = Content(
            schema=names.schema(any(task.is_multi for task in tasks)), records=(), meta={KEY: meta}, problems=problems
        )
        content.records = _records(base, tasks, rules, problems)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """One ``annotations.xml`` (or the files that were read) and ``images/``."""
        kept = content.meta.get(KEY, {})
        sheets = {sheet["name"]: Sheet.from_json(sheet) for sheet in kept.get("files", ())}
        rules = {name: Rules.from_json(body) for name, body in kept.get("rules", {}).items()}
        writer = Writer(content.schema.classes, is_new=not sheets)
        first = next(iter(sheets), "annotations.xml")
        if not sheets:
            sheets = {first: Sheet(first, "", "\n</annotations>\n", "\n  ")}
        out = SheetWriter(folder, sheets)
        for record in in_order(content.records, KEY):
            if record.text is not None:
                writer.tally.add("a text cannot be an image of CVAT; it was left out")
                continue
            extra = record.extra.get(KEY, {})
            sheet = extra.get("file") if extra.get("file") in sheets else first
            out.add(sheet, writer.image(record, extra, sheet, rules.get(sheet, Rules())), extra.get("lead"))
            if record.path:
                put(record, extra.get("media") or f"images/{record.name}")
        out.close(writer.finish)
        yield from writer.tally.problems("annotations.xml")


@dataclass(slots=True)
class _Task:
    """One file, cut into its images."""

    name: str
    source: Text
    sheet: Sheet
    images: Sequence[xmltext.Part]
    types: Mapping[tuple[str, str], str]
    is_multi: bool


def _files(root: Path) -> Iterator[Path]:
    """XML files at ``root``, in it, or one folder down, that begin as CVAT's do."""
    if root.is_file():
        candidates = [root] if root.suffix.lower() == ".xml" else []
    else:
        candidates = sorted(root.glob("*.xml")) or sorted(root.glob("*/*.xml"))[:1000]
    for path in candidates:
        if path.is_file() and _is_cvat(peek(path)):
            yield path


def _is_cvat(text: str) -> bool:
    start = text.find("<annotations")
    rest = text[start : start + 4000]
    return start >= 0 and any(sign in rest for sign in ("<meta>", "<image ", "<version>1.", "<track "))


def _open(path: Path, name: str, names: ClassNames, problems: list[Problem]) -> _Task:
    source = read_text(path, name)
    found = xmltext.outline(source.text)
    if found.root != "annotations":
        raise Invalid(name, "XML whose root is <annotations>", found.error or f"<{found.root}>")
    if found.error:
        problems.append(Problem(where=name, error="invalid", message=f"XML must be whole; got {found.error}"))
    types: dict[tuple[str, str], str] = {}
    images, tally = [], Tally()
    for part in found.parts:
        if part.tag == "meta":
            _note_labels(xmltext.parse(source.text[part.start : part.end]), names, types)
        elif part.tag == "image":
            images.append(part)
        elif part.tag != "version":
            tally.add(f"<{part.tag}> is of CVAT for video, not for images, and was left out")
    problems += tally.problems(name)
    declared = set(names.found)
    for part in images:
        for label in {label: None for _, label in part.children}:
            names.add(label)
    unknown = [label for label in names.found if label not in declared and label.strip()]
    if declared:
        problems += [
            Problem(
                where=name, error="invalid", message=f"class {label!r} is not in the labels of the file; it was added"
            )
            for label in unknown
        ]
    spans = [(part.start, part.end) for part in images]
    start = found.inner[0] if not spans else 0
    last = found.parts[-1].end if found.parts and not spans else found.inner[0]
    sheet = cut(source, name, spans, max(start, last), max(start, last), "" if spans else "\n  ")
    is_multi = any(sum(tag == "tag" for tag, _ in part.children) > 1 for part in images)
    return _Task(name, source, sheet, images, types, is_multi)


def _note_labels(meta: Element, names: ClassNames, types: dict[tuple[str, str], str]) -> None:
    for label in meta.iter("label"):
        name = label.findtext("name")
        if name is None or label.findtext("parent"):  # the joints of a skeleton are labels with a parent
            continue
        names.add(name)
        for one in label.iter("attribute"):
            types[name, one.findtext("name") or ""] = one.findtext("input_type") or ""


def _records(
    base: Path, tasks: Sequence[_Task], rules: Mapping[str, Rules], problems: list[Problem]
) -> Iterator[Record]:
    seen: set[str] = set()
    for task in tasks:
        ids: set[str] = set()
        spans = [(part.start, part.end) for part in task.images]
        for at, part in enumerate(task.images):
            where = f"{task.name}: line {part.line}, image {part.attributes.get('name', '')!r}"
            number = part.attributes.get("id", "")
            if number in ids:
                problems.append(Problem(where=where, error="invalid", message=f"id {number!r} is there twice"))
            ids.add(number)
            text = task.source.text[part.start : part.end]
            extra: dict[str, Any] = {"raw": text, "file": task.name, "id": number, "n": at}
            lead = lead_of(task.source.text, spans, at, task.sheet.between)
            if lead is not None:
                extra["lead"] = lead
            try:
                record, faults, _ = read_image(xmltext.parse(text), task.name, rules[task.name], where)
            except Invalid as error:
                problems.append(Problem(where=where, error=error.code, message=error.message))
                continue
            problems += faults
            if record.name in seen:
                problems.append(
                    Problem(where=where, error="invalid", message="an image of this name is there already; left out")
                )
                continue
            seen.add(record.name)
            media = _media(base, task.name, part.attributes)
            if media is None:
                problems.append(Problem(where=where, error="not_found", message="the image file is missing"))
            else:
                extra["media"] = media.relative_to(base).as_posix()
            path = str(media) if media is not None else ""
            yield replace(record, path=path, extra={KEY: extra})


def _media(base: Path, sheet: str, attributes: Mapping[str, str]) -> Path | None:
    name, subset = attributes.get("name", ""), attributes.get("subset", "")
    places = dict.fromkeys((PurePosixPath(sheet).parent.as_posix(), "."))
    inner = ("images", f"images/{subset}", "", subset, "data", PurePosixPath(sheet).stem)
    return find(base, (str(PurePosixPath(place, one, name)) for place in places for one in dict.fromkeys(inner)))
