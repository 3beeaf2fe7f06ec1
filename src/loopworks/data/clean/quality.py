"""Checks of single images: broken, too dark or bright, blank, blurred, oddly shaped, tiny, unlike all others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

from loopworks.core.registry import plugins
from loopworks.data.clean import outliers
from loopworks.data.clean.contract import Issue, Scene
from loopworks.data.features.images import FACTS
from loopworks.store.items import Item

_CONFIG = ConfigDict(use_attribute_docstrings=True, extra="forbid")
_IMAGE = frozenset({"image"})
BLANK = 0.02
"""Contrast below which nothing can be seen on an image."""


@plugins.add("clean.broken")
@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Images that cannot be read: cut off, gone, or changed since they were added by reference.

    The fix deletes them.
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = _IMAGE

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image."""
        for item, problem in sorted(scene.rows("near").problems.items()):
            yield Issue(
                kind="broken",
                items=(item,),
                message=f"{problem.message}" + (f" ({problem.hint})" if problem.hint else ""),
                score=1.0,
                fix={"action": "delete", "drop": [item]},
                facts={"error": problem.error},
            )


@plugins.add("clean.dark")
@dataclass(frozen=True, slots=True, kw_only=True)
class Dark:
    """Images that are too dark to see much on: dark on average, or nearly all of it black."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = _IMAGE
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Mean brightness below which an image is dark, in 0..1."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of nearly black pixels above which it is, in 0..1."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image."""
        for item, facts in _facts(scene):
            if facts["brightness"] < self.brightness or facts["dark_share"] > self.share:
                yield _tagged("dark", item, f"too dark (mean brightness {facts['brightness']:.2f})", facts)


@plugins.add("clean.bright")
@dataclass(frozen=True, slots=True, kw_only=True)
class Bright:
    """Images that are too bright to see much on."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = _IMAGE
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.93
    """Mean brightness above which an image is too bright, in 0..1."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of nearly white pixels above which it is, in 0..1."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image."""
        for item, facts in _facts(scene):
            if facts["brightness"] > self.brightness or facts["bright_share"] > self.share:
                yield _tagged("bright", item, f"too bright (mean brightness {facts['brightness']:.2f})", facts)


@plugins.add("clean.blurred")
@dataclass(frozen=True, slots=True, kw_only=True)
class Blurred:
    """Images that are out of focus, or smeared by motion. Source: Crete et al. 2007, "The blur effect".

    Judged at 224 x 224 pixels, the size that models see: a large photo that is only soft at full size is not listed.
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = _IMAGE
    blur: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Blur above which an image is listed, 0 (sharp) .. 1."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image."""
        for item, facts in _facts(scene):
            if facts["blur"] > self.blur and facts["contrast"] >= BLANK:
                yield _tagged("blurred", item, f"blurred ({facts['blur']:.2f} of 1)", facts, facts["blur"])


@plugins.add("clean.blank")
@dataclass(frozen=True, slots=True, kw_only=True)
class Blank:
    """Images of one tone all over: nothing is on them."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = _IMAGE

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image."""
        for item, facts in _facts(scene):
            if facts["contrast"] < BLANK:
                yield _tagged("blank", item, f"one tone all over (contrast {facts['contrast']:.3f})", facts, 0.9)


@plugins.add("clean.odd-shape")
@dataclass(frozen=True, slots=True, kw_only=True)
class OddShape:
    """Images much longer than wide, or of other proportions than nearly all the rest."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = _IMAGE
    ratio: Annotated[float, Field(ge=1)] = 4.0
    """Longer side by shorter side above which any image is odd, 1 or more."""
    apart: Annotated[float, Field(ge=1)] = 2.5
    """How many times the median proportions (width by height) an image may differ from them, 1 or more."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image."""
        sized = [item for item in scene.items if item.width and item.height]
        if not sized:
            return
        middle = float(np.median([item.width / item.height for item in sized]))
        for item in sized:
            shape = item.width / item.height
            away = max(shape / middle, middle / shape)
            if max(shape, 1 / shape) > self.ratio or away > self.apart:
                text = f"odd shape {item.width} x {item.height} (the median is {middle:.2f} as wide as high)"
                yield _tagged("odd-shape", item, text, {"ratio": round(shape, 4)}, min(1.0, away / 10))


@plugins.add("clean.tiny")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """Images with hardly any pixels, alone or beside the rest."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = _IMAGE
    side: Annotated[int, Field(ge=1)] = 16
    """Shorter side in pixels below which an image is tiny, 1 or more."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Shorter side as a share of the median one below which it is, in 0..1."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image."""
        sized = [item for item in scene.items if item.width and item.height]
        middle = float(np.median([min(item.width, item.height) for item in sized])) if sized else 0.0
        for item in sized:
            side = min(item.width, item.height)
            if side < self.side or side < self.share * middle:
                text = f"only {item.width} x {item.height} pixels (the median shorter side is {middle:.0f})"
                yield _tagged("tiny", item, text, {"side": side})


@plugins.add("clean.outliers")
@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers:
    """Items unlike all others: far from their nearest neighbours by the descriptor. The fix tags them.

    Source: Angiulli and Pizzuti 2002, "Fast outlier detection in high dimensional spaces".
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image", "text"})
    neighbours: Annotated[int, Field(ge=1, le=100)] = 10
    """Nearest items whose mean distance is taken, in 1..100."""
    strength: Annotated[float, Field(gt=0)] = 5.0
    """Spreads above the median distance from which an item is listed, above 0."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each item."""
        found = scene.rows("words" if scene.media == "text" else "look")
        rows = np.asarray(found.values if scene.media == "text" else found.values[:, len(FACTS) :])
        if len(rows) < 20:
            return  # too few to say what is usual
        away = outliers.distances(rows, self.neighbours, scene.seed)
        items, middle = scene.by_id, float(np.median(away))
        for at in outliers.far(away, self.strength):
            item, times = items[found.ids[at]], float(away[at]) / max(middle, 1e-9)
            text = f"unlike all others ({times:.1f} x the usual distance to its neighbours)"
            yield _tagged("outliers", item, text, {"distance": round(float(away[at]), 4)}, min(1.0, times / 5))


def _facts(scene: Scene) -> Iterator[tuple[Item, dict[str, float]]]:
    found, items = scene.rows("look"), scene.by_id
    for one, row in zip(found.ids, found.values[:, : len(FACTS)].tolist(), strict=True):
        yield items[one], dict(zip(FACTS, row, strict=True))


def _tagged(kind: str, item: Item, text: str, facts: dict[str, Any], score: float = 0.5) -> Issue:
    return Issue(
        kind=kind,
        items=(item.id,),
        message=f"{item.name} is {text}" if kind != "outliers" else f"{item.name or item.id[:12]} is {text}",
        score=score,
        fix={"action": "tag", "tag": kind},
        facts={key: round(value, 4) for key, value in facts.items()},
    )
