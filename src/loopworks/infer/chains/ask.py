"""Asking a chain about a picture: pieces are views of its pixels, and those of a step go to its model as one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image, mask
from loopworks.core.contracts import Learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, Shape
from loopworks.infer.chains.definition import Chain, Step
from loopworks.infer.engine import TIMEOUT_S, Replaced, Served

Pick = Callable[[str], Served]
"""The loaded model behind the name of a deployment."""
Region = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture."""
Box = tuple[float, float, float, float]


@dataclass(slots=True, kw_only=True)
class Thing:
    """One object that a step found, or the class that it gave; and what later steps say of it."""

    label: str
    score: float
    box: Box | None
    """x, y, width, height in pixels of the whole picture; ``None`` where the model says no place."""
    region: Region
    """What a later step is shown."""
    then: "dict[str, Said]" = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        told: dict[str, Any] = {"label": self.label, "score": round(self.score, 6)}
        if self.box is not None:
            told["box"] = [round(side, 2) for side in self.box]
        if self.then:
            told["then"] = {name: said.to_json() for name, said in self.then.items()}
        return told


@dataclass(slots=True, kw_only=True)
class Said:
    """What a step says of one piece of the picture."""

    model: str
    """NAME/REVISION of the deployment that answered."""
    things: list[Thing]
    value: dict[str, Any]
    """The task's answer, in pixels of the piece."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON: ``model`` and ``objects``; of a model that says no places its whole answer, too."""
        told: dict[str, Any] = {"model": self.model, "objects": [thing.to_json() for thing in self.things]}
        return told if any(thing.box for thing in self.things) else {**told, "answer": self.value}


def ask(chain: Chain, pick: Pick, pixels: NDArray[np.uint8]) -> Said:
    """What a chain says of a picture ``(height, width, 3)``.

    Raises:
        NotFound: a model is not loaded.
        Invalid: a model is none of images.
        Busy, TimedOut, Failed: a model could not answer.
    """
    (root,) = _look(chain.steps[0], pick, pixels, [(0, 0, pixels.shape[1], pixels.shape[0])])
    go_on(chain, pick, pixels, root.things)
    return root


def go_on(chain: Chain, pick: Pick, pixels: NDArray[np.uint8], things: list[Thing]) -> None:
    """Ask all steps but the first, about what the first has found; their answers come into ``then``. As ``ask``."""
    height, width = pixels.shape[:2]
    found = {chain.steps[0].name: things}
    for step in chain.steps[1:]:
        wanted = [thing for thing in found[step.of] if _fits(step, thing)]
        wanted = sorted(wanted, key=lambda thing: -thing.score)[: step.most]
        said = _look(step, pick, pixels, [_grown(thing.region, step.margin, width, height) for thing in wanted])
        for thing, one in zip(wanted, said, strict=True):
            thing.then[step.name] = one
        found[step.name] = [thing for one in said for thing in one.things]


def _fits(step: Step, thing: Thing) -> bool:
    return (not step.labels or thing.label in step.labels) and thing.score >= step.score


def _look(step: Step, pick: Pick, pixels: NDArray[np.uint8], regions: Sequence[Region]) -> list[Said]:
    """What the step's model says of each region."""
    if not regions:
        return []
    while True:
        served = pick(step.model)
        rule = served.bundle.rule
        if not isinstance(rule, ImageRule):
            raise Invalid(f"model of step {step.name}", "one for images", f"{step.model}, for {rule.media}s")
        (spec,) = rule.inputs()
        batch = np.empty((len(regions), *spec.shape[1:]), np.uint8)
        for place, (left, top, right, bottom) in enumerate(regions):
            batch[place] = image.fitted(pixels[top:bottom, left:right], rule)
        try:
            answer = served.submit({spec.name: batch}, TIMEOUT_S).result()
            break
        except Replaced:  # a new revision came: begin again by its rule
            continue
    task: Learnable = plugins.get(f"task.{served.bundle.task}")
    sizes = [(right - left, bottom - top) for left, top, right, bottom in regions]
    author = f"{served.name}/{served.version}"
    values = task.decode(answer.outputs, served.bundle.schema, sizes)
    labels = task.labels(answer.outputs, served.bundle.schema, author, sizes)
    return [
        Said(model=author, value=value, things=[_thing(shape, sure, region) for shape, sure in some])
        for value, some, region in zip(values, labels, regions, strict=True)
    ]


def _thing(shape: Shape, sure: float, region: Region) -> Thing:
    """A shape, which lies in its piece, as a thing of the whole picture."""
    bounds = mask.bounds(shape.mask, int(shape.points[0][0])) if shape.kind == "mask" else shape.bounds
    if bounds is None:
        return Thing(label=shape.label, score=float(sure), box=None, region=region)
    x, y, width, height = (float(side) for side in bounds)
    box = (x + region[0], y + region[1], width, height)
    return Thing(label=shape.label, score=float(sure), box=box, region=around(box))


def around(box: Box) -> Region:
    """The pixels that a box touches."""
    x, y, width, height = box
    return max(0, int(x)), max(0, int(y)), int(np.ceil(x + width)), int(np.ceil(y + height))


def _grown(region: Region, margin: float, width: int, height: int) -> Region:
    """A region with its margin, inside the picture, and never empty."""
    left, top, right, bottom = region
    more_x, more_y = margin * (right - left), margin * (bottom - top)
    left, top = min(max(0, round(left - more_x)), width - 1), min(max(0, round(top - more_y)), height - 1)
    return (
        left,
        top,
        max(left + 1, min(width, round(right + more_x))),
        max(top + 1, min(height, round(bottom + more_y))),
    )
