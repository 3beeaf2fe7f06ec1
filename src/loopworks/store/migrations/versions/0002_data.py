"""Shapes, texts, tags, predictions, counters, views, findings, branches, tombstones and rows of tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from loopworks.store.tables import TEXT, Instant, Json

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


MAKE_SQLITE = (
    "CREATE VIRTUAL TABLE search_index USING fts5(words, content='searched', content_rowid='seq', "
    "tokenize=\"unicode61 remove_diacritics 0 categories 'L* M* N* P* S* C*'\")"
)
"""Our words hold no blanks: the index shall cut at blanks and nowhere else."""
MAKE_POSTGRES = "CREATE INDEX search_index ON searched USING gin (string_to_array(words, ' '))"


def upgrade() -> None:
    """Add the columns and tables; rows from before get what an item without them means, and are counted."""
    _add("dataset", _json("meta"), _big("clock"), _more("origin"), _more("base"))
    _add("dataset", _more("frozen"), _big("frozen_clock"), _big("searched"))
    deleted: sa.Column[Any] = sa.Column("deleted_at", Instant(), nullable=True)
    _add("item", _more("text"), _json("attributes"), _json("extra"), _big("changed"), deleted)
    place: sa.Column[int] = sa.Column("place", sa.Integer(), nullable=False, server_default="0")
    _add("annotation", place, _more("kind", "class"))
    for name in ("x", "y", "width", "height"):
        op.add_column("annotation", sa.Column(name, sa.Float(), nullable=True))
    _add("annotation", _more("points", "[]"), _more("mask"), _more("attributes", "{}"), _more("extra", "{}"))
    _add("event", _more("op"))
    op.create_index(op.f("ix_item_dataset_changed_id"), "item", ["dataset", "changed", "id"])
    op.create_index(op.f("ix_event_dataset_op"), "event", ["dataset", "op"])
    _tables_of_items()
    _tables_of_datasets()
    _tables_of_rows()
    _count()


def _tables_of_items() -> None:
    to_item = (["dataset", "item"], ["item.dataset", "item.id"])
    op.create_table(
        "item_tag",
        _text("dataset"),
        _text("tag"),
        _text("item"),
        sa.PrimaryKeyConstraint("dataset", "tag", "item", name=op.f("pk_item_tag")),
        sa.ForeignKeyConstraint(*to_item, name=op.f("fk_item_tag_dataset_item")),
    )
    op.create_index(op.f("ix_item_tag_dataset_item"), "item_tag", ["dataset", "item"])
    op.create_table(
        "prediction",
        _text("dataset"),
        _text("model"),
        _text("item"),
        sa.Column("place", sa.Integer(), nullable=False),
        _text("label"),
        sa.Column("score", sa.Float(), nullable=False),
        _text("shape"),
        sa.PrimaryKeyConstraint("dataset", "model", "item", "place", name=op.f("pk_prediction")),
        sa.ForeignKeyConstraint(*to_item, name=op.f("fk_prediction_dataset_item")),
    )
    op.create_index(op.f("ix_prediction_dataset_item"), "prediction", ["dataset", "item"])
    op.create_table(
        "searched",
        _text("dataset"),
        _text("item"),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        _text("words"),
        sa.PrimaryKeyConstraint("dataset", "item", name=op.f("pk_searched")),
        sa.UniqueConstraint("seq", name=op.f("uq_searched_seq")),
    )
    op.execute(MAKE_SQLITE if op.get_bind().dialect.name == "sqlite" else MAKE_POSTGRES)
    op.create_table(
        "tombstone",
        _text("item"),
        _text("dataset"),
        _text("reason"),
        _text("author"),
        sa.Column("versions", Json(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("item", name=op.f("pk_tombstone")),
    )


def _tables_of_datasets() -> None:
    def to_dataset(table: str) -> sa.ForeignKeyConstraint:
        return sa.ForeignKeyConstraint(["dataset"], ["dataset.id"], name=op.f(f"fk_{table}_dataset"))

    op.create_table(
        "version_tag",
        _text("dataset"),
        _text("tag"),
        _text("version"),
        _text("author"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("dataset", "tag", name=op.f("pk_version_tag")),
        sa.ForeignKeyConstraint(
            ["dataset", "version"], ["version.dataset", "version.id"], name=op.f("fk_version_tag_dataset_version")
        ),
    )
    op.create_table(
        "pack",
        _text("version"),
        sa.Column("place", sa.Integer(), nullable=False),
        _text("blob"),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", "place", name=op.f("pk_pack")),
    )
    op.create_table(
        "scored",
        _text("dataset"),
        _text("model"),
        sa.Column("clock", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("dataset", "model", name=op.f("pk_scored")),
        to_dataset("scored"),
    )
    op.create_table(
        "tally",
        _text("dataset"),
        _text("what"),
        _text("key"),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "what", "key", name=op.f("pk_tally")),
        to_dataset("tally"),
    )
    op.create_table(
        "view",
        _text("dataset"),
        _text("name"),
        _text("query"),
        _text("sort"),
        _text("author"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("dataset", "name", name=op.f("pk_view")),
        to_dataset("view"),
    )
    op.create_table(
        "finding",
        _text("id"),
        _text("dataset"),
        _text("kind"),
        _text("state"),
        sa.Column("items", Json(), nullable=False),
        sa.Column("detail", Json(), nullable=False),
        _text("op"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding")),
        to_dataset("finding"),
    )
    op.create_index(op.f("ix_finding_dataset_state_kind"), "finding", ["dataset", "state", "kind"])


def _tables_of_rows() -> None:
    def big(name: str) -> "sa.Column[int]":
        return sa.Column(name, sa.BigInteger(), nullable=False)

    op.create_table(
        "segment",
        _text("dataset"),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("born", sa.BigInteger(), autoincrement=False, nullable=False),
        big("died"),
        _text("blob"),
        _text("digest"),
        big("rows"),
        sa.Column("stats", Json(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "number", "born", name=op.f("pk_segment")),
        sa.ForeignKeyConstraint(["dataset"], ["dataset.id"], name=op.f("fk_segment_dataset")),
    )
    op.create_index(op.f("ix_segment_dataset_died"), "segment", ["dataset", "died"])
    op.create_index(op.f("ix_segment_blob"), "segment", ["blob"])
    op.create_table(
        "table_state",
        _text("dataset"),
        sa.Column("clock", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digits", sa.Integer(), nullable=False),
        big("rows"),
        sa.Column("body", Json(), nullable=False),
        _text("op"),
        _text("author"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("dataset", "clock", name=op.f("pk_table_state")),
        sa.ForeignKeyConstraint(["dataset"], ["dataset.id"], name=op.f("fk_table_state_dataset")),
    )


def _count() -> None:
    op.execute(
        "INSERT INTO tally (dataset, what, key, count) "
        "SELECT dataset, 'item', state || '/' || split, count(*) FROM item GROUP BY dataset, state, split"
    )
    op.execute(
        "INSERT INTO tally (dataset, what, key, count) "
        "SELECT dataset, 'class', label, count(DISTINCT item) FROM annotation "
        "WHERE deleted_at IS NULL GROUP BY dataset, label"
    )
    op.execute(
        "INSERT INTO tally (dataset, what, key, count) "
        "SELECT a.dataset, 'placed', i.split || '/' || a.label, count(DISTINCT a.item) FROM annotation a "
        "JOIN item i ON i.dataset = a.dataset AND i.id = a.item "
        "WHERE a.deleted_at IS NULL GROUP BY a.dataset, i.split, a.label"
    )
    op.execute(
        "INSERT INTO tally (dataset, what, key, count) "
        "SELECT dataset, 'reference', '', count(*) FROM item WHERE state = 'labeled' AND uri <> '' GROUP BY dataset"
    )


def _add(table: str, *columns: "sa.Column[Any]") -> None:
    for column in columns:
        op.add_column(table, column)


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, TEXT, nullable=False)


def _time(name: str) -> "sa.Column[Any]":
    return sa.Column(name, Instant(), nullable=False)


def _more(name: str, value: str = "") -> "sa.Column[str]":
    return sa.Column(name, TEXT, nullable=False, server_default=value)


def _json(name: str) -> "sa.Column[str]":
    return sa.Column(name, Json(), nullable=False, server_default="{}")


def _big(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
