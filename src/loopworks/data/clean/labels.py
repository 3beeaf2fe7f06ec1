"""Checks of labels: probably wrong, of an unknown class, rare classes, and faulty shapes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

from loopworks.core.registry import plugins
from loopworks.core.values import Shape
from loopworks.data.clean import boxes, confident, folds, near
from loopworks.data.clean.contract import Issue, Scene
from loopworks.data.features.images import FACTS
from loopworks.store.items import Item

_CONFIG = ConfigDict(use_attribute_docstrings=True, extra="forbid")
_LEAST = 20  # labelled items below which nothing is said of labels
_FEW = 5  # items with, or without, a class below which nothing is said of it
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@plugins.add("clean.labels")
@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels that are probably wrong, by confident learning; the fix gives the item the class that it probably is.

    Where items may carry several classes each class is asked by itself: the fix takes a class away, or gives it.

    Out-of-fold probabilities come from a plain model on the built-in descriptor, so no training is needed. Where that
    descriptor cannot tell classes apart, many sound labels are listed too: look before you fix.
    Source: Northcutt, Jiang and Chuang 2021, "Confident learning", own implementation.
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image", "text"})
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Parts that the model is trained without in turn, in 2..20."""
    rank: str = "margin"
    """margin or confidence: what orders the findings."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each item."""
        yield from self._several(scene) if scene.schema.is_multi else self._one(scene)

    def _one(self, scene: Scene) -> Iterator[Issue]:
        """Of items that carry one class."""
        place = {name: at for at, name in enumerate(scene.schema.classes)}
        said = {item.id: item for item in scene.items if _class(item) in place}
        if len(said) < _LEAST or len({_class(item) for item in said.values()}) < 2:
            return
        items, rows, groups = _described(scene, said)
        given = np.array([place[_class(item)] for item in items], np.int64)
        guess = folds.out_of_fold(
            rows, given, len(place), folds=self.folds, seed=scene.seed, groups=groups,
            tick=lambda share: scene.tick(share, "asking the other folds"),
        )  # fmt: skip
        suspects = confident.suspects(given, guess, self.rank)
        for n, better, score in zip(suspects.at, suspects.suggested, suspects.score, strict=True):
            item, suggested = items[n], scene.schema.classes[better]
            facts = {"given": float(guess[n, given[n]]), "suggested": float(guess[n, better]), "rank": float(score)}
            yield Issue(
                kind="labels",
                items=(item.id,),
                message=f"{item.name or item.id[:12]} is labelled {_class(item)} and probably is {suggested}",
                score=1 - float(score),
                fix={"action": "relabel", "given": _class(item), "suggested": suggested},
                facts={key: round(value, 4) for key, value in facts.items()},
            )

    def _several(self, scene: Scene) -> Iterator[Issue]:
        """Of items that carry any number of classes: each class is a question of yes or no."""
        said = {
            item.id: item
            for item in scene.items
            if item.state == "labeled" and all(shape.kind == "class" for shape in item.labels)
        }
        if len(said) < _LEAST:
            return
        items, rows, groups = _described(scene, said)
        found: dict[int, list[tuple[float, str, bool]]] = defaultdict(list)
        for number, name in enumerate(scene.schema.classes):
            given = np.array([any(s.label == name for s in item.labels) for item in items], np.int64)
            if min(given.sum(), len(given) - given.sum()) < _FEW:
                continue
            scene.tick(number / len(scene.schema.classes), f"asking the other folds about {name}")
            guess = folds.out_of_fold(rows, given, 2, folds=self.folds, seed=scene.seed, groups=groups)
            suspects = confident.suspects(given, guess, self.rank)
            for n, is_there, score in zip(suspects.at, suspects.suggested, suspects.score, strict=True):
                found[int(n)].append((float(score), name, bool(is_there)))
        for n, wrong in found.items():
            yield _doubtful(items[n], wrong)


@plugins.add("clean.unknown-class")
@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownClass:
    """Labels of a class that the dataset does not have; the fix takes them away."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image", "text", "row"})

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each item."""
        known = {*scene.schema.classes, ""}
        for item in scene.items:
            strange = [shape for shape in item.labels if shape.label not in known and shape.kind != "caption"]
            if strange:
                names = ", ".join(sorted({shape.label for shape in strange}))
                edits = [(shape, None) for shape in strange]
                yield _edited("unknown-class", item, f"a class that the dataset does not have ({names})", edits, 0.8)


@plugins.add("clean.imbalance")
@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """Classes with far fewer items than the largest one, or with none. There is no fix but to add some."""

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image", "text", "row"})
    ratio: Annotated[float, Field(ge=1)] = 10.0
    """Times the largest class outnumbers a class from which on the latter is listed, 1 or more."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each class."""
        count = Counter(label for item in scene.items for label in {shape.label for shape in item.labels})
        most = max(count.values(), default=0)
        for name in scene.schema.classes:
            if most and count[name] * self.ratio <= most:
                yield Issue(
                    kind="imbalance",
                    items=(),
                    message=f"class {name} has {count[name]} items, the largest class {most}",
                    score=1 - count[name] / most,
                    facts={"class": name, "count": count[name], "largest": most},
                )


