"""Shapes, texts, tags, predictions, counters, views, findings, branches and tombstones."""

import sqlalchemy as sa
from alembic import op

from loopworks.store import tables
from loopworks.store.tables import TEXT, Instant, Json

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEW = ("item_tag", "version_tag", "prediction", "tally", "view", "finding", "tombstone", "segment", "table_state")


def upgrade() -> None:
    """Add the columns and tables; rows from before get what an item without them means."""
    for table, columns in {
        "dataset": [_json("meta"), _big("clock"), _text("origin"), _text("base")],
        "item": [
            _text("text"),
            _json("attributes"),
            _json("extra"),
            _big("changed"),
            sa.Column("deleted_at", Instant(), nullable=True),
        ],
        "annotation": [
            sa.Column("place", sa.Integer(), nullable=False, server_default="0"),
            _text("kind", "class"),
            *(sa.Column(name, sa.Float(), nullable=True) for name in ("x", "y", "width", "height")),
            _text("points", "[]"),
            _text("mask"),
            _text("attributes", "{}"),
            _text("extra", "{}"),
        ],
        "event": [_text("op")],
    }.items():
        for column in columns:
            op.add_column(table, column)
    op.create_index(op.f("ix_item_dataset_changed_id"), "item", ["dataset", "changed", "id"])
    op.create_index(op.f("ix_event_dataset_op"), "event", ["dataset", "op"])
    for name in _NEW:
        tables.metadata.tables[name].create(op.get_bind())


def _text(name: str, value: str = "") -> "sa.Column[str]":
    return sa.Column(name, TEXT, nullable=False, server_default=value)


def _json(name: str) -> "sa.Column[str]":
    return sa.Column(name, Json(), nullable=False, server_default="{}")


def _big(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
