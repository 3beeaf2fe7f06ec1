"""Items to try a model with where nobody has any: noise in the sizes, and by the names, that its bundle says."""

from typing import Any

import numpy as np

from loopworks.core import image
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays

SENTENCE = "the street light at the corner is broken and nobody came to mend it"


def contents(bundle: Bundle, count: int, seed: int = 0) -> list[Any]:
    """``count`` items as a user would send them: image files, texts, rows."""
    media = bundle.rule.media
    if media == "text":
        words = SENTENCE.split()
        return [" ".join(words[place % len(words) :] + words) for place in range(count)]
    if media == "row":
        names = [spec.name for spec in bundle.rule.inputs()]
        return [dict.fromkeys(names) for _ in range(count)]
    (spec,) = bundle.rule.inputs()
    rng = np.random.default_rng(seed)
    return [image.encode_png(rng.integers(0, 256, spec.shape[1:], np.uint8)) for _ in range(count)]


def tensors(bundle: Bundle, count: int, seed: int = 0) -> Arrays:
    """``count`` items packed, as a client of the inference protocol sends them."""
    return bundle.rule.pack(contents(bundle, count, seed))
