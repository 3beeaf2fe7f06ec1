# ruff: noqa: E501 (made-up objects)
"""Folders of masks and Cityscapes: classes, pixels that come back, and what bad files give."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.formats.samples import SHARED, draw, files, load, mutations, said, save, survives

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Shape
from loopworks.data.formats.cityscapes import Cityscapes
from loopworks.data.formats.color_masks import ColorMasks
from loopworks.data.formats.contract import Content, Format, Record

FORM = ColorMasks()
CLASSES = "id,name,r,g,b\n0,sky,128,128,128\n3,road,128,64,128\n7,car,64,0,128\n"


def same_pixels(one: Path, other: Path) -> bool:
    with Image.open(one) as a, Image.open(other) as b:
        return a.mode == b.mode and a.getpalette() == b.getpalette() and bool((np.asarray(a) == np.asarray(b)).all())


def assert_comes_back(form: Format, root: Path, out: Path) -> None:
    content, _ = load(form, root)
    assert save(form, content, out) == []
    before, after = files(root), files(out)
    for name, data in before.items():
        if name != "README.md":
            assert after[name] == data or same_pixels(root / name, out / name), name


def folder(tmp_path: Path, mode: str = "L") -> Path:
    root = tmp_path / "in"
    array = np.array([[0, 3, 3], [7, 7, 255]], np.uint8)
    draw(root / "train" / "a.png", 3, 2)
    draw(root / "val" / "b.jpg", 3, 2)
    for path in (root / "trainannot" / "a.png", root / "valannot" / "b.png"):
        path.parent.mkdir()
        image = Image.fromarray(array)
        if mode == "P":
            image = image.convert("P")
            image.putpalette(bytes(range(256)) * 3)
        if mode == "RGB":
            table = {0: (128, 128, 128), 3: (128, 64, 128), 7: (64, 0, 128), 255: (224, 224, 192)}
            image = Image.fromarray(np.array([[table[v] for v in row] for row in array.tolist()], np.uint8))
        image.save(path)
    (root / "classes.csv").write_text(CLASSES)
    return root


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_class_per_pixel_is_read_and_comes_back(tmp_path: Path, mode: str) -> None:
    root = folder(tmp_path, mode)
    assert FORM.detect(root) > 0.8
    content, records = load(FORM, root)
    assert content.schema.classes == ("sky", "road", "car")
    assert [(r.name, r.split) for r in records] == [("train/a.png", "train"), ("val/b.jpg", "val")]
    assert [s.label for s in records[0].shapes] == (["sky", "road", "car"] if mode != "RGB" else ["car", "road", "sky"])
    road = next(s for s in records[0].shapes if s.label == "road")
    assert mask.decode(road.mask, 2, 3).tolist() == [[False, True, True], [False, False, False]]
    assert_comes_back(FORM, root, tmp_path / "out")


@pytest.mark.shared
def test_camvid_is_read_and_comes_back(tmp_path: Path) -> None:
    root = SHARED / "camvid"
    content, records = load(FORM, root)
    assert len(content.schema.classes) == 12
    assert [sum(r.split == split for r in records) for split in ("train", "val", "test")] == [74, 17, 21]
    assert content.problems == []
    first = records[:3]
    content.records = first
    save(FORM, content, tmp_path)
    for record in first:
        name = record.extra["color-masks"]["mask"]
        assert same_pixels(root / name, tmp_path / name)
    assert (tmp_path / "classes.csv").read_bytes() == (root / "classes.csv").read_bytes()
    assert (tmp_path / "train.txt").read_text().splitlines() == (root / "train.txt").read_text().splitlines()[:3]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from(("index", "color")), st.integers(1, 4))
def test_what_is_written_is_read_again(seed: int, pixels: str, count: int) -> None:
    rng = np.random.default_rng(seed)
    names = tuple(f"class {n}" for n in range(count))
    array = rng.integers(0, count, (4, 5))
    shapes = tuple(
        Shape(label=names[n], source="import", kind="mask", points=((4.0, 5.0),), mask=mask.encode(array == n))
        for n in np.unique(array).tolist()
    )
    record = Record(name="x/a b.png", width=5, height=4, split="val", shapes=shapes)
    form = ColorMasks(pixels="color" if pixels == "color" else "index")
    with tempfile.TemporaryDirectory() as name:
        assert save(form, Content(schema=LabelSchema(classes=names), records=[record]), Path(name)) == []
        again, (back,) = load(form, Path(name))
    assert again.schema.classes == names
    assert (back.name, back.split) == (record.name, record.split)
    assert sorted(map(str, said(back.shapes))) == sorted(map(str, said(shapes)))


def test_faults_are_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    root = folder(tmp_path)
    Image.fromarray(np.full((2, 3), 9, np.uint8)).save(root / "trainannot" / "a.png")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "valannot" / "b.png")
    draw(root / "val" / "c.png")
    (root / "classes.csv").write_text(CLASSES + "x\n")
    content, records = load(FORM, root)
    words = (
        "a class and its colour",
        "its mask is missing",
        "value 9 is of no class (6 pixels)",
        "size of valannot/b.png",
    )
    assert [any(w in p.message for p in content.problems) for w in words] == [True] * 4
    assert len(content.problems) == 4
    assert len(records) == 3
    (root / "train.txt").write_text("../../a.png trainannot/a.png\ntrain/a.png trainannot/a.png\n")
    assert [r.name for r in load(FORM, root)[1]] == ["train/a.png"]
    (root / "train.txt").unlink()
    with pytest.raises(Invalid):
        ColorMasks(images="..", masks="..").read(root)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_broken_files_never_crash(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = folder(Path(name))
        for path in ("classes.csv", "trainannot/a.png"):
            (root / path).write_bytes(data.draw(mutations((root / path).read_bytes())))
        survives(FORM, root)


CITY = Cityscapes()


@pytest.mark.shared
def test_the_shared_cityscapes_are_read_as_expected_and_come_back(tmp_path: Path) -> None:
    cases = json.loads((SHARED / "annotation-formats" / "expected.json").read_text())["cases"]
    expected = cases["cityscapes_dataset/dataset"]
    root = SHARED / "annotation-formats" / "cityscapes_dataset" / "dataset"
    assert CITY.detect(root) > 0.9
    content, records = load(CITY, root)
    assert list(content.schema.classes) == expected["categories"]
    used = [s.label for r in records for s in r.shapes]
    assert {name: used.count(name) for name in set(used)} == expected["labels_used"]
    assert {s: sum(r.split == s for r in records) for s in ("test", "train", "val")} == expected["subsets"]
    save(CITY, content, tmp_path)
    for path in (root / "gtFine").rglob("*.png"):
        with Image.open(path) as a, Image.open(tmp_path / path.relative_to(root)) as b:
            assert (np.asarray(a) == np.asarray(b)).all()


def test_polygons_come_back_and_instances_are_written(tmp_path: Path) -> None:
    stem = "val/ulm/ulm_000000_000019"
    draw(tmp_path / "in" / "leftImg8bit" / f"{stem}_leftImg8bit.png", 8, 6)
    path = tmp_path / "in" / "gtFine" / f"{stem}_gtFine_polygons.json"
    path.parent.mkdir(parents=True)
    objects = [
        {"label": "traffic light", "polygon": [[0, 0], [4, 0], [4, 4]]},
        {"label": "cargroup", "polygon": [[1, 1], [5, 1], [5, 5]]},
    ]
    path.write_text(
        json.dumps({"imgHeight": 6, "imgWidth": 8, "objects": [*objects, {"label": "ufo", "polygon": []}]}, indent=4)
    )
    content, (record,) = load(CITY, tmp_path / "in")
    assert len(content.problems) == 1
    assert [(s.label, s.facts) for s in record.shapes] == [("traffic light", {}), ("car", {"group": True})]
    save(CITY, content, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "in")
    cut = np.zeros((6, 8), bool)
    cut[1:3] = True
    shape = Shape(label="car", kind="mask", points=((6.0, 8.0),), mask=mask.encode(cut), attributes='{"instance":2}')
    content.records = [replace(record, shapes=(shape,), extra={})]
    save(CITY, content, tmp_path / "new")
    _, (back,) = load(CITY, tmp_path / "new")
    assert [(s.label, s.mask, s.facts) for s in back.shapes] == [("car", shape.mask, {"instance": 2})]
