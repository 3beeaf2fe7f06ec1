"""Hugging Face datasets in Parquet: features, images inside, bad rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Shape
from loopworks.data.formats.contract import Content, Record
from loopworks.data.formats.huggingface import HuggingFace

ImageFile = Callable[..., bytes]
CLASSES = {"names": ["cat", "dog"], "_type": "ClassLabel"}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(folder: Path, rows: list[dict[str, Any]], fields: list[Any], features: dict[str, Any]) -> Path:
    meta = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    (folder / "data").mkdir(parents=True)
    path = folder / "data" / "validation-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata=meta)), path)
    return path


def nothing(record: Record, path: str) -> None:
    raise AssertionError("the media lies in the file")


def test_images_classes_and_attributes_are_read(tmp_path: Path, image_file: ImageFile) -> None:
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": image_file("PNG", seed=i), "path": f"{i}.png"}, "label": 1 - i, "camera": f"A{i}"}
        for i in range(2)
    ] + [{"image": {"bytes": None, "path": "gone.png"}, "label": 0, "camera": ""}]
    rows.append({"image": {"bytes": image_file("PNG", seed=5), "path": None}, "label": 7, "camera": ""})
    rows.append({"image": {"bytes": image_file("PNG", seed=6), "path": None}, "label": -1, "camera": None})
    fields = [pa.field("image", IMAGE), pa.field("label", pa.int64()), pa.field("camera", pa.string())]
    table(tmp_path, rows, fields, {"image": {"_type": "Image"}, "label": CLASSES})
    assert HuggingFace().detect(tmp_path) == 0.9
    content = HuggingFace().read(tmp_path)
    first, second, last = content.records
    assert content.schema.classes == ("cat", "dog")
    assert (first.name, first.data, first.split) == ("0.png", rows[0]["image"]["bytes"], "val")
    assert (first.shapes, first.attributes) == ((Shape(label="dog", source="import"),), {"camera": "A0"})
    assert (last.name, last.is_labeled) == ("validation-00000-of-00001/000004.png", False)
    assert [problem.where for problem in content.problems] == [
        "data/validation-00000-of-00001.parquet row 2",
        "data/validation-00000-of-00001.parquet row 3",
    ]


def test_boxes_are_written_with_features_and_read_again(tmp_path: Path, image_file: ImageFile) -> None:
    (tmp_path / "a.png").write_bytes(image_file("PNG"))
    box = Shape(label="dog", source="import", kind="box", points=((1.0, 2.5, 3.0, 4.0),))
    record = Record(name="a.png", path=str(tmp_path / "a.png"), split="test", shapes=(box,), attributes={"n": 3})
    content = Content(schema=LabelSchema(classes=("cat", "dog")), records=[record])
    assert list(HuggingFace().write(content, tmp_path / "out", nothing)) == []
    path = tmp_path / "out" / "data" / "test-00000-of-00001.parquet"
    features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert features["objects"]["feature"]["category"] == CLASSES
    assert pq.read_table(path).to_pylist()[0]["objects"] == {"bbox": [[1.0, 2.5, 3.0, 4.0]], "category": [1]}
    (back,) = HuggingFace().read(tmp_path / "out").records
    assert (back.shapes, back.split, back.attributes, back.data) == ((box,), "test", {"n": 3}, image_file("PNG"))


def test_texts_come_back_with_the_same_values(tmp_path: Path) -> None:
    rows = [{"text": "hi", "label": 0, "n": 1.5}, {"text": "bye", "label": 1, "n": None}]
    fields = [pa.field("text", pa.string()), pa.field("label", pa.int64()), pa.field("n", pa.float32())]
    path = table(tmp_path / "in", rows, fields, {"label": CLASSES})
    content = HuggingFace().read(tmp_path / "in")
    content.records = list(content.records)
    assert list(HuggingFace().write(content, tmp_path / "out", nothing)) == []
    assert pq.read_table(tmp_path / "out" / "data" / path.name).to_pylist() == rows


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"no parquet at all"])
def test_a_broken_file_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    assert HuggingFace().detect(tmp_path) == 0.0
    with pytest.raises(Invalid, match="x.parquet must be a whole Parquet file"):
        HuggingFace().read(tmp_path)
