"""What tests of several folders share."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLORS = ((200, 40, 40), (40, 180, 60), (50, 70, 210), (210, 190, 40), (150, 60, 180))


def draw_pictures(folder: Path, counts: Mapping[str, int], *, size: int = 32, seed: int = 0) -> Path:
    """Write ``folder/<class>/NN.png``: each class has its colour, under noise; every file differs."""
    rng = np.random.default_rng(seed)
    for i, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            noise = rng.normal(0, 40, (size, size, 3))
            pixels = np.clip(np.array(COLORS[i % len(COLORS)]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n:03}.png")
    return folder


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Path]:
    """``pictures(folder, {"cat": 5, "dog": 5}, size=32, seed=0)`` writes a learnable folder-per-class set."""
    return draw_pictures
