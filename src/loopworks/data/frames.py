"""The choice of a video's frames as people write it: every N-th, a list of indices, or one for each scene."""

import re

from loopworks.core.errors import Invalid
from loopworks.data.video import Frames

MOST = 1_000_000  # frames in a list that is written by hand


def chosen(every: int = 0, at: str = "", scenes: float = 0.0, jpeg: int = 0) -> Frames | None:
    """The choice of frames that a command or request says; ``None`` where it says nothing.

    Raises: Invalid: more than one way to choose, or no list of indices.
    """
    if not (every or at or scenes):
        if jpeg:
            raise Invalid("jpeg", "given with every, frames or scenes", jpeg)
        return None
    if not 0 <= scenes <= 1:
        raise Invalid("scenes", "a number in 0..1", scenes)
    encoding = {"encoding": "jpeg", "quality": jpeg} if jpeg else {}
    return Frames(every=every, at=indices(at), scenes=scenes, **encoding)  # type: ignore[arg-type]


def indices(text: str) -> tuple[int, ...]:
    """Indices of frames from text such as ``0,25,100-120`` (both ends are in)."""
    found: list[int] = []
    for part in text.split(",") if text.strip() else []:
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first >= MOST:
            raise Invalid("frames", "indices and ranges such as 0,25,100-120", text)
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))
