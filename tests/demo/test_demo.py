"""The demo as its user runs it: stopped in the middle with Ctrl-C, continued by a second run, on own images."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.train, pytest.mark.optimize, pytest.mark.slow]


def command(space: Path, data: Path) -> list[str]:
    main = "from loopworks.cli.main import main; main()"
    return [sys.executable, "-c", main, "demo", "--workspace", str(space), "--data", str(data), "--json"]


def test_ctrl_c_leaves_a_workspace_that_a_second_run_finishes(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    data = pictures(tmp_path / "photos", {"glass": 50, "metal": 50, "paper": 50}, size=24)
    space = tmp_path / "space"
    with (tmp_path / "first.txt").open("w", encoding="utf-8") as said:
        first = subprocess.Popen(command(space, data), stdout=said, stderr=said, start_new_session=True)
        until(lambda: list(space.glob("jobs/*/scratch/last.ckpt")), first)
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 130, (tmp_path / "first.txt").read_text(encoding="utf-8")
    said_first = (tmp_path / "first.txt").read_text(encoding="utf-8")
    assert "run the same command again" in said_first
    assert "Traceback" not in said_first
    jobs_before = sorted(p.name for p in space.glob("jobs/*/") if (p / "job.json").is_file())
    done = subprocess.run(command(space, data), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    # The interrupted training was continued, not begun anew.
    jobs_after = sorted(p.name for p in space.glob("jobs/*/") if (p / "job.json").is_file())
    assert set(jobs_before) <= set(jobs_after)
    assert len(jobs_after) == 8  # one to start with, two in each of three rounds, one to optimize
    assert [row["labels"] for row in figures["rounds"]] == [60, 75, 90, 105]
    assert figures["rounds"][-1]["active"]["value"] > 0.8  # three clearly different colours; chance is 0.33
    assert figures["served"]["accuracy"] == pytest.approx(chosen_accuracy(figures), abs=1e-9)
    assert [n["kind"] for n in figures["served"]["lineage"]][:3] == ["prediction", "deployment", "model"]
    people = {n["id"] for n in figures["served"]["lineage"] if n["kind"] == "labels"}
    assert "hidden-labels" in people
    report = (space / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png;base64,") == 2
    assert "http://" not in report
    again = subprocess.run(command(space, tmp_path), capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 2  # other images in the same workspace
    assert json.loads(again.stdout)["error"]["code"] == "conflict"


def chosen_accuracy(figures: dict[str, object]) -> float:
    variants: list[dict[str, object]] = figures["variants"]  # type: ignore[assignment]
    chosen = next(v for v in variants if v["name"] == figures["chosen"])
    return float(chosen["metrics"]["test"]["accuracy"]["value"])  # type: ignore[index]


def until(is_true: Callable[[], object], process: "subprocess.Popen[bytes]", seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert process.poll() is None, "the demo ended by itself"
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.1)
