"""The catalog's tables. SQLite and PostgreSQL hold the same rows; see ``migrations`` for how they got there."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

REVISION = "0001"
"""The migration that gives the tables below; a catalog at another revision is migrated or refused on opening."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC: ``timestamptz`` on PostgreSQL, text of fixed width (so that it sorts) on SQLite."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The database's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(String(27))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse times without a zone: nobody knows what they mean on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time must have a zone; got {value!r}")
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Always in UTC."""
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return datetime.fromisoformat(value)


class Json(TypeDecorator[Any]):
    """JSON kept as text, because SQLite's and PostgreSQL's JSON types compare and sort in different ways."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """As text with sorted keys."""
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """As the value that was stored."""
        return json.loads(value)


TEXT = String().with_variant(String(collation="C"), "postgresql")
"""Text that both databases sort the same way: by code points, whatever the locale of the server."""


def _text(name: str, *more: Any) -> Column[str]:
    return Column(name, TEXT, *more, nullable=False)


def _key(name: str, *more: Any) -> Column[str]:
    return Column(name, TEXT, *more, primary_key=True)


def _time(name: str = "created_at") -> Column[datetime]:
    return Column(name, Instant, nullable=False)


info = Table("info", metadata, _key("key"), _text("value"))

dataset = Table(
    "dataset",
    metadata,
    _key("id"),
    _text("name"),
    _text("task"),
    Column("is_multi", Boolean(create_constraint=False), nullable=False),
    Column("classes", Json, nullable=False),
    _time(),
    Column("rev", Integer, nullable=False),
    UniqueConstraint("name"),
)

item = Table(
    "item",
    metadata,
    _key("dataset", ForeignKey("dataset.id")),
    _key("id"),
    _text("name"),
    _text("blob"),  # key of the bytes in the blob store; empty for an item that is kept by reference
    _text("uri"),  # where the bytes of an item by reference lie
    _text("stamp"),  # size and time of that file as first seen
    _text("mime"),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    _text("split"),  # train, val, test, or empty: not split yet
    _text("state"),  # unlabeled, labeled
    _time("added_at"),
    Column("rev", Integer, nullable=False),
    Index(None, "dataset", "name", "id"),
    Index(None, "dataset", "state", "split"),
)
_live = text("deleted_at IS NULL")

annotation = Table(
    "annotation",
    metadata,
    _key("id"),
    _text("dataset"),
    _text("item"),
    _text("label"),
    _text("source"),
    _text("author"),
    Column("rev", Integer, nullable=False),
    _text("event"),  # the one that wrote this row
    _time(),
    Column("deleted_at", Instant, nullable=True),
    ForeignKeyConstraint(["dataset", "item"], ["item.dataset", "item.id"]),
    Index(None, "dataset", "item"),
    Index("ix_annotation_live", "dataset", "label", "item", sqlite_where=_live, postgresql_where=_live),
)

event = Table(
    "event",
    metadata,
    _key("id"),
    _time("at"),
    _text("kind"),
    _text("dataset"),
    _text("item"),
    _text("author"),
    Column("before", Json, nullable=False),
    Column("after", Json, nullable=False),
    Index(None, "dataset", "item", "id"),
)

lease = Table(
    "lease",
    metadata,
    _key("dataset"),
    _key("item"),
    _text("who"),
    Column("until", Instant, nullable=False),
    ForeignKeyConstraint(["dataset", "item"], ["item.dataset", "item.id"]),
)

version = Table(
    "version",
    metadata,
    _key("dataset", ForeignKey("dataset.id")),
    _key("id"),
    Column("number", Integer, nullable=False),
    _text("task"),
    _text("message"),
    _text("author"),
    _text("parent"),
    Column("items", Integer, nullable=False),
    _time(),
    UniqueConstraint("dataset", "number"),
    Index(None, "id"),
)

part = Table("part", metadata, _key("digest"), _text("blob"), Column("rows", Integer, nullable=False))

model = Table(
    "model",
    metadata,
    _key("name"),
    Column("number", Integer, primary_key=True),
    _text("bundle"),
    _text("run"),
    _text("version"),
    _text("parent"),
    _text("task"),
    _text("variant"),
    Column("metrics", Json, nullable=False),
    _time(),
    Index(None, "version"),
)

alias = Table(
    "alias",
    metadata,
    _key("model"),
    _key("alias"),
    Column("number", Integer, nullable=False),
    ForeignKeyConstraint(["model", "number"], ["model.name", "model.number"]),
)

deployment = Table(
    "deployment",
    metadata,
    _key("name"),
    Column("revision", Integer, primary_key=True),
    _text("model"),
    Column("number", Integer, nullable=False),
    _text("variant"),
    _text("author"),
    _time(),
    Column("ended_at", Instant, nullable=True),
    ForeignKeyConstraint(["model", "number"], ["model.name", "model.number"]),
)

lineage = Table(
    "lineage",
    metadata,
    _key("from_kind"),
    _key("from_id"),
    _key("to_kind"),
    _key("to_id"),
    _time("at"),
    Index(None, "to_kind", "to_id"),
)
