"""What the schema of a Parquet file of Hugging Face says: features, classes, the shape of ``objects``."""

import json
from typing import Any


def bare(schema: Any) -> Any:
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


def features(schema: Any) -> dict[str, Any]:
    """Column -> its feature, as ``datasets`` notes them; empty where it did not."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def names_of(feature: Any) -> list[str] | None:
    """The class names of a ClassLabel, also inside lists."""
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict | list):
        feature = feature["feature"]
    if isinstance(feature, list) and feature:
        feature = feature[0]
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else None


def object_type(schema: Any) -> tuple[Any, bool]:
    """The type of ``objects``, and whether it is a list of objects and not an object of lists."""
    import pyarrow as pa

    kind = schema.field("objects").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (kind.value_type, True) if is_list else (kind, False)


def object_key(schema: Any) -> str:
    """The field of ``objects`` that holds the classes."""
    if "objects" not in schema.names:
        return ""
    kind, _ = object_type(schema)
    fields = {field.name for field in kind} if hasattr(kind, "__iter__") else set()
    return next((one for one in ("category", "categories", "label", "labels", "class") if one in fields), "")


def object_names(schema: Any) -> list[str] | None:
    """The class names of ``objects``, where its feature has some."""
    found = features(schema).get("objects")
    if isinstance(found, list) and found:
        found = found[0]
    inner = found.get("feature", found) if isinstance(found, dict) else None
    return names_of(inner.get(object_key(schema))) if isinstance(inner, dict) else None
