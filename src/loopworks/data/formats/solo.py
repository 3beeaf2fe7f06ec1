"""SOLO, the output of Unity Perception: ``sequence.N/stepM.frame_data.json`` with PNG files, and four definition files.

2D boxes, instance and semantic masks and key points become shapes; 3D boxes are kept as values; an annotation of
another type is said once and stays in the frame's text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape
from loopworks.data.formats import jsontext
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.cvat_image import is_same
from loopworks.data.formats.inputs import ClassNames, Tally, clean_name, encode, find, is_outside, peek, read_text
from loopworks.data.formats.sheet import in_order
from loopworks.data.formats.solo_shapes import KEY, kind_of, read_annotation, save_layer, write_rows

_FILES = ("metadata.json", "annotation_definitions.json", "sensor_definitions.json", "metric_definitions.json")
_FORM = jsontext.Layout(indent="  ", comma=",")
_UNITY = "type.unity.com/unity.solo"


@plugins.add("format.solo")
@dataclass(frozen=True, slots=True, kw_only=True)
class Solo:
    """Unity Perception's SOLO: 2D boxes, instance and semantic masks, key points; 3D boxes kept."""

    def detect(self, root: Path, /) -> float:
        """Sure where frames lie in sequence folders and say SOLO's types."""
        if not root.is_dir():
            return 0.0
        first = next(iter(root.glob("sequence.*/*.frame_data.json")), None)
        if first is None:
            return 0.0
        return 0.97 if '"captures"' in peek(first) or (root / "annotation_definitions.json").is_file() else 0.3

    def read(self, root: Path, /) -> Content:
        """The data set in the folder ``root``."""
        frames = sorted(root.glob("sequence.*/*.frame_data.json"), key=_order) if root.is_dir() else []
        if not frames:
            raise Invalid(str(root), "a folder with sequence.N/*.frame_data.json", "none")
        problems: list[Problem] = []
        files: dict[str, str] = {}
        for name in _FILES:
            if (root / name).is_file():
                try:
                    files[name] = read_text(root / name, name).text
                except Invalid as error:
                    problems.append(Problem(where=name, error=error.code, message=error.message))
        names, ids = _classes(files, frames, problems)
        content = Content(schema=names.schema(), records=(), meta={KEY: {"files": files}}, problems=problems)
        content.records = _records(root, frames, names, ids, problems)
        return content

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Frames, their PNG files, and the definitions."""
        files: dict[str, str] = dict(content.meta.get(KEY, {}).get("files", {}))
        writer = _Writer(folder, list(content.schema.classes))
        for record in in_order(content.records, KEY):
            writer.add(record, put)
        writer.flush()
        for name, body in () if files else _definitions(content.schema.classes, writer).items():
            files[name] = jsontext.dumps(body, _FORM) + "\n"
        for name, text in files.items():
            (folder / clean_name(name)).write_bytes(text.encode("utf-8"))
        yield from writer.tally.problems("frames")


def _order(path: Path) -> tuple[int, str, int, str]:
    number = path.parent.name.partition(".")[2]
    step = path.name.removeprefix("step").partition(".")[0]
    return (
        int(number) if number.isdecimal() else 1 << 40,
        path.parent.name,
        int(step) if step.isdecimal() else 1 << 40,
        path.name,
    )


def _classes(
    files: Mapping[str, str], frames: Sequence[Path], problems: list[Problem]
) -> tuple[ClassNames, dict[int, str]]:
    """Class names, those that are defined first, and SOLO's label ids."""
    names, ids = ClassNames(), dict[int, str]()

    declared: set[str] = set()
    place = ""

    def note(rows: Any) -> None:
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, Mapping):
                name = row.get("label_name", row.get("labelName"))
                number = row.get("label_id", row.get("labelId"))
                if isinstance(name, str) and name:
                    if declared and name not in names.found:
                        message = f"class {name!r} is not in annotation_definitions.json; it was added"
                        problems.append(Problem(where=place, error="invalid", message=message))
                    names.add(name)
                    if isinstance(number, int):
                        ids.setdefault(number, name)

    try:
        body = jsontext.loads(files.get("annotation_definitions.json", "{}"))
    except Invalid as error:
        problems.append(Problem(where="annotation_definitions.json", error=error.code, message=error.message))
        body = {}
    rows = body.get("annotationDefinitions") if isinstance(body, Mapping) else None
    for row in rows if isinstance(rows, list) else []:
        note(row.get("spec") if isinstance(row, Mapping) else None)
    declared |= set(names.found)
    for path in frames:
        place = f"{path.parent.name}/{path.name}"
        try:
            frame = jsontext.loads(read_text(path, path.name).text)
        except Invalid:
            continue  # said when the frame is read
        for capture in _captures(frame):
            for annotation in _list(capture, "annotations"):
                if kind_of(annotation):
                    note(annotation.get("values"))
                    note(annotation.get("instances"))
        note([row for metric in _list(frame, "metrics") for row in _list(metric, "values")])
    return names, ids


