"""The nearest items to one: by the angle between their rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.data.features.contract import Descriptor
from loopworks.data.features.images import FACTS

Models = Callable[[], Descriptor | None]
"""The newest model of the workspace that learnt from the dataset, as a descriptor; ``None`` where there is none."""
_BLOCK = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An item that was found."""

    item: str
    name: str
    score: float
    """Cosine of the angle to what was asked, at most 1."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"item": self.item, "name": self.name, "score": self.score}


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """Items like one, the nearest first, and by what they were compared."""

    descriptor: str
    hits: tuple[Hit, ...]
    unread: int = 0
    """Items that could not be read and were left out."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"descriptor": self.descriptor, "hits": [hit.to_json() for hit in self.hits], "unread": self.unread}


def choose(name: str, media: str, models: Models | None) -> Descriptor:
    """The descriptor called ``name``: auto, model, timm:NAME, transformers:NAME, or that of a plug-in ``feature.NAME``.

    auto is the newest workspace model of the dataset where there is one, else what needs no weights.

    Raises:
        NotFound: no such descriptor, or no model.
        Invalid: it describes items of another kind.
        Unreachable: a backbone whose weights are not on this machine.
    """
    built = "words" if media == "text" else "look"
    if name in ("auto", "model") and media == "image" and models is not None and (found := models()) is not None:
        return found
    if name == "model":
        raise NotFound("model", "of this dataset", hint="train one, or use the descriptor look")
    chosen: Descriptor
    if name.startswith("timm:"):
        from loopworks.data.features.backbone import load

        chosen = load(name.removeprefix("timm:"))
    elif name.startswith("transformers:"):
        from loopworks.data.features import pretrained

        chosen = pretrained.load(name.removeprefix("transformers:"), media)
    else:
        kinds = [known.partition(".")[2] for known in plugins.names("feature")]
        plain = built if name == "auto" else name
        if plain not in kinds:
            raise NotFound("descriptor", name, ["auto", "model", "timm:NAME", "transformers:NAME", *kinds])
        chosen = plugins.get(f"feature.{plain}")()
    if (chosen.rule is None) != (media == "text"):
        raise Invalid("descriptor", f"one of {media} items", name, f"{built} is one")
    return chosen


def vectors(descriptor: Descriptor, rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1 to compare by: the facts of quality in front of ``look`` say nothing of likeness."""
    found = np.asarray(rows[:, len(FACTS) :] if descriptor.key.startswith("look-") else rows, np.float32)
    if descriptor.dtype == "uint8":
        found = found - found.mean(axis=1, keepdims=True)
    length = np.sqrt((found * found).sum(axis=1, keepdims=True))
    result: NDArray[np.float32] = found / np.maximum(length, 1e-12)
    return result


def nearest(
    descriptor: Descriptor, rows: NDArray[Any], asked: NDArray[Any], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions and cosines of the ``k`` rows nearest to the row ``asked``, the nearest first; all are compared."""
    target = vectors(descriptor, np.asarray(asked).reshape(1, -1))[0]
    parts = [vectors(descriptor, rows[at : at + _BLOCK]) @ target for at in range(0, len(rows), _BLOCK)]
    score = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    k = min(k, len(score))
    best = np.argpartition(-score, k - 1)[:k] if k else np.zeros(0, np.int64)
    best = best[np.lexsort((best, -score[best]))]
    return best, score[best]
