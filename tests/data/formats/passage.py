"""What the tests of file formats share: reading a folder, writing it again, comparing the two."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data.formats.contract import Content, Format, Record

SHARED = Path(__file__).parents[4] / "shared" / "data"
"""The real data sets beside the checkout."""


@dataclass(frozen=True)
class Got:
    """A data set that was read to its end."""

    schema: LabelSchema
    records: list[Record]
    meta: Any
    problems: list[Problem]

    @property
    def by_name(self) -> dict[str, Record]:
        return {record.name: record for record in self.records}


def read(form: Format, root: Path) -> Got:
    content = form.read(root)
    records = list(content.records)
    return Got(content.schema, records, content.meta, content.problems)


def write(form: Format, got: Got, folder: Path) -> list[Problem]:
    folder.mkdir(parents=True, exist_ok=True)

    def put(record: Record, place: str) -> None:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.path, folder / place)

    content = Content(schema=got.schema, records=iter(got.records), meta=got.meta)
    return list(form.write(content, folder, put))


def differences(first: Path, second: Path, only: Sequence[str] = ()) -> list[str]:
    """Files that are not the same byte for byte (images of masks: pixel for pixel), or only in one of two folders."""
    found = []
    names = {path.relative_to(root) for root in (first, second) for path in root.rglob("*") if path.is_file()}
    for name in sorted(names):
        one, two = first / name, second / name
        if not one.exists() or not two.exists():
            if name.name not in ("README.md", "LICENSE"):
                found.append(f"{name} is only in {'the second' if two.exists() else 'the first'}")
        elif one.read_bytes() != two.read_bytes() and not (name.suffix == ".png" and _same_pixels(one, two)):
            found.append(f"{name} differs")
    return found


def draw(path: Path, size: tuple[int, int] = (20, 10)) -> Path:
    """Write a small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)
    return path


def plain(shape: Shape, digits: int = 6) -> tuple[Any, ...]:
    """What a shape says, without what only a format knows."""
    points = tuple(tuple(round(value, digits) + 0.0 for value in row) for row in shape.points)
    return shape.label, shape.kind, points, shape.mask, shape.attributes


def _same_pixels(one: Path, two: Path) -> bool:
    with Image.open(one) as first, Image.open(two) as second:
        return first.mode == second.mode and np.array_equal(np.asarray(first), np.asarray(second))
