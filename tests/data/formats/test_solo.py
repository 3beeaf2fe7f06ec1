# ruff: noqa: E501 (made-up objects)
"""SOLO: what frames say, that they come back, and what bad files give."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from tests.data.formats.samples import SHARED, draw, files, load, mutations, said, save, survives

from loopworks.core import mask
from loopworks.core.values import LabelSchema, Shape
from loopworks.data.formats.contract import Content, Record
from loopworks.data.formats.solo import Solo

FORM = Solo()
UNITY = "type.unity.com/unity.solo"
BOX = {"instanceId": 1, "labelId": 1, "labelName": "Crate", "origin": [1.0, 2.0], "dimension": [3.0, 2.5]}
FRAME: dict[str, Any] = {
    "frame": 2, "sequence": 0, "step": 0,
    "captures": [{
        "@type": f"{UNITY}.RGBCamera", "id": "camera", "filename": "step0.camera.png", "dimension": [8.0, 6.0],
        "annotations": [
            {"@type": f"{UNITY}.BoundingBox2DAnnotation", "id": "boxes", "values": [BOX]},
            {"@type": f"{UNITY}.DepthAnnotation", "id": "depth", "filename": "d.exr"},
            {"@type": f"{UNITY}.SemanticSegmentationAnnotation", "id": "seg", "filename": "seg.png",
             "instances": [{"labelName": "Crate", "pixelValue": [255, 0, 0, 255]}]},
        ],
    }],
    "metrics": [],
}  # fmt: skip


def folder(tmp_path: Path, frame: Any = FRAME) -> Path:
    root = tmp_path / "in"
    draw(root / "sequence.0" / "step0.camera.png")
    array = np.zeros((6, 8, 4), np.uint8)
    array[..., 3] = 255
    array[1:3, 2:4, 0] = 255
    Image.fromarray(array).save(root / "sequence.0" / "seg.png")
    (root / "sequence.0" / "step0.frame_data.json").write_text(json.dumps(frame, indent=2))
    (root / "metadata.json").write_text("{}")
    return root


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return image.mode, np.asarray(image).tolist()


@pytest.mark.shared
def test_the_shared_frames_are_read_and_come_back(tmp_path: Path) -> None:
    root = SHARED / "unity-solo" / "solo"
    assert FORM.detect(root) > 0.9
    content, (first, second) = load(FORM, root)
    assert content.schema.classes == ("Crate", "Cube", "Box", "Terrain", "Character")
    assert [p.message for p in content.problems] == [
        f"annotations of type {UNITY}.{name} are not read (1x); files of their own stay behind"
        for name in ("PixelValueAnnotation", "ExtraAnnotation")
    ]
    kinds = [s.kind for s in first.shapes]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"box": 3, "value": 2, "points": 1, "mask": 4}
    assert [(s.label, s.points) for s in second.shapes][0] == ("Crate", ((167.0, 308.0, 228.0, 192.0),))
    assert save(FORM, content, tmp_path) == []
    after = files(tmp_path)
    for name, data in files(root).items():
        if name in after:
            assert after[name] == data or pixels(root / name) == pixels(tmp_path / name), name
        else:
            assert name.startswith("sequence.1/step0.camera.")  # masks that no frame names


def test_what_did_not_change_stays_as_it_was(tmp_path: Path) -> None:
    root = folder(tmp_path)
    content, (record,) = load(FORM, root)
    box, cut = record.shapes
    moved = replace(box, points=((2.0, 2.0, 3.0, 2.5),))
    content.records = [replace(record, shapes=(moved, cut))]
    assert save(FORM, content, tmp_path / "out") == []
    frame = json.loads((tmp_path / "out" / "sequence.0" / "step0.frame_data.json").read_text())
    first, *rest = frame["captures"][0]["annotations"]
    assert first["values"] == [{**BOX, "origin": [2.0, 2.0]}]
    assert rest == FRAME["captures"][0]["annotations"][1:]
    assert pixels(root / "sequence.0" / "seg.png") == pixels(tmp_path / "out" / "sequence.0" / "seg.png")
    assert said(load(FORM, tmp_path / "out")[1][0].shapes) == said((moved, cut))


def test_a_new_data_set_is_written(tmp_path: Path) -> None:
    cut = np.zeros((6, 8), bool)
    cut[1, 2:5] = True
    shapes = (
        Shape(label="a", kind="box", points=((1.0, 2.0, 3.25, 1.5),)),
        Shape(label="b", kind="points", points=((1.5, 2.0, 3.0, 4.0),)),
        Shape(label="b", kind="mask", points=((6.0, 8.0),), mask=mask.encode(cut)),
        Shape(label="", kind="caption"),
    )
    image = draw(tmp_path / "x.png")
    record = Record(name="x.png", path=str(image), width=8, height=6, shapes=shapes)
    problems = save(FORM, Content(schema=LabelSchema(classes=("a", "b")), records=[record, record]), tmp_path / "out")
    assert len(problems) == 2
    content, records = load(FORM, tmp_path / "out")
    assert content.schema.classes == ("a", "b")
    assert content.problems == []
    assert len(records) == 2
    assert [s[:4] for s in said(records[0].shapes)] == [s[:4] for s in said(shapes[:3])]


def test_faults_are_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    bad = json.loads(json.dumps(FRAME))
    bad["captures"][0]["annotations"][0]["values"] += [{**BOX, "dimension": [-1, 2]}, {**BOX, "origin": [7, 5]}, 5]
    root = folder(tmp_path, bad)
    (root / "sequence.0" / "seg.png").unlink()
    shutil.copytree(root / "sequence.0", root / "sequence.1")
    (root / "sequence.1" / "step0.frame_data.json").write_text(json.dumps(FRAME)[:-9])
    content, (record,) = load(FORM, root)
    assert len(record.shapes) == 2
    messages = [p.message for p in content.problems]
    words = (
        "size of a box",
        "value 4: value must be an object",
        "file of a mask",
        "lies outside",
        "JSON must be whole",
        "DepthAnnotation",
    )
    assert [any(w in m for m in messages) for w in words] == [True] * 6
    assert len(messages) == 6


@settings(max_examples=40, deadline=None)
@given(mutations(json.dumps(FRAME).encode()))
def test_broken_files_never_crash(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = folder(Path(name))
        (root / "sequence.0" / "step0.frame_data.json").write_bytes(data)
        survives(FORM, root)
