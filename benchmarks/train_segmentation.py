"""What the small segmenter learns of street scenes: ``python -m benchmarks train_segmentation``.

CamVid (74 images to learn from, 17 that choose the epoch, 21 to report; 11 classes, "Unlabelled" is not scored), from
random weights, on the cores of this machine, 20 minutes for everything (``LOOPWORKS_MINUTES`` for another number).
Needs the shared data beside the checkout. Where ``.peers/ultralytics`` is installed, YOLO26n-sem (YOLO11 has no
semantic segmentation) learns from scratch with the same time and is scored by the same protocol.
"""

import csv
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.figure import Figure
from benchmarks.peers import yolo
from loopworks.core import mask
from loopworks.core.contracts import Arrays, Context, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape
from loopworks.data.source import Progress

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
MINUTES, TARGET = 20.0, 0.45
SIZE = (480, 360)


@dataclass(frozen=True, kw_only=True)
class CamVid:
    """The set as a source."""

    id: str = "0" * 64
    typical_size: tuple[int, int] = SIZE
    task: Learnable = field(default_factory=lambda: plugins.get("task.semantic-segmentation"))
    kept: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def schema(self) -> LabelSchema:
        with (ROOT / "classes.csv").open(encoding="utf-8") as file:
            return LabelSchema(classes=tuple(row["name"] for row in csv.DictReader(file)))

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(self._files(split)) for split in ("train", "val", "test")}

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        return rule.pack([image.read_bytes() for image, _ in self._files(split)])

    def targets(self, split: str) -> NDArray[Any]:
        if split not in self.kept:
            labels = [self._shapes(path) for _, path in self._files(split)]
            self.kept[split] = self.task.targets(labels, self.schema, [SIZE] * len(labels))
        return self.kept[split]

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": image.name} for image, _ in self._files(split)]

    def _files(self, split: str) -> list[tuple[Path, Path]]:
        rows = (ROOT / f"{split}.txt").read_text(encoding="utf-8").split()
        return [(ROOT / image, ROOT / truth) for image, truth in zip(rows[::2], rows[1::2], strict=True)]

    def _shapes(self, path: Path) -> list[Shape]:
        classes = np.asarray(Image.open(path)).astype(np.uint8)
        size = ((float(classes.shape[0]), float(classes.shape[1])),)
        names = self.schema.classes
        return [
            Shape(label=names[i], kind="mask", points=size, mask=text)
            for i, text in mask.encode_classes(classes).items()
        ]


def main() -> list[Figure]:
    import loopworks.builtins  # noqa: F401 - registers the plug-ins
    from loopworks.train.images import load_libraries
    from loopworks.train.stage import train

    minutes = float(os.environ.get("LOOPWORKS_MINUTES", MINUTES))
    load_libraries()
    curve: list[tuple[int, float]] = []
    load = os.getloadavg()[0]

    def metric(name: str, step: int, value: float) -> None:
        if name == "val_headline":
            curve.append((step, value))
            print(f"epoch {step}: val mIoU {value:.3f}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(
            seed=0, scratch=Path(folder) / "s", report=lambda share, text: None, stopped=lambda: False, metric=metric
        )
        began, cpu = time.monotonic(), time.process_time()
        made = train(CamVid(), recipe="small-segmenter", budget_s=60 * minutes, folder=Path(folder) / "bundle", ctx=ctx)
        spent, used = time.monotonic() - began, time.process_time() - cpu
    test, val = made.metrics["test"]["miou"], made.metrics["val"]["miou"]
    accuracy = made.metrics["test"]["pixel_accuracy"]
    points = ", ".join(f"{step}: {value:.2f}" for step, value in curve[:: max(1, len(curve) // 8)])
    detail = (
        f"[{test.low:.3f}, {test.high:.3f}] on {test.count} images; val {val.value:.3f}; pixel accuracy "
        f"{accuracy.value:.3f}; {minutes:g} min, {used:.0f} s of processor time, {len(curve)} epochs, load {load:.1f} "
        f"to {os.getloadavg()[0]:.1f}; curve by epoch {points}"
    )
    figures = [
        Figure(
            name="CamVid, small segmenter, test mIoU", value=test.value, unit="ratio", target=TARGET, at_least=True,
            detail=detail,
        ),
        Figure(
            name="CamVid, budget kept", value=spent / (60 * minutes), unit="ratio", target=1.1, detail="time / budget"
        ),
    ]  # fmt: skip
    if yolo.is_there():
        with tempfile.TemporaryDirectory() as folder:
            theirs = peer(Path(folder), minutes)
        figures.append(
            Figure(
                name="CamVid, test mIoU against YOLO26n-sem from scratch", value=test.value / max(theirs, 1e-9),
                unit="ratio", target=1.0, at_least=True, detail=f"YOLO26n-sem {theirs:.3f}",
            )
        )  # fmt: skip
    return figures


def peer(folder: Path, minutes: float) -> float:
    """mIoU of a peer's program on the same test images; what is not labelled it is told to pass over."""
    source = CamVid()
    for split in ("train", "val"):
        for i, (image, mask_file) in enumerate(source._files(split)):
            for kind, path in (("images", image), ("masks", mask_file)):
                place = folder / kind / split / f"{i:03}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
    classes = source.schema.classes
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(classes[:-1]))
    told = "\n".join([*(f"  {i}: {i}" for i in range(len(classes) - 1)), f"  {len(classes) - 1}: ignore_label"])
    head = f"path: {folder}\ntrain: images/train\nval: images/val\nmasks_dir: masks\n"
    (folder / "data.yaml").write_text(f"{head}names:\n{names}\nlabel_mapping:\n{told}\n", encoding="utf-8")
    said = yolo.run(
        "semantic", model="yolo26n-sem.yaml", data=folder / "data.yaml", minutes=minutes, side=480,
        images=[image for image, _ in source._files("test")], folder=folder / "work",
    )  # fmt: skip
    truth = np.stack([np.asarray(Image.open(path)) for _, path in source._files("test")]).astype(np.int64)
    found = np.stack([said[f"mask_{i}"] for i in range(len(truth))]).astype(np.int64)
    is_scored = truth < len(classes) - 1
    shares = []
    for i in range(len(classes) - 1):
        wanted, given = (truth == i) & is_scored, (found == i) & is_scored
        if wanted.any():
            shares.append((wanted & given).sum() / (wanted | given).sum())
    return float(np.mean(shares))
