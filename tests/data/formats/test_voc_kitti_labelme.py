"""Pascal VOC, KITTI and LabelMe: what tools write beside the plain case, changes, bad input."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.formats.passage import Got, differences, draw, read, write

from loopworks.core.values import Shape
from loopworks.data.formats.kitti import Kitti
from loopworks.data.formats.labelme import LabelMe
from loopworks.data.formats.voc import Voc

HEAD = "<annotation>\n\t<filename>a.png</filename>\n\t<size><width>20</width><height>10</height></size>\n"
OBJECT = """\t<object>
\t\t<name>{name}</name>
\t\t<occluded>1</occluded>
\t\t<bndbox><xmin>{left}</xmin><ymin>2</ymin><xmax>6.50</xmax><ymax>7</ymax></bndbox>
\t\t<attributes><attribute><name>color</name><value>red</value></attribute></attributes>
\t</object>
"""


def lay(root: Path, place: str, data: bytes | str, image: str = "") -> Path:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(data if isinstance(data, bytes) else data.encode())
    if image:
        draw(root / image, (20, 10))
    return root


@pytest.mark.parametrize(
    ("place", "image", "name"),
    [
        ("Annotations/a.xml", "JPEGImages/a.png", "a.png"),
        ("VOCdevkit/VOC2012/Annotations/a.xml", "VOCdevkit/VOC2012/JPEGImages/a.png", "VOCdevkit/VOC2012/a.png"),
        ("train/a.xml", "train/a.png", "train/a.png"),
        ("Annotations/sub/a.xml", "JPEGImages/sub/a.png", "sub/a.png"),
        ("annotations/Annotations/a.xml", "annotations/images/a.png", "annotations/images/a.png"),
    ],
)
def test_voc_images_are_found_where_tools_put_them(place: str, image: str, name: str, tmp_path: Path) -> None:
    text = '<?xml version="1.0"?>\n' + HEAD + OBJECT.format(name="cat", left="1.0") + "</annotation>"
    root = lay(tmp_path / "in", place, text, image)
    got = read(Voc(), root)
    assert not got.problems
    assert [record.name for record in got.records] == [name]
    assert got.records[0].shapes[0].points == ((1.0, 2.0, 5.5, 5.0),)
    assert got.records[0].shapes[0].facts == {"occluded": 1, "color": "red"}
    write(Voc(), got, tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


def test_a_changed_voc_object_leaves_the_others_alone(tmp_path: Path) -> None:
    text = HEAD + OBJECT.format(name="cat", left="1.0") + OBJECT.format(name="dog", left="2") + "</annotation>\n"
    got = read(Voc(), lay(tmp_path / "in", "Annotations/a.xml", text, "JPEGImages/a.png"))
    one, two = got.records[0].shapes
    records = [replace(got.records[0], shapes=(one, replace(two, label="cat")))]
    write(Voc(), Got(got.schema, records, got.meta, []), tmp_path / "out")
    after = (tmp_path / "out/Annotations/a.xml").read_text(encoding="utf-8")
    assert after.count("<xmin>1.0</xmin>") == 1
    assert after.count("<name>cat</name>") == 2
    again = read(Voc(), tmp_path / "out").records[0]
    assert [shape.points for shape in again.shapes] == [one.points, two.points]
    assert [shape.attributes for shape in again.shapes] == [one.attributes, two.attributes]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (HEAD.encode() + b"<object><name>c", "line 4"),
        (b'<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>', "document type"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>', "document type"),
        (b"<annotation>" + b"<a>" * 5000 + b"</a>" * 5000 + b"</annotation>", "64 levels"),
        ((HEAD + "<x>\xe9</x></annotation>").encode("latin-1"), "at line 4"),
        (HEAD.replace("a.png", "../../a").encode() + b"</annotation>", "below the folder"),
    ],
    ids=["cut", "bomb", "entity", "deep", "latin", "path"],
)
def test_broken_xml_is_one_problem_and_the_rest_is_kept(data: bytes, word: str, tmp_path: Path) -> None:
    good = HEAD + OBJECT.format(name="cat", left="1") + "</annotation>"
    lay(tmp_path, "Annotations/a.xml", good, "JPEGImages/a.png")
    lay(tmp_path, "Annotations/z.xml", data)
    got = read(Voc(), tmp_path)
    assert [problem.where for problem in got.problems] == ["Annotations/z.xml"]
    assert word in got.problems[0].message
    assert [len(record.shapes) for record in got.records] == [1]


def test_declared_latin_1_is_read_and_written_back(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>\n' + HEAD + OBJECT.format(name="caf\xe9", left="1")
    root = lay(tmp_path / "in", "Annotations/a.xml", (text + "</annotation>").encode("latin-1"), "JPEGImages/a.png")
    got = read(Voc(), root)
    assert got.schema.classes == ("caf\xe9",)
    write(Voc(), got, tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


def test_utf_16_is_read_and_written_back(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?>\n' + HEAD + OBJECT.format(name="cat", left="1") + "</annotation>"
    root = lay(tmp_path / "in", "Annotations/a.xml", text.encode("utf-16"), "JPEGImages/a.png")
    got = read(Voc(), root)
    assert not got.problems
    assert got.schema.classes == ("cat",)
    write(Voc(), got, tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


def test_bad_voc_objects_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    lefts = ["1", "nan", "9", "x", "-30", "1"]
    text = HEAD + "".join(OBJECT.format(name="cat", left=left) for left in lefts) + "</annotation>"
    got = read(Voc(), lay(tmp_path, "Annotations/a.xml", text))
    numbers = [problem.where.rpartition(" ")[2] for problem in got.problems if "object" in problem.where]
    assert numbers == ["2", "3", "4", "5"]
    assert any("JPEGImages/a.png" in problem.message for problem in got.problems)
    assert len(got.records[0].shapes) == 3


LINE = "Car 0.00 0 -1.58 1.00 2.00 9.00 8.50 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"


def test_kitti_keeps_every_column_and_a_change_touches_one_line(tmp_path: Path) -> None:
    lay(tmp_path / "in", "training/label_2/a.txt", f"{LINE}\nDontCare{LINE[3:]} 0.75\n", "training/image_2/a.png")
    got = read(Kitti(), tmp_path / "in")
    assert not got.problems
    assert got.schema.classes == ("Car", "DontCare")
    facts = got.records[0].shapes[1].facts
    assert facts["score"] == 0.75
    assert facts["location"] == [-0.65, 1.71, 46.7]
    moved = replace(got.records[0].shapes[1], points=((0.0, 0.0, 4.0, 4.0),))
    records = [replace(got.records[0], shapes=(got.records[0].shapes[0], moved))]
    write(Kitti(), Got(got.schema, records, got.meta, []), tmp_path / "out")
    written = (tmp_path / "out/training/label_2/a.txt").read_text(encoding="utf-8").splitlines()
    assert written == [LINE, "DontCare 0.0 0 -1.58 0 0 4 4 1.65 1.67 3.64 -0.65 1.71 46.7 -1.59 0.75"]


def test_kitti_without_any_label_is_read_again(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "training/image_2/x/000.png", (20, 10))
    got = read(Kitti(), tmp_path / "in")
    write(Kitti(), got, tmp_path / "out")
    assert Kitti().detect(tmp_path / "out") == 0.6
    again = read(Kitti(), tmp_path / "out")
    assert [(record.name, record.is_labeled) for record in again.records] == [("x/000.png", False)]


def test_bad_kitti_lines_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    lines = [LINE, LINE + " 1 1", LINE.replace("9.00", "0.50"), LINE.replace("1.65", "NaN"), LINE.replace("9.00", "90")]
    got = read(Kitti(), lay(tmp_path, "training/label_2/a.txt", "\n".join(lines), "training/image_2/a.png"))
    assert [problem.where[-1] for problem in got.problems] == ["2", "3", "4", "5"]
    assert len(got.records[0].shapes) == 2


def labelme(**more: object) -> str:
    body: dict[str, object] = {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {
                "label": "cat",
                "points": [[1, 2], [6.0, 7.0]],
                "group_id": 3,
                "shape_type": "rectangle",
                "flags": {"x": True},
            },
            {"label": "dog", "points": [[1, 2], [6, 7], [1, 7]], "description": "d", "shape_type": "polygon", "zz": 1},
        ],
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 10,
        "imageWidth": 20,
    }
    return json.dumps(body | more, indent=2)


def test_an_image_inside_labelme_json_is_unpacked_and_packed_again(tmp_path: Path) -> None:
    data = base64.b64encode(draw(tmp_path / "a.png", (20, 10)).read_bytes()).decode()
    root = lay(tmp_path / "in", "a.json", labelme(imageData=data))
    content = LabelMe().read(root)
    records = list(content.records)
    assert Path(records[0].path).read_bytes() == (tmp_path / "a.png").read_bytes()
    assert len(records[0].extra["labelme"]["text"]) < 2000
    assert [shape.facts for shape in records[0].shapes] == [
        {"flags": {"x": True}, "group_id": 3},
        {"description": "d", "zz": 1},
    ]
    write(LabelMe(), Got(content.schema, records, content.meta, []), tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


def test_a_changed_labelme_shape_leaves_the_rest_of_the_file(tmp_path: Path) -> None:
    got = read(LabelMe(), lay(tmp_path / "in", "a.json", labelme(extra=[1.50]), "a.png"))
    one, two = got.records[0].shapes
    mark = Shape(label="dog")
    records = [replace(got.records[0], shapes=(replace(one, label="dog"), two, mark))]
    write(LabelMe(), Got(got.schema, records, got.meta, []), tmp_path / "out")
    wanted = json.loads(labelme(extra=[1.50], flags={"dog": True}))
    wanted["shapes"][0]["label"] = "dog"
    assert json.loads((tmp_path / "out/a.json").read_text(encoding="utf-8")) == wanted


def test_bad_labelme_shapes_and_files_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    good = json.loads(labelme())["shapes"][0]
    bad = [{**good, "points": [[1, 2]]}, {**good, "shape_type": "blob"}, {"points": []}, 7]
    bad.append({**good, "points": [[1, 2], [float("nan"), 3]]})
    bad.append({**good, "shape_type": "mask", "mask": "????"})
    lay(tmp_path, "a.json", labelme(shapes=[good, *bad]), "a.png")
    lay(tmp_path, "b.json", labelme(imagePath="../../b.png"))
    text = labelme(imagePath="c.png")
    lay(tmp_path, "c.json", text[: text.index('"dog"')], "c.png")
    got = read(LabelMe(), tmp_path)
    assert [problem.where for problem in got.problems] == [
        *(f"a.json shapes[{at}]" for at in range(1, 7)),
        "b.json",
        "c.json",
    ]
    assert {record.name: len(record.shapes) for record in got.records} == {"a.png": 1, "c.png": 1}
