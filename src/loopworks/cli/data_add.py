"""What ``loopworks data add`` takes beside files: videos, and how its work is shown."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from loopworks.cli.output import Update

if TYPE_CHECKING:
    from loopworks.data.sources import Step

EveryOption = Annotated[int, typer.Option("--every", min=0, help="Of videos: every N-th frame.")]
FramesOption = Annotated[str, typer.Option("--frames", help="Of videos: frames by index, e.g. 0,25,100-120.")]
ScenesOption = Annotated[
    float,
    typer.Option("--scenes", min=0, max=1, help="Of videos: one frame for each scene; 0.3 finds hard cuts."),
]
JpegOption = Annotated[
    int, typer.Option("--jpeg", min=0, max=100, help="Keep frames as JPEG of this quality; 0: PNG, nothing is lost.")
]


def stepping(update: Update) -> "Callable[[Step], None]":
    """Shows fetching, unpacking and decoding on the bar."""

    def show(step: "Step") -> None:
        share = step.size / step.total_size if step.total_size else step.done / step.total if step.total else 0.0
        note = "frames decoded" if step.what == "decoding" else f"files, {step.what}"
        update(min(1.0, share), note, done=step.done, total=step.total, size=step.size)

    return show
