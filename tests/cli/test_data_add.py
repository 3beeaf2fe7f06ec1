"""``data add`` with archives and videos, ``data split`` by group and time, and what the progress bar says."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn
from typer.testing import CliRunner, Result

import loopworks as lw
from loopworks.cli.main import app
from loopworks.cli.output import Pace, Update
from loopworks.core.errors import Invalid
from loopworks.data.frames import indices

Pictures = Callable[..., Path]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--json"])


def result(*words: str, code: int = 0) -> dict[str, Any]:
    done = run(*words)
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def space(tmp_path: Path) -> str:
    with lw.open(tmp_path / "space") as made:
        return str(made.folder)


@pytest.fixture
def archive(pictures: Pictures, tmp_path: Path) -> Path:
    folder = pictures(tmp_path / "pets", {"cat": 6, "dog": 6}, size=8)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as out:
        for path in sorted(folder.rglob("*.png")):
            out.write(path, path.relative_to(folder))
        out.writestr("../up.png", b"x")
    return tmp_path / "pets.zip"


def test_an_archive_is_added_and_what_is_unsafe_listed(space: str, archive: Path) -> None:
    found = result("data", "add", "pets", str(archive), "-w", space, code=3)
    assert found["added"] == 12
    assert [problem["where"] for problem in found["problems"]] == [f"{archive}/../up.png"]


@pytest.mark.video
def test_frames_of_a_video_are_chosen_by_options(space: str, tmp_path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i, np.uint8), format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    video = str(tmp_path / "a.mp4")
    assert result("data", "add", "v", video, "--every", "10", "-w", space)["added"] == 2
    assert result("data", "add", "v", video, "--frames", "1,3-5", "-w", space)["added"] == 4
    assert result("data", "add", "v", video, "--scenes", "0.5", "--jpeg", "90", "-w", space)["added"] >= 1
    error = result("data", "add", "v", video, "-w", space, code=2)["error"]
    assert "--every" in error["hint"]
    error = result("data", "add", "v", video, "--every", "2", "--frames", "1", "-w", space, code=2)["error"]
    assert error["message"] == "frames must be chosen by one of every, at and scenes; got every and at"


def test_lists_of_frames_are_read() -> None:
    assert indices("0, 5,7-9,8") == (0, 5, 7, 8, 9)
    assert indices("") == ()
    for text in ("a", "1,", "5-3", "-1", "1-9999999", "1.5"):
        with pytest.raises(Invalid, match="frames must be indices and ranges"):
            indices(text)


def test_a_split_by_folder_tells_its_figures(space: str, archive: Path) -> None:
    result("data", "add", "pets", str(archive), "-w", space, code=3)
    found = result("data", "split", "pets", "--by", "folder", "--seed", "3", "-w", space)
    assert (found["by"], found["ungrouped"], found["straddling"]) == ("folder", 0, [])
    assert sum(found["splits"].values()) == sum(map(sum, (c.values() for c in found["by_class"].values()))) == 12
    error = result("data", "split", "pets", "--time", "taken", "-w", space, code=2)["error"]
    assert error["message"].startswith("time must be an attribute of every item")
    text = CliRunner().invoke(app, ["data", "split", "pets", "-w", space]).output
    assert "groups by folder: train 1" in text


def test_a_pace_is_that_of_the_last_seconds() -> None:
    now = 0.0
    pace = Pace(window_s=10, clock=lambda: now)
    assert pace.rate(0) == 0
    for now in range(1, 21):
        last = pace.rate(100 * now)
    assert last == 100
    for now in range(21, 41):
        last = pace.rate(2000 + 10 * (now - 20))
    assert last == pytest.approx(10, abs=1)


def test_the_bar_says_how_many_how_fast_and_begins_anew_with_new_work() -> None:
    console = Console(file=io.StringIO(), width=120)
    with Progress(TextColumn("{task.fields[note]}"), console=console) as bar:
        update = Update(bar, "adding")
        update(0.5, "files", done=500, total=1000, size=2_500_000)
        assert bar.tasks[0].fields["note"] == "500/1,000 files, 0/s, 2.5 MB, 0 B/s"
        update(0.1, "items", done=1)
        assert bar.tasks[0].fields["note"] == "1 items, 0/s"
        assert bar.tasks[0].completed == 0.1
        update(0.2, "epoch [3]")
        assert bar.tasks[0].fields["note"].startswith("epoch \\[3]")
