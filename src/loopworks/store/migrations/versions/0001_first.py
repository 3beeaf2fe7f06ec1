"""The first tables: datasets, items, annotations, versions, models, deployments, lineage."""

import sqlalchemy as sa
from alembic import op

from loopworks.store.tables import TEXT, Instant, Json

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "dataset",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("task", TEXT, nullable=False),
        sa.Column("is_multi", sa.Boolean(), nullable=False),
        sa.Column("classes", Json(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("name", name=op.f("uq_dataset_name")),
    )
    op.create_table(
        "event",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("item", TEXT, nullable=False),
        sa.Column("author", TEXT, nullable=False),
        sa.Column("before", Json(), nullable=False),
        sa.Column("after", Json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_dataset_item_id"), "event", ["dataset", "item", "id"], unique=False)
    op.create_table(
        "info",
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_info")),
    )
    op.create_table(
        "lineage",
        sa.Column("from_kind", TEXT, nullable=False),
        sa.Column("from_id", TEXT, nullable=False),
        sa.Column("to_kind", TEXT, nullable=False),
        sa.Column("to_id", TEXT, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("from_kind", "from_id", "to_kind", "to_id", name=op.f("pk_lineage")),
    )
    op.create_index(op.f("ix_lineage_to_kind_to_id"), "lineage", ["to_kind", "to_id"], unique=False)
    op.create_table(
        "model",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("bundle", TEXT, nullable=False),
        sa.Column("run", TEXT, nullable=False),
        sa.Column("version", TEXT, nullable=False),
        sa.Column("parent", TEXT, nullable=False),
        sa.Column("task", TEXT, nullable=False),
        sa.Column("variant", TEXT, nullable=False),
        sa.Column("metrics", Json(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name", "number", name=op.f("pk_model")),
    )
    op.create_index(op.f("ix_model_version"), "model", ["version"], unique=False)
    op.create_table(
        "alias",
        sa.Column("model", TEXT, nullable=False),
        sa.Column("alias", TEXT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "number"], ["model.name", "model.number"], name=op.f("fk_alias_model_number")
        ),
        sa.PrimaryKeyConstraint("model", "alias", name=op.f("pk_alias")),
    )
    op.create_table(
        "deployment",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("model", TEXT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("variant", TEXT, nullable=False),
        sa.Column("author", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("ended_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["model", "number"], ["model.name", "model.number"], name=op.f("fk_deployment_model_number")
        ),
        sa.PrimaryKeyConstraint("name", "revision", name=op.f("pk_deployment")),
    )
    op.create_table(
        "item",
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("blob", TEXT, nullable=False),
        sa.Column("uri", TEXT, nullable=False),
        sa.Column("stamp", TEXT, nullable=False),
        sa.Column("mime", TEXT, nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("split", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("added_at", Instant(), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["dataset.id"], name=op.f("fk_item_dataset")),
        sa.PrimaryKeyConstraint("dataset", "id", name=op.f("pk_item")),
    )
    op.create_index(op.f("ix_item_dataset_name_id"), "item", ["dataset", "name", "id"], unique=False)
    op.create_index(op.f("ix_item_dataset_state_split"), "item", ["dataset", "state", "split"], unique=False)
    op.create_table(
        "version",
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("task", TEXT, nullable=False),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("author", TEXT, nullable=False),
        sa.Column("parent", TEXT, nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["dataset.id"], name=op.f("fk_version_dataset")),
        sa.PrimaryKeyConstraint("dataset", "id", name=op.f("pk_version")),
        sa.UniqueConstraint("dataset", "number", name=op.f("uq_version_dataset_number")),
    )
    op.create_index(op.f("ix_version_id"), "version", ["id"], unique=False)
    op.create_table(
        "annotation",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("item", TEXT, nullable=False),
        sa.Column("label", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("author", TEXT, nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("event", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("deleted_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset", "item"], ["item.dataset", "item.id"], name=op.f("fk_annotation_dataset_item")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation")),
    )
    op.create_index(op.f("ix_annotation_dataset_item"), "annotation", ["dataset", "item"], unique=False)
    op.create_index(
        "ix_annotation_live",
        "annotation",
        ["dataset", "label", "item"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "lease",
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("item", TEXT, nullable=False),
        sa.Column("who", TEXT, nullable=False),
        sa.Column("until", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["dataset", "item"], ["item.dataset", "item.id"], name=op.f("fk_lease_dataset_item")),
        sa.PrimaryKeyConstraint("dataset", "item", name=op.f("pk_lease")),
    )
    op.create_table(
        "part",
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("blob", TEXT, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_part")),
    )
