"""The catalog's tables. SQLite and PostgreSQL hold the same rows; see ``migrations`` for how they got there."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)

from loopworks.store.types import TEXT, Instant, Json, unindexed

__all__ = ["TEXT", "Instant", "Json", "metadata", "unindexed"]

REVISION = "0005"
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


def _text(name: str, *more: Any) -> Column[str]:
    return Column(name, TEXT, *more, nullable=False)


def _key(name: str, *more: Any) -> Column[str]:
    return Column(name, TEXT, *more, primary_key=True)


def _more(name: str, value: str = "") -> Column[str]:
    """A text column that came later: rows from before have ``value``."""
    return Column(name, TEXT, nullable=False, server_default=value)


def _json(name: str) -> Column[Any]:
    """A JSON object that came later: rows from before have an empty one."""
    return Column(name, Json, nullable=False, server_default="{}")


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
    _json("meta"),  # format name -> what only that format knows of the data set
    Column("clock", BigInteger, nullable=False, server_default="0"),  # counts changes; see item.changed
    _more("origin"),  # of a branch: the dataset that it began from
    _more("base"),  # of a branch: the version that it began from
    _more("frozen"),  # the version that the next freeze begins from, to read only what changed since ...
    Column("frozen_clock", BigInteger, nullable=False, server_default="0"),  # ... the clock stood here
    Column("searched", BigInteger, nullable=False, server_default="0"),  # the clock that its words are filed up to
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
    _more("text"),  # the item itself, where items are texts
    _json("attributes"),  # camera, time, captions ...: what is known of it
    _json("extra"),  # format name -> what only that format knows of it
    Column("changed", BigInteger, nullable=False, server_default="0"),  # dataset.clock at its last change
    Column("deleted_at", Instant, nullable=True),
    Index(None, "dataset", "name", "id"),
    Index(None, "dataset", "state", "split"),
    Index(None, "dataset", "changed", "id"),
)
item_tag = Table(
    "item_tag",
    metadata,
    _key("dataset"),
    _key("tag"),
    _key("item"),
    ForeignKeyConstraint(["dataset", "item"], ["item.dataset", "item.id"]),
    Index(None, "dataset", "item"),
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
    Column("place", Integer, nullable=False, server_default="0"),  # order within the item
    _more("kind", "class"),
    *(Column(name, Float, nullable=True) for name in ("x", "y", "width", "height")),  # upright box, pixels
    _more("points", "[]"),  # JSON; see core.values.Shape.points
    _more("mask"),
    _more("attributes", "{}"),  # canonical JSON text, as in the Shape
    _more("extra", "{}"),
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
    _more("op"),  # the operation it is part of, so that the whole of it can be undone
    Index(None, "dataset", "item", "id"),
    Index(None, "dataset", "op"),
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

version_tag = Table(
    "version_tag",
    metadata,
    _key("dataset"),
    _key("tag"),
    _text("version"),
    _text("author"),
    _time(),
    ForeignKeyConstraint(["dataset", "version"], ["version.dataset", "version.id"]),
)

prediction = Table(
    "prediction",
    metadata,
    _key("dataset"),
    _key("model"),  # NAME:NUMBER
    _key("item"),
    Column("place", Integer, primary_key=True),
    _text("label"),
    Column("score", Float, nullable=False),  # confidence, 0..1
    _text("shape"),  # the whole Shape as JSON text
    ForeignKeyConstraint(["dataset", "item"], ["item.dataset", "item.id"]),
    Index(None, "dataset", "item"),
)

scored = Table(  # which model's predictions are there; the newest is the one with the largest clock
    "scored",
    metadata,
    _key("dataset", ForeignKey("dataset.id")),
    _key("model"),
    Column("clock", BigInteger, nullable=False),  # dataset.clock when they were written last
    Column("items", BigInteger, nullable=False),
    _time(),
)

searched = Table(  # the words of an item; the index over them is no table of ours, see ``store.words``
    "searched",
    metadata,
    _key("dataset"),
    _key("item"),
    Column("seq", BigInteger, nullable=False),
    _text("words"),
    UniqueConstraint("seq"),
)

tally = Table(  # counters kept up to date with every change, so that no page counts a million rows
    "tally",
    metadata,
    _key("dataset", ForeignKey("dataset.id")),
    _key("what"),  # item: by state/split; class: items that carry it; placed: by split/class; reference: with a uri
    _key("key"),
    Column("count", BigInteger, nullable=False),
)

view = Table(
    "view",
    metadata,
    _key("dataset", ForeignKey("dataset.id")),
    _key("name"),
    _text("query"),
    _text("sort"),
    _text("author"),
    _time(),
)

finding = Table(  # what a check of the data found, until it is fixed or waved through
    "finding",
    metadata,
    _key("id"),
    _text("dataset", ForeignKey("dataset.id")),
    _text("kind"),
    _text("state"),  # open, fixed, ignored
    Column("items", Json, nullable=False),
    Column("detail", Json, nullable=False),
    _text("op"),  # the operation that fixed it
    _time(),
    Index(None, "dataset", "state", "kind"),
)

tombstone = Table(  # what was erased for good, so that no import brings it back
    "tombstone",
    metadata,
    _key("item"),
    _text("dataset"),
    _text("reason"),
    _text("author"),
    Column("versions", Json, nullable=False),  # old version id -> the id it was issued again under
    _time(),
)

pack = Table(  # in which blobs the rows of a version lie, oldest first
    "pack",
    metadata,
    _key("version"),
    Column("place", Integer, primary_key=True),
    _text("blob"),
    Column("rows", BigInteger, nullable=False),
)

part = Table("part", metadata, _key("digest"), _text("blob"), Column("rows", Integer, nullable=False))

segment = Table(  # pieces of a table's rows, which lie in Parquet files among the blobs
    "segment",
    metadata,
    _key("dataset", ForeignKey("dataset.id")),
    Column("number", Integer, primary_key=True, autoincrement=False),  # first hex digits of its rows' keys
    Column("born", BigInteger, primary_key=True, autoincrement=False),  # table_state.clock that wrote it
    Column("died", BigInteger, nullable=False),  # the one that replaced it; 0: it lives
    _text("blob"),
    _text("digest"),
    Column("rows", BigInteger, nullable=False),
    Column("stats", Json, nullable=False),
    Index(None, "dataset", "died"),
    Index(None, "blob"),
)

table_state = Table(  # what a table is, but for its rows, after each change
    "table_state",
    metadata,
    _key("dataset", ForeignKey("dataset.id")),
    Column("clock", BigInteger, primary_key=True, autoincrement=False),
    Column("digits", Integer, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("body", Json, nullable=False),
    _text("op"),
    _text("author"),
    _time(),
)

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
    _more("role", "live"),
    Column("share", Float, nullable=False, server_default="0"),
    _more("alias"),
    Column("before", Integer, nullable=False, server_default="0"),
    ForeignKeyConstraint(["model", "number"], ["model.name", "model.number"]),
)

rollout = Table(
    "rollout",
    metadata,
    _key("id"),
    _text("name"),
    Column("revision", Integer, nullable=False),
    _text("action"),
    Column("share", Float, nullable=False),
    _text("author"),
    _time("at"),
    Index(None, "name"),
)

agreement = Table(
    "agreement",
    metadata,
    _key("name"),
    Column("revision", Integer, primary_key=True),
    Column("live", Integer, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("agreed", Float, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
)

token = Table(
    "token",
    metadata,
    _key("id"),
    _text("name"),
    _text("digest"),
    Column("scopes", Json, nullable=False),
    Column("deployments", Json, nullable=False),
    _text("author"),
    _time(),
    Column("expires_at", Instant, nullable=True),
    Column("used_at", Instant, nullable=True),
    Column("revoked_at", Instant, nullable=True),
    UniqueConstraint("digest"),
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

watch = Table(  # what is captured of a deployment's requests, and what happens then
    "watch",
    metadata,
    _key("deployment"),
    Column("rules", Json, nullable=False),
    Column("rev", Integer, nullable=False),
    _text("author"),
    _time(),
)

captured = Table(  # inputs of a deployment that a rule chose
    "captured",
    metadata,
    _key("deployment"),
    _key("item"),
    _text("dataset"),  # its id; empty where the input was not kept
    _text("stored"),  # id of the dataset's item; another one where less than the whole input was kept
    _text("model"),
    Column("revision", Integer, nullable=False),
    Column("reasons", Json, nullable=False),
    Column("count", BigInteger, nullable=False),  # how often it was chosen
    _text("label"),
    Column("score", Float, nullable=False),
    Column("content", Json, nullable=False),  # a row of a table, which waits here for its truth
    _text("state"),  # inbox, returned
    Column("is_ours", Boolean(create_constraint=False), nullable=False),  # the dataset had no such item before
    _time("first_at"),
    _time("last_at"),
    Index(None, "deployment", "last_at"),
    Index(None, "dataset", "stored"),
)

logged = Table(  # which blobs hold a deployment's predictions
    "logged",
    metadata,
    _key("deployment"),
    _key("id"),
    _text("blob"),
    Column("rows", BigInteger, nullable=False),
    _time("since"),
    _time("until"),
    Index(None, "deployment", "until"),
)

truth = Table(  # what was right after all
    "truth",
    metadata,
    _key("deployment"),
    _key("item"),
    _key("source"),  # truth, feedback
    Column("label", Json, nullable=False),  # null: only whether the answer was right is known
    Column("is_right", Boolean(create_constraint=False), nullable=True),
    _text("author"),
    _time("at"),
)

watch_event = Table(  # windows of drift, alarms, decisions to train again
    "watch_event",
    metadata,
    _key("id"),
    _text("deployment"),
    _text("kind"),
    _time("at"),
    Column("body", Json, nullable=False),
    Index(None, "deployment", "kind", "id"),
)

watch_count = Table(
    "watch_count",
    metadata,
    _key("deployment"),
    _key("what"),
    Column("count", BigInteger, nullable=False),
)

# captured inputs that were erased because their time was over
removed = Table("removed", metadata, _key("deployment"), _key("item"), _time("at"))

asked = Table(  # requests of a day, where a quota counts them
    "asked",
    metadata,
    _key("deployment"),
    _key("token"),  # its id; empty for all callers together
    _key("day"),
    Column("count", BigInteger, nullable=False),
)
