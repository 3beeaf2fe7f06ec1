"""Rows of datasets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row

from loopworks.core.errors import Conflict, NotFound
from loopworks.core.values import LabelSchema
from loopworks.store import tables
from loopworks.store.ids import new_id, now

_table = tables.dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRow:
    """A dataset as the catalog knows it."""

    id: str
    name: str
    task: str
    schema: LabelSchema
    created_at: datetime
    rev: int


def add(tx: Connection, name: str, task: str, schema: LabelSchema) -> DatasetRow:
    """Create a dataset; ``Conflict`` where the name is taken."""
    if tx.execute(select(_table.c.id).where(_table.c.name == name)).first():
        raise Conflict(f"dataset name must be free; got {name!r}, which exists", "open it, or choose another name")
    row = DatasetRow(id=new_id(), name=name, task=task, schema=schema, created_at=now(), rev=1)
    tx.execute(
        insert(_table).values(
            id=row.id,
            name=name,
            task=task,
            is_multi=schema.is_multi,
            classes=list(schema.classes),
            created_at=row.created_at,
            rev=1,
        )
    )
    return row


def get(tx: Connection, name: str) -> DatasetRow:
    """The dataset called ``name``; ``NotFound`` lists those that exist."""
    found = tx.execute(select(_table).where(_table.c.name == name)).first()
    if found is None:
        raise NotFound("dataset", name, tx.execute(select(_table.c.name).order_by(_table.c.name)).scalars())
    return _row(found)


def by_id(tx: Connection, dataset: str) -> DatasetRow:
    """The dataset with this id."""
    found = tx.execute(select(_table).where(_table.c.id == dataset)).first()
    if found is None:
        raise NotFound("dataset", dataset)
    return _row(found)


def every(tx: Connection) -> list[DatasetRow]:
    """All datasets by name."""
    return [_row(found) for found in tx.execute(select(_table).order_by(_table.c.name))]


def set_classes(tx: Connection, dataset: str, classes: Sequence[str]) -> None:
    """Replace the list of classes; the caller has made sure that none is lost."""
    changed = {"classes": list(classes), "rev": _table.c.rev + 1}
    tx.execute(update(_table).where(_table.c.id == dataset).values(changed))


def meta(tx: Connection, dataset: str) -> dict[str, Any]:
    """Format name -> what only that format knows of the data set."""
    return dict(tx.execute(select(_table.c.meta).where(_table.c.id == dataset)).scalar_one())


def set_meta(tx: Connection, dataset: str, meta: Mapping[str, Any]) -> None:
    """Replace what ``meta`` gives."""
    tx.execute(update(_table).where(_table.c.id == dataset).values(meta=dict(meta)))


def origin(tx: Connection, dataset: str) -> tuple[str, str]:
    """Of a branch: the dataset that it began from, and the version that it last had in common with it."""
    found = tx.execute(select(_table.c.origin, _table.c.base).where(_table.c.id == dataset)).one()
    return found[0], found[1]


def set_origin(tx: Connection, dataset: str, origin: str, base: str) -> None:
    """Write down what ``origin`` gives."""
    tx.execute(update(_table).where(_table.c.id == dataset).values(origin=origin, base=base))


def _row(found: Row[tuple[object, ...]]) -> DatasetRow:
    return DatasetRow(
        id=found.id,
        name=found.name,
        task=found.task,
        schema=LabelSchema(classes=tuple(found.classes), is_multi=found.is_multi),
        created_at=found.created_at,
        rev=found.rev,
    )
