"""From a source to rows and back: import, freeze, export, import again, for every format."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loopworks.core import mask
from loopworks.core.errors import Conflict, Damaged, Invalid, NotFound
from loopworks.core.values import Shape, dump
from loopworks.data import arrival, exporter, media
from loopworks.data.formats import detect
from loopworks.data.stage import Dataset, create_dataset, open_dataset
from loopworks.store.home import Home

OWN = tuple(name for name in detect.names() if name != "datumaro-bridge")
MASKS = ("cityscapes", "color-masks")  # formats that hold pixels alone
ImageFile = Callable[..., bytes]
Pictures = Callable[..., Path]


@pytest.fixture
def coco(tmp_path: Path, image_file: ImageFile) -> Path:
    """Two images of equal bytes with other boxes, and a third one."""
    folder = tmp_path / "coco"
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        path = folder / "images" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_file("PNG", seed=seed))
    write_coco(folder, 7.5)
    return folder


def write_coco(folder: Path, width: float) -> None:
    images = [
        {"id": 30 - i, "file_name": f"{name}.png", "width": 40, "height": 30, "license": 4}
        for i, name in enumerate("abc")
    ]
    boxes = [(30, 9, [1, 2, 3.0, 4]), (29, 5, [2, 2, width, 4.25]), (28, 9, [0, 0, 40, 30])]
    annotations = [
        {"id": 100 + i, "image_id": image, "category_id": kind, "bbox": box, "area": 12, "iscrowd": 0}
        for i, (image, kind, box) in enumerate(boxes)
    ]
    body = {
        "info": {"year": 2024},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 9, "name": "car", "supercategory": "x"}, {"id": 5, "name": "bus"}],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(body), encoding="utf-8")


def state(dataset: Dataset) -> list[tuple[object, ...]]:
    return [(i.id, i.name, i.split, i.labels, i.attributes, i.tags) for i in dataset.items(limit=1000)]


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestImport:
    def test_entries_of_equal_bytes_are_items_of_their_own(self, home: Home, coco: Path) -> None:
        report = arrival.add(home, "d", coco, author="ann")
        dataset = open_dataset(home, "d")
        assert (report.added, report.formats, report.problems) == (3, ("coco",), ())
        assert dataset.task.name == "object-detection"
        assert dataset.schema.classes == ("car", "bus")
        first, second, third = dataset.items()
        assert second.id == f"{first.id}-2"
        assert dataset.read(first) == dataset.read(second) == (coco / "images" / "train" / "a.png").read_bytes()
        assert first.labels[0].points == ((1, 2, 3, 4),)
        assert second.labels[0].points == ((2, 2, 7.5, 4.25),)
        assert {item.split for item in (first, second, third)} == {"train"}
        assert dataset.item(first.id).name == first.name
        assert dataset.item(second.id).name == second.name
        dataset.verify(second)

    def test_adding_twice_adds_nothing(self, home: Home, coco: Path) -> None:
        arrival.add(home, "d", coco)
        dataset = open_dataset(home, "d")
        before = state(dataset), [dataset.history(item.id) for item in dataset.items()]
        report = dataset.add(coco)
        assert (report.added, report.known, report.relabeled) == (0, 3, 0)
        assert (state(dataset), [dataset.history(item.id) for item in dataset.items()]) == before

    def test_changed_labels_are_changed_with_an_event(self, home: Home, coco: Path) -> None:
        arrival.add(home, "d", coco, author="ann")
        dataset = open_dataset(home, "d")
        write_coco(coco, 9)
        report = dataset.add(coco, author="bob")
        assert (report.added, report.known, report.relabeled) == (0, 3, 1)
        second = dataset.items()[1]
        assert second.labels[0].points == ((2, 2, 9, 4.25),)
        assert [(event.kind, event.author) for event in dataset.history(second.id) if event.kind != "item.add"] == [
            ("item.label", "ann"),
            ("item.label", "bob"),
        ]

    def test_what_a_person_said_since_is_kept(self, home: Home, coco: Path) -> None:
        arrival.add(home, "d", coco)
        dataset = open_dataset(home, "d")
        item = dataset.items()[1]
        dataset.label({item.id: ["car"]}, author="eve")
        assert dataset.add(coco).problems == ()  # the file says nothing new
        write_coco(coco, 9)
        assert [problem.error for problem in dataset.add(coco).problems] == ["conflict"]
        assert [shape.author for shape in dataset.item(item.id).labels] == ["eve"]

    def test_another_size_than_the_annotation_says_is_told(self, home: Home, coco: Path, image_file: ImageFile) -> None:
        (coco / "images" / "train" / "c.png").write_bytes(image_file("PNG", seed=3, size=(20, 10)))
        report = arrival.add(home, "d", coco)
        assert report.added == 3
        assert any("40 x 30; got 20 x 10" in problem.message for problem in report.problems)
        assert (open_dataset(home, "d").items()[2].width, open_dataset(home, "d").items()[2].height) == (20, 10)

    def test_shapes_that_the_task_lacks_are_counted(self, home: Home, coco: Path) -> None:
        dataset = create_dataset(home, "d", "image-classification")
        report = dataset.add(coco)
        assert report.added == 3
        assert [problem.message for problem in report.problems] == [
            "shapes must be of a kind that image-classification has; got 3 of kind box"
        ]
        assert dataset.counts()["labeled"] == 0

    def test_texts_become_items(self, home: Home, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("text,label\nhi,a\nbye,b\nhi,b\n", encoding="utf-8")
        report = arrival.add(home, "d", tmp_path / "train.csv")
        dataset = open_dataset(home, "d")
        assert (report.added, dataset.task.name) == (3, "text-classification")
        first, second, third = dataset.items()
        assert (first.text, third.text, third.id) == ("hi", "hi", f"{first.id}-2")
        assert dataset.read(first) == b"hi"
        assert dataset.add(tmp_path / "train.csv").added == 0

    def test_options_and_formats_are_checked_before_any_work(self, home: Home, coco: Path) -> None:
        dataset = create_dataset(home, "d", "object-detection")
        with pytest.raises(NotFound, match="format 'cocco'"):
            dataset.add(coco, format="cocco")
        with pytest.raises(Invalid, match="format.coco.nope must be a known parameter"):
            dataset.add(coco, format="coco", options={"nope": 1})
        with pytest.raises(Invalid, match="options must be given together with the format"):
            dataset.add(coco, options={"nope": 1})

    def test_two_formats_that_are_as_sure_are_an_error_with_scores(
        self, coco: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(detect, "scores", lambda root: {"coco": 0.9, "yolo": 0.9, "csv": 0.1})
        with pytest.raises(Invalid, match=r"signs of several: coco 0\.90, yolo 0\.90, csv 0\.10"):
            detect.detect(coco)


class TestExport:
    def test_what_was_imported_comes_back_byte_for_byte(self, home: Home, coco: Path, tmp_path: Path) -> None:
        arrival.add(home, "d", coco)
        dataset = open_dataset(home, "d")
        for name, source in (("live", dataset), ("version", dataset.freeze())):
            report = source.export(tmp_path / name, format="coco")
            assert report.problems == ()
            assert tree(tmp_path / name) == tree(coco)

    def test_a_failed_export_leaves_nothing(
        self, home: Home, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arrival.add(home, "d", coco)
        dataset = open_dataset(home, "d")
        home.blobs.delete(media.content_of(dataset.items()[2].id))
        (tmp_path / "out").mkdir()
        with pytest.raises(Damaged, match="must be in the blobs"):
            dataset.export(tmp_path / "out" / "x", format="coco")
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_folder_with_files_is_refused_and_an_empty_one_filled(
        self, home: Home, coco: Path, tmp_path: Path
    ) -> None:
        arrival.add(home, "d", coco)
        dataset = open_dataset(home, "d")
        (tmp_path / "out").mkdir()
        dataset.export(tmp_path / "out", format="coco")
        with pytest.raises(Conflict, match="must be an empty or new folder"):
            dataset.export(tmp_path / "out", format="coco")

    def test_annotations_alone(self, home: Home, coco: Path, tmp_path: Path) -> None:
        arrival.add(home, "d", coco)
        open_dataset(home, "d").export(tmp_path / "out", format="coco", media=False)
        assert list(tree(tmp_path / "out")) == ["annotations/instances_train.json"]

    @pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "C:\\x", ""])
    def test_no_format_writes_outside_its_folder(self, path: str) -> None:
        with pytest.raises(Invalid, match="inside the folder"):
            exporter.inside(path)


@pytest.mark.parametrize("name", OWN)
def test_every_format_gives_back_what_it_wrote(
    home: Home, tmp_path: Path, image_file: ImageFile, pictures: Pictures, name: str
) -> None:
    """import -> freeze -> export -> the same bytes as the export before; the same items, names and labels."""
    dataset = create_dataset(home, "d", "object-detection", classes=["car", "bus"])
    for number in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.png").write_bytes(image_file("PNG", seed=number))
    dataset.add(tmp_path / "in", labels="none", split="train")
    for number, item in enumerate(dataset.items()):
        box = Shape(label=("car", "bus")[number % 2], kind="box", points=((4.0, 3.0, 8.0, 6.0),), attributes=dump({}))
        if name in MASKS:
            pixels = np.zeros((item.height, item.width), bool)
            pixels[3:9, 4:12] = True
            rle, size = mask.encode(pixels), (float(item.height), float(item.width))
            box = Shape(label=box.label, kind="mask", points=(size,), mask=rle)
        whole = Shape(label=("car", "bus")[number % 2])
        dataset.label({item.id: [whole if name == "folders" else box]}, author="ann")
    dataset.freeze().export(tmp_path / "one", format=name)
    assert detect.detect(tmp_path / "one").name == name
    report = arrival.add(home, "again", tmp_path / "one")
    assert (report.added, report.formats) == (4, (name,))
    again = open_dataset(home, "again")
    again.freeze().export(tmp_path / "two", format=name)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert {item.id for item in again.items()} == {item.id for item in dataset.items()}
    said = [
        {item.id: [(s.label, s.bounds, s.mask) for s in item.labels] for item in one.items()}
        for one in (dataset, again)
    ]
    assert said[0] == said[1]


def test_a_single_coco_file_comes_back_as_one_file_where_that_is_asked_for(
    home: Home, tmp_path: Path, image_file: ImageFile
) -> None:
    for number in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.png").write_bytes(image_file("PNG", seed=number))
    body = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in range(4)],
        "annotations": [
            {"id": 7 + n, "image_id": n, "category_id": 3, "bbox": [1.0, 2, 3, 4.50], "area": 12, "iscrowd": 0}
            for n in range(4)
        ],
        "categories": [{"id": 3, "name": "car"}],
    }
    text = json.dumps(body, indent=2)
    (tmp_path / "in" / "labels.json").write_text(text, encoding="utf-8")
    dataset = create_dataset(home, "d", "object-detection")
    dataset.add(tmp_path / "in", format="coco")
    version = dataset.freeze()
    assert len(version.counts["by_split"]) > 1
    version.export(tmp_path / "one", format="coco", options={"by_split": False})
    assert (tmp_path / "one" / "labels.json").read_text(encoding="utf-8") == text
    assert len(list((tmp_path / "one").rglob("*.json"))) == 1
    version.export(tmp_path / "many", format="coco")
    assert len(list((tmp_path / "many").rglob("*.json"))) > 1


def test_a_shape_without_a_class_is_kept_and_told(home: Home, tmp_path: Path, image_file: ImageFile) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image_file("PNG"))
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        '  <image id="0" name="a.png" width="32" height="24">\n'
        '    <box label="" occluded="0" xtl="1.00" ytl="2.00" xbr="9.00" ybr="8.00" z_order="0">\n    </box>\n'
        '    <box label="car" occluded="0" xtl="1.00" ytl="2.00" xbr="9.00" ybr="8.00" z_order="0">\n    </box>\n'
        "  </image>\n</annotations>\n"
    )
    (tmp_path / "in" / "annotations.xml").write_text(text, encoding="utf-8")
    dataset = create_dataset(home, "d", "object-detection")
    report = dataset.add(tmp_path / "in", format="cvat")
    assert report.added == 1
    assert any("class" in one.message for one in report.problems)
    (item,) = dataset.items()
    assert [shape.label for shape in item.labels] == ["", "car"]
    assert dataset.counts()["by_class"] == {"car": 1}
    dataset.export(tmp_path / "out", format="cvat")
    assert (tmp_path / "out" / "annotations.xml").read_text(encoding="utf-8") == text
    for name in OWN:
        dataset.export(tmp_path / "all" / name, format=name)
        assert any((tmp_path / "all" / name).iterdir()), name
