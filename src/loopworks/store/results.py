"""Results of pipelines in a database of the user's choice: one table, made where it is missing, rows only added."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine.url import make_url

from loopworks.core.errors import Invalid, Missing, Unreachable

_TYPES: dict[type, Any] = {str: sa.Text, int: sa.BigInteger, float: sa.Float}


class Results:
    """A table that rows are added to; open within a ``with`` block."""

    def __init__(self, url: str, table: str, columns: Mapping[str, type]) -> None:
        """Name the table; nothing is opened yet.

        Args:
            url: sqlite:///FILE or postgresql://USER@HOST/NAME.
            table: its name.
            columns: name -> str, int or float.
        """
        place = make_url(url)
        if place.drivername == "postgresql":
            place = place.set(drivername="postgresql+psycopg")
        self._where = place.render_as_string(hide_password=True)
        named = [sa.Column(name, _TYPES[kind]) for name, kind in columns.items()]
        self._table = sa.Table(table, sa.MetaData(), *named)
        try:
            self._engine = sa.create_engine(place, pool_pre_ping=True)
        except ImportError:
            raise Missing("psycopg", "postgres", "results on PostgreSQL") from None

    def __enter__(self) -> Self:
        """Make the table where it is missing.

        Raises: Unreachable: no such database. Invalid: the table has not all our columns.
        """
        try:
            with self._engine.begin() as tx:
                self._table.create(tx, checkfirst=True)
                there = {column["name"] for column in sa.inspect(tx).get_columns(self._table.name)}
        except exc.SQLAlchemyError as error:
            self._engine.dispose()
            raise self._away(error) from None
        if missing := sorted(set(self._table.c.keys()) - there):
            self._engine.dispose()
            raise Invalid(f"table {self._table.name} of {self._where}", "one for results", f"none of {missing}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._engine.dispose()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, all or none; ``Unreachable`` where the database does not take them now."""
        if not rows:
            return
        try:
            with self._engine.begin() as tx:
                tx.execute(sa.insert(self._table), list(rows))
        except exc.SQLAlchemyError as error:
            raise self._away(error) from None

    def _away(self, error: exc.SQLAlchemyError) -> Unreachable:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return Unreachable(f"database {self._where} must take results; got: {reason}")
