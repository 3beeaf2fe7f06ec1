"""``format.hf``: Parquet files as Hugging Face datasets writes them, with images inside and features in the schema.

Source: https://huggingface.co/docs/datasets/repository_structure and about_dataset_features.
"""

import base64
import io
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
from loopworks.data.formats.huggingface_schema import bare, features, names_of, object_key, object_names
from loopworks.data.formats.huggingface_write import BATCH, about_new, write_rows

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
            schema = base64.b64encode(bare(file.schema_arrow).serialize().to_pybytes()).decode()
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
            about = known.get(name) or about_new(rows, content.schema)
            write_rows(folder, name, about, rows, put, lost)
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
            said = features(schema)
            label = next((name for name in names if name != "objects" and names_of(said.get(name))), "")
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


def _classes(file: Any, columns: Columns) -> list[str]:
    schema = file.schema_arrow
    found = list(names_of(features(schema).get(columns.label)) or []) + list(object_names(schema) or [])
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
    names = names_of(features(schema).get(columns.label))
    if columns.label in cells and names is not None:
        given = cells[columns.label]
        numbers = given if isinstance(given, list) else [given]
        cells[columns.label] = [_name(names, one) for one in numbers if one is not None and one != -1]
    objects, names, key = cells.get("objects"), object_names(schema), object_key(schema)
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
