"""CVAT XML 1.1: one file (or one per subset or task) that lists images with their shapes, or tracks through a video.

What is read comes back byte for byte where it did not change: the text of each image or frame is kept beside it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from loopworks.data.formats.cvat_tracks import KEY, Video, cut_tracks, read_frames, timeline
from loopworks.data.formats.cvat_tracks_write import VideoWriter
from loopworks.data.formats.inputs import ClassNames, Tally, Text, find, peek, read_text
from loopworks.data.formats.sheet import Sheet, SheetWriter, cut, in_order, lead_of


@plugins.add("format.cvat")
@dataclass(frozen=True, slots=True, kw_only=True)
class Cvat:
    """CVAT XML 1.1: boxes (turned too), polygons, polylines, points, ellipses, masks, skeletons, tags; tracks."""

    def detect(self, root: Path, /) -> float:
        """Sure where an XML file starts with CVAT's root and its meta or images."""
        return 0.95 if any(True for _ in _files(root)) else 0.0

    def read(self, root: Path, /) -> Content:
        """The data set at ``root``: an XML file, or a folder with XML files in it or in its folders."""
        files = list(_files(root))
        if not files:
            raise Invalid(str(root), "CVAT XML, or a folder with it", "no such file", "see docs/formats.md")
        base = root if root.is_dir() else root.parent
        problems: list[Problem] = []
        names = ClassNames()
        tasks: list[_Task] = []
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
            "files": [task.sheet.to_json() for task in tasks if task.video is None],
            "rules": {name: one.to_json() for name, one in rules.items()},
            "classes": dict.fromkeys(names.schema_names, True),
            "videos": {task.video.key: task.video.to_json() for task in tasks if task.video is not None},
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
        writer = Writer(content.schema.classes, is_new=not sheets, known=frozenset(kept.get("classes", ())))
        videos = _video_writers(kept.get("videos", {}), writer, set(sheets))
        first = next(iter(sheets), "images.xml" if videos else "annotations.xml")
        has_images = bool(sheets) or not videos
        if not sheets:
            sheets = {first: Sheet(first, "", "\n</annotations>\n", "\n  ")}
        out = SheetWriter(folder, sheets)
        for record in in_order(content.records, KEY):
            if record.text is not None:
                writer.tally.add("a text cannot be an image of CVAT; it was left out")
                continue
            extra = record.extra.get(KEY, {})
            if extra.get("video") in videos:
                videos[extra["video"]].add(record, extra)
                if record.path:
                    put(record, extra.get("media") or f"images/{PurePosixPath(record.name).name}")
                continue
            has_images = True
            sheet = extra.get("file") if extra.get("file") in sheets else first
            out.add(sheet, writer.image(record, extra, sheet, rules.get(sheet, Rules())), extra.get("lead"))
            if record.path:
                put(record, extra.get("media") or f"{'data' if videos else 'images'}/{record.name}")
        if has_images:
            out.close(writer.finish)
        for video in videos.values():
            video.close(folder)
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
    video: Video | None = None
    """Its tracks, where it is of a video."""


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
    meta: Element | None = None
    by_tag: dict[str, list[xmltext.Part]] = {}
    for part in found.parts:
        by_tag.setdefault(part.tag, []).append(part)
        if part.tag == "meta":
            meta = xmltext.parse(source.text[part.start : part.end])
            _note_labels(meta, names, types)
    images, tracks = by_tag.pop("image", []), by_tag.pop("track", [])
    others = [(tag, len(parts)) for tag, parts in by_tag.items() if tag not in ("meta", "version")]
    others += [("track", len(tracks))] if images and tracks else []
    problems += [
        Problem(
            where=name, error="invalid", message=f"<{tag}> has no place beside images or tracks and was left out ({n}x)"
        )
        for tag, n in others
    ]
    _note_used(images or tracks, name, names, problems)
    is_video = not images and (bool(tracks) or (meta is not None and meta.findtext(".//mode") == "interpolation"))
    spans = [(part.start, part.end) for part in (tracks if is_video else images)]
    start = found.inner[0] if not spans else 0
    last = found.parts[-1].end if found.parts and not spans else found.inner[0]
    sheet = cut(source, name, spans, max(start, last), max(start, last), "" if spans else "\n  ")
    is_multi = any(sum(tag == "tag" for tag, _ in part.children) > 1 for part in images)
    task = _Task(name, source, sheet, images, types, is_multi)
    if is_video:
        _check_one_task(name, tracks)
        task.video = Video(name, sheet, timeline(meta, name, problems), Rules(names, types))
        cut_tracks(task.video, source.text, tracks, problems)
    return task


def _note_used(parts: Sequence[xmltext.Part], where: str, names: ClassNames, problems: list[Problem]) -> None:
    """Classes of shapes and tracks; those that the file does not declare are told."""
    declared = set(names.found)
    for part in parts:
        used = (part.attributes.get("label", ""),) if part.tag == "track" else (label for _, label in part.children)
        for label in dict.fromkeys(used):
            names.add(label)
    unknown = [label for label in names.found if label not in declared and label.strip()]
    if declared:
        problems += [
            Problem(
                where=where, error="invalid", message=f"class {label!r} is not in the labels of the file; it was added"
            )
            for label in unknown
        ]


def _check_one_task(name: str, tracks: Sequence[xmltext.Part]) -> None:
    tasks = {part.attributes.get("task_id", "") for part in tracks}
    if len(tasks) > 1:
        raise Invalid(name, "tracks of one task", f"of {len(tasks)}", "export each task of the project by itself")


def _video_writers(videos: Mapping[str, Any], writer: Writer, taken: set[str]) -> dict[str, VideoWriter]:
    """A writer for each file of tracks; of two with one name, the second gets another."""
    found = {}
    for key, kept in videos.items():
        found[key] = one = VideoWriter(kept, writer)
        if one.sheet.name in taken:
            path = PurePosixPath(one.sheet.name)
            one.sheet = replace(one.sheet, name=path.with_name(f"{path.stem}-{key}.xml").as_posix())
        taken.add(one.sheet.name)
    return found


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
        if task.video is not None:
            yield from _fresh(read_frames(base, task.video, problems), task.name, seen, problems)
            continue
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


def _fresh(records: Iterable[Record], where: str, seen: set[str], problems: list[Problem]) -> Iterator[Record]:
    """Those whose names are not there yet; the others in one line."""
    tally = Tally()
    for record in records:
        if record.name in seen:
            tally.add("a frame whose picture belongs to another file, too, was left out")
            continue
        seen.add(record.name)
        yield record
    problems += tally.problems(where)


def _media(base: Path, sheet: str, attributes: Mapping[str, str]) -> Path | None:
    name, subset = attributes.get("name", ""), attributes.get("subset", "")
    places = dict.fromkeys((PurePosixPath(sheet).parent.as_posix(), "."))
    inner = ("images", f"images/{subset}", "", subset, "data", PurePosixPath(sheet).stem)
    return find(base, (str(PurePosixPath(place, one, name)) for place in places for one in dict.fromkeys(inner)))
