# ruff: noqa: E501 (files as CVAT writes them)
"""CVAT XML: what it says, that it comes back, and what bad files give."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

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
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.data.formats import inputs
from loopworks.data.formats.contract import Content, Record
from loopworks.data.formats.cvat import Cvat

FORM = Cvat()
TASK = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>5</id>
      <name>street</name>
      <labels>
        <label>
          <name>car</name>
          <color>#ff0000</color>
          <type>any</type>
          <attributes>
            <attribute>
              <name>speed</name>
              <mutable>False</mutable>
              <input_type>number</input_type>
              <default_value>0</default_value>
              <values>0
100
1</values>
            </attribute>
          </attributes>
        </label>
        <label>
          <name>face</name>
          <type>skeleton</type>
          <svg>&lt;line x1="1"/&gt;</svg>
        </label>
        <label>
          <name>1</name>
          <type>points</type>
          <parent>face</parent>
        </label>
      </labels>
    </task>
  </meta>
  <image id="7" name="a b.png" subset="Train" task_id="5" width="8" height="6">
    <box label="car" source="manual" occluded="1" xtl="1.10" ytl="1.00" xbr="3.30" ybr="4.05" rotation="90.00" z_order="2" group_id="3">
      <attribute name="speed">12.5</attribute>
      <attribute name="plate">A &amp; B "x" &lt;</attribute>
    </box>
    <box label="car" source="auto" occluded="0" xtl="1.10" ytl="1.00" xbr="3.30" ybr="4.05" z_order="0">
    </box>
    <mask label="car" source="semi-auto" occluded="0" rle="1, 3, 2" left="2" top="1" width="3" height="2" z_order="0">
    </mask>
    <ellipse label="car" source="manual" occluded="0" cx="4.00" cy="3.00" rx="2.00" ry="1.00" rotation="30.00" z_order="0">
    </ellipse>
    <skeleton label="face" source="manual" z_order="0">
      <points label="1" source="manual" outside="0" occluded="1" points="3.00,2.00">
      </points>
      <points label="2" source="manual" outside="1" occluded="0" points="4.00,2.50">
      </points>
    </skeleton>
    <cuboid label="car" source="manual" occluded="0" xtl1="1.00" ytl1="1.00" xbl1="1.00" ybl1="3.00" xtr1="2.00" ytr1="1.00" \
xbr1="2.00" ybr1="3.00" xtl2="3.00" ytl2="1.00" xbl2="3.00" ybl2="3.00" xtr2="4.00" ytr2="1.00" xbr2="4.00" ybr2="3.00" z_order="0">
    </cuboid>
    <tag label="car" source="manual">
    </tag>
  </image>
  <image id="9" name="sub/ü.png" width="8" height="6">
  </image>
</annotations>
"""


def folder(tmp_path: Path, text: str = TASK, name: str = "annotations.xml") -> Path:
    root = tmp_path / "in"
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(text.encode())
    draw(root / "images" / "a b.png")
    draw(root / "images" / "sub" / "ü.png")
    return root


