"""What a maker of variants is given and what it promises; makers are plug-ins named ``optimize.NAME``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The model that a variant is made of."""

    bundle: Bundle
    onnx: Path
    """Its fp32 ONNX file."""
    calibration: Arrays
    """Training items as the model's graph takes them, by the bundle's rule; never of val or test."""
    folder: Path
    """Where the maker writes its files: a folder of its own, empty at the start."""


class Maker(Protocol):
    """A ``Step[Origin, Variant]`` that says first whether it can work here."""

    def lacks(self) -> str:
        """What this machine lacks for the variant, e.g. a package, as the end of a sentence; empty: nothing."""

    def unfit(self, source: Origin) -> str:
        """Why the variant makes no sense for this model's graph, as the end of a sentence; empty: it does."""

    def run(self, source: Origin, ctx: Context, /) -> Variant:
        """Write the files into ``source.folder``; paths in the variant are relative to it, nothing is measured yet."""
