"""Every format's files, broken in every way we know, through the command line: one line per problem, the rest kept."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import loopworks
from loopworks.cli.main import app
from loopworks.core.values import Shape
from loopworks.data.formats import detect

ImageFile = Callable[..., bytes]
FORMATS = [name for name in detect.names() if name not in {"folders", "datumaro-bridge"}]
NOTES = {".json", ".jsonl", ".csv", ".xml", ".txt", ".yaml", ".parquet"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, pictures: Callable[..., Path]) -> Path:
    """The same four images with a box each, in every format."""
    folder = tmp_path_factory.mktemp("formats")
    with loopworks.open(folder / "space") as space:
        dataset = space.dataset("d", "object-detection", classes=["car", "bus"])
        dataset.add(pictures(folder / "in", {"x": 4}, size=24) / "x", labels="none", split="train")
        for number, item in enumerate(dataset.items()):
            box = Shape(label=("car", "bus")[number % 2], kind="box", points=((4.0, 3.0, 8.0, 6.0),))
            dataset.label({item.id: [box]}, author="ann")
        for name in FORMATS:
            dataset.export(folder / name, format=name)
    return folder


@pytest.fixture
def space(tmp_path: Path) -> str:
    with loopworks.open(tmp_path / "space"):
        return str(tmp_path / "space")


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        for path in (written / name).rglob("*"):
            target = tmp_path / "bad" / path.relative_to(written / name)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        return tmp_path / "bad"

    return make


def add(space: str, source: Path, name: str) -> Result:
    return CliRunner().invoke(app, ["data", "add", "d", str(source), "--format", name, "-w", space, "--json"])


def told(done: Result) -> dict[str, object]:
    """What a command says that met bad input: an error or a report, never a fault of ours."""
    assert done.exit_code in (0, 2, 3), done.output
    body: dict[str, object] = json.loads(done.stdout)
    if done.exit_code == 2 and "error" in body:
        assert body["error"]["code"] in ("invalid", "not_found"), body  # type: ignore[index]
        return body
    problems = body["problems"]
    assert isinstance(problems, list)
    assert all(one["message"] and "\n" not in one["message"] for one in problems)
    assert bool(problems) == (done.exit_code != 0)
    return body


def notes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in NOTES)


def masks(folder: Path) -> list[Path]:
    """Labels that are pictures, in formats that have no other files."""
    return sorted(folder.glob("gtFine/**/*.png"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_cut_off(space: str, copy: Callable[[str], Path], name: str) -> None:
    folder = copy(name)
    path = max(notes(folder) or masks(folder), key=lambda one: (one.stat().st_size, one.name))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    told(add(space, folder, name))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "hf"])
def test_an_image_that_is_missing_leaves_the_others(space: str, copy: Callable[[str], Path], name: str) -> None:
    folder = copy(name)
    sorted(set(folder.rglob("*.png")) - set(masks(folder)))[0].unlink()
    body = told(add(space, folder, name))
    assert body["added"] == 3


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding(space: str, copy: Callable[[str], Path], name: str, encoding: str) -> None:
    folder = copy(name)
    for path in notes(folder):
        if path.suffix != ".parquet":
            path.write_bytes(path.read_text(encoding="utf-8").replace("car", "cär").encode(encoding))
    told(add(space, folder, name))


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_that_are_none(space: str, copy: Callable[[str], Path], name: str) -> None:
    folder = copy(name)
    for path in notes(folder):
        if path.suffix != ".parquet":
            path.write_bytes(path.read_bytes().replace(b"8", b"NaN").replace(b"6", b"-6"))
    told(add(space, folder, name))


@pytest.mark.parametrize("name", ["coco", "datumaro", "label-studio", "labelme", "jsonl"])
def test_a_json_of_two_gigabytes_is_refused_without_reading_it(space: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / ("big.jsonl" if name == "jsonl" else "big.json")
    path.write_bytes(b'{"images": [], "annotations": [], "categories": [], "items": [], "shapes": [')
    os.truncate(path, 2 << 30)
    assert add(space, path, name).exit_code == 2


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_an_archive_in_an_archive_is_told(space: str, copy: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = copy(name)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as out:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            out.write(path, path.relative_to(folder))
        with out.open("inner.zip", "w") as inner, zipfile.ZipFile(inner, "w") as nested:
            nested.writestr("x.txt", "x")
    body = told(add(space, tmp_path / "set.zip", name))
    assert body["added"] == 4
    assert "inner.zip" in str(body["problems"])
