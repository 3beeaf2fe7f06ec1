"""Ultralytics, as a program of its own (its licence keeps it out of the project): learn from scratch, then answer.

``make peers`` installs it under ``.peers/ultralytics``; where it is not, the measurements leave it out.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

HOME = Path(__file__).resolve().parents[2] / ".peers" / "ultralytics"


def is_there() -> bool:
    """Whether it is installed."""
    return (HOME / "bin" / "python").is_file()


def run(
    task: Literal["classify", "detect", "semantic"],
    *,
    model: str,
    data: Path,
    minutes: float,
    side: int,
    images: Sequence[Path],
    folder: Path,
) -> dict[str, Any]:
    """What a net of random weights says of ``images`` after ``minutes`` of training, by its own defaults.

    Args:
        task: what it learns.
        model: its description, e.g. ``yolo11n.yaml``.
        data: the folder or YAML file with its train and val splits.
        minutes: its time budget.
        side: of its input, in pixels.
        images: what it is asked about then.
        folder: where it works.
    Returns: ``names`` and ``paths``, and by task ``top``, or ``boxes`` (x, y, width, height in pixels), ``scores``,
        ``classes`` and ``counts``, or ``mask_0`` ...
    """
    folder.mkdir(parents=True)
    listed = folder / "images.txt"
    listed.write_text("\n".join(map(str, images)), encoding="utf-8")
    script = Path(__file__).with_name("use_yolo.py")
    given = [task, model, str(data), str(minutes), str(side), str(listed), str(folder)]
    subprocess.run([str(HOME / "bin" / "python"), str(script), *given], check=True, cwd=folder)
    with np.load(folder / "said.npz", allow_pickle=False) as said:
        return dict(said)
