"""COCO: layouts of real tools, changes that touch only what changed, bad entries, speed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.data.formats.passage import Got, differences, draw, read, write

from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Shape
from loopworks.data.formats import folder
from loopworks.data.formats.coco import Coco

BODY: dict[str, Any] = {
    "info": {"year": 2024, "ä": "é"},
    "licenses": [],
    "categories": [{"id": 7, "name": "cat", "supercategory": ""}, {"id": 3, "name": "dog", "keypoints": ["nose"]}],
    "images": [
        {"id": 12, "file_name": "b.png", "height": 10, "width": 20, "extra": {"name": "über.png"}},
        {"id": 5, "file_name": "a.png", "height": 10, "width": 20},
        {"id": 9, "file_name": "c.png", "height": 10, "width": 20},
    ],
    "annotations": [
        {"id": 4, "image_id": 5, "category_id": 3, "bbox": [1, 2.0, 3.50, 1e0], "area": 3.5, "iscrowd": 0, "zz": None},
        {"id": 2, "image_id": 12, "category_id": 7, "segmentation": [[1, 1, 5, 1, 5, 5]], "bbox": [1, 1, 4, 4]},
        {"id": 90, "image_id": 5, "category_id": 3, "bbox": [0, 0, 2, 2], "keypoints": [1, 1, 2], "num_keypoints": 1},
    ],
}


def lay(root: Path, text: str, name: str = "annotations/instances_train.json", encoding: str = "utf-8") -> Path:
    for stem in "abc":
        draw(root / f"images/train/{stem}.png")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))
    return root


LAYOUTS = {
    "compact": json.dumps(BODY, separators=(",", ":")),
    "default": json.dumps(BODY),
    "two": json.dumps(BODY, indent=2) + "\n",
    "four": json.dumps(BODY, indent=4, ensure_ascii=False),
    "tabs": json.dumps(BODY, indent="\t").replace("\n", "\r\n"),
    "numbers": json.dumps(BODY).replace("3.5,", "3.50000e+0,").replace('"id": 90', '"id":   90'),
    "one line each": json.dumps(BODY).replace("}, {", "},\n{"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_in_any_layout_comes_back_byte_for_byte(layout: str, encoding: str, tmp_path: Path) -> None:
    root = lay(tmp_path / "in", LAYOUTS[layout], encoding=encoding)
    got = read(Coco(), root)
    assert not got.problems
    assert [record.name for record in got.records] == [f"images/train/{stem}.png" for stem in "bac"]
    assert got.schema.classes == ("cat", "dog")
    write(Coco(), got, tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_changed_shape_changes_its_own_entry_only(layout: str, tmp_path: Path) -> None:
    got = read(Coco(), lay(tmp_path / "in", LAYOUTS[layout]))
    record = got.records[1]
    moved = replace(record.shapes[0], label="cat", points=((2.0, 3.0, 4.0, 5.0),))
    new = Shape(label="cow", kind="box", points=((0.0, 0.0, 1.0, 1.0),))
    records = [got.records[0], replace(record, shapes=(moved, record.shapes[1], new)), got.records[2]]
    schema = LabelSchema(classes=("cat", "dog", "cow"))
    write(Coco(), Got(schema, records, got.meta, []), tmp_path / "out")
    after = json.loads((tmp_path / "out/annotations/instances_train.json").read_text(encoding="utf-8"))
    wanted = json.loads(LAYOUTS[layout])
    wanted["annotations"][0] |= {"category_id": 7, "bbox": [2, 3, 4, 5], "area": 20, "segmentation": []}
    wanted["categories"].append({"id": 8, "name": "cow", "supercategory": ""})
    new_one = {"id": 91, "image_id": 5, "category_id": 8, "segmentation": [], "area": 1, "bbox": [0, 0, 1, 1]}
    wanted["annotations"].append({**new_one, "iscrowd": 0})
    assert after == wanted


def test_a_renamed_class_keeps_its_id(tmp_path: Path) -> None:
    got = read(Coco(), lay(tmp_path / "in", LAYOUTS["two"]))
    records = [
        replace(
            record,
            shapes=tuple(replace(s, label="kitten") if s.label == "cat" else s for s in record.shapes),
        )
        for record in got.records
    ]
    write(Coco(), Got(LabelSchema(classes=("kitten", "dog")), records, got.meta, []), tmp_path / "out")
    text = (tmp_path / "out/annotations/instances_train.json").read_text(encoding="utf-8")
    assert text == LAYOUTS["two"].replace('"cat"', '"kitten"')


def test_keypoints_and_instances_of_one_object_are_one_shape(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", LAYOUTS["default"])
    body = json.loads(LAYOUTS["default"])
    body["annotations"][0]["keypoints"] = [5, 5, 1]
    lay(root, json.dumps(body), "annotations/person_keypoints_train.json")
    got = read(Coco(), root)
    assert [len(record.shapes) for record in got.records] == [1, 2, 0]
    assert got.records[1].shapes[0].facts["keypoints"] == [5, 5, 1]
    write(Coco(), got, tmp_path / "out")
    assert differences(root, tmp_path / "out") == []


def test_splits_that_were_changed_go_to_files_of_their_own(tmp_path: Path) -> None:
    got = read(Coco(), lay(tmp_path / "in", LAYOUTS["default"]))
    records = [replace(got.records[0], split="val"), *got.records[1:]]
    write(Coco(), Got(got.schema, records, got.meta, []), tmp_path / "out")
    again = read(Coco(), tmp_path / "out")
    assert not again.problems
    assert {record.name: record.split for record in again.records} == {record.name: record.split for record in records}
    assert {r.name: [s.points for s in r.shapes] for r in again.records} == {
        r.name: [s.points for s in r.shapes] for r in records
    }


def test_bad_entries_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    body = json.loads(LAYOUTS["default"])
    body["annotations"] += [
        {"id": 100, "image_id": 77, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"id": 101, "image_id": 5, "category_id": 99, "bbox": [0, 0, 1, 1]},
        {"id": 102, "image_id": 5, "category_id": 3, "bbox": [0, 0, -1, 1]},
        {"id": 103, "image_id": 5, "category_id": 3, "bbox": [0, 0, float("nan"), 1]},
        {"id": 90, "image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"id": 104, "image_id": 5, "category_id": 3, "bbox": [15, 0, 10, 1]},
    ]
    body["images"] += [
        {"id": 30, "file_name": "gone.png", "width": 4, "height": 4},
        {"id": 31, "file_name": "../../etc/passwd", "width": 4, "height": 4},
        {"id": 32, "file_name": "/etc/passwd", "width": 4, "height": 4},
        {"id": 5, "file_name": "twice.png", "width": 4, "height": 4},
    ]
    got = read(Coco(), lay(tmp_path, json.dumps(body)))
    assert sorted(problem.where.split(".json ")[1] for problem in got.problems) == [
        *(f"annotations[{at}]" for at in range(3, 9)),
        *(f"images[{at}]" for at in range(3, 7)),
    ]
    assert [(record.name, len(record.shapes)) for record in got.records] == [
        ("images/train/b.png", 1),
        ("images/train/a.png", 3),
        ("images/train/c.png", 0),
        ("gone.png", 0),
    ]


def test_a_file_that_is_cut_off_gives_what_stands_before_the_cut(tmp_path: Path) -> None:
    text = LAYOUTS["default"]
    got = read(Coco(), lay(tmp_path, text[: text.index('"id": 90')]))
    assert [problem.message.split(";")[0] for problem in got.problems if "line 1 column" in problem.message]
    assert sum(len(record.shapes) for record in got.records) == 2


def test_a_link_out_of_the_folder_is_no_image(tmp_path: Path) -> None:
    secret = draw(tmp_path / "secret.png")
    root = lay(tmp_path / "in", LAYOUTS["default"])
    (root / "images/train/a.png").unlink()
    (root / "images/train/a.png").symlink_to(secret)
    got = read(Coco(), root)
    assert not any(record.path for record in got.records if record.name.endswith("a.png"))
    assert any("a.png" in problem.message for problem in got.problems)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopworks.data.formats.coco.LIMIT", 100)
    with pytest.raises(Invalid, match="at most 100 bytes"):
        Coco().read(lay(tmp_path, LAYOUTS["default"]))
    assert folder.LIMIT == 1 << 30


def test_nested_too_deep_is_a_problem(tmp_path: Path) -> None:
    got = read(Coco(), lay(tmp_path, LAYOUTS["default"].replace("null", "[" * 100_000)))
    assert any("nested" in problem.message for problem in got.problems)


@pytest.mark.parametrize(
    "layout",
    ["train/_annotations.coco.json", "labels.json", "data/train/anns.json"],
    ids=["roboflow", "fiftyone", "beside"],
)
def test_images_are_found_where_tools_put_them(layout: str, tmp_path: Path) -> None:
    media = {"train/_annotations.coco.json": "train", "labels.json": "data", "data/train/anns.json": "data/train"}
    for stem in "abc":
        draw(tmp_path / media[layout] / f"{stem}.png")
    (tmp_path / layout).write_text(LAYOUTS["default"], encoding="utf-8")
    got = read(Coco(), tmp_path)
    assert not got.problems
    assert [record.name for record in got.records] == [f"{media[layout]}/{stem}.png" for stem in "bac"]


def test_two_thousand_images_come_back_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for at in range(2000):
        (tmp_path / f"in/{at}.png").touch()
    images = [{"id": at, "file_name": f"{at}.png", "width": 20, "height": 10} for at in range(2000)]
    boxes = [{"id": at, "image_id": at, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12} for at in range(2000)]
    body = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "in/coco.json").write_text(json.dumps(body), encoding="utf-8")
    content = Coco().read(tmp_path / "in")
    records = list(content.records)
    content.records = records
    (tmp_path / "out").mkdir()
    assert not list(Coco().write(content, tmp_path / "out", lambda record, place: None))
    assert (tmp_path / "out/coco.json").read_bytes() == (tmp_path / "in/coco.json").read_bytes()


@pytest.mark.parametrize("key", ["missing", [1], {"a": 1}])
def test_annotations_without_a_sound_id_come_through(tmp_path: Path, key: object) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").touch()
    one: dict[str, object] = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    body = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "annotations": [one if key == "missing" else {"id": key, **one}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "in/coco.json").write_text(json.dumps(body), encoding="utf-8")
    content = Coco().read(tmp_path / "in")
    content.records = list(content.records)
    (tmp_path / "out").mkdir()
    list(Coco().write(content, tmp_path / "out", lambda record, place: None))
    again = Coco().read(tmp_path / "out")
    shapes = [shape.label for record in again.records for shape in record.shapes]
    assert shapes == ["cat"] or content.problems


@pytest.mark.parametrize("categories", ["", ', "categories": []'])
def test_a_file_without_categories_is_one_line(categories: str, tmp_path: Path) -> None:
    shapes = ", ".join(f'{{"id": {n}, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}}' for n in range(3))
    text = f'{{"images": [{{"id": 1, "file_name": "a.png"}}], "annotations": [{shapes}]{categories}}}'
    root = lay(tmp_path / "in", text)
    draw(root / "a.png")
    got = read(Coco(), root)
    (problem,) = got.problems
    assert problem.message.startswith("categories of annotations/instances_train.json must be a list of the classes")
    assert "its 3 annotations have no class" in problem.hint
    # Not "looked at, and nothing on it": it is not known what is on it.
    assert [(record.name, record.shapes, record.is_labeled) for record in got.records] == [("a.png", (), False)]


def test_captions_need_no_categories(tmp_path: Path) -> None:
    text = (
        '{"images": [{"id": 1, "file_name": "a.png"}], '
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 0, "caption": "hi"}], "categories": []}'
    )
    root = lay(tmp_path / "in", text, "annotations/captions_train.json")
    draw(root / "a.png")
    got = read(Coco(), root)
    assert got.problems == []
    assert [[shape.kind for shape in record.shapes] for record in got.records] == [["caption"]]
