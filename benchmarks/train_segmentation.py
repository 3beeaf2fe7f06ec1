"""What the small segmenter learns of street scenes: ``python -m benchmarks train_segmentation [--minutes N]``.

CamVid (74 images to learn from, 17 that choose the epoch, 21 to report; 11 classes, "Unlabelled" is not scored), from
random weights, on the cores of this machine, 20 minutes for everything. Needs the shared data beside the checkout.
"""

import csv
import os
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

    minutes = float(sys.argv[sys.argv.index("--minutes") + 1]) if "--minutes" in sys.argv else MINUTES
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
    return [
        Figure(
            name="CamVid, small segmenter, test mIoU", value=test.value, unit="ratio", target=TARGET, at_least=True,
            detail=detail,
        ),
        Figure(
            name="CamVid, budget kept", value=spent / (60 * minutes), unit="ratio", target=1.1, detail="time / budget"
        ),
    ]  # fmt: skip
