# ruff: noqa: E501 (files as Label Studio writes them)
"""Label Studio JSON and JSON-MIN: what they say, that they come back, and what bad files give."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.formats.samples import (
    SHARED,
    WORDS,
    assert_same_files,
    contents,
    draw,
    load,
    mutations,
    said,
    save,
    survives,
)

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.data.formats import brush
from loopworks.data.formats.contract import Content, Record
from loopworks.data.formats.label_studio import LabelStudio

FORM = LabelStudio()
PIXELS = np.zeros((50, 200), bool)
PIXELS[10:20, 30:60] = True


def region(kind: str, value: dict[str, Any], ident: str = "a", label: str = "car") -> dict[str, Any]:
    return {
        "original_width": 200, "original_height": 50, "image_rotation": 0, "value": {**value, kind: [label]},
        "id": ident, "from_name": "label", "to_name": "image", "type": kind, "origin": "manual",
    }  # fmt: skip


def other(kind: str, value: Any, ident: str, name: str) -> dict[str, Any]:
    return {
        "value": {kind: value},
        "id": ident,
        "from_name": name,
        "to_name": "image",
        "type": kind,
        "origin": "manual",
    }


RESULTS = [
    region("rectanglelabels", {"x": 10, "y": 20.0, "width": 5.5, "height": 40, "rotation": 0}, "a"),
    region("rectanglelabels", {"x": 10, "y": 20, "width": 5, "height": 40, "rotation": 90}, "b"),
    region("polygonlabels", {"points": [[0, 0], [50, 0], [50, 100]], "closed": True}, "c", "bus"),
    region("brushlabels", {"format": "rle", "rle": brush.encode(PIXELS)}, "d"),
    region("keypointlabels", {"x": 50, "y": 50, "width": 0.3}, "e"),
    region("ellipselabels", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 15}, "f"),
    other("textarea", ["ABC 123"], "a", "plate"),
    other("choices", ["sunny", "dry"], "g", "weather"),
    other("taxonomy", [["a", "b"]], "h", "tree"),
    other("rating", 4, "i", "stars"),
]
TASK: dict[str, Any] = {
    "id": 12,
    "annotations": [
        {"id": 3, "completed_by": {"id": 1, "email": "ann@example.com"}, "result": RESULTS, "was_cancelled": False, "lead_time": 1.50},
        {"id": 4, "completed_by": 2, "result": RESULTS[:1], "was_cancelled": True},
    ],
    "drafts": [{"id": 1, "result": RESULTS[:1]}],
    "predictions": [{"id": 9, "model_version": "m", "score": 0.5, "result": RESULTS[:1]}],
    "file_upload": "1f2e-a.png",
    "data": {"image": "/data/upload/1/1f2e-a.png", "camera": "north", "shot": {"iso": 100}},
    "meta": {},
}  # fmt: skip


def folder(tmp_path: Path, *tasks: Any, **layout: Any) -> Path:
    root = tmp_path / "in"
    root.mkdir(exist_ok=True)
    (root / "export.json").write_text(json.dumps(list(tasks) or [TASK], ensure_ascii=False, **layout), encoding="utf-8")
    draw(root / "images" / "1f2e-a.png", 200, 50)
    return root


def test_every_kind_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert FORM.detect(root) > 0.9
    content, (record,) = load(FORM, root)
    assert content.problems == []
    assert (content.schema.classes, content.schema.is_multi) == (("car", "bus", "sunny", "dry"), True)
    assert (record.name, Path(record.path).name, record.width, record.height) == ("1f2e-a.png", "1f2e-a.png", 200, 50)
    assert record.attributes == {"camera": "north", "shot": {"iso": 100}, "tree": [["a", "b"]], "stars": 4}
    kinds = [s.kind for s in record.shapes]
    assert kinds == ["box", "obb", "polygon", "mask", "points", "ellipse", "class", "class"]
    box, turned, polygon, painted, point, ellipse, *choices = record.shapes
    assert (box.points, box.facts, box.author) == (
        ((20.0, 10.0, 11.0, 20.0),),
        {"plate": ["ABC 123"]},
        "ann@example.com",
    )
    # 10 x 20 pixels turned by a right angle about the upper left corner at (20, 10).
    assert turned.points[0] == pytest.approx((20, 10, 20, 20, 0, 20, 0, 10))
    assert (polygon.label, polygon.points) == ("bus", ((0.0, 0.0, 100.0, 0.0, 100.0, 50.0),))
    assert (mask.decode(painted.mask, 50, 200) == PIXELS).all()
    assert point.points == ((100.0, 25.0),)
    assert ellipse.points == ((100.0, 25.0, 20.0, 10.0, 15.0),)
    assert [one.label for one in choices] == ["sunny", "dry"]


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}, {"indent": "\t"}])
def test_an_export_comes_back_byte_for_byte(tmp_path: Path, layout: dict[str, Any]) -> None:
    assert_same_files(FORM, folder(tmp_path, **layout), tmp_path / "out")


SHORT: dict[str, Any] = {
    "image": "/data/local-files/?d=images/1f2e-a.png",
    "camera": "north",
    "id": 5,
    "label": [{**RESULTS[0]["value"], "original_width": 200, "original_height": 50}],
    "weather": {"choices": ["sunny", "dry"]},
    "mood": "good",
    "stars": 4,
    "annotator": 1,
    "annotation_id": 8,
    "created_at": "2024-01-01T00:00:00Z",
    "lead_time": 2.0,
}


def test_the_short_export_is_read_and_comes_back(tmp_path: Path) -> None:
    root = folder(tmp_path, SHORT, indent=2)
    content, (record,) = load(FORM, root)
    assert content.problems == []
    assert record.name == "images/1f2e-a.png"
    assert [(s.kind, s.label) for s in record.shapes] == [
        ("box", "car"), ("class", "sunny"), ("class", "dry"), ("class", "good"),
    ]  # fmt: skip
    assert record.attributes == {"camera": "north", "stars": 4}
    assert_same_files(FORM, root, tmp_path / "out")
    content.records = [replace(record, shapes=record.shapes[1:])]
    save(FORM, content, tmp_path / "less")
    (less,) = load(FORM, tmp_path / "less")[1]
    assert said(less.shapes) == said(record.shapes[1:])


def test_texts_with_spans_are_read_and_written(tmp_path: Path) -> None:
    span = {"start": 0, "end": 3, "text": "Ada", "labels": ["name"]}
    result = {"value": span, "id": "x", "from_name": "label", "to_name": "text", "type": "labels"}
    task = {"id": 1, "annotations": [{"id": 1, "completed_by": 1, "result": [result]}], "data": {"text": "Ada codes"}}
    root = folder(tmp_path, task)
    (root / "images" / "1f2e-a.png").unlink()
    content, (record,) = load(FORM, root)
    assert (record.name, record.text, content.problems) == ("task-1", "Ada codes", [])
    assert (record.shapes[0].kind, record.shapes[0].facts) == ("value", {"start": 0, "end": 3, "text": "Ada"})
    assert_same_files(FORM, root, tmp_path / "out")
    plain = replace(record, extra={}, shapes=tuple(replace(s, extra="{}") for s in record.shapes))
    save(FORM, Content(schema=content.schema, records=[plain]), tmp_path / "new")
    assert said(load(FORM, tmp_path / "new")[1][0].shapes) == said(record.shapes)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "classes", "count"), [("export_json_min", 2, 1), ("export_yolo", 4, 7)])
def test_the_shared_exports_are_read_and_come_back(tmp_path: Path, name: str, classes: int, count: int) -> None:
    root = SHARED / "label-studio-exports" / name
    content, records = load(FORM, root)
    assert len(content.schema.classes) == classes
    assert sum(len(r.shapes) for r in records) == count
    assert {p.error for p in content.problems} == {"not_found"}
    assert_same_files(FORM, root, tmp_path)


def test_what_did_not_change_stays_as_it_was(tmp_path: Path) -> None:
    content, (record,) = load(FORM, folder(tmp_path, indent=2))
    moved = replace(record.shapes[2], points=((0.0, 0.0, 30.0, 0.0, 30.0, 10.0),))
    now = (record.shapes[0], moved, *record.shapes[3:])
    content.records = [replace(record, shapes=now, attributes={**record.attributes, "camera": "south"})]
    assert save(FORM, content, tmp_path / "out") == []
    (task,) = json.loads((tmp_path / "out" / "export.json").read_text())
    assert [one for one in task["annotations"][0]["result"] if one["id"] != "b" and one in RESULTS] == [
        one for one in RESULTS if one["id"] not in "bc"
    ]
    assert task["drafts"] == TASK["drafts"]
    assert task["predictions"] == TASK["predictions"]
    assert task["data"]["camera"] == "south"
    (back,) = load(FORM, tmp_path / "out")[1]
    assert sorted(map(str, said(back.shapes))) == sorted(map(str, said(now)))


@settings(max_examples=20, deadline=None)
@given(
    contents(
        ("box", "polygon", "ellipse", "mask", "class"),
        st.fixed_dictionaries({}, optional={"note": WORDS, "n": st.integers()}),
    )
)
def test_what_is_written_is_read_again(content: Content) -> None:
    with tempfile.TemporaryDirectory() as name:
        save(FORM, content, Path(name))
        _, records = load(FORM, Path(name))
    wanted: list[Record] = list(content.records)
    assert [(r.name, r.split) for r in records] == [(r.name, r.split) for r in wanted]
    for before, after in zip(wanted, records, strict=True):
        plain = [x[:4] for x in said(after.shapes)]
        assert plain == [x[:4] for x in said(before.shapes)]
        facts = [s.facts for s in before.shapes if s.kind != "class"]
        assert [s.facts for s in after.shapes if s.kind != "class"] == facts


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99), st.floats(0, 1))
def test_brushed_pixels_come_back(height: int, width: int, seed: int, part: float) -> None:
    pixels = np.random.default_rng(seed).random((height, width)) < part
    assert (brush.decode(brush.encode(pixels), height, width) == pixels).all()


def test_a_brush_of_single_values_is_read() -> None:
    # By hand: 4 values of 8 bits, sizes 3, 4, 8, 16; one run of 4 values one by one: 1, 2, 3, 255.
    bits = (
        f"{4:032b}"
        + "00111"
        + "0010"
        + "0011"
        + "0111"
        + "1111"
        + "0"
        + "00"
        + "011"
        + "".join(f"{n:08b}" for n in (1, 2, 3, 255))
    )
    bits += "0" * (-len(bits) % 8)
    data = list(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    assert brush.decode(data, 1, 1).tolist() == [[True]]
    with pytest.raises(Invalid, match="cut off"):
        brush.decode(data[:-2], 1, 1)
    with pytest.raises(Invalid, match="of 2 x 1 pixels"):
        brush.decode(data, 1, 2)


def with_value(**more: Any) -> dict[str, Any]:
    bad = {**RESULTS[0], "value": {**RESULTS[0]["value"], **more}}
    return {**TASK, "annotations": [{**TASK["annotations"][0], "result": [bad, RESULTS[2]]}]}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (with_value(width=-1), "size of a rectangle must be 0 or more"),
        (with_value(x=float("nan")), "x must be a number; got nan"),
        (with_value(x=99), "lies outside the image of 200 x 50; kept"),
        (with_value(x="1"), "x must be a number; got 1"),
        ({**TASK, "data": {"image": "/data/upload/1/none.png"}}, "the file is missing"),
        ({**TASK, "data": {"image": "../../etc/passwd.png"}}, "a path inside the folder"),
    ],
)
def test_bad_input_gives_a_line_with_its_place(tmp_path: Path, task: Any, words: str) -> None:
    good = {"id": 99, "annotations": [], "data": {"image": "images/1f2e-a.png"}}
    content, records = load(FORM, folder(tmp_path, task, good))
    assert [words in p.message for p in content.problems] == [True]
    assert content.problems[0].where.startswith("export.json: line 1, item 1")
    assert records[-1].name == "images/1f2e-a.png"


def test_a_file_that_is_cut_off_gives_the_tasks_before(tmp_path: Path) -> None:
    root = folder(tmp_path, TASK, {**TASK, "id": 13})
    text = (root / "export.json").read_text()
    (root / "export.json").write_text(text[:-50])
    content, records = load(FORM, root)
    assert len(records) == 1
    assert len(content.problems) == 1
    assert "JSON must be whole" in content.problems[0].message
    assert "line 1, column" in content.problems[0].message


def test_doubles_and_depth_are_said(tmp_path: Path) -> None:
    content, records = load(FORM, folder(tmp_path, TASK, TASK))
    assert len(records) == 1
    assert "is there already" in content.problems[0].message
    root = folder(tmp_path)
    (root / "export.json").write_text('[{"completed_by": 1, "x": ' + "[" * 200_000)
    content, records = load(FORM, root)
    assert records == []
    assert "nested less deep" in content.problems[0].message


@settings(max_examples=40, deadline=None)
@given(
    mutations(
        json.dumps([
            {**TASK, "annotations": [{**TASK["annotations"][0], "result": [*RESULTS[:3], *RESULTS[4:]]}]}
        ]).encode()
    )
)
def test_broken_files_never_crash(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "export.json").write_bytes(data)
        survives(FORM, Path(name))
