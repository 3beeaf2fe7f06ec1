"""Files whose entries stand in no order of names come back byte for byte, from the live set and from a version."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.formats.passage import differences

import loopworks
from loopworks.core import mask
from loopworks.core.values import LabelSchema, Shape
from loopworks.data.formats import detect
from loopworks.data.formats.contract import Content, Record

FORMATS = [name for name in detect.names() if name not in ("folders", "datumaro-bridge")]
MASKS = ("color-masks", "cityscapes")


def shape(name: str, number: int) -> Shape:
    label = ("car", "bus")[number % 2]
    if name not in MASKS:
        return Shape(label=label, source="import", kind="box", points=((1.0 + number, 4.0, 16.0, 8.0),))
    found = np.zeros((30, 40), dtype=np.bool_)
    found[number : number + 9, 3:20] = True
    return Shape(label=label, source="import", kind="mask", points=((30.0, 40.0),), mask=mask.encode(found))


@pytest.mark.parametrize("name", FORMATS)
def test_the_order_of_entries_comes_back(tmp_path: Path, name: str) -> None:
    records = []
    for number, (stem, split) in enumerate((
        ("n", "train"),
        ("b", "val"),
        ("z", "train"),
        ("a", "val"),
        ("k", "train"),
    )):
        path = tmp_path / "in" / f"{stem}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (number, 20, 30)).save(path)
        one = Record(name=path.name, path=str(path), width=40, height=30, split=split, shapes=(shape(name, number),))
        records.append(one)
    source = tmp_path / "source"
    source.mkdir()
    content = Content(schema=LabelSchema(classes=("car", "bus")), records=iter(records))

    def put(record: Record, place: str) -> None:
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.path, source / place)

    told = [problem.message for problem in detect.build(name).write(content, source, put)]
    assert all("files were renamed as SOLO names them" in one for one in told)
    with loopworks.open(tmp_path / "space") as space:
        task = "semantic-segmentation" if name in MASKS else "object-detection"
        report = space.add("d", source, task=task, format=name)
        assert (report.added, report.problems) == (5, ())
        dataset = space.dataset("d")
        dataset.export(tmp_path / "live", format=name)
        assert differences(source, tmp_path / "live") == []
        dataset.freeze().export(tmp_path / "frozen", format=name)
        assert differences(source, tmp_path / "frozen") == []
