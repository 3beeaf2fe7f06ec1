"""Predictions for people: image files in, the task's answer out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from loopworks.core import image
from loopworks.core.contracts import Arrays, Task
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.infer.engine import Served


def images(served: Served, files: Sequence[bytes], max_pixels: int = image.MAX_PIXELS) -> Arrays:
    """Image files as the model's input, by the bundle's own rule, shape ``(files, height, width, 3)``.

    Raises: Invalid: no file, or one that is not a whole image.
    """
    if not files:
        raise Invalid("images", "at least one", "none")
    rule = served.bundle.rule
    pixels = [image.decode(file, rule, f"image {i + 1}", max_pixels) for i, file in enumerate(files)]
    return {served.bundle.inputs[0].name: np.stack(pixels)}


def answers(served: Served, outputs: Arrays) -> list[dict[str, Any]]:
    """A model's output tensors as one JSON value per image."""
    task: Task = plugins.get(f"task.{served.bundle.task}")
    return task.decode(outputs, served.bundle.schema)
