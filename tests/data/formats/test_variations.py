"""What other tools write: small samples of the ways in which files of one format differ in the wild."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.formats.passage import differences, draw, read, write

from loopworks.core.values import Shape
from loopworks.data.formats import detect

BOX = "<bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>10</xmax><ymax>9</ymax></bndbox>"
XML = f"<annotation><filename>a.jpg</filename><object><name>c</name>{BOX}</object></annotation>"
LINE = "0 0.5 0.5 0.25 0.2\n"
RECTANGLE: dict[str, Any] = {
    "label": "c",
    "points": [[1, 2], [10, 9]],
    "group_id": None,
    "shape_type": "rectangle",
    "flags": {},
}


def coco(annotations: list[Any], images: Any = None, categories: Any = None, **more: Any) -> dict[str, Any]:
    images = images or [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}]
    return {"images": images, "annotations": annotations, "categories": categories or [{"id": 1, "name": "c"}], **more}


def labelme(**more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "version": "5.4.1",
        "flags": {},
        "shapes": [RECTANGLE],
        "imagePath": "a.jpg",
        "imageData": None,
    }
    return {**body, "imageHeight": 30, "imageWidth": 40, **more}


def task(results: list[Any], image: str) -> list[Any]:
    owners = [{"completed_by": {"id": 1, "email": "a@b.c"}, "result": results}, {"completed_by": 2, "result": []}]
    return [{"id": 1, "annotations": owners, "data": {"image": image}, "predictions": [{"result": results}]}]


def region(kind: str, **value: Any) -> dict[str, Any]:
    head = {"id": kind, "from_name": "label", "to_name": "image", "type": kind, "original_width": 40}
    return {**head, "original_height": 30, "image_rotation": 0, "value": value}


# name, format, files, images, shapes that must be read as (label, kind, first numbers), whether all comes back
CASES: list[tuple[str, str, dict[str, Any], Sequence[str], list[tuple[str, str, tuple[float, ...]]]]] = [
    (
        "coco: ids that are texts, and 1.0 for 1",
        "coco",
        {
            "a.json": coco(
                [{"image_id": "x", "id": "q", "category_id": 1.0, "bbox": [1, 2, 3, 4]}],
                [{"id": "x", "file_name": "a.jpg"}],
            )
        },
        ["a.jpg"],
        [("c", "box", (1, 2, 3, 4))],
    ),
    (
        "coco: ids of all kinds are floats",
        "coco",
        {
            "a.json": coco(
                [{"image_id": 1, "id": 1.0, "category_id": 2, "bbox": [1, 2, 3, 4]}],
                [{"id": 1.0, "file_name": "a.jpg"}],
                [{"id": 2.0, "name": "car", "supercategory": "vehicle"}],
            )
        },
        ["a.jpg"],
        [("car", "box", (1, 2, 3, 4))],
    ),
    (
        "coco: a segmentation that is null, runs of a crowd, a score",
        "coco",
        {
            "a.json": coco([
                {"image_id": 1, "id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": None, "score": 0.5},
                {
                    "image_id": 1,
                    "id": 2,
                    "category_id": 1,
                    "bbox": [0, 0, 1, 5],
                    "iscrowd": 1,
                    "segmentation": {"size": [30, 40], "counts": [0, 5, 1195]},
                },
            ])
        },
        ["a.jpg"],
        [("c", "box", (1, 2, 3, 4)), ("c", "mask", (30, 40))],
    ),
    (
        "coco: image_info without annotations",
        "coco",
        {"annotations/image_info_test2017.json": {k: v for k, v in coco([]).items() if k != "annotations"}},
        ["test2017/a.jpg"],
        [],
    ),
    (
        "coco: Roboflow's folders",
        "coco",
        {
            "train/_annotations.coco.json": coco([{"image_id": 1, "id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}]),
            "valid/_annotations.coco.json": coco([]),
        },
        ["train/a.jpg", "valid/a.jpg"],
        [("c", "box", (1, 2, 3, 4))],
    ),
    (
        "yolo: names in a list, a list and a folder of images, a path of elsewhere",
        "yolo",
        {
            "data.yaml": "path: ../datasets/x\ntrain: train.txt\nval: images/val\nnc: 2\nnames: ['a', 'b']\n",
            "train.txt": "./images/train/a.jpg\n",
            "labels/train/a.txt": LINE,
            "labels/val/b.txt": "",
        },
        ["images/train/a.jpg", "images/val/b.jpg"],
        [("a", "box", (15, 12, 10, 6))],
    ),
    (
        "yolo: a number of classes alone, a test set alone",
        "yolo",
        {"data.yaml": "test: images\nnc: 2\n", "labels/a.txt": LINE},
        ["images/a.jpg"],
        [("0", "box", (15, 12, 10, 6))],
    ),
    (
        "yolo: classes.txt beside the images",
        "yolo",
        {"classes.txt": "a\nb\n", "a.txt": LINE},
        ["a.jpg"],
        [("a", "box", (15, 12, 10, 6))],
    ),
    (
        "yolo: a score behind the box",
        "yolo",
        {"labels/a.txt": LINE.strip() + " 0.87\n"},
        ["images/a.jpg"],
        [("0", "box", (15, 12, 10, 6))],
    ),
    (
        "voc: annotations in small letters beside images",
        "voc",
        {"annotations/a.xml": XML},
        ["images/a.jpg"],
        [("c", "box", (1.5, 2, 8.5, 7))],
    ),
    (
        "voc: folders of other names",
        "voc",
        {"xmls/a.xml": XML},
        ["pictures/day/a.jpg"],
        [("c", "box", (1.5, 2, 8.5, 7))],
    ),
    (
        "labelme: a path of another machine",
        "labelme",
        {"a.json": labelme(imagePath="C:\\data\\a.jpg"), "b.json": labelme(imagePath="/pictures/u/b.jpg")},
        ["a.jpg", "b.jpg"],
        [("c", "box", (1, 2, 9, 7)), ("c", "box", (1, 2, 9, 7))],
    ),
    (
        "labelme: a path with backslashes, and one of version 3",
        "labelme",
        {
            "ann/a.json": labelme(imagePath="..\\img\\a.jpg"),
            "ann/b.json": {
                "flags": {},
                "shapes": [{"label": "c", "line_color": None, "fill_color": None, "points": [[1, 2], [9, 9], [3, 4]]}],
                "lineColor": [0, 255, 0, 128],
                "imagePath": "../img/b.jpg",
                "imageData": None,
            },
        },
        ["img/a.jpg", "img/b.jpg"],
        [("c", "box", (1, 2, 9, 7)), ("c", "polygon", (1, 2, 9, 9, 3, 4))],
    ),
    (
        "kitti: DontCare and a sixteenth column",
        "kitti",
        {
            "training/label_2/a.txt": "Car 0.00 0 -1.82 0.00 1.00 10.00 20.00 "
            "1.57 1.73 4.15 1.00 1.75 13.22 -1.62 0.9\n"
            "DontCare -1 -1 -10 1.00 2.00 5.00 6.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
        },
        ["training/image_2/a.png"],
        [("Car", "box", (0, 1, 10, 19)), ("DontCare", "box", (1, 2, 4, 4))],
    ),
    (
        "label studio: several annotators, predictions, a relation, a place whose class stands beside it",
        "label-studio",
        {
            "p.json": task(
                [
                    region("rectanglelabels", x=10, y=10, width=20, height=20, rectanglelabels=["c"]),
                    {"type": "relation", "from_id": "1", "to_id": "2", "direction": "right"},
                    {**region("rectangle", x=20, y=10, width=20, height=20), "id": "4"},
                    {**region("labels", x=20, y=10, width=20, height=20, labels=["d"]), "id": "4"},
                    {
                        "id": "9",
                        "type": "taxonomy",
                        "from_name": "t",
                        "to_name": "image",
                        "value": {"taxonomy": [["A"]]},
                    },
                    region("keypointlabels", x=5, y=5, width=0.3, keypointlabels=["k"]),
                ],
                "/data/upload/1/a.jpg",
            )
        },
        ["a.jpg"],
        [("c", "box", (4, 3, 8, 6)), ("d", "box", (8, 3, 8, 6)), ("k", "points", (2, 1.5))],
    ),
    (
        "label studio: an upload whose image has its own name",
        "label-studio",
        {
            "p.json": task(
                [region("rectanglelabels", x=10, y=10, width=20, height=20, rectanglelabels=["c"])],
                "/data/upload/1/0a1b2c3d-a.jpg",
            )
        },
        ["images/a.jpg"],
        [("c", "box", (4, 3, 8, 6))],
    ),
    (
        "cvat: a turned box, a mask, a skeleton, a tag",
        "cvat",
        {
            "annotations.xml": '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
            '  <image id="0" name="a.jpg" width="40" height="30">\n'
            '    <box label="c" occluded="0" xtl="9" ytl="9" xbr="19" ybr="15" rotation="90.00" z_order="2"></box>\n'
            '    <mask label="c" occluded="0" rle="3, 4, 3, 6" left="2" top="3" width="4" height="4"></mask>\n'
            '    <skeleton label="s"><points label="1" outside="0" points="1.00,2.00"></points></skeleton>\n'
            '    <tag label="t" source="manual"></tag>\n  </image>\n</annotations>\n'
        },
        ["images/a.jpg"],
        [("c", "obb", (17, 7)), ("c", "mask", (30, 40)), ("s", "points", (1, 2)), ("t", "class", ())],
    ),
    (
        "csv: backslashes, corners, the size of the image",
        "csv",
        {"labels.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\nsub\\a.jpg,40,30,c,1,2,10,9\n"},
        ["sub/a.jpg"],
        [("c", "box", (1, 2, 9, 7))],
    ),
]


def lay(root: Path, files: dict[str, Any], images: Sequence[str]) -> Path:
    for name, body in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(body if isinstance(body, str) else json.dumps(body), encoding="utf-8")
    for name in images:
        draw(root / name, (40, 30))
    return root


def brief(shape: Shape, count: int) -> tuple[str, str, tuple[float, ...]]:
    return shape.label, shape.kind, tuple(round(n, 3) + 0.0 for row in shape.points for n in row)[:count]


@pytest.mark.parametrize(("name", "files", "images", "shapes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_variation_is_found_out_read_and_written_back(
    tmp_path: Path, name: str, files: dict[str, Any], images: Sequence[str], shapes: list[Any]
) -> None:
    root = lay(tmp_path / "in", files, images)
    assert detect.detect(root).name == name
    got = read(detect.build(name), root)
    assert got.problems == []
    assert all(record.path for record in got.records)
    found = [shape for record in sorted(got.records, key=lambda one: one.name) for shape in record.shapes]
    assert [brief(one, len(want[2])) for one, want in zip(found, shapes, strict=True)] == shapes
    assert write(detect.build(name), got, tmp_path / "out") == []
    assert differences(root, tmp_path / "out") == []


def test_an_image_inside_the_json_alone_is_taken_out_and_put_back(tmp_path: Path) -> None:
    image = draw(tmp_path / "x.png", (40, 30)).read_bytes()
    body = labelme(imagePath="x.png", imageData=base64.b64encode(image).decode())
    root = lay(tmp_path / "in", {"x.json": body}, [])
    content = detect.build("labelme").read(root)
    (record,) = content.records
    assert Path(record.path).read_bytes() == image
    assert content.problems == []


@pytest.mark.parametrize("form", ["list of objects", "object of lists"])
def test_objects_of_the_hub_have_their_names_in_both_forms(tmp_path: Path, form: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "PNG")
    box, number = pa.list_(pa.float64(), 4), pa.int64()
    label: dict[str, Any] = {"names": ["x", "y"], "_type": "ClassLabel"}
    if form == "list of objects":
        kind, features = pa.list_(pa.struct([("bbox", box), ("category", number)])), [{"category": label}]
        objects: Any = [{"bbox": [1.0, 2.0, 3.0, 4.0], "category": 1}]
    else:
        kind = pa.struct([("bbox", pa.list_(box)), ("category", pa.list_(number))])
        features = {"category": {"feature": label, "_type": "List"}}  # type: ignore[assignment]
        objects = {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [1]}
    meta = {b"huggingface": json.dumps({"info": {"features": {"objects": features}}}).encode()}
    media = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", media), ("image_id", number), ("objects", kind)], metadata=meta)
    row = {"image": {"bytes": out.getvalue(), "path": "a.png"}, "image_id": 7, "objects": objects}
    (tmp_path / "in" / "data").mkdir(parents=True)
    path = tmp_path / "in" / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist([row], schema=schema), path)
    content = detect.build("hf").read(tmp_path / "in")
    (record,) = content.records = list(content.records)
    assert (content.problems, content.schema.classes, record.attributes) == ([], ("x", "y"), {"image_id": 7})
    assert [brief(shape, 4) for shape in record.shapes] == [("y", "box", (1, 2, 3, 4))]
    (tmp_path / "out").mkdir()

    def put(one: Any, place: str) -> None:
        (tmp_path / "out" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / place).write_bytes(one.data)

    assert list(detect.build("hf").write(content, tmp_path / "out", put)) == []
    again = pq.read_table(tmp_path / "out" / "data" / path.name)
    assert again.to_pylist() == [row]


def test_classes_of_a_column_with_a_name_of_its_own(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "PNG")
    label = {"names": ["x", "y"], "_type": "ClassLabel"}
    meta = {b"huggingface": json.dumps({"info": {"features": {"fine_label": label}}}).encode()}
    media = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    row = {"img": {"bytes": out.getvalue(), "path": "a.png"}, "fine_label": 1}
    schema = pa.schema([("img", media), ("fine_label", pa.int64())], metadata=meta)
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "train.parquet")
    got = read(detect.build("hf"), tmp_path)
    assert [shape.label for record in got.records for shape in record.shapes] == ["y"]


@pytest.mark.parametrize("column", ["label", "objects"])
def test_classes_that_are_numbers_without_names_come_back_as_numbers(tmp_path: Path, column: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, box = pa.int64(), pa.list_(pa.float64(), 4)
    if column == "label":
        schema, row = pa.schema([("text", pa.string()), ("label", number)]), {"text": "a", "label": 3}
    else:
        kind = pa.struct([("bbox", pa.list_(box)), ("category", pa.list_(number))])
        schema = pa.schema([("text", pa.string()), ("objects", kind)])
        row = {"text": "a", "objects": {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [3]}}
    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "train.parquet")
    got = read(detect.build("hf"), tmp_path)
    assert [shape.label for record in got.records for shape in record.shapes] == ["3"]
    assert write(detect.build("hf"), got, tmp_path / "out") == []
    assert pq.read_table(tmp_path / "out" / "train.parquet").to_pylist() == [row]
