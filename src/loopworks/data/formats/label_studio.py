"""Label Studio's exports "JSON" (whole tasks) and "JSON-MIN", with the labeling configuration where it lies beside.

Each task's text is kept: predictions, drafts, ids and all else that only Label Studio knows comes back as it was.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.data.formats import jsontext, xmltext
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.cvat_image import say_same
from loopworks.data.formats.inputs import ClassNames, Text, clean_name, find, inside, measure, peek, read_text
from loopworks.data.formats.label_studio_results import KEY
from loopworks.data.formats.label_studio_task import Found, Writer, note_classes, places, problems_of, read_task
from loopworks.data.formats.sheet import Sheet, SheetWriter, cut, in_order, lead_of

_SIGNS = re.compile(
    r'"(completed_by|annotation_id|was_cancelled|file_upload|from_name|lead_time|rectanglelabels|polygonlabels|'
    r'brushlabels|keypointlabels|ellipselabels|completions)"\s*:'
)


@plugins.add("format.label-studio")
@dataclass(frozen=True, slots=True, kw_only=True)
class LabelStudio:
    """Label Studio JSON and JSON-MIN: boxes, polygons, brushes, key points, ellipses, choices, spans of text."""

    def detect(self, root: Path, /) -> float:
        """Sure where a JSON file is a list of tasks with keys that only Label Studio writes."""
        return 0.95 if any(True for _ in _files(root)) else 0.0

    def read(self, root: Path, /) -> Content:
        """The tasks of a JSON file, or of the JSON files in a folder."""
        files = list(_files(root)) or ([root] if root.is_file() else sorted(root.glob("tasks.json")))
        if not files:
            raise Invalid(str(root), "a JSON export of Label Studio, or a folder with it", "no such file")
        base = root if root.is_dir() else root.parent
        problems: list[Problem] = []
        names, lists = ClassNames(), []
        configs = _configs(base, problems)
        for path in files:
            try:
                lists.append(_open(path, configs, names, problems))
            except Invalid as error:
                if len(files) == 1:
                    raise
                problems.append(Problem(where=path.name, error=error.code, message=error.message))
        problems += names.problems("labels")
        is_multi = any(one.is_multi for one in lists) or any('choice="multiple"' in c for c in configs.values())
        renamed = {name: kept for name, kept in names.found.items() if name != kept}
        meta = {"files": [one.sheet.to_json() for one in lists], "configs": configs, "renamed": renamed}
        content = Content(schema=names.schema(is_multi), records=(), meta={KEY: meta}, problems=problems)
        content.records = _records(base, lists, names, problems)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """The files that were read, or ``tasks.json`` and ``label_config.xml``."""
        kept = content.meta.get(KEY, {})
        sheets = {sheet["name"]: Sheet.from_json(sheet) for sheet in kept.get("files", ())}
        is_new = not sheets
        if is_new:
            sheets = {"tasks.json": Sheet("tasks.json", "[", "]", ", ")}
        renamed, first = kept.get("renamed", {}), next(iter(sheets))
        out, writer = SheetWriter(folder, sheets), Writer()
        for record in in_order(content.records, KEY):
            extra = record.extra.get(KEY, {})
            raw = extra.get("raw")
            sheet = extra.get("file") if extra.get("file") in sheets else first
            text = _text(record, raw, extra, renamed, writer) if isinstance(raw, str) else None
            if text is None:
                text = jsontext.dumps(
                    writer.new(record), jsontext.layout(raw) if isinstance(raw, str) else jsontext.Layout()
                )
            out.add(sheet, text, extra.get("lead"))
            if record.path:
                put(record, extra.get("media") or record.name)
        out.close()
        for name, text in kept.get("configs", {}).items():
            (folder / clean_name(name)).write_bytes(text.encode("utf-8"))
        if is_new:
            (folder / "label_config.xml").write_bytes(_config(content.schema.classes, writer, content).encode("utf-8"))
        yield from writer.tally.problems("tasks.json")


@dataclass(slots=True)
class _List:
    name: str
    source: Text
    sheet: Sheet
    spans: Sequence[tuple[int, int]]
    is_multi: bool


def _files(root: Path) -> Iterator[Path]:
    candidates = [root] if root.is_file() else sorted(root.glob("*.json"))
    for path in candidates:
        if path.is_file() and path.suffix.lower() == ".json":
            start = peek(path).lstrip()
            if start.startswith("[") and start[1:].lstrip().startswith("{") and _SIGNS.search(start):
                yield path


def _configs(base: Path, problems: list[Problem]) -> dict[str, str]:
    """Labeling configurations in the folder: name -> text."""
    found: dict[str, str] = {}
    for path in sorted(base.glob("*.xml")):
        if path.is_file() and re.search(r"<View[\s>]", peek(path)):
            try:
                source = read_text(path, path.name)
                if xmltext.outline(source.text).error:
                    raise Invalid(path.name, "whole XML", xmltext.outline(source.text).error)
            except Invalid as error:
                problems.append(Problem(where=path.name, error=error.code, message=error.message))
                continue
            found[path.name] = source.text
    return found


def _classes(config: str) -> list[str]:
    """The classes of a configuration, in its order."""
    tags = [one for one in xmltext.parse(config.lstrip()).iter() if one.tag in ("Label", "Choice")]
    return [value for one in tags if (value := one.get("alias") or one.get("value"))]


def _open(path: Path, configs: Mapping[str, str], names: ClassNames, problems: list[Problem]) -> _List:
    source = read_text(path, path.name)
    used, is_multi = ClassNames(), False

    def note(task: Any) -> None:
        nonlocal is_multi
        if isinstance(task, Mapping):
            is_multi |= note_classes(task, used)

    try:
        found = jsontext.cut(source, each=note)
    except Invalid as error:
        raise Invalid(path.name, "a JSON list of tasks", error.message) from None
    if found.error:
        problems.append(Problem(where=path.name, error="invalid", message=found.error))
    used.found.pop("", None)
    for config in _matching(path.name, configs, set(used.found)):
        for name in _classes(config):
            names.add(name)
    declared = set(names.found)
    for name in used.found:
        names.add(name)
        if declared and name not in declared:
            message = f"class {name!r} is not in the labeling configuration; it was added"
            problems.append(Problem(where=path.name, error="invalid", message=message))
    sheet = cut(source, path.name, found.spans, found.start, found.end, ",")
    return _List(path.name, source, sheet, found.spans, is_multi)


def _matching(name: str, configs: Mapping[str, str], used: set[str]) -> list[str]:
    """The configuration that has most of the classes in use; of equal ones, that whose name ends alike."""

    def score(item: tuple[str, str]) -> tuple[int, int]:
        ends = os.path.commonprefix([Path(item[0]).stem[::-1], Path(name).stem[::-1]])
        return len(used & set(_classes(item[1]))), len(ends)

    best = max(configs.items(), key=score, default=None)
    return [] if best is None or (used and not score(best)[0]) else [best[1]]


def _records(base: Path, lists: Sequence[_List], names: ClassNames, problems: list[Problem]) -> Iterator[Record]:
    seen: set[str] = set()
    for one in lists:
        ids: dict[str, str] = {}
        line, last = 1, 0
        for at, (start, end) in enumerate(one.spans):
            line, last = line + one.source.text.count("\n", last, start), start
            raw = one.source.text[start:end]
            task = jsontext.loads(raw)
            where = f"{one.name}: line {line}, item {at + 1}"
            if not isinstance(task, Mapping):
                problems.append(Problem(where=where, error="invalid", message="task must be an object; left out"))
                continue
            where += f" (task {task.get('id')})"
            number = str(task.get("id"))
            if number in ids and task.get("id") is not None:
                is_same = ids[number] == raw
                message = f"an id that is there already; {'left out, as it is the same task' if is_same else 'kept'}"
                problems.append(Problem(where=where, error="invalid", message=message))
                if is_same:
                    continue
            ids.setdefault(number, raw)
            extra: dict[str, Any] = {"raw": raw, "file": one.name, "n": at}
            lead = lead_of(one.source.text, one.spans, at, one.sheet.between)
            if lead is not None:
                extra["lead"] = lead
            try:
                yield _record(base, task, extra, names, seen, where, problems)
            except Invalid as error:
                problems.append(Problem(where=where, error=error.code, message=f"{error.message}; left out"))


def _record(
    base: Path, task: Mapping[str, Any], extra: dict[str, Any], names: ClassNames, seen: set[str], where: str,
    problems: list[Problem],
) -> Record:  # fmt: skip
    path: Path | None = None
    found = read_task(task, names, lambda: (0, 0))
    name = found.name
    if found.media:
        name, candidates = places(found.media)
        path = find(base, candidates)
        if path is None:
            inside(base, name)
            problems.append(Problem(where=where, error="not_found", message=f"{found.media!r}: the file is missing"))
        else:
            extra["media"] = path.relative_to(base).as_posix()
            if any("size of the image" in text for _, text in found.problems):
                extra["size"] = list(measure(str(path)))
                found = read_task(task, names, lambda: (extra["size"][0], extra["size"][1]))
    problems += problems_of(found, where)
    name = clean_name(name)
    if name in seen:
        name = f"task-{task.get('id')}/{name}"
    if name in seen:
        raise Invalid("task", "of another image than the ones before", name)
    seen.add(name)
    return Record(
        name=name,
        path=str(path) if path else "",
        text=found.text,
        width=found.size[0],
        height=found.size[1],
        split=found.split,
        tags=found.tags,
        attributes=found.attributes,
        shapes=tuple(found.shapes),
        is_labeled=found.is_labeled,
        extra={KEY: extra},
    )


def _text(record: Record, raw: str, extra: Mapping[str, Any], renamed: Mapping[str, str], writer: Writer) -> str | None:
    """The task's text: as it was where the record says the same, else with what changed; ``None`` to make a new one."""
    task = jsontext.loads(raw)
    writer.note_id(task)
    size = extra.get("size") or (0, 0)
    before = read_task(task, ClassNames(found=dict(renamed)), lambda: (size[0], size[1]))
    if _says(before, record):
        return raw
    changed = writer.changed(task, before, record)
    return None if changed is None else jsontext.dumps(changed, jsontext.layout(raw))


def _says(found: Found, record: Record) -> bool:
    return (
        say_same(found.shapes, record.shapes)
        and found.attributes == dict(record.attributes)
        and (found.split, found.tags, found.text) == (record.split, record.tags, record.text)
    )


def _config(classes: Sequence[str], writer: Writer, content: Content) -> str:
    """A labeling configuration that shows what was written."""
    lines = ["<View>", '  <Image name="image" value="$image"/>']
    if "labels" in writer.used:
        lines[1] = '  <Text name="text" value="$text"/>'
    for name, tag in (writer.used or {"rectanglelabels": "RectangleLabels"}).items():
        many = ' choice="multiple"' if tag == "Choices" and content.schema.is_multi else ""
        to = "text" if tag == "Labels" else "image"
        lines.append(f'  <{tag} name="{name}" toName="{to}"{many}>')
        inner = "Choice" if tag == "Choices" else "Label"
        lines += [f'    <{inner} value="{xmltext.quote(one)}"/>' for one in classes]
        lines.append(f"  </{tag}>")
    return "\n".join([*lines, "</View>", ""])
