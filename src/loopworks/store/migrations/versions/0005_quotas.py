"""What retention removed, and how often deployments were asked in a day."""

import sqlalchemy as sa
from alembic import op

from loopworks.store.tables import TEXT, Instant

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; what was removed before is not known any more."""
    op.create_table(
        "removed",
        _text("deployment"),
        _text("item"),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("deployment", "item", name=op.f("pk_removed")),
    )
    op.create_table(
        "asked",
        _text("deployment"),
        _text("token"),
        _text("day"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("deployment", "token", "day", name=op.f("pk_asked")),
    )


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, TEXT, nullable=False)
