"""Files damaged at random: every reader refuses or tells, and writes what it read (more in ``benchmarks/fuzz.py``)."""

import random
from pathlib import Path

import pytest
from benchmarks import fuzz
from tests.data.formats.passage import draw

from loopworks.data.formats import detect
from loopworks.data.formats.contract import Content

TRIES = 30


@pytest.mark.parametrize("name", fuzz.formats())
def test_damaged_files_are_refused_or_told(tmp_path: Path, name: str) -> None:
    report, dice = fuzz.Report(), random.Random(5)
    found = fuzz.seeds(tmp_path / "seeds", [name])
    for _, (form, _, files) in zip(range(TRIES), fuzz.inputs(found, dice), strict=False):
        fuzz.attempt(form, files, tmp_path / "try", report)
    assert report.faults == {}
    assert report.inputs == TRIES
    assert report.refused + report.told > TRIES / 10  # the damage is real


def test_a_reader_that_raises_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fuzz.seeds(tmp_path / "seeds", ["coco"])

    def broken(self: object, root: Path) -> Content:
        raise ZeroDivisionError("no")

    report = fuzz.Report()
    monkeypatch.setattr(detect.kind("coco"), "read", broken)
    fuzz.attempt("coco", found["coco"], tmp_path / "try", report)
    assert [key.startswith("coco: ZeroDivisionError in test_fuzz.py") for key in report.faults] == [True]


def test_a_parquet_file_with_a_broken_page_is_told(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]})
    pq.write_table(table, tmp_path / "train.parquet")
    data = bytearray((tmp_path / "train.parquet").read_bytes())
    data[4:12] = b"\xff" * 8
    (tmp_path / "train.parquet").write_bytes(bytes(data))
    content = detect.build("hf").read(tmp_path)
    assert list(content.records) == []
    assert ["whole Parquet file" in problem.message for problem in content.problems] == [True]


def test_a_mask_whose_name_has_another_ending_is_written_as_png(tmp_path: Path) -> None:
    root = tmp_path / "in"
    draw(root / "a.png", (2, 2))
    draw(root / "annot" / "a.png", (2, 2))
    (root / "annot" / "a.png").rename(root / "annot" / "a.pngx")
    (root / "train.txt").write_text("a.png annot/a.pngx\n")
    (root / "classes.csv").write_text("id,name,r,g,b\n0,c,90,120,30\n")
    form = detect.build("color-masks")
    content = form.read(root)
    content.records = list(content.records)
    (tmp_path / "out").mkdir()
    assert list(form.write(content, tmp_path / "out", lambda record, place: None)) == []
    assert (tmp_path / "out" / "annot" / "a.pngx").read_bytes().startswith(b"\x89PNG")