def test_every_kind_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert FORM.detect(root) > 0.9
    content, (first, second) = load(FORM, root)
    assert content.problems == []
    assert content.schema.classes == ("car", "face")
    assert (first.name, first.split, first.attributes) == ("a b.png", "train", {"task_id": "5"})
    assert (second.name, second.shapes, Path(second.path).name) == ("sub/ü.png", (), "ü.png")
    turned, box, cut, ellipse, face, cuboid, tag = first.shapes
    assert [s.kind for s in first.shapes] == ["obb", "box", "mask", "ellipse", "points", "box", "class"]
    assert turned.points[0] == pytest.approx((3.725, 1.425, 3.725, 3.625, 0.675, 3.625, 0.675, 1.425))
    assert turned.facts == {
        "occluded": True, "z_order": 2, "group_id": 3, "source": "manual", "speed": 12.5, "plate": 'A & B "x" <',
    }  # fmt: skip
    assert box.points == ((1.1, 1.0, 2.2, 3.05),)
    pixels = np.zeros((6, 8), bool)
    pixels[1, 3:5] = pixels[2, 2] = True
    assert (mask.decode(cut.mask, 6, 8) == pixels).all()
    assert ellipse.points == ((4.0, 3.0, 2.0, 1.0, 30.0),)
    assert face.points == ((3.0, 2.0, 4.0, 2.5),)
    assert face.facts["skeleton"][1] == {"label": "2", "source": "manual", "outside": 1, "occluded": 0}
    assert (cuboid.points, len(cuboid.facts["cuboid"])) == (((1.0, 1.0, 3.0, 2.0),), 16)
    assert tag.label == "car"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_task_comes_back_byte_for_byte(tmp_path: Path, codec: str) -> None:
    root = folder(tmp_path)
    (root / "annotations.xml").write_bytes(
        TASK.replace("\n", "\r\n").replace("utf-8", codec[:6].rstrip("-")).encode(codec)
    )
    assert_same_files(FORM, root, tmp_path / "out")


@pytest.mark.shared
def test_the_shared_sample_is_read_as_expected_and_comes_back(tmp_path: Path) -> None:
    case = "cvat_dataset/for_images/export_task"
    root = SHARED / "annotation-formats" / case
    expected = json.loads((SHARED / "annotation-formats" / "expected.json").read_text())["cases"][case]
    content, records = load(FORM, root)
    assert list(content.schema.classes) == expected["categories"]
    assert len(records) == expected["items"]
    found = [(Path(r.name).stem, r.split, *s.points[0], s.label) for r in records for s in r.shapes if s.kind == "box"]
    assert [list(row) for row in found] == expected["boxes"]
    assert len([s for r in records for s in r.shapes]) == sum(expected["annotations"].values())
    assert_same_files(FORM, root, tmp_path / "out")


def test_what_did_not_change_keeps_its_text(tmp_path: Path) -> None:
    content, (first, second) = load(FORM, folder(tmp_path))
    moved = replace(first.shapes[1], points=((2.0, 1.0, 2.2, 3.05),), label="bus")
    content.records = [replace(first, shapes=(first.shapes[0], moved, *first.shapes[2:5])), second]
    content.schema = LabelSchema(classes=("car", "face", "bus"))
    assert save(FORM, content, tmp_path / "out") == []
    text = (tmp_path / "out" / "annotations.xml").read_text(encoding="utf-8")
    assert 'xtl="2.00" ytl="1.00" xbr="4.20" ybr="4.05" z_order="0"' in text
    assert 'xtl="1.10" ytl="1.00" xbr="3.30" ybr="4.05" rotation="90.00" z_order="2" group_id="3"' in text
    assert "<name>bus</name>" in text
    assert "<color>#ff0000</color>" in text
    assert "<tag" not in text
    again, (back, _) = load(FORM, tmp_path / "out")
    assert again.problems == []
    assert again.schema.classes == ("car", "face", "bus")
    assert said(back.shapes) == said([first.shapes[0], moved, *first.shapes[2:5]])


def test_an_unchanged_image_may_be_left_out_and_keeps_its_place(tmp_path: Path) -> None:
    content, (first, second) = load(FORM, folder(tmp_path))
    content.records = [second, first]
    save(FORM, content, tmp_path / "out")
    _, (one, two) = load(FORM, tmp_path / "out")
    assert (one.name, two.name) == (first.name, second.name)
    assert said(one.shapes) == said(first.shapes)
    content.records = []
    save(FORM, content, tmp_path / "none")
    assert load(FORM, tmp_path / "none")[1] == []


FACTS = st.fixed_dictionaries(
    {},
    optional={
        "occluded": st.booleans(),
        "z_order": st.integers(-9, 9),
        "group_id": st.integers(0, 99),
        "source": st.sampled_from(("manual", "auto")),
        "speed": st.integers(-99, 99) | st.floats(-1e9, 1e9, allow_nan=False),
        "parked": st.booleans(),
        "note": WORDS | st.just(" a\n&\t<\"'> "),
    },
)
SAME = ("occluded", "z_order", "source")


