"""Answers of a model in this process, without a server."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core import image
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import Problem
from loopworks.data.stage import read_file


def answer(predictor: Predictor, bundle: Bundle, files: Iterable[bytes], *, batch: int, max_pixels: int) -> Arrays:
    """A model's raw answer for image files, in order; so many at once as ``batch`` says.

    Raises: Invalid: no file, or one that is no image.
    """
    parts: list[Arrays] = []
    pixels: list[Any] = []

    def flush() -> None:
        if pixels:
            parts.append(predictor.predict({bundle.inputs[0].name: np.stack(pixels)}))
            pixels.clear()

    for content in files:
        pixels.append(image.decode(content, bundle.rule, max_pixels=max_pixels))
        if len(pixels) == batch:
            flush()
    flush()
    if not parts:
        raise Invalid("images", "at least one", "none")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def load(sources: Sequence[str | Path | bytes], max_pixels: int) -> tuple[list[tuple[str, bytes]], list[Problem]]:
    """Names and bytes of image files (paths, or bytes as they are), and what cannot be read."""
    found: list[tuple[str, bytes]] = []
    problems: list[Problem] = []
    for place, source in enumerate(sources, 1):
        name = f"image {place}" if isinstance(source, bytes) else str(source)
        try:
            content = source if isinstance(source, bytes) else read_file(Path(source))
            image.probe(content, name, max_pixels)
            found.append((name, content))
        except LoopworksError as error:
            problems.append(Problem(where=name, error=error.code, message=error.message, hint=error.hint))
    return found, problems
