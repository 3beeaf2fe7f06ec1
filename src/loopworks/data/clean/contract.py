"""What a check of the data promises: plug-ins named ``clean.NAME`` that look at a dataset and say what is wrong."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from loopworks.core.values import LabelSchema
from loopworks.data.features.contract import Rows
from loopworks.store.items import Item

NO_FIX: Mapping[str, Any] = {"action": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One thing that is wrong, with what would put it right."""

    kind: str
    """Name of the check without ``clean.``."""
    items: tuple[str, ...]
    """Ids; of several, the one that stays first."""
    message: str
    """One sentence for people."""
    score: float = 0.0
    """How bad, in 0..1: findings of a kind are listed by it, the worst first."""
    fix: Mapping[str, Any] = field(default_factory=lambda: NO_FIX)
    """``action`` (delete, split, tag, relabel, shapes or none) and what it needs; see ``fixes``."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, as plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a check may look at. Features are computed when they are asked for, once for all checks."""

    items: Sequence[Item]
    """All items of the dataset, by name."""
    schema: LabelSchema
    media: str
    """What an item is: image, text, row."""
    rows: Callable[[str], Rows]
    """Rows of the descriptor ``feature.NAME`` for the items; those that cannot be read are among its problems."""
    others: Callable[[], Mapping[str, Mapping[str, str]]] = dict
    """Dataset -> id -> split, of the items that other datasets hold too; branches of this one left out."""
    tick: Callable[[float, str], None] = lambda share, text: None
    seed: int = 0

    @property
    def by_id(self) -> dict[str, Item]:
        """Items by their id."""
        return {item.id: item for item in self.items}


class Check(Protocol):
    """A check. A frozen dataclass: its fields are its parameters, and building it does no work."""

    @property
    def media(self) -> frozenset[str]:
        """Kinds of items that it can look at."""

    def find(self, scene: Scene, /) -> Iterator[Issue]:
        """What is wrong, in any order; the same dataset gives the same issues."""


def rank(item: Item) -> tuple[int, int, int, str]:
    """Which of several copies is kept: of the test set first, then labelled, then the larger, then by name."""
    place = ("test", "val", "train").index(item.split) if item.split else 3
    return (place, int(item.state != "labeled"), -item.width * item.height, item.name)
