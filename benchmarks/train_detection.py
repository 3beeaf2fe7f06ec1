"""What the small detector learns of blood cells: ``python -m benchmarks train_detection``.

BCCD (official splits: 205 images to learn from, 87 that choose the epoch, 72 to report; three classes of cells), from
random weights, on the cores of this machine, 20 minutes for everything (``LOOPWORKS_MINUTES`` for another number).
Needs the shared data beside the checkout. Where ``.peers/ultralytics`` is installed, YOLO11n
learns from scratch with the same time and input size and is scored by the same protocol.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import Figure
from benchmarks.peers import yolo
from loopworks.core import image
from loopworks.core.contracts import Arrays, Context, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema, Shape
from loopworks.data.source import Progress
from loopworks.tasks import detection, scores

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"
MINUTES, TARGET = 20.0, 0.5
CLASSES = ("RBC", "WBC", "Platelets")
SIZE = (640, 480)


def main() -> list[Figure]:
    import loopworks.builtins  # noqa: F401 - which registers what is measured
    from loopworks.train import stage

    minutes = float(os.environ.get("LOOPWORKS_MINUTES", MINUTES))
    source = Cells()
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.monotonic()

        def metric(what: str, step: int, value: float) -> None:
            if what == "val_headline":
                print(f"  {time.monotonic() - began:6.0f} s  epoch {step}: map on val {value:.3f}", flush=True)

        ctx = Context(seed=0, scratch=folder / "scratch", report=lambda *_: None, stopped=lambda: False, metric=metric)
        made = stage.train(source, recipe="small-detector", budget_s=60 * minutes, folder=folder / "bundle", ctx=ctx)
        print(f"  {made.params}, {made.notes}")
        for what, score in made.metrics["test"].items():
            print(f"  test {what} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
        found = made.metrics["test"]["map"].value
        figures = [
            Figure(
                name=f"train_detection: mAP of BCCD's test after {minutes:g} minutes",
                value=found,
                unit="mAP",
                target=TARGET,
                at_least=True,
            )
        ]
        if yolo.is_there():
            theirs = peer(source, folder / "peer", minutes)
            print(f"  YOLO11n from scratch, same time: map {theirs:.3f}")
            figures.append(
                Figure(
                    name="train_detection: mAP against YOLO11n from scratch",
                    value=found / max(theirs, 1e-9),
                    unit="ratio",
                    target=1.0,
                    at_least=True,
                )
            )
    return figures


@dataclass(frozen=True)
class Cells:
    """BCCD in its official splits."""

    id: str = "b" * 64
    schema: LabelSchema = LabelSchema(classes=CLASSES)
    task: Learnable = field(default_factory=lambda: plugins.get("task.object-detection"))
    typical_size: tuple[int, int] = SIZE

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(self.names(split)) for split in ("train", "val", "test")}

    def names(self, split: str) -> list[str]:
        return (ROOT / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split()

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        assert isinstance(rule, ImageRule)
        files = [ROOT / "JPEGImages" / f"{name}.jpg" for name in self.names(split)]
        return {"image": np.stack([image.read(file, rule) for file in files])}

    def labels(self, split: str) -> list[list[Shape]]:
        return [_shapes(ROOT / "Annotations" / f"{name}.xml") for name in self.names(split)]

    def targets(self, split: str) -> NDArray[Any]:
        found = self.labels(split)
        return self.task.targets(found, self.schema, [SIZE] * len(found))

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": name} for name in self.names(split)]


def _shapes(file: Path) -> list[Shape]:
    found = []
    for thing in ElementTree.parse(file).getroot().iter("object"):
        x1, y1, x2, y2 = (float(thing.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax"))
        box = (x1, y1, max(0.0, x2 - x1), max(0.0, y2 - y1))
        found.append(Shape(label=thing.findtext("name", ""), kind="box", points=(box,)))
    return found


def peer(source: Cells, folder: Path, minutes: float) -> float:
    """mAP of a peer's program on the same test images, from the boxes that it gives."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        rows = source.targets(split)
        for name, things in zip(source.names(split), rows, strict=True):
            shutil.copyfile(ROOT / "JPEGImages" / f"{name}.jpg", folder / "images" / split / f"{name}.jpg")
            lines = [
                f"{int(row[0])} {row[1] + row[3] / 2:.6f} {row[2] + row[4] / 2:.6f} {row[3]:.6f} {row[4]:.6f}"
                for row in things[things[:, detection.LABEL] >= 0]
            ]
            (folder / "labels" / split / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(CLASSES))
    told = f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}\n"
    (folder / "data.yaml").write_text(told, encoding="utf-8")
    images = [ROOT / "JPEGImages" / f"{name}.jpg" for name in source.names("test")]
    said = yolo.run(
        "detect", model="yolo11n.yaml", data=folder / "data.yaml", minutes=minutes, side=320, images=images,
        folder=folder / "work",
    )  # fmt: skip
    return scores.headline(source.task, source.targets("test"), _answer(said), source.schema)


def _answer(said: Mapping[str, NDArray[Any]]) -> Arrays:
    """A peer's boxes in pixels as our tensors, the surest first."""
    counts = said["counts"].tolist()
    out: dict[str, NDArray[Any]] = {
        "boxes": np.zeros((len(counts), detection.MOST, 4), np.float32),
        "scores": np.zeros((len(counts), detection.MOST), np.float32),
        "classes": np.zeros((len(counts), detection.MOST), np.int64),
    }
    at = 0
    for i, count in enumerate(counts):
        best = at + np.argsort(-said["scores"][at : at + count], kind="stable")[: detection.MOST]
        out["boxes"][i, : len(best)] = said["boxes"][best] / (*SIZE, *SIZE)
        out["scores"][i, : len(best)] = said["scores"][best]
        out["classes"][i, : len(best)] = said["classes"][best]
        at += count
    return out
