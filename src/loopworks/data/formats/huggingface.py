"""``format.hf``: Parquet files as Hugging Face datasets writes them, with images inside and features in the schema.

Source: https://huggingface.co/docs/datasets/repository_structure and about_dataset_features.
"""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pydantic import ConfigDict

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data.files import problem
from loopworks.data.formats import inputs
from loopworks.data.formats.columns import LABELS, TEXTS, Columns, Unknown, beyond, parse
from loopworks.data.formats.contract import Content, Put, Record

BATCH = 64  # rows in memory at a time: images lie in them
_SUFFIX = ".parquet"


@plugins.add("format.hf")
@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFace:
    """Hugging Face datasets in Parquet: images or texts, classes, boxes in an objects column."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    name: ClassVar[str] = "hf"

    image: str = ""
    """Column with the image; by default the first that holds bytes and a path."""
    text: str = ""
    """Column with the text; by default text, sentence and the like."""
    label: str = ""
    """Column with the class; by default label, category and the like."""

    def detect(self, root: Path) -> float:
        """0.9 where there are Parquet files with an image or features, 0.6 where only texts with labels."""
        best = 0.0
        for path in _files(root)[:4]:
            try:
                schema = _open(path).schema_arrow
                columns = self._columns(schema)
            except (Invalid, OSError):
                continue
            is_ours = columns.path or b"huggingface" in (schema.metadata or {})
            best = max(best, 0.9 if is_ours else 0.6)
        return best

    def read(self, root: Path) -> Content:
        """All Parquet files of a folder (also in ``data/``), or one file; rows are read a few at a time."""
        base = root.parent if root.is_file() else root
        problems: list[Problem] = []
        files: dict[str, dict[str, Any]] = {}
        classes: dict[str, None] = {}
        for path in _files(root):
            name = path.relative_to(base).as_posix()
            try:
                file = _open(path)
                columns = self._columns(file.schema_arrow)
                classes |= dict.fromkeys(_classes(file, columns))
            except Invalid as error:
                problems.append(problem(name, error))
                continue
            schema = base64.b64encode(_bare(file.schema_arrow).serialize().to_pybytes()).decode()
            files[name] = {"schema": schema, "image": columns.path, "text": columns.text, "label": columns.label}
        if not files:
            first = f"; {problems[0].message}" if problems else ""
            raise Invalid(str(root), "Parquet files with images or texts", f"none that can be read{first}")
        return Content(
            schema=LabelSchema(classes=tuple(classes)),
            records=_records(base, files, problems),
            meta={self.name: {"files": files}},
            problems=problems,
        )

    def write(self, content: Content, folder: Path, put: Put) -> Iterator[Problem]:
        """``data/SPLIT-00000-of-00001.parquet``, or the files that the rows came from with the same columns."""
        kept = content.meta.get(self.name)
        known: Mapping[str, Any] = kept["files"] if isinstance(kept, Mapping) else {}
        grouped: dict[str, list[tuple[int, Record]]] = {}
        for record in content.records:
            own = record.extra.get(self.name)
            file = own["file"] if isinstance(own, Mapping) and own.get("file") in known else ""
            row = int(own["row"]) if file and isinstance(own, Mapping) else 1 << 62
            name = file or f"data/{record.split or 'train'}-00000-of-00001{_SUFFIX}"
            grouped.setdefault(name, []).append((row, record))
        lost: dict[str, int] = {}
        for name, members in grouped.items():
            rows = [record for _, record in sorted(members, key=lambda pair: pair[0])]
            about = known.get(name) or _about(rows, content.schema)
            _write(folder, name, about, rows, put, lost)
        for what, count in lost.items():
            message = f"the Parquet columns must have a place for all; got {count} times {what} that has none"
            yield Problem(where=self.name, error="invalid", message=message, hint="export as jsonl keeps it")

    def _columns(self, schema: Any) -> Columns:
        import pyarrow as pa

        names = list(schema.names)
        for given in (self.image, self.text, self.label):
            if given and given not in names:
                raise Invalid("column", f"one of {', '.join(names)}", given)
        images = [
            f.name for f in schema if pa.types.is_struct(f.type) and {c.name for c in f.type} == {"bytes", "path"}
        ]
        lower = {name.lower(): name for name in reversed(names)}
        text = self.text or ("" if images else next((lower[name] for name in TEXTS if name in lower), ""))
        image = self.image or (images[0] if images and not text else "")
        if not image and not text:
            raise Invalid("columns", "with an image (bytes and path) or a text", ", ".join(names))
        label = self.label or next((lower[name] for name in LABELS if name in lower), "")
        if not label:  # fine_label, coarse_label ...: the first that has names of classes
            features = _features(schema)
            label = next((name for name in names if name != "objects" and _names(features.get(name))), "")
        return Columns(path=image, text=text, label=label)


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == _SUFFIX else []
    found = [path for place in (root, root / "data") if place.is_dir() for path in place.glob(f"*{_SUFFIX}")]
    return sorted(path for path in found if path.is_file())


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise Invalid(path.name, "a whole Parquet file", str(error).split("\n")[0]) from None


def _bare(schema: Any) -> Any:
    """The schema without the numbers of fields that reading adds; a file written with them would differ."""
    import pyarrow as pa

    def plain(kind: Any) -> Any:
        if pa.types.is_struct(kind):
            return pa.struct([field(one) for one in kind])
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(member(kind), kind.list_size)
        if pa.types.is_list(kind):
            return pa.list_(member(kind))
        return pa.large_list(member(kind)) if pa.types.is_large_list(kind) else kind

    def member(kind: Any) -> Any:
        return field(kind.value_field).with_name("element")  # what Parquet calls it, whatever it was in memory

    def field(one: Any) -> Any:
        kept = {k: v for k, v in (one.metadata or {}).items() if not k.startswith(b"PARQUET:")}
        return pa.field(one.name, plain(one.type), one.nullable, kept or None)

    return pa.schema([field(one) for one in schema], metadata=schema.metadata)


def _features(schema: Any) -> dict[str, Any]:
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(feature: Any) -> list[str] | None:
    """The class names of a ClassLabel, also inside lists."""
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict | list):
        feature = feature["feature"]
    if isinstance(feature, list) and feature:
        feature = feature[0]
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else None


def _object_type(schema: Any) -> tuple[Any, bool]:
    """The type of ``objects``, and whether it is a list of objects and not an object of lists."""
    import pyarrow as pa

    kind = schema.field("objects").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (kind.value_type, True) if is_list else (kind, False)


def _object_key(schema: Any) -> str:
    """The field of ``objects`` that holds the classes."""
    if "objects" not in schema.names:
        return ""
    kind, _ = _object_type(schema)
    fields = {field.name for field in kind} if hasattr(kind, "__iter__") else set()
    return next((one for one in ("category", "categories", "label", "labels", "class") if one in fields), "")


def _object_names(schema: Any) -> list[str] | None:
    found = _features(schema).get("objects")
    if isinstance(found, list) and found:
        found = found[0]
    inner = found.get("feature", found) if isinstance(found, dict) else None
    return _names(inner.get(_object_key(schema))) if isinstance(inner, dict) else None


def _classes(file: Any, columns: Columns) -> list[str]:
    schema = file.schema_arrow
    found = list(_names(_features(schema).get(columns.label)) or []) + list(_object_names(schema) or [])
    if found:
        return found
    wanted = [name for name in (columns.label, "objects") if name in schema.names]
    seen: dict[str, None] = {}
    try:
        for batch in file.iter_batches(batch_size=4096, columns=wanted) if wanted else ():
            for row in batch.to_pylist():
                seen |= dict.fromkeys(shape.label for shape in _shapes(row, columns, schema))
    except (OSError, ValueError):
        return list(seen)  # reading the rows says what is wrong, and where
    return list(seen)


def _shapes(cells: Mapping[str, Any], columns: Columns, schema: Any) -> tuple[Shape, ...]:
    plain = {name: value for name, value in cells.items() if name in (columns.label, "objects")}
    try:
        return parse(_named(plain, columns, schema), Columns(label=columns.label), "row", []).shapes
    except Invalid:
        return ()


def _named(cells: dict[str, Any], columns: Columns, schema: Any) -> dict[str, Any]:
    """Class numbers as names."""
    names = _names(_features(schema).get(columns.label))
    if columns.label in cells and names is not None:
        given = cells[columns.label]
        numbers = given if isinstance(given, list) else [given]
        cells[columns.label] = [_name(names, one) for one in numbers if one is not None and one != -1]
    objects, names, key = cells.get("objects"), _object_names(schema), _object_key(schema)
    if isinstance(objects, list):  # a list of objects means the same as an object of lists
        objects = {name: [one.get(name) for one in objects] for name in (objects[0] if objects else {})}
        cells["objects"] = objects
    if isinstance(objects, dict) and names is not None:
        cells["objects"] = {**objects, key: [_object_name(names, one) for one in objects[key] or []]}
    return cells


def _name(names: Sequence[str], number: Any) -> str:
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise Invalid("class number", f"in 0..{len(names) - 1}", number)
    return names[number]


def _object_name(names: Sequence[str], number: Any) -> str | Unknown:
    """The name of a number in ``objects``; one that has none costs its own object, not the row."""
    try:
        return _name(names, number)
    except Invalid:
        return Unknown(number, f"a number in 0..{len(names) - 1}")


def _records(base: Path, files: Mapping[str, Mapping[str, Any]], problems: list[Problem]) -> Iterator[Record]:
    taken: set[str] = set()
    for name, about in files.items():
        file = _open(base / name)
        columns = Columns(path=about["image"], text=about["text"], label=about["label"])
        split = inputs.split_of(PurePosixPath(name).name.split("-")[0].split(".")[0])
        number = -1
        try:
            for batch in file.iter_batches(batch_size=BATCH):
                for cells in batch.to_pylist():
                    number += 1
                    where = f"{name} row {number}"
                    try:
                        yield _record(cells, columns, file.schema_arrow, where, name, number, split, taken, problems)
                    except LoopworksError as error:
                        problems.append(problem(where, error))
        except (OSError, ValueError) as error:  # pyarrow's own errors are one of these
            where = f"{name} after row {number}"
            problems.append(problem(where, Invalid(where, "a whole Parquet file", str(error).split("\n")[0])))


def _record(
    cells: dict[str, Any],
    columns: Columns,
    schema: Any,
    where: str,
    file: str,
    number: int,
    split: str,
    taken: set[str],
    problems: list[Problem],
) -> Record:
    media = cells.pop(columns.path, None) if columns.path else None
    cells = {name: _plain(value) for name, value in cells.items()}
    said = parse(_named(cells, columns, schema), replace(columns, path=""), where, problems)
    said = replace(said, split=split, extra={"hf": {"file": file, "row": number}})
    stem = f"{PurePosixPath(file).stem}/{number:06}"
    if columns.text:
        return replace(said, name=f"{file}#{number}")
    data = media.get("bytes") if isinstance(media, dict) else None
    if not data:
        raise Invalid(f"image of {where}", "bytes", "nothing")
    if any(shape.kind == "box" for shape in said.shapes):
        problems += beyond(said.shapes, inputs.measure(io.BytesIO(data)), where)
    given = str(media.get("path") or "") if isinstance(media, dict) else ""
    try:
        name = inputs.clean_name(given) if given else f"{stem}{_ending(data)}"
    except Invalid:
        name = f"{stem}{_ending(data)}"
    if name in taken:
        name = f"{stem}/{name}"
    taken.add(name)
    extra = {"hf": {"file": file, "row": number, "path": media.get("path") if isinstance(media, dict) else None}}
    return replace(said, name=name, data=data, text=None, extra=extra)


def _ending(data: bytes) -> str:
    return ".png" if data.startswith(b"\x89PNG") else ".jpg" if data.startswith(b"\xff\xd8") else ".img"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return str(value)


def _about(records: Sequence[Record], classes: LabelSchema) -> dict[str, Any]:
    """Columns for rows that came from elsewhere."""
    import pyarrow as pa

    has_text = any(record.text is not None for record in records)
    has_box = any(shape.bounds is not None for record in records for shape in record.shapes)
    is_multi = any(len(record.shapes) > 1 for record in records) and not has_box
    label: dict[str, Any] = {"names": list(classes.classes), "_type": "ClassLabel"}
    fields: list[Any] = []
    features: dict[str, Any] = {}
    if has_text:
        fields.append(pa.field("text", pa.string()))
        features["text"] = {"dtype": "string", "_type": "Value"}
    else:
        fields.append(pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
        features["image"] = {"_type": "Image"}
    if has_box:
        kind = pa.struct([("bbox", pa.list_(pa.list_(pa.float64(), 4))), ("category", pa.list_(pa.int64()))])
        fields.append(pa.field("objects", kind))
        number = {"dtype": "float64", "_type": "Value"}
        box = {"feature": number, "length": 4, "_type": "Sequence"}
        features["objects"] = {"feature": {"bbox": box, "category": label}, "_type": "Sequence"}
    elif is_multi:
        fields.append(pa.field("labels", pa.list_(pa.int64())))
        features["labels"] = {"feature": label, "_type": "Sequence"}
    else:
        fields.append(pa.field("label", pa.int64()))
        features["label"] = label
    for name in sorted({name for record in records for name in record.attributes} - set(features)):
        values = [record.attributes[name] for record in records if record.attributes.get(name) is not None]
        kind, dtype = _kind(values)
        fields.append(pa.field(name, kind))
        features[name] = {"dtype": dtype, "_type": "Value"}
    meta = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    schema = _bare(pa.schema(fields, metadata=meta))
    return {
        "schema": base64.b64encode(schema.serialize().to_pybytes()).decode(),
        "image": "" if has_text else "image",
        "text": "text" if has_text else "",
        "label": "" if has_box else fields[1].name,
    }


def _kind(values: Sequence[Any]) -> tuple[Any, str]:
    import pyarrow as pa

    if values and all(isinstance(one, bool) for one in values):
        return pa.bool_(), "bool"
    if values and all(type(one) is int and abs(one) < 1 << 62 for one in values):
        return pa.int64(), "int64"
    if values and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        return pa.float64(), "float64"
    return pa.string(), "string"


def _write(
    folder: Path, name: str, about: Mapping[str, Any], records: Sequence[Record], put: Put, lost: dict[str, int]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(about["schema"])))
    path = folder / inputs.clean_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="snappy") as out:
        for start in range(0, len(records), BATCH):
            rows = [_row(record, about, schema, folder, put, lost) for record in records[start : start + BATCH]]
            out.write_table(pa.Table.from_pylist(rows, schema=schema))


def _row(
    record: Record, about: Mapping[str, Any], schema: Any, folder: Path, put: Put, lost: dict[str, int]
) -> dict[str, Any]:
    row: dict[str, Any] = {name: _fit(record.attributes.get(name), schema.field(name).type) for name in schema.names}
    own = record.extra.get("hf", {})
    if about["text"]:
        row[about["text"]] = record.text or ""
    if about["image"]:
        said = own.get("path", record.name) if isinstance(own, Mapping) else record.name
        row[about["image"]] = {"bytes": _bytes(record, folder, put), "path": said}
    for thing in record.tags:
        lost[f"tag {thing}"] = lost.get(f"tag {thing}", 0) + 1
    key = _object_key(schema)
    plain = [shape.label for shape in record.shapes if shape.kind == "class"]
    boxes = [shape for shape in record.shapes if shape.bounds is not None]
    for shape in record.shapes:
        if shape.kind != "class" and (not key or shape.kind != "box"):
            what = f"the exact form of a {shape.kind}"
            lost[what] = lost.get(what, 0) + 1
    if about["label"]:
        names = _names(_features(schema).get(about["label"]))
        inner = _inner(schema.field(about["label"]).type)
        numbers: list[Any] = [_cell(one, inner) for one in plain]
        if names is not None:
            numbers = [names.index(one) if one in names else -1 for one in plain]
        is_list = str(schema.field(about["label"]).type).startswith(("list", "fixed", "large_list"))
        row[about["label"]] = numbers if is_list else (numbers[0] if numbers else (-1 if names is not None else None))
    if key:
        names = _object_names(schema)
        kind, is_list = _object_type(schema)
        objects: dict[str, list[Any]] = {field.name: [] for field in kind}
        at = "bbox" if "bbox" in objects else "boxes"
        for shape in boxes:
            if names is not None and shape.label not in names:
                lost["a shape without a class"] = lost.get("a shape without a class", 0) + 1
                continue
            for field in objects:
                if field not in (at, key):
                    objects[field].append(shape.facts.get(field))
            objects[at].append(list(shape.bounds or ()))
            objects[key].append(
                names.index(shape.label) if names is not None else _cell(shape.label, _inner(kind.field(key).type))
            )
        row["objects"] = [dict(zip(objects, one, strict=True)) for one in zip(*objects.values(), strict=True)]
        row["objects"] = row["objects"] if is_list else objects
    return row


def _inner(kind: Any) -> Any:
    """What a list holds; the type itself where it is none."""
    return _inner(kind.value_type) if hasattr(kind, "value_type") else kind


def _cell(label: str, kind: Any) -> Any:
    """A class without names in the schema, as its column spells it: by its number or by its name."""
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return label
    try:
        return pa.scalar(float(label) if pa.types.is_floating(kind) else int(label), kind).as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None  # a new class that is no number has no place in such a column


def _fit(value: Any, kind: Any) -> Any:
    """A value that the column takes; another one is left empty."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_string(kind) and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, TypeError, ValueError):
        return None


def _bytes(record: Record, folder: Path, put: Put) -> bytes | None:
    if record.path:
        try:
            return Path(record.path).read_bytes()
        except OSError as error:
            raise Invalid(record.path, "readable", error.strerror or str(error)) from None
    temp = f".media/{abs(hash(record.name))}"
    put(record, temp)
    path = folder / temp
    if not path.is_file():
        return None  # annotations alone were asked for
    data = path.read_bytes()
    path.unlink()
    path.parent.rmdir()
    return data
