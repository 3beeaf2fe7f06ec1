"""What ten minutes teach of photographs of waste: ``python -m benchmarks train_images``.

TrashNet (710 photographs of six classes to learn from, every fifth of them chooses the epoch; 177 to report, the
official split), through a workspace as a user would, from random weights, ten minutes for everything on the cores of
this machine (``LOOPWORKS_MINUTES`` for another number). Needs the shared data beside the checkout. Where
``.peers/ultralytics`` is installed, YOLO11n-cls learns from scratch with the same time, splits and image size.
"""

import csv
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import loopworks as lw
from benchmarks.figure import Figure
from benchmarks.peers import yolo

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "trashnet"
MINUTES, TARGET = 10.0, 0.70
EVERY = 5


def main() -> list[Figure]:
    minutes = float(os.environ.get("LOOPWORKS_MINUTES", MINUTES))
    with tempfile.TemporaryDirectory() as name:
        photographs = laid_out(Path(name) / "photographs")
        load = os.getloadavg()[0]
        space = lw.open(Path(name) / "space")
        for split in ("train", "val", "test"):
            space.add("waste", photographs / split, task="image-classification", split=split)
        version = space.dataset("waste").freeze("as it comes")
        began = time.monotonic()
        model = space.train(version, recipe=os.environ.get("LOOPWORKS_RECIPE", "auto"), budget=60 * minutes, seed=0)
        spent = time.monotonic() - began
        bundle = space.bundle(model)
        test, val = bundle.metrics["test"]["accuracy"], bundle.metrics["val"]["accuracy"]
        detail = (
            f"[{test.low:.3f}, {test.high:.3f}] on {test.count} photographs; val {val.value:.3f}; {bundle.recipe} "
            f"{dict(bundle.params)}; load {load:.1f} to {os.getloadavg()[0]:.1f}; {'; '.join(bundle.notes)}"
        )
        figures = [
            Figure(
                name=f"train_images: accuracy on TrashNet's test after {minutes:g} minutes", value=test.value,
                unit="ratio", target=TARGET, at_least=True, detail=detail,
            ),
            Figure(name="train_images: budget kept", value=spent / (60 * minutes), unit="ratio", target=1.1),
        ]  # fmt: skip
        if yolo.is_there():
            said = yolo.run(
                "classify", model="yolo11n-cls.yaml", data=photographs, minutes=minutes, side=224,
                images=sorted((photographs / "test").rglob("*.jpg")), folder=Path(name) / "peer",
            )  # fmt: skip
            right = [
                str(said["names"][i]) == Path(str(p)).parent.name
                for i, p in zip(said["top"], said["paths"], strict=True)
            ]
            theirs = float(np.mean(right))
            figures.append(
                Figure(
                    name="train_images: accuracy against YOLO11n-cls from scratch", value=test.value / theirs,
                    unit="ratio", target=1.0, at_least=True, detail=f"YOLO11n-cls {theirs:.3f}",
                )
            )  # fmt: skip
        space.close()
    return figures


def laid_out(folder: Path) -> Path:
    """The photographs as ``SPLIT/CLASS/NAME.jpg``."""
    seen: Counter[str] = Counter()
    with (ROOT / "labels.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            split = row["split"]
            if split == "train":
                seen[row["label"]] += 1
                split = "val" if seen[row["label"]] % EVERY == 0 else "train"
            place = folder / split / row["label"] / Path(row["file"]).name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / row["file"], place)
    return folder