@plugins.add("clean.boxes")
@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """Faulty shapes: outside the image, without area, tiny, drawn twice, or two classes on one thing.

    The fix clips what stands over the edge and takes away what lies outside, has no area or is a double. Tiny shapes
    are tagged, and two classes on one thing are for a person to settle.
    """

    __pydantic_config__ = _CONFIG
    media: frozenset[str] = frozenset({"image"})
    tiny: Annotated[float, Field(ge=0)] = 3.0
    """Shorter side in pixels below which a shape is tiny, 0 or more."""
    same: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Overlap (intersection over union) from which two shapes are one drawn twice, in 0..1."""

    def find(self, scene: Scene) -> Iterator[Issue]:
        """One issue for each image and kind of fault."""
        for item in scene.items:
            by_kind: dict[str, list[boxes.Fault]] = defaultdict(list)
            for fault in boxes.faults(item.labels, item.width, item.height, tiny=self.tiny, same=self.same):
                by_kind[fault.kind].append(fault)
            for kind, faults in by_kind.items():
                yield _faulty(item, kind, faults)


_WORDS = {
    "outside": "standing over the edge",
    "beyond": "wholly outside the image",
    "empty": "without area",
    "tiny": "tiny",
    "double": "drawn twice",
    "clash": "of two classes on one thing",
}


def _faulty(item: Item, kind: str, faults: Sequence[boxes.Fault]) -> Issue:
    shapes = [item.labels[fault.at] for fault in faults]
    facts = {"fault": kind, "shapes": [fault.at for fault in faults], "amount": [round(f.amount, 3) for f in faults]}
    text = f"{len(shapes)} shapes {_WORDS[kind]}" if len(shapes) > 1 else f"a shape {_WORDS[kind]}"
    if kind == "outside":
        edits = [(shape, boxes.clip(shape, item.width, item.height)) for shape in shapes]
        edits = [(old, new) for old, new in edits if old != new]
    else:
        edits = [(shape, None) for shape in shapes] if kind in ("beyond", "empty", "double") else []
    if edits:
        return _edited("boxes", item, text, edits, 0.9 if kind != "outside" else 0.6, facts)
    fix: dict[str, Any] = {"action": "tag", "tag": "tiny-box"} if kind == "tiny" else {"action": "none"}
    return Issue(kind="boxes", items=(item.id,), message=f"{item.name} has {text}", score=0.4, fix=fix, facts=facts)


def _edited(
    kind: str,
    item: Item,
    text: str,
    edits: Sequence[tuple[Shape, Shape | None]],
    score: float,
    facts: dict[str, Any] | None = None,
) -> Issue:
    changes = [{"before": old.to_json(), "after": None if new is None else new.to_json()} for old, new in edits]
    return Issue(
        kind=kind,
        items=(item.id,),
        message=f"{item.name or item.id[:12]} has {text}",
        score=score,
        fix={"action": "shapes", "edits": changes},
        facts=facts or {},
    )


def _doubtful(item: Item, wrong: Sequence[tuple[float, str, bool]]) -> Issue:
    """An item that probably lacks classes, or carries some that it does not show."""
    lacks = sorted(name for _, name, is_there in wrong if is_there)
    bears = sorted(name for _, name, is_there in wrong if not is_there)
    parts = [f"is {', '.join(lacks)} too"] if lacks else []
    parts += [f"is not {', '.join(bears)}"] if bears else []
    said = ", ".join(sorted(shape.label for shape in item.labels)) or "nothing"
    worst = min(score for score, _, _ in wrong)
    gone = [{"before": shape.to_json(), "after": None} for shape in item.labels if shape.label in bears]
    return Issue(
        kind="labels",
        items=(item.id,),
        message=f"{item.name or item.id[:12]} is labelled {said} and probably {' and '.join(parts)}",
        score=1 - worst,
        fix={"action": "shapes", "edits": gone, "add": lacks},
        facts={"lacks": lacks, "bears": bears, "rank": round(worst, 4)},
    )


def _described(scene: Scene, said: dict[str, Item]) -> tuple[list[Item], "np.ndarray[Any, Any]", Ints | None]:
    """Those items that have a row, their rows, and which of them are near duplicates."""
    found = scene.rows("words" if scene.media == "text" else "look")
    at = [n for n, one in enumerate(found.ids) if one in said]
    items = [said[found.ids[n]] for n in at]
    rows = np.asarray(found.values[at] if scene.media == "text" else found.values[at][:, len(FACTS) :])
    return items, rows, None if scene.media == "text" else _same(scene, [item.id for item in items])


def _class(item: Item) -> str:
    """The one class of an item; empty where it has none, several, or other shapes."""
    if item.state != "labeled" or len(item.labels) != 1 or item.labels[0].kind != "class":
        return ""
    return item.labels[0].label


def _same(scene: Scene, ids: Sequence[str]) -> Ints:
    """A number for each item, the same for near duplicates, so that they do not vouch for each other."""
    found = scene.rows("near")
    place = {one: at for at, one in enumerate(ids)}
    group = np.arange(len(ids), dtype=np.int64)
    pairs = near.find(np.asarray(found.values))
    for kept, copies in near.stars(pairs, list(range(len(found.ids)))):
        members = [place[found.ids[at]] for at in (kept, *(at for at, _ in copies)) if found.ids[at] in place]
        group[members] = min(members, default=0)
    return group
