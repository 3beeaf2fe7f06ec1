"""Answers of a model in this process, without a server."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import Problem
from loopworks.infer import rows
from loopworks.infer.items import Asked, Loaded, load_each, one, packed, problem
from loopworks.store.ids import batches

__all__ = ["Asked", "Loaded", "answer", "load", "load_each", "one", "packed", "problem"]


def answer(predictor: Predictor, bundle: Bundle, contents: Iterable[Any], *, batch: int, max_pixels: int) -> Arrays:
    """A model's raw answer for items (bytes of image files, texts, rows), in order; ``batch`` of them at once.

    Raises: Invalid: no item, or one that cannot be read.
    """
    parts: list[Arrays] = [
        predictor.predict(bundle.rule.pack(some, max_pixels=max_pixels)) for some in batches(contents, batch)
    ]
    if not parts:
        raise Invalid("items", "at least one", "none")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def load(sources: Sequence[Asked], media: str, max_pixels: int) -> tuple[list[Loaded], list[Problem]]:
    """The items behind ``sources``, for a model of ``media``, and what cannot be read; a file of rows is many items."""
    found: list[Loaded] = []
    problems: list[Problem] = []
    for place, source in enumerate(sources, 1):
        name = str(source) if isinstance(source, Path) or (media != "text" and isinstance(source, str)) else ""
        try:
            if media == "row" and isinstance(source, str | Path):
                listed, bad = rows.read(Path(source))
                found += [one(row, f"{name} row {i}", media, max_pixels) for i, row in enumerate(listed, 1)]
                problems += bad
            else:
                found.append(one(source, name or f"{media} {place}", media, max_pixels))
        except LoopworksError as error:
            problems.append(problem(error, name or f"{media} {place}"))
    return found, problems
