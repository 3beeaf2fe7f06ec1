"""Types of columns that SQLite and PostgreSQL keep, compare and sort alike."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TIMESTAMP, Dialect, String, Text
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnElement, UnaryExpression
from sqlalchemy.types import TypeDecorator, TypeEngine

TEXT = String().with_variant(String(collation="C"), "postgresql")
"""Text that both databases sort the same way: by code points, whatever the locale of the server."""


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


def unindexed(dialect: str, value: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same value, for which SQLite looks for no index."""
    plus = operators.custom_op[Any]("+")
    return value if dialect != "sqlite" else UnaryExpression(value, operator=plus, type_=value.type)
