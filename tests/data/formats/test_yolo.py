"""YOLO: the layouts of Ultralytics, Roboflow, CVAT and darknet, kinds of lines, changes, bad input."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.formats.passage import Got, differences, draw, read, write

from loopworks.core.values import Shape
from loopworks.data.formats.yolo import Yolo

BOX = "1 0.5 0.5 0.20 .4\r\n0 0.25 0.5 0.1 0.1"


def lay(root: Path, files: dict[str, str], images: tuple[str, ...]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    for name in images:
        draw(root / name, (100, 50))
    return root


LAYOUTS = {
    "ultralytics": (
        {
            "data.yaml": "# mine\npath: .  # root\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: on\n",
            "labels/train/a.txt": BOX,
            "labels/val/b.txt": "",
        },
        ("images/train/a.png", "images/val/b.png", "images/val/c.png"),
    ),
    "roboflow": (
        {
            "data.yaml": "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['cat', 'on']\n",
            "train/labels/a.txt": BOX,
            "valid/labels/b.txt": "",
        },
        ("train/images/a.png", "valid/images/b.png", "valid/images/c.png"),
    ),
    "lists": (
        {
            "dataset.yaml": "path: /content/my\ntrain: train.txt\nval: [val.txt]\nnames: [cat, on]\n",
            "train.txt": "./images/a.png\n",
            "val.txt": "/content/my/images/b.png\nimages/c.png",
            "labels/a.txt": BOX,
            "labels/b.txt": "",
        },
        ("images/a.png", "images/b.png", "images/c.png"),
    ),
    "darknet": (
        {
            "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n",
            "obj.names": "cat\non\n",
            "train.txt": "data/obj_train_data/a.png\n",
            "valid.txt": "data/obj_valid_data/b.png\ndata/obj_valid_data/c.png\n",
            "obj_train_data/a.txt": BOX,
            "obj_valid_data/b.txt": "",
        },
        ("obj_train_data/a.png", "obj_valid_data/b.png", "obj_valid_data/c.png"),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_tool_is_read_and_comes_back_byte_for_byte(layout: str, tmp_path: Path) -> None:
    root = lay(tmp_path / "in", *LAYOUTS[layout])
    assert Yolo().detect(root) == 0.9
    got = read(Yolo(), root)
    assert not got.problems
    assert got.schema.classes == ("cat", "on")
    a, b, c = (next(r for r in got.records if r.name.endswith(f"{stem}.png")) for stem in "abc")
    assert [(s.label, s.points[0]) for s in a.shapes] == [("on", (40, 15, 20, 20)), ("cat", (20, 22.5, 10, 5))]
    assert [(r.split, r.is_labeled) for r in (a, b, c)] == [("train", True), ("val", True), ("val", False)]
    assert not b.shapes
    write(Yolo(), got, tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


@pytest.mark.parametrize(
    ("more", "line", "kind"),
    [
        ("", "0 0.1 0.2 0.3 0.2 0.3 0.4", "polygon"),
        ("", "0 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4", "obb"),
        ("task: segment\n", "0 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4", "polygon"),
        ("kpt_shape: [2, 3]\n", "0 0.5 0.5 0.2 0.2 0.1 0.2 2 0 0 0", "box"),
        ("", "0 0.5 0.5 0.2 0.2 0.875", "box"),
    ],
)
def test_every_kind_of_line_is_read_and_kept(more: str, line: str, kind: str, tmp_path: Path) -> None:
    files = {"data.yaml": f"train: images\nval: images\nnames: [cat]\n{more}", "labels/a.txt": line + "\n"}
    root = lay(tmp_path / "in", files, ("images/a.png",))
    got = read(Yolo(), root)
    assert [shape.kind for shape in got.records[0].shapes] == [kind]
    if "kpt" in more:
        assert got.records[0].shapes[0].facts == {"keypoints": [10.0, 10.0, 2.0, 0.0, 0.0, 0.0]}
    write(Yolo(), got, tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


def test_a_changed_shape_changes_its_line_only(tmp_path: Path) -> None:
    got = read(Yolo(), lay(tmp_path / "in", *LAYOUTS["ultralytics"]))
    record = got.records[0]
    moved = replace(record.shapes[1], points=((0.0, 0.0, 50.0, 25.0),))
    records = [replace(record, shapes=(record.shapes[0], moved)), *got.records[1:]]
    write(Yolo(), Got(got.schema, records, got.meta, []), tmp_path / "out")
    assert (tmp_path / "out/labels/train/a.txt").read_bytes() == b"1 0.5 0.5 0.20 .4\r\n0 0.25 0.25 0.5 0.5\r\n"


def test_what_boxes_cannot_hold_is_told_once_per_kind(tmp_path: Path) -> None:
    got = read(Yolo(), lay(tmp_path / "in", *LAYOUTS["ultralytics"]))
    ring = Shape(label="cat", kind="polygon", points=((0.0, 0.0, 50.0, 0.0, 50.0, 25.0),))
    records = [replace(got.records[0], shapes=(ring, ring)), *got.records[1:]]
    losses = write(Yolo(task="detect"), Got(got.schema, records, got.meta, []), tmp_path / "out")
    assert [loss.message for loss in losses] == [
        "polygon must be something that yolo holds; got 2 of them, written as the box around it"
    ]


def test_two_images_of_one_label_file_are_told(tmp_path: Path) -> None:
    got = read(Yolo(), lay(tmp_path / "in", *LAYOUTS["ultralytics"]))
    other = replace(got.records[0], name="images/train/a.jpg", extra={})
    losses = write(Yolo(), Got(got.schema, [*got.records, other], got.meta, []), tmp_path / "out")
    assert [loss.message for loss in losses if "ending" in loss.message]
    assert (tmp_path / "out/labels/train/a.txt").read_bytes() == BOX.encode()


def test_bad_lines_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.1 0.1", "7 0.5 0.5 0.1 0.1", "0 0.5 0.5 -0.1 0.1", "0 0.5 0.5 nan 0.1", "0 0.5", "x", ""]
    lines.append("0 0.95 0.5 0.5 0.1")
    files = {
        "data.yaml": "train: images\nval: ../../etc\nnc: 2\nnames: [cat]\n",
        "labels/a.txt": "\n".join(lines),
        "labels/gone.txt": "0 0.5 0.5 0.1 0.1",
    }
    got = read(Yolo(), lay(tmp_path, files, ("images/a.png",)))
    assert [problem.where for problem in got.problems] == [
        "data.yaml",
        "data.yaml val",
        *(f"labels/a.txt line {at}" for at in (2, 3, 4, 5, 6, 8)),
        "labels/gone.txt",
    ]
    assert len(got.records[0].shapes) == 2


def test_labels_of_another_encoding_are_one_problem(tmp_path: Path) -> None:
    root = lay(tmp_path, *LAYOUTS["ultralytics"])
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00")
    (root / "labels/val/b.txt").write_bytes("0 0.5 0.5 0.1 0.1".encode("utf-16"))
    got = read(Yolo(), root)
    assert [problem.where for problem in got.problems] == ["labels/train/a.txt"]
    assert [len(record.shapes) for record in got.records] == [0, 1, 0]
