"""What a maker of variants is given: plug-ins ``optimize.NAME`` are frozen dataclasses with ``run``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The model that variants are made of; a maker is a ``Step[Original, Made]``."""

    bundle: Bundle
    variant: Variant
    """The fp32 ONNX form; its file is at ``bundle.path(variant.file)``."""
    samples: NDArray[np.uint8]
    """Training images for calibration, shape ``(items, height, width, 3)``; never validation or test images."""
    folder: Path
    """Where the maker writes its files; empty at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A variant that has not been measured yet."""

    runtime: str
    precision: str
    file: str
    """Name of the file to open, in ``Original.folder``."""
