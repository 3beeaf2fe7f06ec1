# ruff: noqa: E501 (rows of made-up annotations)
"""Datumaro JSON: what it says, that it comes back, and what bad files give."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
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

from loopworks.core.values import LabelSchema
from loopworks.data.formats.contract import Content
from loopworks.data.formats.datumaro_json import Datumaro

FORM = Datumaro()


def row(kind: str, ident: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": ident, "type": kind, "attributes": {"occluded": False}, "group": 0, **more}


ROWS = [
    row("label", label_id=0),
    row("bbox", 1, label_id=1, z_order=0, bbox=[1.5, 2.0, 3.0, 2.0]),
    row("polygon", 2, label_id=0, points=[0.0, 0.0, 4.0, 0.0, 4.0, 3.0], z_order=1, object_id=7),
    row("polyline", 3, label_id=0, points=[0.0, 0.0, 4.0, 0.0], z_order=0),
    row("points", 4, label_id=0, points=[1.0, 1.0, 2.0, 2.0], z_order=0, visibility=[2, 1]),
    row("mask", 5, label_id=1, rle={"counts": "6:", "size": [2, 8]}, z_order=0),
    row("ellipse", 6, label_id=1, points=[1.0, 1.0, 5.0, 3.0], z_order=0),
    row("caption", 7, caption="a street"),
    row("cuboid_3d", 8, label_id=1, position=[1.0, 2.0, 3.0], rotation=[0.0, 0.0, 0.1], scale=[1.0, 1.0, 1.0]),
    row("hash_key", 9, hash_key=[1, 2]),
]
BODY: dict[str, Any] = {
    "dm_format_version": "1.0",
    "media_type": 2,
    "infos": {"by": "x"},
    "categories": {
        "label": {
            "labels": [{"name": "car", "parent": "", "attributes": []}, {"name": "bus", "parent": "", "attributes": []}],
            "label_groups": [],
            "attributes": ["occluded"],
        },
        "mask": {"colormap": [{"label_id": 0, "r": 1, "g": 2, "b": 3}]},
    },
    "items": [
        {"id": "a", "annotations": [r for r in ROWS if r["type"] != "mask"], "attr": {"frame": 3}, "image": {"path": "a.png", "size": [6, 8]}},
        {"id": "b/c", "annotations": [], "image": {"path": "b/c.png", "size": [6, 8]}},
    ],
}  # fmt: skip


def folder(tmp_path: Path, body: Any = BODY, data: bytes | None = None) -> Path:
    root = tmp_path / "in"
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "train.json").write_bytes(orjson.dumps(body) if data is None else data)
    draw(root / "images" / "train" / "a.png")
    draw(root / "images" / "train" / "b" / "c.png")
    return root


def test_every_type_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert FORM.detect(root) > 0.9
    content, (first, second) = load(FORM, root)
    assert [p.message for p in content.problems] == ["annotations of type 'hash_key' are not read (1x)"]
    assert content.schema.classes == ("car", "bus")
    assert (first.name, first.split, first.attributes, first.width, first.height) == (
        "a.png",
        "train",
        {"frame": 3},
        8,
        6,
    )
    assert second.name == "b/c.png"
    kinds = [s.kind for s in first.shapes]
    assert kinds == ["class", "box", "polygon", "polyline", "points", "ellipse", "caption", "value"]
    assert first.shapes[1].points == ((1.5, 2.0, 3.0, 2.0),)
    assert first.shapes[2].facts == {"id": 2, "object_id": 7, "occluded": False, "z_order": 1}
    assert first.shapes[5].points == ((3.0, 2.0, 2.0, 1.0, 0.0),)
    assert first.shapes[6].facts["text"] == "a street"


@pytest.mark.parametrize(
    "data", [orjson.dumps(BODY), json.dumps(BODY, indent=4).encode(), json.dumps(BODY).encode() + b"\n"]
)
def test_a_data_set_comes_back_byte_for_byte(tmp_path: Path, data: bytes) -> None:
    assert_same_files(FORM, folder(tmp_path, data=data), tmp_path / "out")


@pytest.mark.shared
def test_the_shared_sample_is_read_as_expected_and_comes_back(tmp_path: Path) -> None:
    root = SHARED / "annotation-formats" / "datumaro_dataset" / "legacy"
    cases = json.loads((SHARED / "annotation-formats" / "expected.json").read_text())["cases"]
    expected = cases["datumaro_dataset/legacy"]
    content, records = load(FORM, root)
    assert list(content.schema.classes) == expected["categories"]
    assert len(records) == expected["items"]
    used = [s.label for r in records for s in r.shapes]
    assert {name: used.count(name) for name in set(used)} == expected["labels_used"]
    assert_same_files(FORM, root, tmp_path)


def test_what_did_not_change_stays_as_it_was(tmp_path: Path) -> None:
    content, (first, second) = load(FORM, folder(tmp_path, data=json.dumps(BODY, indent=4).encode()))
    moved = replace(first.shapes[1], points=((2.0, 2.0, 3.0, 2.0),), label="van")
    now = (first.shapes[0], moved, first.shapes[4])
    content.records = [replace(first, shapes=now), second]
    content.schema = LabelSchema(classes=("car", "bus", "van"))
    assert save(FORM, content, tmp_path / "out") == []
    body = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert body["infos"] == BODY["infos"]
    assert [one["name"] for one in body["categories"]["label"]["labels"]] == ["car", "bus", "van"]
    assert body["categories"]["mask"] == BODY["categories"]["mask"]
    rows = body["items"][0]["annotations"]
    assert rows[0] == ROWS[0]
    assert rows[1] == {**ROWS[1], "bbox": [2.0, 2.0, 3.0, 2.0], "label_id": 2}
    assert rows[2:] == [ROWS[4], ROWS[9]]
    assert said(load(FORM, tmp_path / "out")[1][0].shapes) == said(now)


FACTS = st.fixed_dictionaries(
    {"z_order": st.integers(-9, 9)},
    optional={
        "occluded": st.booleans(),
        "note": WORDS,
        "id": st.integers(1, 99),
        "group": st.integers(1, 9),
        "list": st.lists(st.integers()),
    },
)


@settings(max_examples=25, deadline=None)
@given(contents(("box", "polygon", "polyline", "mask"), FACTS))
def test_what_is_written_is_read_again(content: Content) -> None:
    with tempfile.TemporaryDirectory() as name:
        assert save(FORM, content, Path(name)) == []
        again, records = load(FORM, Path(name))
    if content.records:
        assert again.schema == content.schema
    key = {r.name: r for r in records}
    assert sorted(key) == sorted(r.name for r in content.records)
    for before in content.records:
        assert (key[before.name].split, said(key[before.name].shapes)) == (before.split, said(before.shapes))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row("bbox", label_id=9, z_order=0, bbox=[0, 0, 1, 1]), "label_id must be one of the 2 labels"),
        (row("bbox", label_id=0, z_order=0, bbox=[0, 0, -1, 1]), "size of a box must be 0 or more"),
        (row("bbox", label_id=0, z_order=0, bbox=[0, 0, None, 1]), "4 finite numbers"),
        (row("bbox", label_id=0, z_order=0, bbox=[0, 0, 9, 1]), "lies outside the image of 8 x 6; kept"),
        (row("mask", label_id=0, rle={"counts": "6:", "size": [2, 8]}), "size of a mask must be that of the image"),
    ],
)
def test_bad_input_gives_a_line_with_its_place(tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    item = {**BODY["items"][0], "annotations": [ROWS[1], bad]}
    content, records = load(FORM, folder(tmp_path, {**BODY, "items": [item, BODY["items"][1]]}))
    assert [words in p.message for p in content.problems] == [True]
    assert content.problems[0].where == "annotations/train.json: line 1, item 1 ('a'), annotation 2"
    assert len(records) == 2


def test_missing_media_doubles_and_tricks_are_said(tmp_path: Path) -> None:
    items = [
        {"id": "x", "annotations": [], "image": {"path": "none.png"}},
        {"id": "x", "annotations": []},
        {"id": "y", "annotations": [], "image": {"path": "../../a.png"}},
        5,
    ]
    content, records = load(FORM, folder(tmp_path, {**BODY, "items": items}))
    assert [r.name for r in records] == ["none.png"]
    assert [
        w in p.message
        for w, p in zip(
            ("missing", "there already", "inside the folder", "object with an id"), content.problems, strict=True
        )
    ] == [True] * 4


@settings(max_examples=40, deadline=None)
@given(mutations(orjson.dumps(BODY)))
def test_broken_files_never_crash(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "annotations").mkdir()
        (Path(name) / "annotations" / "train.json").write_bytes(data)
        survives(FORM, Path(name))
