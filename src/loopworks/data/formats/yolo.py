"""YOLO text labels: v5 to v8 (detect, segment, oriented boxes, pose, classify) and darknet's obj.data.

A label file belongs to an image by the rule of Ultralytics: the last ``/images/`` of its path becomes ``/labels/`` and
the ending ``.txt``. An empty label file says that there is nothing; a missing one says nothing.
Source: https://docs.ultralytics.com/datasets/.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats import yolo_write
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import SMALL_LIMIT, Classes, bad, outside, peek, read_text, size_of
from loopworks.data.formats.yolo_layout import Layout, find_layout, label_places
from loopworks.data.formats.yolo_lines import Task, read_line

_LINE = re.compile(r"\s*\d+(?:\.0*)?(?:\s+[-+.\deE]+){4,}\s*")


@plugins.add("format.yolo")
@dataclass(frozen=True, slots=True, kw_only=True)
class Yolo:
    """YOLO v5-v8 and darknet: one text file per image, places as shares of its size."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    task: Literal["auto", "detect", "segment", "obb", "pose"] = "auto"
    """What the lines are; auto: by the number of columns, and by ``kpt_shape`` or ``task`` in data.yaml."""
    digits: Annotated[int, Field(ge=0, le=17)] = 0
    """Digits after the point of numbers that are written anew; 0: as many as give the same pixels back."""

    def detect(self, root: Path, /) -> float:
        """0.9 with a data.yaml or obj.data that names classes and images, 0.7 for label files beside images."""
        try:
            layout = find_layout(root)
        except LoopworksError:
            return 0.0
        if layout.config:
            return 0.9
        for name in itertools.islice(layout.tree.images(), 50):
            for place in label_places(name):
                path = layout.tree.files.get(place)
                if path:
                    lines = [line for line in peek(Path(path)).splitlines()[:5] if line.strip()]
                    if lines and all(_LINE.fullmatch(line) for line in lines):
                        return 0.7
        return 0.0

    def read(self, root: Path, /) -> Content:
        """The data set of a folder, a data.yaml or an obj.data."""
        problems: list[Problem] = []
        layout = find_layout(root)
        if not layout.config and not layout.names and self.detect(root) == 0:
            raise Invalid(str(root), "a YOLO data set (data.yaml, obj.data, or labels beside images)", "none")
        problems += layout.problems
        classes = Classes(problems)
        labels = {key: classes.add(name, f"{layout.config or 'names'} {key}") for key, name in layout.names.items()}
        if not labels:
            labels = _found_classes(layout, classes)
        return Content(
            schema=classes.schema(),
            records=_records(layout, labels, self.task, problems),
            meta={"yolo": layout.meta(labels)},
            problems=problems,
        )

    def write(self, content: Content, folder: Path, put: Put, /) -> Iterator[Problem]:
        """Write label files, data.yaml and, where names of images have no folder ``images``, lists of images."""
        return yolo_write.write(content, folder, put, self.task, self.digits)


def _found_classes(layout: Layout, classes: Classes) -> dict[int, str]:
    """Classes called by their number, where nothing names them."""
    top = -1
    for name in layout.tree.images():
        for place in label_places(name):
            path = layout.tree.files.get(place)
            if not path:
                continue
            try:
                text, _ = read_text(Path(path), place, SMALL_LIMIT)
            except LoopworksError:
                continue  # reading the records says it
            for line in text.splitlines():
                first = line.split(None, 1)[:1]
                if first and first[0].isdecimal() and len(first[0]) < 6:
                    top = max(top, int(first[0]))
            break
    return {key: classes.add(str(key), f"names {key}") for key in range(top + 1)}


def _records(layout: Layout, labels: Mapping[int, str], task: Task, problems: list[Problem]) -> Iterator[Record]:
    used: set[str] = set()
    for name, split in layout.images(problems):
        path = layout.tree.files.get(name, "")
        if not path:
            problems.append(bad(name, f"image {name}", "a file below the root", "nothing"))
        width, height = size_of(path) if path else (0, 0)
        if path and not width:
            problems.append(bad(name, f"image {name}", "an image", "a broken file"))
        place = next((place for place in label_places(name) if place in layout.tree.files), "")
        if not place:
            yield Record(name=name, path=path, split=split, width=width, height=height, is_labeled=False)
            continue
        used.add(place)
        if not width:  # told above; without its size no place is in pixels
            yield Record(name=name, path=path, split=split, is_labeled=False)
            continue
        shapes, kept = _labels(layout, place, (width, height), labels, task, problems)
        yield Record(
            name=name,
            path=path,
            split=split,
            width=width,
            height=height,
            shapes=shapes,
            is_labeled=kept is not None,
            extra={"yolo": kept} if kept else {},
        )
    for place in layout.orphans(used):
        problems.append(bad(place, f"image of {place}", "a file below the root", "nothing"))


def _labels(
    layout: Layout, place: str, size: tuple[int, int], labels: Mapping[int, str], task: Task, problems: list[Problem]
) -> tuple[tuple[Shape, ...], dict[str, Any] | None]:
    """Shapes of a label file, and what is kept of it; ``None`` where it cannot be read at all."""
    try:
        text, encoding = read_text(Path(layout.tree.files[place]), place, SMALL_LIMIT)
    except Invalid as error:
        problems.append(Problem(where=place, error=error.code, message=error.message, hint=error.hint))
        return (), None
    shapes: list[Shape] = []
    for at, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        where = f"{place} line {at + 1}"
        try:
            shape = read_line(line, size, labels, layout.task if task == "auto" else task, layout.keypoints)
        except LoopworksError as error:
            problems.append(Problem(where=where, error=error.code, message=f"{where}: {error.message}"))
            continue
        bounds = shape.bounds
        if bounds and outside(bounds, *size):
            box = [round(x, 2) for x in bounds]
            problems.append(bad(where, f"box of {where}", f"inside {size[0]} x {size[1]}", box, "kept as it is"))
        shapes.append(replace(shape, extra=dump({"yolo": {"line": at}})))
    kept = {"file": place, "text": text, "encoding": encoding, "size": list(size)}
    return tuple(shapes), kept