def _list(body: Any, key: str) -> list[dict[str, Any]]:
    found = body.get(key) if isinstance(body, Mapping) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _captures(frame: Any) -> list[dict[str, Any]]:
    return [one for one in _list(frame, "captures") if isinstance(one.get("filename"), str) and one["filename"]]


def _records(
    root: Path, frames: Sequence[Path], names: ClassNames, ids: Mapping[int, str], problems: list[Problem]
) -> Iterator[Record]:
    unknown: dict[str, tuple[str, int]] = {}
    seen: set[str] = set()
    for path in frames:
        file = path.relative_to(root).as_posix()
        try:
            source = read_text(path, file)
            frame = jsontext.loads(source.text)
            captures = _captures(frame)
            if not captures:
                raise Invalid("frame", "an object with captures", "none")
        except Invalid as error:
            problems.append(Problem(where=file, error=error.code, message=error.message))
            continue
        for at, capture in enumerate(captures):
            where = f"{file}: capture {capture.get('id', at)!r}"
            for annotation in _list(capture, "annotations"):
                kind = str(annotation.get("@type"))
                if not kind_of(annotation):
                    unknown[kind] = (unknown.get(kind, (where, 0))[0], unknown.get(kind, (where, 0))[1] + 1)
            try:
                name = clean_name(f"{PurePosixPath(file).parent}/{capture['filename']}")
                if name in seen:
                    raise Invalid("file of a capture", "one of its own", name)
            except Invalid as error:
                problems.append(Problem(where=where, error=error.code, message=error.message))
                continue
            seen.add(name)
            image = find(root, [name])
            if image is None:
                problems.append(Problem(where=where, error="not_found", message=f"{name!r} is missing"))
            size = _size(capture)
            shapes, layers = _shapes(path.parent, capture, names, ids, size, where, problems)
            extra = {"raw": source.text, "file": file, "capture": at, "layers": layers, "n": len(seen)}
            extra |= {"codec": [source.codec, source.is_marked], "said": [shape.to_json() for shape in shapes]}
            rest = {k: jsontext.plain(frame[k]) for k in ("frame", "sequence", "step") if k in frame}
            yield Record(
                name=name, path=str(image) if image else "", width=size[0], height=size[1], shapes=tuple(shapes),
                attributes=rest, extra={KEY: extra},
            )  # fmt: skip
    for kind, (where, count) in unknown.items():
        message = f"annotations of type {kind} are not read ({count}x); files of their own stay behind"
        problems.append(Problem(where=where, error="invalid", message=message))


def _size(capture: Mapping[str, Any]) -> tuple[int, int]:
    found = capture.get("dimension")
    if (
        isinstance(found, list)
        and len(found) == 2
        and all(isinstance(n, int | float) and 0 <= n < 1 << 20 for n in found)
    ):
        return int(found[0]), int(found[1])
    return 0, 0


def _shapes(
    folder: Path, capture: Mapping[str, Any], names: ClassNames, ids: Mapping[int, str], size: tuple[int, int],
    where: str, problems: list[Problem],
) -> tuple[list[Shape], list[dict[str, Any]]]:  # fmt: skip
    shapes: list[Shape] = []
    layers: list[dict[str, Any]] = []
    for at, annotation in enumerate(_list(capture, "annotations")):
        for found in read_annotation(annotation, at, folder, names, ids, size):
            if isinstance(found, Shape):
                if is_outside(found, *size):
                    text = f"a {found.kind} of {annotation.get('id')!r} lies outside the image; kept"
                    problems.append(Problem(where=where, error="invalid", message=text))
                shapes.append(found)
            elif isinstance(found, str):
                problems.append(Problem(where=f"{where}, {annotation.get('id')!r}", error="invalid", message=found))
            else:
                layers.append(found)
    return shapes, layers


