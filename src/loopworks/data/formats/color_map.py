"""Files that say which class a number or colour of a mask stands for."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loopworks.core.values import Problem
from loopworks.data.formats.inputs import ClassNames

VOID = 255
"""Of no class."""


@dataclass(slots=True)
class ColorMap:
    """Classes with their numbers and colours."""

    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    rgb: tuple[tuple[int, int, int], ...] = ()
    values: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Class -> number."""
        self.values = dict(zip(self.names, self.numbers, strict=True))

    def to_json(self) -> list[list[Any]]:
        """As plain JSON."""
        return [[name, number, *rgb] for name, number, rgb in zip(self.names, self.numbers, self.rgb, strict=True)]

    @classmethod
    def from_json(cls, rows: Sequence[Sequence[Any]]) -> "ColorMap":
        """The map that ``to_json`` wrote."""
        return cls(tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple((r[2], r[3], r[4]) for r in rows))

    def with_classes(self, names: Sequence[str]) -> "ColorMap":
        """The map with further classes, numbered above the ones that it has; 255 stays free."""
        rows, used, colors = self.to_json(), set(self.numbers) | {VOID}, set(self.rgb)
        for name in names:
            if name in self.values:
                continue
            number = next(n for n in range(1 << 16) if n not in used)
            used.add(number)
            rgb = next(c for n in range(number + 1, 1 << 24) if (c := color(n)) not in colors)
            colors.add(rgb)
            rows.append([name, number, *rgb])
        return ColorMap.from_json(rows)

    def spell(self, name: str) -> str:
        """As a file of this name says it."""
        if name.endswith(".txt"):
            return "".join(f"{r} {g} {b} {n}\n" for n, (r, g, b) in zip(self.names, self.rgb, strict=True))
        out = io.StringIO()
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["id", "name", "r", "g", "b"])
        rows.writerows([number, n, *rgb] for n, number, rgb in zip(self.names, self.numbers, self.rgb, strict=True))
        return out.getvalue()


def color(number: int) -> tuple[int, int, int]:
    """A colour far from the ones before: the bits of the number, spread over the channels (as Pascal VOC does)."""
    r = g = b = 0
    for bit in range(8):
        r, g, b = (c | (number >> 3 * bit + n & 1) << 7 - bit for n, c in enumerate((r, g, b)))
    return r, g, b


def parse_map(text: str, name: str, problems: list[Problem]) -> ColorMap:
    """Classes of a map file; rows that say none become problems."""
    found, rows = ClassNames(), list[list[Any]]()
    header: list[str] = []
    for at, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = next(csv.reader([line])) if name.endswith(".csv") else re.split(r"\s+", line.strip(), maxsplit=3)
        cells = [cell.strip() for cell in cells]
        if name.endswith(".csv") and not header and not any(cell.isdigit() for cell in cells):
            header = [cell.lower() for cell in cells]
            continue
        try:
            if name.endswith(".csv"):
                keys = header or (["id", "name", "r", "g", "b"] if len(cells) == 5 else ["name", "r", "g", "b"])
                row = dict(zip(keys, cells, strict=False))
                label, number = row.get("name", row.get("class", "")), int(row.get("id", row.get("index", len(rows))))
                rgb = [int(row[key]) for key in ("r", "g", "b")]
            else:
                label, number, rgb = cells[3], len(rows), [int(cell) for cell in cells[:3]]
        except (KeyError, ValueError, IndexError):
            problems.append(
                Problem(
                    where=f"{name}: line {at}",
                    error="invalid",
                    message=f"a class and its colour expected; got {line!r}",
                )
            )
            continue
        label = found.add(label)
        taken = [r[0] for r in rows]
        if not label or label in taken or not all(0 <= c < 256 for c in rgb) or not 0 <= number < 1 << 16:
            problems.append(
                Problem(
                    where=f"{name}: line {at}", error="invalid", message=f"a class of its own expected; got {line!r}"
                )
            )
            continue
        rows.append([label, number, *rgb])
    return ColorMap.from_json(rows)
