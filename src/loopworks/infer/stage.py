"""Predictions for people: image files in, the task's answer out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image
from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.infer.engine import TIMEOUT_S, Answer, Engine, Replaced, Served


def pixels(served: Served, file: bytes, name: str = "image", max_pixels: int = image.MAX_PIXELS) -> NDArray[np.uint8]:
    """One image file as the model sees it, by the bundle's own rule, shape ``(height, width, 3)``.

    Raises: Invalid: not a whole image, or more than ``max_pixels``.
    """
    return image.decode(file, served.bundle.rule, name, max_pixels)


def batch(served: Served, rows: Sequence[NDArray[np.uint8]]) -> Arrays:
    """Decoded images as the model's input, shape ``(images, height, width, 3)``; ``Invalid`` where there is none."""
    if not rows:
        raise Invalid("images", "at least one", "none")
    return {served.bundle.inputs[0].name: rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)}


def images(served: Served, files: Sequence[bytes], max_pixels: int = image.MAX_PIXELS) -> Arrays:
    """Image files as the model's input, shape ``(files, height, width, 3)``.

    Raises: Invalid: no file, or one that is not a whole image.
    """
    return batch(served, [pixels(served, file, f"image {i + 1}", max_pixels) for i, file in enumerate(files)])


def answers(served: Served, outputs: Arrays) -> list[dict[str, Any]]:
    """A model's output tensors as one JSON value per image."""
    task: Learnable = plugins.get(f"task.{served.bundle.task}")
    return task.decode(outputs, served.bundle.schema)


def predict(
    engine: Engine,
    name: str,
    files: Sequence[bytes],
    *,
    timeout_s: float = TIMEOUT_S,
    max_pixels: int = image.MAX_PIXELS,
) -> tuple[list[dict[str, Any]], Answer]:
    """What the model ``name`` says of image files, one value each, and the raw answer behind it.

    Raises:
        NotFound: no such model.
        Invalid: no file, or one that is not a whole image.
        Busy, TimedOut, Failed: the model could not answer.
    """
    while True:
        served = engine.model(name)
        try:
            answer = served.submit(images(served, files, max_pixels), timeout_s).result()
        except Replaced:  # while the images were decoded by the old model's rule: begin again with the new one
            continue
        return answers(served, answer.outputs), answer
