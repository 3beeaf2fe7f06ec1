"""Asking the model about a frame, following what it finds, and drawing it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image, lettering
from loopworks.core.contracts import Arrays, Learnable, Sizes
from loopworks.core.errors import Invalid
from loopworks.core.lettering import COLORS
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.infer import stage
from loopworks.infer.chains.linked import Linked, Said
from loopworks.infer.chains.run import Picture, shown
from loopworks.infer.engine import TIMEOUT_S, Replaced, Served
from loopworks.infer.live import nested
from loopworks.infer.live.definition import Pipeline
from loopworks.infer.live.frames import Found, Frame, Result
from loopworks.infer.live.places import Places
from loopworks.infer.live.tracking import Tracker

Pick = Callable[[str], Served | Linked]
"""The loaded model behind the name of a deployment, or the models of a chain."""
_ZONE, _LINE = (29, 132, 181), (230, 57, 70)


@runtime_checkable
class Boxed(Protocol):
    """A task kind whose answers are boxes, the doubtful ones too: what a tracker follows."""

    def boxes(self, outputs: Arrays, schema: LabelSchema, sizes: Sizes, least: float) -> list[tuple[Any, Any, Any]]:
        """By image: boxes in pixels, scores, classes."""


class Looker:
    """What one pipeline sees; keeps its tracks and counts from frame to frame. For one thread."""

    def __init__(self, pipeline: Pipeline, pick: Pick, max_pixels: int) -> None:
        """Begin with nothing seen."""
        self._pipeline, self._pick, self._max_pixels = pipeline, pick, max_pixels
        self._tracker = Tracker(pipeline.track) if pipeline.track else None
        self.places = Places(pipeline.lines, pipeline.zones)

    def media(self) -> str:
        """What the model takes.

        Raises: NotFound: it is not loaded. Invalid: it cannot do what the pipeline asks for.
        """
        served = _first(self._pick(self._pipeline.model))
        if self._tracker is not None and not isinstance(plugins.get(f"task.{served.bundle.task}"), Boxed):
            got = f"{self._pipeline.model}, for {served.bundle.task}"
            raise Invalid("model of a pipeline with track", "one that gives boxes, as of object-detection", got)
        return served.bundle.rule.media

    def look(self, frame: Frame) -> Result:
        """What the model says of a frame.

        Raises:
            NotFound: the model is gone.
            Invalid: a frame that it cannot read.
            Busy, TimedOut, Failed: it could not answer.
        """
        while True:
            asked = self._pick(self._pipeline.model)
            served = _first(asked)
            inputs = self._packed(served, frame)
            said: Said | None = None
            try:
                if isinstance(asked, Linked):
                    said = asked.answer([self._picture(frame)], inputs, limit_s=TIMEOUT_S)
                    outputs = said.first
                else:
                    outputs = served.submit(inputs, TIMEOUT_S).result().outputs
                break
            except Replaced:  # a new revision came: begin again by its rule
                continue
        task: Learnable = plugins.get(f"task.{served.bundle.task}")
        schema = served.bundle.schema
        is_image = served.bundle.rule.media == "image"
        sizes = [self._size(frame)] if is_image else []
        (value,) = said.values if said is not None else task.decode(outputs, schema, sizes)
        ref = asked.ref if isinstance(asked, Linked) else f"{served.name}/{served.version}"
        (labels,) = task.labels(outputs, schema, ref, sizes)
        facts = served.facts
        result = Result(
            pipeline=self._pipeline.name,
            frame=frame,
            model=ref,
            learnt=f"{facts['model']}:{facts['number']}" if "model" in facts else "",
            answer=value,
            shapes=tuple(shape for shape, _ in labels),
            confidences=tuple(float(sure) for _, sure in labels),
            uncertainty=float(task.uncertainty(outputs, schema)[0]),
        )
        if self._tracker is not None and isinstance(task, Boxed):
            result.objects = self._followed(task, outputs, schema, sizes, frame)
        else:
            result.objects = [
                Found(
                    label=shape.label,
                    score=float(sure),
                    box=shape.points[0] if shape.kind == "box" else None,  # type: ignore[arg-type]  # four numbers
                )
                for shape, sure in labels
            ]
        if said is not None:
            nested.attach(result.objects, value)
        if sizes and (self._pipeline.lines or self._pipeline.zones):
            alive = self._tracker.alive if self._tracker is not None else frozenset()
            self.places.update(result.objects, sizes[0], frame.time_s, alive)
            result.counts = self.places.counts()
        return result

    def draw(self, result: Result) -> NDArray[np.uint8]:
        """The frame with what was found: boxes, masks, classes, numbers of tracks, lines and zones with counts."""
        bundle = _first(self._pick(self._pipeline.model)).bundle
        task: Learnable = plugins.get(f"task.{bundle.task}")
        pixels = result.frame.picture(self._max_pixels)
        # What is followed is drawn with its number, below.
        shapes = [] if self._tracker is not None else lettering.renamed(result.shapes, bundle.schema.classes)
        drawn = task.draw(pixels, shapes)
        scale = drawn.shape[1] / pixels.shape[1]
        if any(one.then for one in result.objects):
            drawn = nested.draw(drawn, result.objects, scale)
        if not result.counts and self._tracker is None:
            return drawn
        return overlay(drawn, self._pipeline, result, bundle.schema.classes, scale)

    def _packed(self, served: Served, frame: Frame) -> Arrays:
        rule = served.bundle.rule
        if frame.pixels is not None and isinstance(rule, ImageRule):
            return {spec.name: image.fitted(frame.pixels, rule)[None] for spec in rule.inputs()}
        return stage.pack(served, frame.content, frame.name or "frame", self._max_pixels)

    def _picture(self, frame: Frame) -> Picture:
        if frame.pixels is not None:
            return shown(frame.pixels, frame.name or "frame")
        size = self._size(frame)
        return Picture(name=frame.name or "frame", size=size, content=frame.content, max_pixels=self._max_pixels)

    def _size(self, frame: Frame) -> tuple[int, int]:
        if frame.pixels is not None:
            return frame.pixels.shape[1], frame.pixels.shape[0]
        return image.displayed_size(frame.content, frame.name or "frame", self._max_pixels)

    def _followed(self, task: Boxed, outputs: Arrays, schema: LabelSchema, sizes: Sizes, frame: Frame) -> list[Found]:
        assert self._tracker is not None
        assert self._pipeline.track is not None
        ((boxes, scores, labels),) = task.boxes(outputs, schema, sizes, self._pipeline.track.low)
        return [
            Found(
                label=schema.classes[labels[place]],
                score=float(scores[place]),
                box=tuple(float(side) for side in boxes[place]),  # type: ignore[arg-type]  # four of them
                track=track,
            )
            for place, track in self._tracker.update(boxes, scores, labels, frame.time_s)
        ]


def _first(found: Served | Linked) -> Served:
    """Who gets the frame."""
    return found.first if isinstance(found, Linked) else found


def overlay(
    pixels: NDArray[np.uint8], pipeline: Pipeline, result: Result, classes: Sequence[str] = (), scale: float = 1.0
) -> NDArray[np.uint8]:
    """A drawn frame, ``scale`` times the source's size, with what is followed, and lines and zones with counts."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    pen = ImageDraw.Draw(picture, "RGBA")
    width, height = picture.width, picture.height
    thick, size = lettering.pen_width(width, height), lettering.letter_size(width, height)
    tags: list[tuple[tuple[float, float], str, tuple[int, int, int]]] = []
    for zone in pipeline.zones:
        corners = [(x * width, y * height) for x, y in zone.corners]
        pen.polygon(corners, fill=(*_ZONE, 28), outline=(*_ZONE, 255), width=thick)
        now = sum(_of(result.counts, "zones", zone.name).get("now", {}).values())
        tags.append((corners[0], f"{zone.name}: {now}", _ZONE))
    for line in pipeline.lines:
        ends = [(x * width, y * height) for x, y in (line.start, line.end)]
        pen.line(ends, fill=(*_LINE, 255), width=thick)
        told = _of(result.counts, "lines", line.name)
        into, out = (sum(told.get(side, {}).values()) for side in ("in", "out"))
        at = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2
        tags.append((at, f"{line.name}: {into} in, {out} out", _LINE))
    for found in result.objects:
        if found.box is not None and found.track is not None:
            x, y, w, h = (side * scale for side in found.box)
            color = COLORS[found.track % len(COLORS)]
            pen.rectangle((x, y, x + max(w, 1), y + max(h, 1)), outline=color, width=thick)
            number = f" #{found.track}" if found.track else ""
            tags.append(((x, y), f"{lettering.legible(found.label, classes)}{number}", color))
    for place, text, color in tags:
        lettering.tag(pen, place, text, color, size)
    return np.asarray(picture)


def _of(counts: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = counts.get(kind, {}).get(name, {})
    return found
