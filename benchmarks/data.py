"""2,000 JPEGs with boxes: import by path, COCO export, freeze, diff; ours and the peers', in one run.

    python -m benchmarks data

Every program runs as a process of its own (benchmarks/peers/use_NAME.py), so that its memory peak is its own. The peers
run with the Python of ``.peers/NAME`` (``make peers``); one that is not installed is named in the detail line.
Everybody reads the same files from the disk's cache; DVC's steps are commands, with their start.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.figure import Figure

PEERS = ("fiftyone", "datumaro", "supervision", "dvc", "label_studio")
ROUNDS = 3
LIMIT_S = 420


def make(folder: Path, count: int) -> tuple[Path, Path]:
    """Images in ``images/`` and three boxes on each in ``annotations/instances_all.json``; gives both."""
    rng = np.random.default_rng(0)
    images, labels = folder / "images" / "all", folder / "annotations" / "instances_all.json"
    images.mkdir(parents=True)
    labels.parent.mkdir()
    rows: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        name = f"{number:05}.jpg"
        small.resize((640, 480), Image.Resampling.BICUBIC).save(images / name, quality=85)
        rows.append({"id": number, "file_name": name, "width": 640, "height": 480})
        for _ in range(3):
            x, y, width, height = (int(v) for v in rng.integers(1, 240, 4))
            boxes.append({
                "id": len(boxes) + 1,
                "image_id": number,
                "category_id": int(rng.integers(1, 5)),
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": [],
            })
    classes = [{"id": number, "name": name} for number, name in enumerate(("car", "bus", "sign", "person"), 1)]
    labels.write_text(json.dumps({"images": rows, "annotations": boxes, "categories": classes}), encoding="utf-8")
    return images, labels


def run(name: str, python: str, arguments: list[str]) -> dict[str, float]:
    """One program's seconds by step, and ``peak_mb``."""
    script = Path(__file__).parent / "peers" / f"use_{name}.py"
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [python, str(script), *arguments, scratch], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(count: int = 2000) -> dict[str, dict[str, float]]:
    """Name -> its best of ``ROUNDS`` (peers: of one, they take long) by step."""
    root = Path(__file__).parents[1]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        images, labels = make(Path(name), count)
        rounds = [run("loopworks", sys.executable, [str(images.parent), str(labels)]) for _ in range(ROUNDS)]
        found["loopworks"] = {step: sorted(one[step] for one in rounds)[ROUNDS // 2] for step in rounds[0]}
        for peer in PEERS:
            python = root / ".peers" / peer / "bin" / "python"
            if python.exists():
                place = str(Path(name)) if peer == "datumaro" else str(images)
                found[peer] = run(peer, str(python), [place, str(labels)])
    return found


def main() -> list[Figure]:
    """The figures against their targets."""
    found = measure()
    ours = found["loopworks"]
    absent = [peer for peer in PEERS if peer not in found]

    def detail(step: str) -> str:
        others = [f"{peer} {found[peer][step]:.2f} s" for peer in PEERS if step in found.get(peer, {})]
        left = f"; not installed: {', '.join(absent)}" if absent else ""
        return f"({'; '.join(others) or 'no peer has it'}{left})"

    peaks = ", ".join(f"{peer} {found[peer]['peak_mb']:.0f}" for peer in PEERS if peer in found)
    return [
        Figure(
            name="add 2,000 JPEG with boxes by path, as references like the peers",
            value=ours["reference"],
            unit="s",
            target=1.5,
            detail=detail("add"),
        ),
        Figure(name="the same, copied and flushed", value=ours["add"], unit="s", target=1.5),
        Figure(name="COCO export of 2,000", value=ours["export"], unit="s", target=0.15, detail=detail("export")),
        Figure(name="freeze 2,000 with boxes", value=ours["freeze"], unit="s", target=0.3, detail=detail("freeze")),
        Figure(
            name="freeze again after 20 changes",
            value=ours["refreeze"],
            unit="s",
            target=0.3,
            detail=detail("refreeze"),
        ),
        Figure(name="diff of the two", value=ours["diff"], unit="s", target=0.1, detail=detail("diff")),
        Figure(name="memory peak of all that", value=ours["peak_mb"], unit="MB", target=1024, detail=f"({peaks})"),
    ]
