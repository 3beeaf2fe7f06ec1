"""Why a model answers as it does for one item; plug-ins named ``explain.MEDIA`` (image, text, row).

Images are explained by what the model says when parts of them are covered, so that any model in any form can be asked.
"""

import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Chances, Odds, learnable
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.tasks.answers import answers

SHARES = (1 / 3, 1 / 5, 1 / 8)
"""Sides of the square covers, as shares of the image's."""
STEP = 0.5
"""How far a cover moves, as a share of its side."""
LEAST = 1e-30
"""Chances below it count as this much, so that log odds stay finite."""
GRID = 32
"""Cells of the map that is told as numbers, along each side."""
SHOWN_PX, MOST_PX = 320, 640
"""Longer side of the picture that is shown: of a small image about so much, of a large one at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasons:
    """What speaks for a label in one item."""

    label: str
    """The class that is explained; empty for a number."""
    score: float
    """What the model says of it, in the unit of ``unit``."""
    unit: str
    """chance, log odds, or the target's unit."""
    method: str
    """How the weights came about, in a few words."""
    parts: tuple[Mapping[str, Any], ...] = ()
    """Words (``text``, ``start``, ``end``) or columns (``column``), each with its ``weight``: above 0 speaks for it."""
    map: tuple[tuple[float, ...], ...] = ()
    """Of an image: rows of cells in 0..1, from the upper left; 1 is the place that matters most."""
    picture: bytes = b""
    """Of an image: PNG of it, or of the part that the model saw, with the map over it."""
    base: float | None = None
    """What the model says without any of the parts, where it is known."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, without the picture."""
        return {
            "label": self.label,
            "score": self.score,
            "unit": self.unit,
            "base": self.base,
            "method": self.method,
            "parts": [dict(part) for part in self.parts],
            "map": [list(row) for row in self.map],
        }


Explainer = Callable[[Bundle, Any, str, str], Reasons]
"""Takes the model, the item's content, the label and the variant; empty: the model's answer, the chosen variant."""


def explain(bundle: Bundle, content: Any, label: str = "", variant: str = "") -> Reasons:
    """Why the model answers as it does.

    Args:
        bundle: the model.
        content: bytes of an image file, a text, or a row as a mapping.
        label: a class; empty is the one that the model gives.
        variant: of the model; empty is the chosen one.
    Raises:
        NotFound: no such class.
        Invalid: the model is none that can be explained, or the item cannot be read.
    """
    if label and label not in bundle.schema.classes:
        raise NotFound("class", label, bundle.schema.classes)
    found: Explainer = plugins.get(f"explain.{bundle.rule.media}")
    return found(bundle, content, label, variant)


@plugins.add("explain.image")
def explain_image(bundle: Bundle, content: bytes, label: str, variant: str) -> Reasons:
    """Cover parts of the image and see how much less likely the label gets.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks" (occlusion), at three scales.
    """
    task = learnable(plugins.get(f"task.{bundle.task}"))
    if not isinstance(task, Chances):
        raise Invalid("model to explain", "one that gives a chance for each class", bundle.task)
    packed = bundle.rule.pack([content])
    name = bundle.rule.inputs()[0].name
    pixels = packed[name][0]
    covers = _covers(pixels.shape[:2])
    # Every channel's mean is the cover that says least of the place: a black one is an edge of its own.
    plain = pixels.reshape(-1, pixels.shape[2]).mean(axis=0).astype(np.uint8)
    batch = np.stack([pixels, *(np.where(cover[..., None], plain, pixels) for cover in covers)])
    predictor = predictors.load(bundle.variant(variant), bundle.folder, bundle.rule)
    try:
        odds = _odds_of(task, answers(predictor, {name: batch}), bundle)
    finally:
        predictor.close()
    chances = odds.chances
    at = bundle.schema.classes.index(label) if label else int(chances[0].argmax())
    logs = _logs(odds, at)
    heat = _heat(np.stack(covers), np.maximum(logs[0] - logs[1:], 0.0))
    return Reasons(
        label=bundle.schema.classes[at],
        score=float(chances[0, at]),
        unit="chance",
        method=f"{len(covers)} covers of three sizes: how much the log odds fall",
        map=tuple(tuple(round(float(cell), 3) for cell in row) for row in _cells(heat)),
        picture=_drawn(_seen(bundle, content, pixels), heat),
    )


