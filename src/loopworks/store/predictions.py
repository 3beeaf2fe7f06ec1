"""What models predict of items: kept beside the labels, never mixed with them, for looking and sorting."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid
from loopworks.core.values import Shape
from loopworks.store import tables
from loopworks.store.ids import batches, now
from loopworks.store.items import tick

_table, _scored = tables.prediction, tables.scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of an item, and how sure it is."""

    model: str
    """NAME:NUMBER, or any name for predictions that came from elsewhere."""
    item: str
    shape: Shape
    score: float
    """Confidence, 0..1."""

    @property
    def label(self) -> str:
        """The class."""
        return self.shape.label

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"model": self.model, "item": self.item, "score": self.score, "shape": self.shape.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A model whose predictions are there."""

    model: str
    items: int
    """That it was asked about."""
    created_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"model": self.model, "items": self.items, "created_at": self.created_at.isoformat()}


def write(tx: Connection, dataset: str, model: str, said: Mapping[str, Sequence[tuple[Shape, float]]]) -> None:
    """Keep what a model says of items (id -> shapes with their scores), in place of what it said of them before.

    The model becomes the newest one of the dataset. An empty list is kept as: asked, and found nothing.

    Raises: Invalid: a score outside 0..1, or a model without a name.
    """
    if not model:
        raise Invalid("model", "a name", "nothing")
    rows = []
    for item, shapes in said.items():
        for place, (shape, score) in enumerate(shapes):
            if not 0 <= score <= 1:
                raise Invalid("score of a prediction", "in 0..1", score)
            text = json.dumps(shape.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            key = {"dataset": dataset, "model": model, "item": item, "place": place}
            rows.append({**key, "label": shape.label, "score": float(score), "shape": text})
    forget(tx, dataset, said, model)
    if rows:
        tx.execute(insert(_table), rows)
    mine = (_scored.c.dataset == dataset, _scored.c.model == model)
    counted = select(func.count(_table.c.item.distinct())).where(_table.c.dataset == dataset, _table.c.model == model)
    total = int(tx.execute(counted).scalar_one())
    tx.execute(delete(_scored).where(*mine))
    made = {"dataset": dataset, "model": model, "clock": tick(tx, dataset), "items": total, "created_at": now()}
    tx.execute(insert(_scored), [made])


def forget(tx: Connection, dataset: str, items: Iterable[str], model: str = "") -> None:
    """Take predictions of items away; of one model, or of all."""
    for batch in batches(items):
        query = delete(_table).where(_table.c.dataset == dataset, _table.c.item.in_(batch))
        tx.execute(query.where(_table.c.model == model) if model else query)


def of_items(
    tx: Connection, dataset: str, items: Iterable[str], models: Sequence[str] = ()
) -> dict[str, list[Prediction]]:
    """Item id -> its predictions, in order; of these models, or of all."""
    found: dict[str, list[Prediction]] = {}
    for batch in batches(items):
        query = select(_table.c.model, _table.c.item, _table.c.shape, _table.c.score)
        query = query.where(_table.c.dataset == dataset, _table.c.item.in_(batch))
        if models:
            query = query.where(_table.c.model.in_(models))
        for model, item, text, score in tx.execute(query.order_by(_table.c.model, _table.c.item, _table.c.place)):
            shape = Shape.from_json(json.loads(text))
            found.setdefault(item, []).append(Prediction(model=model, item=item, shape=shape, score=score))
    return found


def every(tx: Connection, dataset: str) -> list[Scored]:
    """The models whose predictions are there, the newest first."""
    query = select(_scored).where(_scored.c.dataset == dataset).order_by(_scored.c.clock.desc(), _scored.c.model.desc())
    return [Scored(model=row.model, items=row.items, created_at=row.created_at) for row in tx.execute(query)]
