"""Records as rows of Parquet files of Hugging Face."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema
from loopworks.data.formats import inputs
from loopworks.data.formats.contract import Put, Record
from loopworks.data.formats.huggingface_schema import bare, features, names_of, object_key, object_names, object_type

BATCH = 64  # rows in memory at a time: images lie in them


def about_new(records: Sequence[Record], classes: LabelSchema) -> dict[str, Any]:
    """Columns for rows that came from elsewhere."""
    import pyarrow as pa

    has_text = any(record.text is not None for record in records)
    has_box = any(shape.bounds is not None for record in records for shape in record.shapes)
    is_multi = any(len(record.shapes) > 1 for record in records) and not has_box
    label: dict[str, Any] = {"names": list(classes.classes), "_type": "ClassLabel"}
    fields: list[Any] = []
    own: dict[str, Any] = {}
    if has_text:
        fields.append(pa.field("text", pa.string()))
        own["text"] = {"dtype": "string", "_type": "Value"}
    else:
        fields.append(pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
        own["image"] = {"_type": "Image"}
    if has_box:
        kind = pa.struct([("bbox", pa.list_(pa.list_(pa.float64(), 4))), ("category", pa.list_(pa.int64()))])
        fields.append(pa.field("objects", kind))
        number = {"dtype": "float64", "_type": "Value"}
        box = {"feature": number, "length": 4, "_type": "Sequence"}
        own["objects"] = {"feature": {"bbox": box, "category": label}, "_type": "Sequence"}
    elif is_multi:
        fields.append(pa.field("labels", pa.list_(pa.int64())))
        own["labels"] = {"feature": label, "_type": "Sequence"}
    else:
        fields.append(pa.field("label", pa.int64()))
        own["label"] = label
    for name in sorted({name for record in records for name in record.attributes} - set(own)):
        values = [record.attributes[name] for record in records if record.attributes.get(name) is not None]
        kind, dtype = _kind(values)
        fields.append(pa.field(name, kind))
        own[name] = {"dtype": dtype, "_type": "Value"}
    meta = {b"huggingface": json.dumps({"info": {"features": own}}).encode()}
    schema = bare(pa.schema(fields, metadata=meta))
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


def write_rows(
    folder: Path, name: str, about: Mapping[str, Any], records: Sequence[Record], put: Put, lost: dict[str, int]
) -> None:
    """Write the file ``name`` with the columns that ``about`` tells; ``lost`` counts what these have no place for."""
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
    key = object_key(schema)
    plain = [shape.label for shape in record.shapes if shape.kind == "class"]
    boxes = [shape for shape in record.shapes if shape.bounds is not None]
    for shape in record.shapes:
        if shape.kind != "class" and (not key or shape.kind != "box"):
            what = f"the exact form of a {shape.kind}"
            lost[what] = lost.get(what, 0) + 1
    if about["label"]:
        names = names_of(features(schema).get(about["label"]))
        inner = _inner(schema.field(about["label"]).type)
        numbers: list[Any] = [_cell(one, inner) for one in plain]
        if names is not None:
            numbers = [names.index(one) if one in names else -1 for one in plain]
        is_list = str(schema.field(about["label"]).type).startswith(("list", "fixed", "large_list"))
        row[about["label"]] = numbers if is_list else (numbers[0] if numbers else (-1 if names is not None else None))
    if key:
        names = object_names(schema)
        kind, is_list = object_type(schema)
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
