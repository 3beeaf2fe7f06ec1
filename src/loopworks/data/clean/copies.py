"""Checks for copies: exact and near duplicates, and copies or groups that lie on both sides of a split."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

from loopworks.core.registry import plugins
from loopworks.data.clean import near
from loopworks.data.clean.contract import Issue, Scene, rank
from loopworks.data.features.texts import plain
from loopworks.data.media import content_of
from loopworks.store.items import Item

GROUPS = ("group", "patient", "subject", "person", "video", "session", "scene")
"""Attributes that are taken for groups where none is named."""
_SIDES = {"train": 0, "val": 1, "test": 2}
_CONFIG = ConfigDict(use_attribute_docstrings=True, extra="forbid")


@plugins.add("clean.duplicates")
@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """The same content twice: items of the same bytes, texts that differ in case or blanks alone, items that another
    dataset holds too.

    Branches of a dataset share its items on purpose, and are left out.
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image", "text"})

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each other dataset, and one for each group of texts."""
        items = scene.by_id
        for name, shared in sorted(scene.others().items()):
            crossing = [one for one, split in shared.items() if _crosses(items[one].split, split)]
            leak = f", {len(crossing)} of them in test on one side and not on the other" if crossing else ""
            yield Issue(
                kind="duplicates",
                items=tuple(sorted(shared)),
                message=f"{len(shared)} items are in dataset {name} too{leak}",
                score=1.0 if crossing else 0.3,
                fix={"action": "delete", "drop": sorted(one for one in shared if items[one].split != "test")},
                facts={"dataset": name, "across_splits": len(crossing)},
            )
        same: dict[str, list[Item]] = defaultdict(list)
        for item in scene.items:
            same[plain(item.text) if scene.media == "text" else content_of(item.id)].append(item)
        for group in same.values():
            if len(group) > 1:
                kept, *drop = sorted(group, key=rank)
                yield _copies("duplicates", kept, drop, [1.0] * len(drop), "items of the same content")


@plugins.add("clean.near-duplicates")
@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """Images that show the same: saved again, scaled, a little lighter, or the next frame of a video.

    A perceptual hash finds candidates (Zauner 2010), thumbnails decide. The fix keeps one of each group: of the test
    set first, then labelled ones, then the largest.
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image"})
    alike: Annotated[float, Field(ge=0.5, le=1)] = 0.95
    """Least correlation of the thumbnails' brightness, in 0.5..1."""
    distance: Annotated[int, Field(ge=0, le=7)] = 7
    """Bits of 64 in which the hashes may differ, in 0..7."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each group of copies."""
        for group in _groups(scene, self.alike, self.distance):
            kept, copies, scores = group
            yield _copies("near-duplicates", kept, copies, scores, "near duplicates")


@plugins.add("clean.leakage")
@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Near duplicates in different splits: what is tested or validated on was trained on.

    The fix moves copies towards the test set (train to val, train and val to test), never out of it.
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image"})
    alike: Annotated[float, Field(ge=0.5, le=1)] = 0.95
    """Least correlation of the thumbnails' brightness, in 0.5..1."""
    distance: Annotated[int, Field(ge=0, le=7)] = 7
    """Bits of 64 in which the hashes may differ, in 0..7."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each group of copies that lies in several splits."""
        for kept, copies, scores in _groups(scene, self.alike, self.distance):
            issue = _across("leakage", [kept, *copies], "near duplicates", max(scores))
            if issue:
                yield issue


@plugins.add("clean.group-leakage")
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLeakage:
    """Groups (one patient, one video ...) that lie in several splits; the fix moves them towards the test set."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image", "text"})
    by: str = ""
    """Attribute that names the group; empty: group, patient, subject, person, video, session, scene."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each group."""
        for name in (self.by,) if self.by else GROUPS:
            groups: dict[str, list[Item]] = defaultdict(list)
            for item in scene.items:
                if isinstance(value := item.attributes.get(name), str | int):
                    groups[str(value)].append(item)
            for value, group in sorted(groups.items()):
                issue = _across("group-leakage", sorted(group, key=rank), f"items of {name} {value}", 0.9)
                if issue:
                    yield issue


def _groups(scene: Scene, alike: float, distance: int) -> Iterator[tuple[Item, list[Item], list[float]]]:
    found = scene.rows("near")
    items = scene.by_id
    here = [items[one] for one in found.ids]
    pairs = near.find(np.asarray(found.values), distance=distance, alike=alike)
    order = {one.id: place for place, one in enumerate(sorted(here, key=rank))}
    for kept, copies in near.stars(pairs, [order[one.id] for one in here]):
        yield here[kept], [here[at] for at, _ in copies], [score for _, score in copies]


def _copies(kind: str, kept: Item, copies: Sequence[Item], scores: Sequence[float], what: str) -> Issue:
    labels = {tuple(sorted(shape.label for shape in one.labels)) for one in (kept, *copies) if one.state == "labeled"}
    differ = " with different labels" if len(labels) > 1 else ""
    facts: dict[str, Any] = {"alike": [round(score, 4) for score in scores], "labels_differ": len(labels) > 1}
    return Issue(
        kind=kind,
        items=(kept.id, *(one.id for one in copies)),
        message=f"{len(copies) + 1} {what}{differ}: {kept.name} and {_names(copies)}",
        score=max(scores),
        fix={"action": "delete", "drop": [one.id for one in copies if one.split != "test" or kept.split == "test"]},
        facts=facts,
    )


def _across(kind: str, group: Sequence[Item], what: str, score: float) -> Issue | None:
    sides = {item.split for item in group if item.split}
    if len(sides) < 2:
        return None
    target = max(sides, key=_SIDES.__getitem__)
    moves = {item.id: target for item in group if item.split and item.split != target}
    splits = ", ".join(sorted(sides, key=_SIDES.__getitem__))
    return Issue(
        kind=kind,
        items=tuple(item.id for item in group),
        message=f"{what} lie in {splits}: {_names(group)}",
        score=min(1.0, score) if "test" in sides else min(1.0, score) / 2,
        fix={"action": "split", "moves": moves},
        facts={"splits": {item.id: item.split for item in group}},
    )


def _crosses(one: str, two: str) -> bool:
    return (one == "test") != (two == "test") and bool(one) and bool(two)


def _names(items: Sequence[Item]) -> str:
    shown = ", ".join((item.name or item.id[:12]) for item in items[:3])
    return shown + (f" and {len(items) - 3} more" if len(items) > 3 else "")
