"""Rules, captured inputs, the log of predictions, truth and events of deployments that are watched."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from loopworks.store.tables import TEXT, Instant, Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; nothing was watched before."""
    op.create_table(
        "watch",
        _text("deployment"),
        sa.Column("rules", Json(), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        _text("author"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("deployment", name=op.f("pk_watch")),
    )
    op.create_table(
        "captured",
        _text("deployment"),
        _text("item"),
        _text("dataset"),
        _text("stored"),
        _text("model"),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("reasons", Json(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        _text("label"),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("content", Json(), nullable=False),
        _text("state"),
        sa.Column("is_ours", sa.Boolean(create_constraint=False), nullable=False),
        _time("first_at"),
        _time("last_at"),
        sa.PrimaryKeyConstraint("deployment", "item", name=op.f("pk_captured")),
    )
    op.create_index(op.f("ix_captured_deployment_last_at"), "captured", ["deployment", "last_at"])
    op.create_index(op.f("ix_captured_dataset_stored"), "captured", ["dataset", "stored"])
    op.create_table(
        "logged",
        _text("deployment"),
        _text("id"),
        _text("blob"),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        _time("since"),
        _time("until"),
        sa.PrimaryKeyConstraint("deployment", "id", name=op.f("pk_logged")),
    )
    op.create_index(op.f("ix_logged_deployment_until"), "logged", ["deployment", "until"])
    op.create_table(
        "truth",
        _text("deployment"),
        _text("item"),
        _text("source"),
        sa.Column("label", Json(), nullable=False),
        sa.Column("is_right", sa.Boolean(create_constraint=False), nullable=True),
        _text("author"),
        _time("at"),
        sa.PrimaryKeyConstraint("deployment", "item", "source", name=op.f("pk_truth")),
    )
    op.create_table(
        "watch_event",
        _text("id"),
        _text("deployment"),
        _text("kind"),
        _time("at"),
        sa.Column("body", Json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watch_event")),
    )
    op.create_index(op.f("ix_watch_event_deployment_kind_id"), "watch_event", ["deployment", "kind", "id"])
    op.create_table(
        "watch_count",
        _text("deployment"),
        _text("what"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("deployment", "what", name=op.f("pk_watch_count")),
    )


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, TEXT, nullable=False)


def _time(name: str) -> "sa.Column[Any]":
    return sa.Column(name, Instant(), nullable=False)
