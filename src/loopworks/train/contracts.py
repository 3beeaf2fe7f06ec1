"""What a recipe is given, what it gives back, and what it may say of itself.

A recipe is a ``Step[Lesson, Made]`` named ``train.NAME``: a frozen dataclass whose fields are its parameters. It says
with ``tasks: ClassVar[frozenset[str]]`` which task kinds it learns; one that says none is never chosen for the user,
only taken by name. It may also be ``Fit`` (how well it suits some data) and ``Tunable`` (what a search may change).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context, Rule
from loopworks.data.source import Source

T = TypeVar("T")
PLAIN_FITNESS = 0.5
"""Of a recipe that learns the task and says nothing else of the data."""


@runtime_checkable
class Fit(Protocol):
    """A recipe class that can say how well it suits some data."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """How well, and why in a few words; asks no network, loads no heavy library.

        Args:
            source: data of a task kind that the recipe learns.
            budget_s: seconds that training may take; ``None``: any.
        Returns: 0 (cannot be used here) .. 1 (made for it); the recipe with the highest is taken by ``auto``. Half is
            what a recipe counts that says nothing.
        """


class Draw(Protocol):
    """Picks parameters for a trial of a search; every name is drawn once per trial."""

    def number(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in ``low``..``high``; ``log``: its order of magnitude is what matters."""

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number in ``low``..``high``."""

    def choice(self, name: str, options: Sequence[T]) -> T:
        """One of the options: texts, numbers, true or false."""


@runtime_checkable
class Tunable(Protocol):
    """A recipe class that says what a search may change."""

    @classmethod
    def space(cls, draw: Draw, source: Source) -> Mapping[str, Any]:
        """Parameters of one trial; what is left out keeps its default."""


@runtime_checkable
class Heavy(Protocol):
    """A recipe class whose libraries take seconds to import."""

    @classmethod
    def load(cls) -> None:
        """Import them, so that a clock that starts now measures the training alone."""


@runtime_checkable
class Shared(Protocol):
    """A recipe class whose training several processes share, see ``Lesson.workers``."""

    @classmethod
    def shares(cls) -> str:
        """What of: ``batches``."""


class Packed:
    """Items of a source, packed once per rule and split however often they are asked for."""

    def __init__(self, source: Source) -> None:
        """Nothing is packed yet."""
        self._source = source
        self._kept: dict[tuple[str, str], Arrays] = {}

    def of(self, source: Source) -> "Packed":
        """The same for another view of the source: what is packed already stays so."""
        found = Packed(source)
        found._kept = dict(self._kept)
        return found

    def get(self, rule: Rule, split: str, ctx: Context) -> Arrays:
        """The items of the split as the rule's tensors; ``Cancelled`` while they are read."""
        key = (json.dumps(rule.to_json(), sort_keys=True), split)
        if key not in self._kept:
            self._kept[key] = self._source.inputs(rule, split, ctx.tick)
        return self._kept[key]


@dataclass(frozen=True, slots=True)
class Workers:
    """Processes of a Ray cluster that train one network together."""

    count: int
    address: str = ""
    """Of the cluster; empty starts Ray on this machine."""
    threads: int = 0
    """Of each; 0 is as many as leave room for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """All that a recipe learns from."""

    source: Source
    inputs: Packed
    folder: Path
    """Where the recipe writes its files; empty at the start."""
    budget_s: float | None = None
    """Seconds for everything, from the moment that the libraries are loaded; ``None``: as long as it takes."""
    start: Bundle | None = None
    """Earlier model to begin from."""
    threads: int = 0
    """Threads to use; 0 is one per core."""
    workers: Workers | None = None
    """Who trains a network together; ``None``: this process alone."""
    prune: float = 0.0
    """Share of the channels of every layer that ``start`` loses before it is trained on; of networks on images."""
    is_still: bool = False
    """Whether the weights of ``start`` stay as they are: it is only made anew, for another size of images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a recipe made of a lesson; its files lie in ``Lesson.folder``."""

    variant: Variant
    """The model as an executable file, not measured yet."""
    rule: Rule
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters as they were used, with what was chosen for the user."""
    costs: tuple[float, ...] = ()
    """What it costs to miss an item of each class, for ``LabelSchema.costs`` of the bundle; empty: all the same."""
    notes: tuple[str, ...] = ()
    """What a user must know of this model."""
