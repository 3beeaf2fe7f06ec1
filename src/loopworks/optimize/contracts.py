"""What a maker of variants is given and what it promises; makers are plug-ins named ``optimize.NAME``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context
from loopworks.data.source import Source


class Learn(Protocol):
    """Trains a recipe; ``train.stage.train`` is one. Stages do not import each other, so it is handed in."""

    def __call__(
        self,
        source: Source,
        *,
        recipe: str,
        params: Mapping[str, Any],
        budget_s: float | None,
        folder: Path,
        ctx: Context,
        start: Bundle | None = None,
        threads: int = 0,
        prune: float = 0.0,
        is_still: bool = False,
    ) -> Bundle:
        """A new model of the same version.

        ``prune`` is the share of channels that the start loses first; with ``is_still`` the start's weights stay as
        they are, and only what the parameters say of the network around them changes.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model that a variant is made of."""

    bundle: Bundle
    onnx: Path
    """The fp32 ONNX file to make it of."""
    calibration: Arrays
    """Training items as the model's graph takes them, by the bundle's rule; never of val or test."""
    folder: Path
    """Where the maker writes its files: a folder of its own, empty at the start."""
    val: Arrays = field(default_factory=dict)
    """Validation items as the graph takes them."""
    score: Callable[[Arrays], float] | None = None
    """Headline metric of answers for all of ``val``."""
    max_drop: float = 0.01
    """How much of the headline may be lost."""
    tried: Mapping[str, bool] = field(default_factory=dict)
    """Maker -> whether what it made of the same file is refused; of those that were asked before."""
    source: Source | None = None
    """The version that the model learnt from, for makers that train."""
    learn: Learn | None = None
    """How to train; ``None`` where nothing can be trained."""
    budget_s: float = 120.0
    """Seconds that a maker may train."""
    threads: int = 0


class Maker(Protocol):
    """A ``Step[Origin, Variant]`` that says first whether it can work here."""

    def lacks(self) -> str:
        """What this machine lacks for the variant, e.g. a package, as the end of a sentence; empty: nothing."""

    def unfit(self, source: Origin) -> str:
        """Why the variant makes no sense for this model's graph, as the end of a sentence; empty: it does."""

    def run(self, source: Origin, ctx: Context, /) -> Variant:
        """Write the files into ``source.folder``; paths in the variant are relative to it, nothing is measured yet."""


@runtime_checkable
class Reshaping(Protocol):
    """A maker whose result is another fp32 ONNX graph, of which other makers then make variants."""

    is_reshaping: ClassVar[bool]
    is_training: ClassVar[bool]
    """Whether it takes minutes, and so is made only when asked for."""
