"""Real files in COCO, YOLO, VOC, KITTI and LabelMe: they come back byte for byte, and say what others read in them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.data.formats.passage import SHARED, differences, read, write

from loopworks.data.formats.coco import Coco
from loopworks.data.formats.contract import Format
from loopworks.data.formats.kitti import Kitti
from loopworks.data.formats.labelme import LabelMe
from loopworks.data.formats.voc import Voc
from loopworks.data.formats.yolo import Yolo

FORMATS: dict[str, Format] = {"coco": Coco(), "yolo": Yolo(), "voc": Voc(), "kitti": Kitti(), "labelme": LabelMe()}
SAMPLES = [
    ("coco", "annotation-formats/coco_dataset/coco_captions"),
    ("coco", "annotation-formats/coco_dataset/coco_instances"),
    ("coco", "annotation-formats/coco_dataset/coco_panoptic"),
    ("coco", "annotation-formats/coco_dataset"),
    ("coco", "labelme-examples/instance_segmentation/data_dataset_coco"),
    ("yolo", "annotation-formats/yolo_dataset/strict"),
    ("yolo", "annotation-formats/yolo_dataset/annotations"),
    ("voc", "annotation-formats/voc_dataset/voc_dataset1"),
    ("voc", "labelme-examples/bbox_detection/data_dataset_voc"),
    ("voc", "labelme-examples/instance_segmentation/data_dataset_voc"),
    ("voc", "labelme-examples/video_annotation/data_dataset_voc"),
    ("voc", "bccd"),
    ("voc", "traffic-lights"),
    ("kitti", "annotation-formats/kitti_dataset/kitti_detection"),
    ("labelme", "labelme-examples/bbox_detection/data_annotated"),
    ("labelme", "labelme-examples/classification/data_annotated"),
    ("labelme", "labelme-examples/instance_segmentation/data_annotated"),
    ("labelme", "labelme-examples/video_annotation/data_annotated"),
    ("labelme", "labelme-examples/primitives"),
]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "place"), SAMPLES)
def test_a_real_data_set_comes_back_byte_for_byte(name: str, place: str, tmp_path: Path) -> None:
    got = read(FORMATS[name], SHARED / place)
    losses = write(FORMATS[name], got, tmp_path / "out")
    assert differences(SHARED / place, tmp_path / "out") == []
    assert [loss.message for loss in losses if "facts" in loss.message] == []


@pytest.mark.shared
@pytest.mark.parametrize(("name", "place"), SAMPLES)
def test_a_real_data_set_is_told_from_the_other_formats(name: str, place: str) -> None:
    sure = {other: form.detect(SHARED / place) for other, form in FORMATS.items()}
    assert sure[name] >= 0.7
    assert [other for other in FORMATS if other != name and sure[other] > 0] == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("coco", "coco_dataset/coco_instances"),
        ("yolo", "yolo_dataset/strict"),
        ("yolo", "yolo_dataset/annotations"),
        ("kitti", "kitti_dataset/kitti_detection"),
        ("voc", "voc_dataset/voc_dataset1"),
    ],
)
def test_boxes_are_those_that_datumaro_reads(name: str, place: str) -> None:
    expected = json.loads((SHARED / "annotation-formats/expected.json").read_text(encoding="utf-8"))["cases"][place]
    got = read(FORMATS[name], SHARED / "annotation-formats" / place)
    assert len(got.records) == expected["items"]
    found: list[tuple[str, str, Any]] = []
    for record in got.records:
        for shape in record.shapes:
            box = shape.facts.get("bbox") or shape.bounds
            if box:
                found.append((Path(record.name).stem, shape.label, [round(x, 3) + 0.0 for x in box]))
            for part in shape.facts.get("parts", []):
                found.append((Path(record.name).stem, part["name"], part["bbox"]))
    wanted = [(item, label, [round(x, 3) + 0.0 for x in box]) for item, _, *box, label in expected["boxes"]]
    assert Counter(map(str, found)) == Counter(map(str, wanted))


@pytest.mark.shared
def test_blood_cells_have_the_known_counts_and_two_flat_boxes() -> None:
    got = read(Voc(), SHARED / "bccd")
    counts = Counter(shape.label for record in got.records for shape in record.shapes)
    assert counts == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    assert Counter(record.split for record in got.records) == {"train": 205, "val": 87, "test": 72}
    assert [problem.where.split("/")[-1] for problem in got.problems] == [
        "BloodImage_00338.xml object 13",
        "BloodImage_00343.xml object 4",
    ]


@pytest.mark.shared
def test_labelme_files_say_the_boxes_of_their_voc_conversion() -> None:
    own = read(LabelMe(), SHARED / "labelme-examples/bbox_detection/data_annotated")
    other = read(Voc(), SHARED / "labelme-examples/bbox_detection/data_dataset_voc").by_name
    assert len(own.records) == 3
    for record in own.records:
        ours = [(shape.label, shape.points) for shape in record.shapes]
        assert ours == [(shape.label, shape.points) for shape in other[record.name].shapes]
