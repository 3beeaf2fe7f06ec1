"""What a recipe is given and what it gives back; a recipe is a ``Step[Lesson, Made]`` named ``train.NAME``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context, Rule
from loopworks.data.source import Source


class Packed:
    """Items of a source, packed once per rule and split however often they are asked for."""

    def __init__(self, source: Source) -> None:
        """Nothing is packed yet."""
        self._source = source
        self._kept: dict[tuple[str, str], Arrays] = {}

    def get(self, rule: Rule, split: str, ctx: Context) -> Arrays:
        """The items of the split as the rule's tensors; ``Cancelled`` while they are read."""
        key = (json.dumps(rule.to_json(), sort_keys=True), split)
        if key not in self._kept:
            self._kept[key] = self._source.inputs(rule, split, ctx.tick)
        return self._kept[key]


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
