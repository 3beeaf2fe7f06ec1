"""Roles and shares of deployments, who changed them and when, how well two revisions agree; tokens."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from loopworks.store.tables import TEXT, Instant, Json

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; every revision from before has been live, after the one of the number before it."""
    for column in (
        _text("role", server_default="live"),
        sa.Column("share", sa.Float(), nullable=False, server_default="0"),
        _text("alias", server_default=""),
        sa.Column("before", sa.Integer(), nullable=False, server_default="0"),
    ):
        op.add_column("deployment", column)
    op.execute("UPDATE deployment SET before = revision - 1")
    op.create_table(
        "rollout",
        _text("id"),
        _text("name"),
        sa.Column("revision", sa.Integer(), nullable=False),
        _text("action"),
        sa.Column("share", sa.Float(), nullable=False),
        _text("author"),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout")),
    )
    op.create_index(op.f("ix_rollout_name"), "rollout", ["name"])
    op.create_table(
        "agreement",
        _text("name"),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("live", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("agreed", sa.Float(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "revision", "live", name=op.f("pk_agreement")),
    )
    op.create_table(
        "token",
        _text("id"),
        _text("name"),
        _text("digest"),
        sa.Column("scopes", Json(), nullable=False),
        sa.Column("deployments", Json(), nullable=False),
        _text("author"),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("used_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_token_digest")),
    )


def _text(name: str, **more: Any) -> "sa.Column[str]":
    return sa.Column(name, TEXT, nullable=False, **more)
