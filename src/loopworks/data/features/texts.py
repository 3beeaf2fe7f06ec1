"""Descriptor of texts that needs no weights: hashed pieces of words."""

import re
import unicodedata
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.data.features.contract import Batch

WIDTH = 512
_WORD = re.compile(r"\w+")


@plugins.add("feature.words")
@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a text is about, without a model: words and runs of three characters, hashed to 512 numbers of length 1.

    Works in any script: where words are not parted by blanks, the runs of characters carry it. Frequent pieces count by
    the root of their number. Source: Weinberger et al. 2009, "Feature hashing for large scale multitask learning".
    """

    key: str = "words-1"
    title: str = "hashed pieces of words (words)"
    rule: ImageRule | None = None
    width: int = WIDTH
    dtype: str = "float32"

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """A row for each text; an empty text gives zeros."""
        out = np.zeros((len(batch), WIDTH), np.float32)
        for row, text in enumerate(batch):
            codes = np.array([zlib.crc32(piece.encode("utf-8", "replace")) for piece in _pieces(str(text))], np.int64)
            if len(codes):
                sign = np.where(codes & 1 << 20, 1.0, -1.0)
                np.add.at(out[row], codes % WIDTH, sign)
        out = np.sign(out) * np.sqrt(np.abs(out))
        length = np.sqrt((out * out).sum(axis=1, keepdims=True))
        found: NDArray[np.float32] = out / np.maximum(length, 1e-12)
        return found


def plain(text: str) -> str:
    """A text as it is compared: one case, one form of each character, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _pieces(text: str) -> list[str]:
    words = _WORD.findall(plain(text))
    pieces = [f"w:{word}" for word in words for _ in range(2)]  # a whole word says more than a piece of one
    for word in words:
        marked = f"<{word}>"
        pieces += [marked[at : at + 3] for at in range(len(marked) - 2)]
    return pieces
