"""A shape as columns of the ``annotation`` table, and back."""

import json
from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.engine import Connection

from loopworks.core import mask
from loopworks.core.values import Shape
from loopworks.store import tables

_table = tables.annotation
COLUMNS = tuple(
    _table.c[name] for name in ("label", "source", "author", "kind", "points", "mask", "attributes", "extra")
)
"""What ``of`` needs, in its order."""


def columns(shape: Shape, place: int) -> dict[str, Any]:
    """The columns that say what a shape is; ``place`` is its position within the item."""
    box = shape.bounds
    if shape.kind == "mask":
        found = mask.bounds(shape.mask, int(shape.points[0][0]))
        box = found and (float(found[0]), float(found[1]), float(found[2]), float(found[3]))
    x, y, width, height = box or (None, None, None, None)
    return {
        "label": shape.label,
        "source": shape.source,
        "author": shape.author,
        "place": place,
        "kind": shape.kind,
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "points": _text(shape.points) if shape.points else "[]",
        "mask": shape.mask,
        "attributes": shape.attributes,
        "extra": shape.extra,
    }


def _text(points: tuple[tuple[float, ...], ...]) -> str:
    """One spelling for equal numbers: 1 and 1.0 are the same point, and must give the same version."""
    return json.dumps([[float(number) for number in row] for row in points], separators=(",", ":"))


def of(label: str, source: Any, author: str, kind: Any, points: str, mask: str, attributes: str, extra: str) -> Shape:
    """The shape that ``columns`` took apart; give it the columns ``COLUMNS``."""
    rows = () if points == "[]" else tuple(tuple(map(float, row)) for row in orjson.loads(points))
    return Shape(
        label=label,
        source=source,
        author=author,
        kind=kind,
        points=rows,
        mask=mask,
        attributes=attributes,
        extra=extra,
    )


def live(tx: Connection, dataset: str, *where: Any) -> dict[str, list[Shape]]:
    """Item id -> its shapes as they are now, in their order within the item."""
    query = (
        select(_table.c.item, *COLUMNS)
        .where(_table.c.dataset == dataset, _table.c.deleted_at.is_(None), *where)
        .order_by(_table.c.item, _table.c.place, _table.c.label)
    )
    found: dict[str, list[Shape]] = {}
    for item, *rest in tx.execute(query):
        found.setdefault(item, []).append(of(*rest))
    return found


def as_rows(shapes: Iterable[Shape]) -> list[dict[str, Any]]:
    """The columns of an item's shapes, in their order."""
    return [columns(shape, place) for place, shape in enumerate(shapes)]
