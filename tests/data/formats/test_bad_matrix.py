"""Every kind of fault in every format, brought in through a workspace: one line per fault, and the good rest is there.

The same three images with two boxes each are written in every format; then one thing is broken in the second image (or,
where a file is cut off, the file is cut in its last entry). ``CASES`` says what must be told, and what must be left.
A text instead of a case says why a format cannot have that fault.
"""

import json
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import loopworks
from loopworks.cli.main import app
from loopworks.core.values import Shape

Edit = Callable[[Path], None]
EMPTY = -1
"""Boxes of a data set of which nothing can be read: an error and no items."""


@dataclass(frozen=True)
class Case:
    """A fault, and what an import must make of it."""

    edit: Edit
    where: str = ""
    """Expression that the only problem must fit (``where: message``); empty: there is none."""
    items: int = 3
    boxes: int = 6
    """Shapes in all; ``EMPTY``: refused as a whole."""


def sub(file: str, old: str, new: str) -> Edit:
    """Replace the only ``old`` in a file."""

    def edit(root: Path) -> None:
        text = (root / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        (root / file).write_text(text.replace(old, new), encoding="utf-8")

    return edit


def cut(file: str, mark: str) -> Edit:
    """End a file behind the last ``mark``."""

    def edit(root: Path) -> None:
        text = (root / file).read_text(encoding="utf-8")
        assert mark in text
        (root / file).write_text(text[: text.rindex(mark) + len(mark)], encoding="utf-8")

    return edit


def gone(file: str) -> Edit:
    return lambda root: (root / file).unlink()


def recoded(file: str, encoding: str) -> Edit:
    """Write a file in another encoding; in Latin-1 with a letter that UTF-8 spells differently."""

    def edit(root: Path) -> None:
        text = (root / file).read_text(encoding="utf-8")
        (root / file).write_bytes((text.replace("car", "cär") if encoding == "latin-1" else text).encode(encoding))

    return edit


def emptied(file: str) -> Edit:
    def edit(root: Path) -> None:
        (root / file).write_bytes(b"")

    return edit


def copied(file: str, to: str) -> Edit:
    def edit(root: Path) -> None:
        shutil.copyfile(root / file, root / to)

    return edit


def pixels(file: str, value: int, shape: tuple[int, int] | None = None) -> Edit:
    """Write a value into a corner of a mask, or give it another size."""

    def edit(root: Path) -> None:
        with Image.open(root / file) as image:
            found, palette = np.array(image), image.getpalette()
        found[:1, :3] = value
        out = Image.fromarray(found if shape is None else np.ascontiguousarray(found[: shape[0], : shape[1]]))
        if palette:
            out.putpalette(palette)
        out.save(root / file)

    return edit


def parquet(change: Callable[[list[dict[str, Any]]], None]) -> Edit:
    """Change the rows of a Parquet file."""

    def edit(root: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = root / HF
        table = pq.read_table(path)
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)

    return edit


def box(value: list[float]) -> Edit:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["objects"]["bbox"][1] = value

    return parquet(change)


def _category(rows: list[dict[str, Any]]) -> None:
    rows[1]["objects"]["category"][1] = 9


def _no_image(rows: list[dict[str, Any]]) -> None:
    rows[1]["image"] = {"bytes": None, "path": "b.png"}


def _same_image(rows: list[dict[str, Any]]) -> None:
    rows[2]["image"]["path"] = rows[1]["image"]["path"]


def _half(file: str) -> Edit:
    def edit(root: Path) -> None:
        data = (root / file).read_bytes()
        (root / file).write_bytes(data[: len(data) // 2])

    return edit


def _coco_ids(root: Path) -> None:
    text = (root / COCO).read_text(encoding="utf-8").replace('{"id": 3, "width"', '{"id": 2, "width"')
    (root / COCO).write_text(text.replace('"image_id": 3', '"image_id": 2'), encoding="utf-8")


HF = "data/train-00000-of-00001.parquet"
COCO = "annotations/instances_train.json"
SOLO = "sequence.1/step0.frame_data.json"
IDS = "gtFine/train/b/b_gtFine_instanceIds.png"
OPEN = "any name is a class"
PIXELS = "a mask has no numbers"
NO_ID = "has no ids"
NO_TEXT = "has no text"
BYTES = "is no text file"
ONE_FILE = "the name of a file is what says which image"

FAULTS = (
    "cut off",
    "missing image",
    "unknown class",
    "outside",
    "negative size",
    "nan",
    "infinity",
    "image id twice",
    "shape id twice",
    "image named twice",
    "utf-16",
    "latin-1",
    "empty",
)

CASES: dict[str, dict[str, Case | str]] = {
    "csv": {
        "cut off": Case(cut("data.csv", "c.png,car,tr"), r"data.csv row 6 \(line 7\)", boxes=5),
        "missing image": Case(gone("b.png"), r"data.csv row 3.*b.png", items=2, boxes=4),
        "unknown class": OPEN,
        "outside": Case(sub("data.csv", "2,16,10,6", "35,16,10,6"), r"data.csv row 4.*inside"),
        "negative size": Case(sub("data.csv", "2,16,10,6", "2,16,-10,6"), r"data.csv row 4", boxes=5),
        "nan": Case(sub("data.csv", "2,16,10,6", "2,nan,10,6"), r"data.csv row 4", boxes=5),
        "infinity": Case(sub("data.csv", "2,16,10,6", "2,16,inf,6"), r"data.csv row 4", boxes=5),
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": "the rows of one image are its boxes",
        "utf-16": Case(recoded("data.csv", "utf-16")),
        "latin-1": Case(recoded("data.csv", "latin-1"), r"data.csv.*line 2", boxes=EMPTY),
        "empty": Case(emptied("data.csv"), r"data.csv", boxes=EMPTY),
    },
    "jsonl": {
        "cut off": Case(cut("data.jsonl", '"c.png","width":40'), r"data.jsonl line 4", items=2, boxes=4),
        "missing image": Case(gone("b.png"), r"data.jsonl line 3.*b.png", items=2, boxes=4),
        "unknown class": Case(
            sub("data.jsonl", '"bus","source"', '"boat","source"'), r"data.jsonl line 3.*boat", boxes=5
        ),
        "outside": Case(sub("data.jsonl", "[2.0,16.0", "[35.0,16.0"), r"data.jsonl line 3.*inside"),
        "negative size": Case(sub("data.jsonl", "[2.0,16.0,10.0", "[2.0,16.0,-10.0"), r"data.jsonl line 3", boxes=5),
        "nan": Case(sub("data.jsonl", "[2.0,16.0", "[2.0,NaN"), r"data.jsonl line 3", boxes=5),
        "infinity": Case(sub("data.jsonl", "[2.0,16.0,10.0", "[2.0,16.0,Infinity"), r"data.jsonl line 3", boxes=5),
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": Case(
            sub("data.jsonl", '"c.png"', '"b.png"'), r"data.jsonl line 4.*b.png", items=2, boxes=4
        ),
        "utf-16": Case(recoded("data.jsonl", "utf-16")),
        "latin-1": Case(recoded("data.jsonl", "latin-1"), r"data.jsonl.*line 1", boxes=EMPTY),
        "empty": Case(emptied("data.jsonl"), r"data.jsonl", boxes=EMPTY),
    },
    "hf": {
        "cut off": Case(_half(HF), r"parquet", boxes=EMPTY),
        "missing image": Case(parquet(_no_image), r"parquet row 1", items=2, boxes=4),
        "unknown class": Case(parquet(_category), r"parquet row 1.*9", boxes=5),
        "outside": Case(box([35, 16, 10, 6]), r"parquet row 1.*inside"),
        "negative size": Case(box([2, 16, -10, 6]), r"parquet row 1", boxes=5),
        "nan": Case(box([2, float("nan"), 10, 6]), r"parquet row 1", boxes=5),
        "infinity": Case(box([2, 16, float("inf"), 6]), r"parquet row 1", boxes=5),
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": Case(parquet(_same_image)),
        "utf-16": BYTES,
        "latin-1": BYTES,
        "empty": Case(emptied(HF), r"parquet", boxes=EMPTY),
    },
    "coco": {
        "cut off": Case(cut(COCO, '"id": 6, "ima'), r"instances_train.json line 1 column", boxes=0),
        "missing image": Case(gone("b.png"), r"images\[1\].*b.png", items=2, boxes=4),
        "unknown class": Case(sub(COCO, '"category_id": 2', '"category_id": 99'), r"annotations\[2\].*99", boxes=5),
        "outside": Case(sub(COCO, "[2.0, 16.0", "[35.0, 16.0"), r"annotations\[3\].*inside"),
        "negative size": Case(sub(COCO, "[2.0, 16.0, 10.0", "[2.0, 16.0, -10.0"), r"annotations\[3\]", boxes=5),
        "nan": Case(sub(COCO, "[2.0, 16.0", "[2.0, NaN"), r"annotations\[3\]", boxes=5),
        "infinity": Case(sub(COCO, "[2.0, 16.0, 10.0", "[2.0, 16.0, Infinity"), r"annotations\[3\]", boxes=5),
        "image id twice": Case(_coco_ids, r"images\[2\].*once", items=2),
        "shape id twice": Case(
            sub(COCO, '{"id": 4, "image_id"', '{"id": 3, "image_id"'), r"annotations\[3\].*3", boxes=5
        ),
        "image named twice": Case(sub(COCO, '"c.png"', '"b.png"'), r"images\[2\].*b.png", items=2),
        "utf-16": Case(recoded(COCO, "utf-16")),
        "latin-1": Case(recoded(COCO, "latin-1"), r"instances_train.json.*line 1", boxes=EMPTY),
        "empty": Case(emptied(COCO), r"COCO|instances_train.json", boxes=EMPTY),
    },
    "yolo": {
        "cut off": Case(cut("b.txt", "0 0.175 0.6"), r"b.txt line 2", boxes=5),
        "missing image": Case(gone("b.png"), r"b.png", items=2, boxes=4),
        "unknown class": Case(sub("b.txt", "0 0.175", "9 0.175"), r"b.txt line 2.*9", boxes=5),
        "outside": Case(sub("b.txt", "0 0.175", "0 0.975"), r"b.txt line 2.*inside"),
        "negative size": Case(sub("b.txt", "0.25 0.2", "-0.25 0.2"), r"b.txt line 2", boxes=5),
        "nan": Case(sub("b.txt", "0.25 0.2", "nan 0.2"), r"b.txt line 2", boxes=5),
        "infinity": Case(sub("b.txt", "0.25 0.2", "inf 0.2"), r"b.txt line 2", boxes=5),
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": Case(sub("train.txt", "./c.png", "./c.png\n./b.png"), r"train.txt.*once.*b.png"),
        "utf-16": Case(recoded("data.yaml", "utf-16")),
        "latin-1": Case(recoded("data.yaml", "latin-1"), r"data.yaml.*line 5", boxes=EMPTY),
        "empty": Case(emptied("b.txt"), boxes=4),
    },
    "cvat": {
        "cut off": Case(
            cut("annotations.xml", '<image id="2" name="c.'), r"annotations.xml.*line 34", items=2, boxes=4
        ),
        "missing image": Case(gone("images/b.png"), r"annotations.xml: line 28, image 'b.png'", items=2, boxes=4),
        "unknown class": Case(sub("annotations.xml", 'box label="bus"', 'box label="boat"'), r"annotations.xml.*boat"),
        "outside": Case(
            sub("annotations.xml", 'xtl="2.00" ytl="16.00"', 'xtl="-5.00" ytl="16.00"'),
            r"line \d+.*'b.png', box 2.*outside",
        ),
        "negative size": Case(
            sub("annotations.xml", 'xtl="2.00" ytl="16.00"', 'xtl="20.00" ytl="16.00"'),
            r"line \d+.*'b.png', box 2",
            boxes=5,
        ),
        "nan": Case(sub("annotations.xml", 'ytl="16.00"', 'ytl="nan"'), r"line \d+.*'b.png', box 2", boxes=5),
        "infinity": Case(sub("annotations.xml", 'ytl="16.00"', 'ytl="-inf"'), r"line \d+.*'b.png', box 2", boxes=5),
        "image id twice": Case(
            sub("annotations.xml", '<image id="2"', '<image id="1"'), r"line \d+, image 'c.png'.*twice"
        ),
        "shape id twice": NO_ID,
        "image named twice": Case(
            sub("annotations.xml", 'name="c.png"', 'name="b.png"'), r"line \d+, image 'b.png'", items=2, boxes=4
        ),
        "utf-16": Case(recoded("annotations.xml", "utf-16")),
        "latin-1": Case(recoded("annotations.xml", "latin-1"), r"annotations.xml.*line 10", boxes=EMPTY),
        "empty": Case(emptied("annotations.xml"), r"XML", boxes=EMPTY),
    },
    "label-studio": {
        "cut off": Case(cut("tasks.json", '"id": 3, "anno'), r"tasks.json.*line 1, column", items=2, boxes=4),
        "missing image": Case(gone("b.png"), r"tasks.json.*2.*b.png", items=2, boxes=4),
        "unknown class": Case(sub("tasks.json", '["bus"]', '["boat"]'), r"boat"),
        "outside": Case(sub("tasks.json", '"y": 53.3', '"y": 93.3'), r"tasks.json.*outside"),
        "negative size": Case(
            sub("tasks.json", '53.333333333333336, "width": 25', '53.333333333333336, "width": -25'),
            r"tasks.json",
            boxes=5,
        ),
        "nan": Case(sub("tasks.json", '"y": 53.333333333333336', '"y": NaN'), r"tasks.json", boxes=5),
        "infinity": Case(sub("tasks.json", '"y": 53.333333333333336', '"y": Infinity'), r"tasks.json", boxes=5),
        "image id twice": Case(sub("tasks.json", '{"id": 3,', '{"id": 2,'), r"tasks.json.*2"),
        "shape id twice": "regions of one id are one region and what is said of it",
        "image named twice": Case(sub("tasks.json", "d=c.png", "d=b.png")),
        "utf-16": Case(recoded("tasks.json", "utf-16")),
        "latin-1": Case(recoded("tasks.json", "latin-1"), r"tasks.json.*line 1", boxes=EMPTY),
        "empty": Case(emptied("tasks.json"), r"tasks.json", boxes=EMPTY),
    },
    "datumaro": {
        "cut off": Case(
            cut("annotations/train.json", '"id":"c","anno'), r"train.json.*line 1, column", items=2, boxes=4
        ),
        "missing image": Case(gone("images/train/b.png"), r"train.json.*b", items=2, boxes=4),
        "unknown class": Case(sub("annotations/train.json", '"label_id":1', '"label_id":9'), r"train.json.*9", boxes=5),
        "outside": Case(sub("annotations/train.json", "[2.0,16.0", "[35.0,16.0"), r"train.json.*outside"),
        "negative size": Case(
            sub("annotations/train.json", "[2.0,16.0,10.0", "[2.0,16.0,-10.0"), r"train.json", boxes=5
        ),
        "nan": Case(sub("annotations/train.json", "[2.0,16.0", "[2.0,NaN"), r"train.json", boxes=5),
        "infinity": Case(sub("annotations/train.json", "[2.0,16.0", "[2.0,Infinity"), r"train.json", boxes=5),
        "image id twice": Case(
            sub("annotations/train.json", '"id":"c"', '"id":"b"'), r"train.json.*b", items=2, boxes=4
        ),
        "shape id twice": "ids of annotations are 0 wherever nobody set them",
        "image named twice": Case(sub("annotations/train.json", '"path":"c.png"', '"path":"b.png"')),
        "utf-16": Case(recoded("annotations/train.json", "utf-16")),
        "latin-1": Case(recoded("annotations/train.json", "latin-1"), r"train.json.*line 1", boxes=EMPTY),
        "empty": Case(emptied("annotations/train.json"), r"train.json|Datumaro", boxes=EMPTY),
    },
    "voc": {
        "cut off": Case(cut("Annotations/b.xml", "<name>car"), r"b.xml line \d+", boxes=5),
        "missing image": Case(gone("JPEGImages/b.png"), r"b.xml.*b.png|b.png.*b.xml", items=2, boxes=4),
        "unknown class": OPEN,
        "outside": Case(sub("Annotations/b.xml", "<ymax>22", "<ymax>32"), r"b.xml object 2.*inside"),
        "negative size": Case(sub("Annotations/b.xml", "<ymax>22", "<ymax>12"), r"b.xml object 2", boxes=5),
        "nan": Case(sub("Annotations/b.xml", "<ymax>22", "<ymax>nan"), r"b.xml object 2", boxes=5),
        "infinity": Case(sub("Annotations/b.xml", "<ymax>22", "<ymax>inf"), r"b.xml object 2", boxes=5),
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": Case(copied("Annotations/b.xml", "Annotations/b2.xml"), r"b2.xml.*b"),
        "utf-16": Case(recoded("Annotations/b.xml", "utf-16")),
        "latin-1": Case(recoded("Annotations/b.xml", "latin-1"), r"b.xml.*line 23", boxes=4),
        "empty": Case(emptied("Annotations/b.xml"), r"b.xml", boxes=4),
    },
    "kitti": {
        "cut off": Case(cut("training/label_2/b.txt", "car -1 -1 -10 2"), r"b.txt line 2", boxes=5),
        "missing image": Case(gone("training/image_2/b.png"), r"b", items=2, boxes=4),
        "unknown class": OPEN,
        "outside": Case(sub("training/label_2/b.txt", "2 16 12 22", "2 16 12 32"), r"b.txt line 2.*inside"),
        "negative size": Case(sub("training/label_2/b.txt", "2 16 12 22", "2 16 12 12"), r"b.txt line 2", boxes=5),
        "nan": Case(sub("training/label_2/b.txt", "2 16 12 22", "2 16 12 nan"), r"b.txt line 2", boxes=5),
        "infinity": Case(sub("training/label_2/b.txt", "2 16 12 22", "2 16 12 inf"), r"b.txt line 2", boxes=5),
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": ONE_FILE,
        "utf-16": Case(recoded("training/label_2/b.txt", "utf-16")),
        "latin-1": Case(recoded("training/label_2/b.txt", "latin-1"), r"b.txt.*line 2", boxes=4),
        "empty": Case(emptied("training/label_2/b.txt"), boxes=4),
    },
    "labelme": {
        "cut off": Case(cut("b.json", '"label": "car"'), r"b.json line 24", boxes=5),
        "missing image": Case(gone("b.png"), r"b.json", items=2, boxes=4),
        "unknown class": OPEN,
        "outside": Case(sub("b.json", "22.0", "32.0"), r"b.json shapes\[1\].*inside"),
        "negative size": "a rectangle is two corners in any order",
        "nan": Case(sub("b.json", "22.0", "NaN"), r"b.json shapes\[1\]", boxes=5),
        "infinity": Case(sub("b.json", "22.0", "-Infinity"), r"b.json shapes\[1\]", boxes=5),
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": Case(copied("b.json", "b2.json"), r"b2.json.*b.png"),
        "utf-16": Case(recoded("b.json", "utf-16")),
        "latin-1": Case(recoded("b.json", "latin-1"), r"b.json.*line 23|b.json.*line 24", boxes=4),
        "empty": Case(emptied("b.json"), r"b.json", boxes=4),
    },
    "solo": {
        "cut off": Case(cut(SOLO, '"labelName": "car'), r"frame_data.json.*line", items=2, boxes=4),
        "missing image": Case(gone("sequence.1/step0.camera.png"), r"sequence.1/step0", items=2, boxes=4),
        "unknown class": Case(sub(SOLO, '"labelName": "bus"', '"labelName": "boat"'), r"boat"),
        "outside": Case(
            sub(SOLO, "2.0,\n                16.0", "35.0,\n                16.0"), r"sequence.1/step0.*outside"
        ),
        "negative size": Case(
            sub(SOLO, "10.0,\n                6.0", "-10.0,\n                6.0"), r"sequence.1/step0", boxes=5
        ),
        "nan": Case(
            sub(SOLO, "2.0,\n                16.0", "NaN,\n                16.0"), r"sequence.1/step0", boxes=5
        ),
        "infinity": Case(
            sub(SOLO, "2.0,\n                16.0", "Infinity,\n                16.0"), r"sequence.1/step0", boxes=5
        ),
        "image id twice": "a frame is known by its folder and step",
        "shape id twice": Case(sub(SOLO, '"instanceId": 2', '"instanceId": 1')),
        "image named twice": ONE_FILE,
        "utf-16": Case(recoded(SOLO, "utf-16")),
        "latin-1": Case(recoded(SOLO, "latin-1"), r"sequence.1/step0.*line", items=2, boxes=4),
        "empty": Case(emptied(SOLO), r"sequence.1/step0", items=2, boxes=4),
    },
    "color-masks": {
        "cut off": Case(_half("annot/b.png"), r"annot/b.png", boxes=4),
        "missing image": Case(gone("b.png"), r"b.png", items=2, boxes=4),
        "unknown class": Case(pixels("annot/b.png", 77), r"annot/b.png.*77"),
        "outside": Case(pixels("annot/b.png", 0, (20, 40)), r"annot/b.png.*20", boxes=4),
        "negative size": PIXELS,
        "nan": PIXELS,
        "infinity": PIXELS,
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": Case(
            sub("train.txt", "c.png annot/c.png", "c.png annot/c.png\nb.png annot/b.png"), r"train.txt.*b.png"
        ),
        "utf-16": Case(recoded("classes.csv", "utf-16")),
        "latin-1": Case(recoded("classes.csv", "latin-1"), r"classes.csv.*line 2", boxes=EMPTY),
        "empty": Case(emptied("annot/b.png"), r"annot/b.png", boxes=4),
    },
    "cityscapes": {
        "cut off": Case(_half(IDS), r"b_gtFine_instanceIds.png", boxes=4),
        "missing image": Case(
            gone("leftImg8bit/train/b/b_leftImg8bit.png"), r"b_leftImg8bit|b_gtFine", items=2, boxes=4
        ),
        "unknown class": Case(pixels(IDS, 77), r"b_gtFine_instanceIds.png.*77"),
        "outside": Case(pixels(IDS, 0, (20, 40)), r"b_gtFine_instanceIds.png.*20", boxes=4),
        "negative size": PIXELS,
        "nan": PIXELS,
        "infinity": PIXELS,
        "image id twice": NO_ID,
        "shape id twice": NO_ID,
        "image named twice": ONE_FILE,
        "utf-16": NO_TEXT,
        "latin-1": NO_TEXT,
        "empty": Case(emptied(IDS), r"b_gtFine_instanceIds.png", boxes=4),
    },
}
PAIRS = [(name, fault) for name, cases in CASES.items() for fault, case in cases.items() if isinstance(case, Case)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images with two boxes each, in every format."""
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "in").mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (40, 30), (10 + number, 20, 30)).save(folder / "in" / f"{name}.png")
    with loopworks.open(folder / "space") as space:
        for task, kind in (("object-detection", "box"), ("semantic-segmentation", "mask")):
            dataset = space.dataset(task, task, classes=["car", "bus"])
            dataset.add(folder / "in", labels="none", split="train")
            for number, item in enumerate(sorted(dataset.items(), key=lambda one: one.name)):
                places = ((11.0 + number, 4.0, 16.0, 8.0), (2.0, 15.0 + number, 10.0, 6.0))
                labels = (("car", "bus")[number % 2], "car" if kind == "box" else ("bus", "car")[number % 2])
                shapes = [_shape(kind, label, place) for label, place in zip(labels, places, strict=True)]
                dataset.label({item.id: shapes}, author="ann")
        for name in CASES:
            masks = name in ("color-masks", "cityscapes")
            space.dataset("semantic-segmentation" if masks else "object-detection").export(folder / name, format=name)
    return folder


def _shape(kind: str, label: str, place: tuple[float, float, float, float]) -> Shape:
    from loopworks.core import mask

    if kind == "box":
        return Shape(label=label, kind="box", points=(place,))
    x, y, width, height = (int(one) for one in place)
    found = np.zeros((30, 40), dtype=np.bool_)
    found[y : y + height, x : x + width] = True
    return Shape(label=label, kind="mask", points=((30.0, 40.0),), mask=mask.encode(found))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "space"
    with loopworks.open(folder):
        pass
    return folder


def come_in(space: Path, source: Path, name: str, dataset: str) -> tuple[int, list[str], int, int]:
    """Exit code, what is told, and how many items and shapes are there."""
    task = (
        ["--task", "semantic-segmentation"] if name in ("color-masks", "cityscapes") else ["--task", "object-detection"]
    )
    done = CliRunner().invoke(
        app, ["data", "add", dataset, str(source), "--format", name, *task, "-w", str(space), "--json"]
    )
    assert done.exit_code in (0, 2, 3), done.output
    body = json.loads(done.stdout)
    if "error" in body:
        return done.exit_code, [body["error"]["message"]], 0, 0
    told = [f"{one['where']}: {one['message']}" for one in body["problems"]]
    with loopworks.open(space) as opened:
        items = list(opened.dataset(dataset).items())
    return done.exit_code, told, len(items), sum(len(item.labels) for item in items)


@pytest.mark.parametrize("name", CASES)
def test_every_fault_is_tried_or_cannot_be(name: str) -> None:
    assert tuple(CASES[name]) == FAULTS


@pytest.mark.parametrize(("name", "fault"), PAIRS, ids=[f"{name}-{fault}" for name, fault in PAIRS])
def test_one_line_tells_the_fault_and_the_rest_is_kept(
    written: Path, space: Path, tmp_path: Path, name: str, fault: str
) -> None:
    case = CASES[name][fault]
    assert isinstance(case, Case)
    source = tmp_path / "set"
    shutil.copytree(written / name, source)
    case.edit(source)
    code, told, items, boxes = come_in(space, source, name, f"{name}-{fault.replace(' ', '-')}")
    assert len(told) == bool(case.where), told
    if case.where:
        assert re.search(case.where, told[0]), told
        assert "\n" not in told[0]
    if case.boxes == EMPTY:
        assert (code, items) == (2, 0)
    else:
        assert (items, boxes) == (case.items, case.boxes)
        assert code == (3 if case.where else 0)


@pytest.mark.parametrize("name", CASES)
def test_an_archive_in_an_archive_is_one_line_and_the_rest_is_kept(
    written: Path, space: Path, tmp_path: Path, name: str
) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as out:
        for path in sorted(one for one in (written / name).rglob("*") if one.is_file()):
            out.write(path, path.relative_to(written / name))
        with out.open("inner.zip", "w") as inner, zipfile.ZipFile(inner, "w") as nested:
            nested.writestr("x.txt", "x")
    code, told, items, boxes = come_in(space, tmp_path / "set.zip", name, f"{name}-nested")
    assert (code, items, boxes) == (3, 3, 6)
    assert len(told) == 1
    assert "set.zip" in told[0]
    assert "inner.zip" in told[0]


HUGE = [
    ("csv", "data.csv"),
    ("jsonl", "data.jsonl"),
    ("hf", HF),
    ("coco", COCO),
    ("yolo", "data.yaml"),
    ("yolo", "train.txt"),
    ("yolo", "b.txt"),
    ("cvat", "annotations.xml"),
    ("label-studio", "tasks.json"),
    ("label-studio", "label_config.xml"),
    ("datumaro", "annotations/train.json"),
    ("voc", "Annotations/b.xml"),
    ("voc", "ImageSets/Main/train.txt"),
    ("kitti", "training/label_2/b.txt"),
    ("labelme", "b.json"),
    ("solo", SOLO),
    ("solo", "annotation_definitions.json"),
    ("color-masks", "classes.csv"),
    ("color-masks", "train.txt"),
    ("cityscapes", "gtFine/train/b/b_gtFine_polygons.json"),
]


@pytest.mark.parametrize(("name", "file"), HUGE, ids=[f"{name}-{file}" for name, file in HUGE])
def test_two_gigabytes_are_refused_without_reading_them(
    written: Path, space: Path, tmp_path: Path, name: str, file: str
) -> None:
    source = tmp_path / "set"
    shutil.copytree(written / name, source)
    with (source / file).open("ab") as out:
        out.truncate(2 << 30)  # a hole: it takes no room on the disk
    tracemalloc.start()
    try:
        code, told, items, _ = come_in(space, source, name, f"{name}-{file.replace('/', '-')}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20
    assert len(told) == 1
    assert Path(file).name in told[0]
    assert code == (3 if items else 2)
