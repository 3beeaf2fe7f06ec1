"""Predictions for people: contents of items in (image files, texts, rows), the task's answer out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from loopworks.core import image
from loopworks.core.contracts import Arrays, Learnable, Sizes
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.infer.engine import TIMEOUT_S, Answer, Engine, Replaced, Served


def pack(served: Served, content: Any, name: str = "item", max_pixels: int = image.MAX_PIXELS) -> Arrays:
    """One item as the model's input tensors, by the bundle's own rule; the first axis is 1.

    Raises: Invalid: not what the rule reads, or an image of more than ``max_pixels``.
    """
    return served.bundle.rule.pack([content], names=[name], max_pixels=max_pixels)


def join(parts: Sequence[Arrays]) -> Arrays:
    """Packed items as one batch; ``Invalid`` where there is none."""
    if not parts:
        raise Invalid("items", "at least one", "none")
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def sizes(served: Served, contents: Sequence[Any]) -> Sizes:
    """Width and height of image files, from their headers; nothing for other media."""
    if served.bundle.rule.media != "image":
        return ()
    return [image.displayed_size(content) for content in contents]


def answers(served: Served, outputs: Arrays, sizes: Sizes = ()) -> list[dict[str, Any]]:
    """A model's output tensors as one JSON value per item."""
    task: Learnable = plugins.get(f"task.{served.bundle.task}")
    return task.decode(outputs, served.bundle.schema, sizes)


def predict(
    engine: Engine,
    name: str,
    contents: Sequence[Any],
    *,
    timeout_s: float = TIMEOUT_S,
    max_pixels: int = image.MAX_PIXELS,
) -> tuple[list[dict[str, Any]], Answer]:
    """What the model ``name`` says of items, one value each, and the raw answer behind it.

    Raises:
        NotFound: no such model.
        Invalid: no item, or one that cannot be read.
        Busy, TimedOut, Failed: the model could not answer.
    """
    while True:
        served = engine.model(name)
        packed = [pack(served, content, f"item {i + 1}", max_pixels) for i, content in enumerate(contents)]
        try:
            answer = served.submit(join(packed), timeout_s).result()
        except Replaced:  # while the items were packed by the old model's rule: begin again with the new one
            continue
        return answers(served, answer.outputs, sizes(served, contents)), answer