@dataclass(slots=True)
class _Writer:
    """Writes frames; captures of one frame come one after the other."""

    folder: Path
    classes: list[str]
    tally: Tally = field(default_factory=Tally)
    file: str = ""
    raw: str = ""
    frame: dict[str, Any] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    codec: tuple[str, bool] = ("utf-8", False)
    is_changed: bool = False
    count: int = 0
    sensors: set[str] = field(default_factory=set)

    def add(self, record: Record, put: Put) -> None:
        """Write an item."""
        if record.text is not None:
            self.tally.add("a text cannot be a frame; it was left out")
            return
        extra = record.extra.get(KEY, {})
        if not isinstance(extra.get("raw"), str):
            self._new(record, put)
            return
        if record.path:
            put(record, record.name)
        if extra["file"] != self.file:
            self.flush()
            self.file, self.raw = extra["file"], extra["raw"]
            self.frame = jsontext.loads(self.raw)
            self.kept, self.is_changed = set(), False
            self.codec = (extra["codec"][0], extra["codec"][1])
        capture = _captures(self.frame)[extra["capture"]]
        self.kept.add(extra["capture"])
        before = [Shape.from_json(one) for one in extra["said"]]
        same = len(before) == len(record.shapes) and all(map(is_same, before, record.shapes))
        if not same:
            self.is_changed = True
            write_rows(capture, record, before, self.classes, self.tally)
        for layer in extra["layers"]:
            annotation = _list(capture, "annotations")[layer["at"]]
            place = self.folder / clean_name(f"{PurePosixPath(self.file).parent}/{annotation['filename']}")
            save_layer(place, annotation, layer, record.shapes)

    def flush(self) -> None:
        """Write the frame that is open."""
        if not self.file:
            return
        captures = _captures(self.frame)
        if len(self.kept) != len(captures):
            gone = [id(one) for at, one in enumerate(captures) if at not in self.kept]
            self.frame["captures"] = [one for one in self.frame["captures"] if id(one) not in gone]
            self.is_changed = True
        text = jsontext.dumps(self.frame, jsontext.layout(self.raw)) if self.is_changed else self.raw
        path = self.folder / clean_name(self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(text, *self.codec))
        self.file = ""

    def _new(self, record: Record, put: Put) -> None:
        """A sequence of one frame."""
        self.flush()
        place, self.count = f"sequence.{self.count}", self.count + 1
        while (self.folder / place).exists():
            place, self.count = f"sequence.{self.count}", self.count + 1
        (self.folder / place).mkdir()
        end = PurePosixPath(record.name).suffix
        name = f"step0.camera{end}"
        if record.path:
            put(record, f"{place}/{name}")
        capture: dict[str, Any] = {
            "@type": f"{_UNITY}.RGBCamera", "id": "camera", "description": record.name, "filename": name,
            "imageFormat": end.removeprefix(".").capitalize(),
            "dimension": [float(record.width), float(record.height)], "annotations": [],
        }  # fmt: skip
        write_rows(capture, record, [], self.classes, self.tally)
        for at, annotation in enumerate(capture["annotations"]):
            if "filename" in annotation:
                save_layer(
                    self.folder / place / annotation["filename"], annotation, {"at": at, "mode": "RGBA"}, record.shapes
                )
        frame = {"frame": 0, "sequence": self.count - 1, "step": 0, "captures": [capture], "metrics": []}
        text = jsontext.dumps(frame, _FORM) + "\n"
        (self.folder / place / "step0.frame_data.json").write_bytes(text.encode("utf-8"))
        self.tally.add("files were renamed as SOLO names them; their names stand in the descriptions")


def _definitions(classes: Sequence[str], writer: _Writer) -> dict[str, Any]:
    spec = [{"label_id": at + 1, "label_name": name} for at, name in enumerate(classes)]
    boxes = {"@type": f"{_UNITY}.BoundingBox2DAnnotation", "id": "bounding box", "description": "", "spec": spec}
    sensor = {"@type": f"{_UNITY}.RGBCamera", "id": "camera", "modality": "camera", "description": ""}
    return {
        "metadata.json": {"totalFrames": writer.count, "totalSequences": writer.count, "sensors": ["camera"]},
        "annotation_definitions.json": {"annotationDefinitions": [boxes]},
        "sensor_definitions.json": {"sensorDefinitions": [sensor]},
        "metric_definitions.json": {"metricDefinitions": []},
    }
