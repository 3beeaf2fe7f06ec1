"""What a GPU changes: the same recipes on the processor and on the GPU of this machine.

    python -m benchmarks gpu

Needs a CUDA device, and of the packages no more than training does (no store, no jobs): recipes run on sets in memory.
The GPU computes in mixed precision, so weights differ; held-out accuracy must not. A training that was cancelled midway
and runs again must end with the same weights. A batch that has no room must be fed in pieces and go on.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.train.pictures import things
from tests.train.segmentation.scenes import scenes
from tests.train.source import digits, squares

from benchmarks.figure import Figure
from loopworks import builtins  # registers the plug-ins, also where the package is not installed
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled
from loopworks.train.stage import train

SMALL = 0.03
"""Share of the GPU's memory that the training with too large a batch may take."""
LARGE: dict[str, Any] = {"backbone": "resnet50", "weights": "random"}


def context(folder: Path, stopped: Callable[[], bool] = lambda: False) -> tuple[Context, list[float]]:
    """A context, and the moments at which its epochs ended."""
    ends: list[float] = []

    def metric(name: str, step: int, value: float) -> None:
        if name == "train_loss":
            ends.append(time.perf_counter())

    return Context(seed=0, scratch=folder, report=lambda share, text: None, stopped=stopped, metric=metric), ends


def run(source: Any, place: Path, name: str, recipe: str, params: Mapping[str, Any]) -> tuple[Bundle, float]:
    """A model, and the seconds of an epoch, the first left out."""
    ctx, ends = context(place / f"{name}-scratch")
    done = train(source, folder=place / name, ctx=ctx, recipe=recipe, params=params)
    return done, (ends[-1] - ends[0]) / max(1, len(ends) - 1)


def both(place: Path) -> dict[str, float]:
    """What is measured on the processor and on the GPU alike: held-out scores, and seconds of an epoch."""
    made, _ = run(digits(600, 150), place, "digits", "small-cnn", {"epochs": 30})
    _, epoch_s = run(squares(256, 32, 32, size=224), place, "photos", "timm", {**LARGE, "batch": 32, "epochs": 3})
    accuracy = made.metrics["test"]["accuracy"]
    small = {"epochs": 25, "width": 8, "blocks": 1, "batch": 16}
    boxes, _ = run(things(64, 16, 32), place, "boxes", "small-detector", small)
    masks, _ = run(scenes(48, 12, 24), place, "masks", "small-segmenter", {**small, "decoder": 16})
    return {
        "accuracy": accuracy.value,
        "count": accuracy.count,
        "epoch_s": epoch_s,
        "map50": boxes.metrics["test"]["map50"].value,
        "miou": masks.metrics["test"]["miou"].value,
    }


def on_processor() -> dict[str, float]:
    """``both`` in a process that sees no GPU."""
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], env=hidden, capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def is_resumed(place: Path) -> bool:
    """Whether a training that was cancelled in its fourth epoch ends with the weights of one that was not."""
    source, params = squares(64, 16, 16, size=32), {"epochs": 8}
    whole, _ = run(source, place, "whole", "small-cnn", params)
    seen: list[float] = []
    ctx, seen = context(place / "killed-scratch", lambda: len(seen) >= 3)
    try:
        train(source, folder=place / "killed", ctx=ctx, recipe="small-cnn", params=params)
    except Cancelled:
        again, _ = run(source, place, "killed", "small-cnn", params)
        return again.sha256["model.safetensors"] == whole.sha256["model.safetensors"]
    return False


def crowded(place: Path) -> list[str]:
    """What the model says of memory after a batch that had no room."""
    import torch

    torch.cuda.set_per_process_memory_fraction(SMALL)
    made, _ = run(squares(256, 32, 32, size=224), place, "crowded", "timm", {**LARGE, "batch": 256, "epochs": 2})
    torch.cuda.set_per_process_memory_fraction(1.0)
    return [note for note in made.notes if "memory" in note]


def main() -> list[Figure]:
    import torch

    if not torch.cuda.is_available():
        return []
    assert builtins.__all__
    device = torch.cuda.get_device_name(0)
    with tempfile.TemporaryDirectory() as folder:
        here, there = both(Path(folder)), on_processor()
        same, halved = is_resumed(Path(folder)), crowded(Path(folder))
    return [
        Figure(
            name="GPU: test accuracy lost to mixed precision, digits",
            value=round(there["accuracy"] - here["accuracy"], 4), unit="accuracy", target=0.02,
            detail=f"{device}: {here['accuracy']:.3f} of {here['count']:.0f} held-out images right",
        ),
        *(
            Figure(
                name=f"GPU: {what} lost to mixed precision, made-up pictures", value=round(there[key] - here[key], 4),
                unit=key, target=0.05, detail=f"{here[key]:.3f}; the processor's {there[key]:.3f}",
            )
            for key, what in (("map50", "average precision of boxes"), ("miou", "mean IoU of masks"))
        ),
        Figure(
            name="GPU: speed of a training of resnet50 over the processor's",
            value=round(there["epoch_s"] / here["epoch_s"], 2), unit="ratio", target=1.0, at_least=True,
            detail=f"{256 / here['epoch_s']:,.0f} images/s at 224 x 224, batch 32",
        ),
        Figure(
            name="GPU: a batch without room was fed in pieces", value=float(bool(halved)), unit="yes", target=1.0,
            at_least=True, detail=" ".join(halved),
        ),
        Figure(
            name="GPU: cancelled and resumed, the same weights", value=float(same), unit="yes", target=1.0,
            at_least=True, detail=device,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(both(Path(scratch))))
