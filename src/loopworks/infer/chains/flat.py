"""What the next nodes of a chain said of a thing, one row each, with places in pixels of the whole image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

THEN = "then"
"""Where a label holds the next answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One label of a nested answer."""

    node: str
    label: str
    score: float
    box: tuple[float, float, float, float]
    """x, y, width, height in pixels of the image; all of the crop where the node does not say where things are."""
    depth: int
    """1 for what the first node's label led to."""
    is_place: bool
    """Whether ``box`` is the node's own."""


def rows(then: Mapping[str, Any], depth: int = 1) -> Iterator[Row]:
    """The labels that were chosen, each followed by what they led to."""
    for node, answer in then.items():
        left, top, width, height = answer["crop"]
        chosen = answer.get("chosen")
        for row in answer.get("labels", answer.get("regions", ())):
            if chosen is not None and row["label"] not in chosen:
                continue
            box = (float(left), float(top), float(width), float(height))
            if "box" in row:
                x, y, wide, high = row["box"]
                box = (left + x, top + y, wide, high)
            yield Row(
                node=node, label=row["label"], score=row["score"], box=box, depth=depth, is_place="box" in row
            )  # fmt: skip
            yield from rows(row.get(THEN, {}), depth + 1)