def _odds_of(task: Chances, outputs: Arrays, bundle: Bundle) -> Odds:
    count = len(next(iter(outputs.values())))
    return task.odds(np.zeros((count, len(bundle.schema.classes)), np.float32), outputs, bundle.schema)


def _logs(odds: Odds, at: int) -> NDArray[np.float64]:
    """Log odds of a class. What speaks against it is added up from the others, where 1 minus the chance is no more than
    rounding: a model that is sure of its answer still says how sure."""
    chance = odds.chances[:, at]
    rest = np.delete(odds.chances, at, axis=1).sum(axis=1) if odds.is_exclusive else 1 - chance
    return np.asarray(np.log(np.maximum(chance, LEAST)) - np.log(np.maximum(rest, LEAST)))


def _covers(shape: tuple[int, int]) -> list[NDArray[np.bool_]]:
    height, width = shape
    found = []
    for share in SHARES:
        tall, wide = max(1, round(height * share)), max(1, round(width * share))
        for top in _places(height, tall):
            for left in _places(width, wide):
                cover = np.zeros((height, width), np.bool_)
                cover[top : top + tall, left : left + wide] = True
                found.append(cover)
    return found


def _places(length: int, side: int) -> list[int]:
    """Starts of covers that reach from one end to the other."""
    count = max(1, round((length - side) / max(1, side * STEP))) + 1
    return sorted({round(at) for at in np.linspace(0, length - side, count)})


def _heat(covers: NDArray[np.bool_], drops: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much each pixel's covers took, on average, in 0..1; all zero where no cover changed anything."""
    # A small cover that takes as much as a large one says more of the place.
    weights = 1 / covers.sum(axis=(1, 2))
    heat = np.tensordot(drops * weights, covers, 1) / np.tensordot(weights, covers, 1)
    heat -= heat.min()
    return np.asarray(heat / heat.max() if heat.max() > 0 else heat)


def _cells(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """The map in at most ``GRID`` cells a side."""
    from PIL import Image

    height, width = heat.shape
    size = (min(GRID, width), min(GRID, height))
    shrunk = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.clip(np.asarray(shrunk, np.float64), 0, 1)


def _seen(bundle: Bundle, content: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image as people know it, where the model saw all of it; else the part that it saw."""
    rule = bundle.rule
    return image.whole(content, "image") if isinstance(rule, ImageRule) and rule.fit == "stretch" else pixels


def _drawn(pixels: NDArray[np.uint8], heat: NDArray[np.float64]) -> bytes:
    """The image, grey, with the map over it, from clear over orange to red; a small one larger, a large one smaller."""
    from PIL import Image

    height, width = pixels.shape[:2]
    longer = max(height, width)
    scale = max(1, round(SHOWN_PX / longer)) if longer < MOST_PX else MOST_PX / longer
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    seen = np.asarray(Image.fromarray(pixels).convert("L").resize(size, how), np.float64)
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(smooth, np.float64), 0, 1)[..., None]
    color = np.concatenate([np.full_like(share, 235), 160 * (1 - share), np.full_like(share, 30)], axis=2)
    mixed = seen[..., None] * (1 - 0.75 * share) + color * 0.75 * share
    kept = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(kept, "PNG")
    return kept.getvalue()


@plugins.add("explain.text")
def explain_text(bundle: Bundle, content: str, label: str, _variant: str) -> Reasons:
    """Which words speak for the label."""
    found = _module("texts").evidence(bundle, content, label)
    parts = [
        {"text": content[start:end], "start": start, "end": end, "weight": weight} for start, end, weight in found.spans
    ]
    return Reasons(
        label=found.label,
        score=found.total,
        base=found.base,
        unit="log odds",
        method="each word's share of the log odds",
        parts=tuple(parts),
    )


@plugins.add("explain.row")
def explain_row(bundle: Bundle, content: Mapping[str, Any], label: str, _variant: str) -> Reasons:
    """What each column adds to the answer, or takes from it."""
    found = _module("tables").contributions(bundle, [content], label)[0]
    return Reasons(
        label=found.label,
        score=found.score,
        base=found.base,
        unit="log odds" if found.label else "the target's",
        method="each column's exact share of the score",
        parts=tuple({"column": name, "weight": weight} for name, weight in found.columns.items()),
    )


def _module(medium: str) -> Any:
    """The recipes' own reasons: loaded when they are asked for, as they know what their models look like inside."""
    name = f"loopworks.train.{medium}.explain"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(str(error.name)):
            raise
        raise Invalid("model to explain", "one of images", f"one of {medium}") from None