@settings(max_examples=20, deadline=None)
@given(contents(("box", "polygon", "polyline", "points", "ellipse", "mask", "class"), FACTS))
def test_what_is_written_is_read_again(content: Content) -> None:
    with tempfile.TemporaryDirectory() as name:
        assert save(FORM, content, Path(name)) == []
        again, records = load(FORM, Path(name))
    assert {p.error for p in again.problems} <= {"not_found", "invalid"}
    assert again.schema.classes == content.schema.classes
    assert [(r.name, r.split, r.width, r.height) for r in records] == [
        (r.name, r.split, r.width, r.height) for r in content.records
    ]
    for before, after in zip(content.records, records, strict=True):
        assert [x[:4] for x in said(after.shapes)] == [x[:4] for x in said(before.shapes)]
        for one, other in zip(before.shapes, after.shapes, strict=True):
            usual = {"occluded": False, "z_order": 0, "source": "manual"}
            wanted = {**usual, **one.facts}
            assert {**usual, **other.facts} == wanted


def test_turned_boxes_and_skeletons_and_cuboids_are_written(tmp_path: Path) -> None:
    _, (first, _) = load(FORM, folder(tmp_path))
    plain = tuple(replace(s, extra="{}") for s in first.shapes)
    content = Content(
        schema=LabelSchema(classes=("car", "face")), records=[replace(first, shapes=plain, extra={}, attributes={})]
    )
    assert save(FORM, content, tmp_path / "out") == []
    _, (back,) = load(FORM, tmp_path / "out")
    assert back.shapes[0].kind == "obb"
    assert back.shapes[0].points[0] == pytest.approx(first.shapes[0].points[0])
    assert [(s.kind, s.points, s.mask) for s in back.shapes[1:]] == [(s.kind, s.points, s.mask) for s in plain[1:]]
    assert back.shapes[4].facts["skeleton"] == plain[4].facts["skeleton"]
    assert back.shapes[5].facts["cuboid"] == plain[5].facts["cuboid"]


def test_what_cvat_cannot_hold_is_said_once_per_kind(tmp_path: Path) -> None:
    skewed = Shape(label="a", kind="obb", points=((0.0, 0.0, 4.0, 0.0, 5.0, 3.0, 0.0, 2.0),))
    parts = Shape(label="a", kind="polygon", points=((0.0, 0.0, 1.0, 0.0, 1.0, 1.0), (3.0, 3.0, 4.0, 3.0, 4.0, 4.0)))
    caption = Shape(label="", kind="caption", attributes=dump({"text": "hi"}))
    record = Record(name="a.png", width=8, height=6, shapes=(skewed, parts, caption, caption), tags=("x",))
    content = Content(schema=LabelSchema(classes=("a",)), records=[record, Record(name="t", text="words")])
    messages = [p.message for p in save(FORM, content, tmp_path)]
    assert len(messages) == 5
    assert any("a caption has no place" in m and "(2x)" in m for m in messages)
    assert [s.kind for s in load(FORM, tmp_path)[1][0].shapes] == ["polygon"] * 3


