"""What ``loopworks data add`` takes beside files: videos, and how its work is shown."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from loopworks.cli.output import Update
from loopworks.core.errors import Invalid

if TYPE_CHECKING:
    from loopworks.data.sources import Step
    from loopworks.data.video import Frames

EveryOption = Annotated[int, typer.Option("--every", min=0, help="Of videos: every N-th frame.")]
FramesOption = Annotated[str, typer.Option("--frames", help="Of videos: frames by index, e.g. 0,25,100-120.")]
ScenesOption = Annotated[
    float,
    typer.Option("--scenes", min=0, max=1, help="Of videos: one frame for each scene; 0.3 finds hard cuts."),
]
JpegOption = Annotated[
    int, typer.Option("--jpeg", min=0, max=100, help="Keep frames as JPEG of this quality; 0: PNG, nothing is lost.")
]
MOST = 1_000_000  # frames in a list that is written by hand


def chosen_frames(every: int, at: str, scenes: float, jpeg: int) -> "Frames | None":
    """The choice of frames that the options say; ``None`` where they say nothing.

    Raises: Invalid: more than one way to choose, or no list of indices.
    """
    if not (every or at or scenes):
        if jpeg:
            raise Invalid("--jpeg", "given with --every, --frames or --scenes", jpeg)
        return None
    from loopworks.data.video import Frames

    encoding = {"encoding": "jpeg", "quality": jpeg} if jpeg else {}
    return Frames(every=every, at=indices(at), scenes=scenes, **encoding)  # type: ignore[arg-type]


def indices(text: str) -> tuple[int, ...]:
    """Indices of frames from text such as ``0,25,100-120`` (both ends are in)."""
    found: list[int] = []
    for part in text.split(",") if text.strip() else []:
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first >= MOST:
            raise Invalid("--frames", "indices and ranges such as 0,25,100-120", text)
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def stepping(update: Update) -> "Callable[[Step], None]":
    """Shows fetching, unpacking and decoding on the bar."""

    def show(step: "Step") -> None:
        share = step.size / step.total_size if step.total_size else step.done / step.total if step.total else 0.0
        note = "frames decoded" if step.what == "decoding" else f"files, {step.what}"
        update(min(1.0, share), note, done=step.done, total=step.total, size=step.size)

    return show