def only(tmp_path: Path, text: str) -> tuple[list[Record], list[str]]:
    content, records = load(FORM, folder(tmp_path, text))
    return records, [f"{p.where}: {p.message}" for p in content.problems]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('xbr="3.30" ybr="4.05" z_order="0"', 'xbr="nan" ybr="4.05" z_order="0"', "line 38, image 'a b.png', box 2: xbr of a box must be a finite number; got nan"),
        ('xbr="3.30" ybr="4.05" z_order="0"', 'xbr="1.00" ybr="4.05" z_order="0"', "size of a box must be 0 or more; got"),
        ('xbr="3.30" ybr="4.05" z_order="0"', 'xbr="9.00" ybr="4.05" z_order="0"', "box 2: lies outside the image of 8 x 6; kept"),
        ('<tag label="car"', '<tag label="van"', "class 'van' is not in the labels of the file"),
        ('rle="1, 3, 2"', 'rle="1, 3, 3"', "runs of a mask must be adding up"),
        ('left="2" top="1"', 'left="7" top="1"', "mask must be inside the image of 8 x 6"),
        ('name="sub/ü.png"', 'name="sub/no.png"', "the image file is missing"),
        ('name="sub/ü.png"', 'name="../ü.png"', "a path inside the folder"),
        ('name="sub/ü.png"', 'name="/etc/passwd"', "a path inside the folder"),
        ('name="sub/ü.png"', 'name="a b.png"', "an image of this name is there already"),
        ('id="9"', 'id="7"', "id '7' is there twice"),
        ("<tag ", "<blob ", "element of an image must be one of"),
        ('points="4.00,2.50"', 'points="4.00"', "points of a skeleton must be x,y;x,y"),
        ("  </image>\n</annotations>\n", "  </im", "XML must be whole; got"),
        ("  <image id=\"9\"", "  <track id=\"0\"></track>\n  <image id=\"9\"", "<track> has no place beside images"),
    ],
)  # fmt: skip
def test_bad_input_gives_a_line_with_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in TASK
    text = (
        TASK.replace(old, new).replace("<blob ", "<blob ").replace("</tag>", "</blob>" if "<blob" in new else "</tag>")
    )
    records, problems = only(tmp_path, text)
    assert len(problems) == 1
    assert words in problems[0]
    assert problems[0].startswith("annotations.xml")
    assert records
    assert records[0].name == "a b.png"


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]>'
    with pytest.raises(Invalid, match="without declared entities"):
        load(FORM, folder(tmp_path, TASK.replace("<annotations>", f"{bomb}<annotations>")))
    with pytest.raises(Invalid, match="at most 64 levels"):
        load(FORM, folder(tmp_path, "<annotations><meta>" + "<a>" * 100_000))
    path = folder(tmp_path) / "annotations.xml"
    path.write_bytes(TASK.encode().replace("ü".encode(), b"\xfc"))
    line = TASK[: TASK.index("ü")].count("\n") + 1
    with pytest.raises(Invalid, match=f"byte 0xfc at line {line}"):
        load(FORM, path)
    path.write_bytes(TASK.replace("utf-8", "iso-8859-1").encode("latin-1"))
    assert load(FORM, path)[1][1].name == "sub/ü.png"
    monkeypatch.setattr(inputs, "LIMIT_BYTES", 10)
    with pytest.raises(Invalid, match="at most 10 bytes"):
        load(FORM, path)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    root = folder(tmp_path)
    secret = draw(tmp_path / "secret.png")
    (root / "images" / "a b.png").unlink()
    (root / "images" / "a b.png").symlink_to(secret)
    content, (first, _) = load(FORM, root)
    assert first.path == ""
    assert [p.message for p in content.problems] == ["the image file is missing"]


@settings(max_examples=40, deadline=None)
@given(mutations(TASK.encode()))
def test_broken_files_never_crash(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "annotations.xml").write_bytes(data)
        survives(FORM, Path(name))


def test_files_keep_the_labels_that_they_had(tmp_path: Path) -> None:
    root = folder(tmp_path)
    head, _, _ = TASK.partition("  <image")
    other = (
        head.replace("<name>car</name>", "<name>dog</name>")
        + '  <image id="1" name="c.png" width="8" height="6">\n  </image>\n</annotations>\n'
    )
    (root / "b.xml").write_text(other, encoding="utf-8")
    (root / "annotations.xml").write_text(TASK.replace('<tag label="car"', '<tag label="van"'), encoding="utf-8")
    draw(root / "images" / "c.png")
    content, records = load(FORM, root)
    assert content.schema.classes == ("car", "face", "van", "dog")
    save(FORM, content, tmp_path / "out")
    for name in ("b.xml", "annotations.xml"):
        assert (tmp_path / "out" / name).read_text(encoding="utf-8") == (root / name).read_text(encoding="utf-8")
    assert len(records) == 3
