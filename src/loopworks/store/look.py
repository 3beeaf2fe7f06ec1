"""Looking at items by a condition: pages, counts, ids and figures; in SQL, or for large datasets ``store.columns``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from loopworks.core.query import ALWAYS, Field, Match, Missing, Node, Sort, fields, models
from loopworks.store import columns, items, tables, words
from loopworks.store.answers import Asked
from loopworks.store.catalog import Catalog
from loopworks.store.filters import Filter, bound, column, json_value
from loopworks.store.items import Item

_item, _said, _tag, _guess, _scored = (
    tables.item, tables.annotation, tables.item_tag, tables.prediction, tables.scored,
)  # fmt: skip
STREAM = 5000
"""Ids that ``ids`` reads at a time."""
JOINED = 5000
"""Items of a page that are put in order in SQL where it comes from columns and from what changed since."""


@dataclass(frozen=True, slots=True)
class _Key:
    """One column of an order; never NULL."""

    value: ColumnElement[Any]
    is_down: bool = False


def newest_model(tx: Connection, dataset: str) -> str | None:
    """The model whose predictions were written last."""
    query = sa.select(_scored.c.model).where(_scored.c.dataset == dataset)
    found = tx.execute(query.order_by(_scored.c.clock.desc(), _scored.c.model.desc()).limit(1)).scalar()
    return None if found is None else str(found)


def scope(tx: Connection, dataset: str, node: Node) -> tuple[str, ...]:
    """The models that a condition speaks of; ``()`` is all of them."""
    named = models(node)
    return (newest_model(tx, dataset) or "",) if named is None else named


def fast_page(
    catalog: Catalog,
    cache: Path,
    tx: Connection,
    dataset: str,
    node: Node,
    *,
    sort: Sort,
    limit: int,
    after: str | None = None,
) -> list[Item]:
    """The same as ``page``; for large datasets from columns in ``cache`` and, for what changed since, from SQL."""
    if node == ALWAYS and sort == Sort():  # an index has this order
        return page(tx, dataset, node, sort=sort, limit=limit, after=after)
    asked = Asked(node, sort, scope(tx, dataset, node))
    found = columns.ready(catalog, cache, tx, dataset, asked)
    if found is None or (found[1] and limit > JOINED):
        return page(tx, dataset, node, sort=sort, limit=limit, after=after)
    after = None if after is None else items.get(tx, dataset, after).id
    first = found[0].page(asked, limit, after, found[1])
    if first is None:
        return page(tx, dataset, node, sort=sort, limit=limit, after=after)
    if not found[1]:
        return in_order(tx, dataset, first)
    fresh = sa.and_(_item.c.changed > found[0].clock, _where(tx, dataset, node, is_of_few=True))
    order = [
        # Left alone, SQLite walks all items by name to find the few that changed.
        _Key(tables.unindexed(tx.dialect.name, key.value), key.is_down)
        for key in _order(tx, dataset, sort, node)
    ]
    second = [item.id for item in _page(tx, dataset, fresh, order, limit, after)]
    both = _item.c.id.in_([*first, *second])
    return _page(tx, dataset, both, order, limit, None)


def prepare(catalog: Catalog, cache: Path, dataset: str, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Read the columns of a large dataset that questions usually look at; what is there already costs nothing.

    Nobody who asks meanwhile waits for more than the group of fields that is being read.
    """
    words.catch_up(catalog, dataset)
    with catalog.read() as tx:
        if columns.size(tx, dataset) < columns.MIN_ITEMS:
            return
        keys = columns.usual_keys(tx, dataset)
        is_scored = newest_model(tx, dataset) is not None
    wanted = [ALWAYS, Missing(Field("label")), Missing(Field("tag")), Missing(Field("attributes"))]
    wanted += [Missing(Field("attributes", (key,))) for key in keys]
    wanted += [Missing(Field("prediction.score"))] if is_scored else []
    for node in [*wanted, Match("a")]:
        if is_stopped():
            return
        with catalog.read() as tx:
            asked = Asked(node, Sort(), scope(tx, dataset, node))
            columns.ready(catalog, cache, tx, dataset, asked, most=columns.MANY_CHANGED)


def fast_count(catalog: Catalog, cache: Path, tx: Connection, dataset: str, node: Node) -> int:
    """The same as ``count``, in the way of ``fast_page``."""
    asked = Asked(node, Sort(), scope(tx, dataset, node))
    found = columns.ready(catalog, cache, tx, dataset, asked)
    if found is None:
        return count(tx, dataset, node)
    if not found[1]:
        return found[0].count(asked, set())
    fresh = _matching(tx, dataset, node, sa.func.count(), is_of_few=True).where(_item.c.changed > found[0].clock)
    return found[0].count(asked, found[1]) + int(tx.execute(fresh).scalar_one())


def page(tx: Connection, dataset: str, node: Node, *, sort: Sort, limit: int, after: str | None = None) -> list[Item]:
    """Items that fulfil the condition, in order, a page at a time.

    Args:
        tx: transaction.
        dataset: its id.
        node: the condition.
        sort: the order; equal ones by id.
        limit: at most so many.
        after: id (or its beginning, or the name) of the last item of the page before, whatever it has become since.
    """
    return _page(tx, dataset, _where(tx, dataset, node), _order(tx, dataset, sort, node), limit, after)


def _page(
    tx: Connection, dataset: str, where: ColumnElement[bool], order: list[_Key], limit: int, after: str | None
) -> list[Item]:
    query = sa.select(_item.c.id).where(_item.c.dataset == dataset, _item.c.deleted_at.is_(None), where)
    if after is not None:
        last = items.get(tx, dataset, after)
        mine = sa.select(*(key.value for key in order)).where(_item.c.dataset == dataset, _item.c.id == last.id)
        query = query.where(_beyond(order, tuple(tx.execute(mine).one())))
    query = query.order_by(*(key.value.desc() if key.is_down else key.value for key in order)).limit(limit)
    return in_order(tx, dataset, list(tx.execute(query).scalars()))


def ranked(tx: Connection, dataset: str, text: str, node: Node, limit: int) -> list[str]:
    """Ids of the items that have all words of ``text`` and fulfil the condition, the best first."""
    query = _matching(tx, dataset, node, _item.c.id)
    query = words.rank(tx.dialect.name, query, _item.c.id, dataset, text)
    return list(tx.execute(query.limit(limit)).scalars())


def in_order(tx: Connection, dataset: str, ids: list[str]) -> list[Item]:
    """The items with these ids, in this order."""
    found = items.among(tx, dataset, ids)
    return [found[key] for key in ids if key in found]


def count(tx: Connection, dataset: str, node: Node) -> int:
    """How many items fulfil the condition."""
    return int(tx.execute(_matching(tx, dataset, node, sa.func.count())).scalar_one())


def ids(tx: Connection, dataset: str, node: Node) -> Iterator[str]:
    """Ids of the items that fulfil the condition, by id, streamed."""
    query = _matching(tx, dataset, node, _item.c.id).order_by(_item.c.id)
    with tx.execution_options(yield_per=STREAM).execute(query) as rows:
        for row in rows:
            yield row[0]


def figures(tx: Connection, dataset: str, node: Node, by: Field) -> dict[str, int]:
    """Among the items that fulfil the condition: value of the field -> how many items have it, most first.

    Items without a value count under the empty text. Numbers and truths of attributes are written as JSON has them.
    """
    inside = _matching(tx, dataset, node, _item.c.id)
    if by.scope in ("item", "attribute"):
        value = _text_of(tx, by)
        query = inside.with_only_columns(value, sa.func.count()).group_by(value)
        found = {str(key or ""): int(number) for key, number in tx.execute(query)}
        return _largest(found)
    table = {"tag": _tag, "shape": _said, "prediction": _guess}[by.scope]
    where = [table.c.dataset == dataset, table.c.item.in_(inside)]
    if "deleted_at" in table.c:
        where.append(table.c.deleted_at.is_(None))
    if by.scope == "prediction":
        named = scope(tx, dataset, node)
        where += [table.c.model.in_(named)] if named else []
    value = column(by, table)
    number = sa.func.count(table.c.item.distinct())
    found = {str(key): int(n) for key, n in tx.execute(sa.select(value, number).where(*where).group_by(value)) if key}
    having = sa.select(sa.func.count(table.c.item.distinct())).where(*where, value != "")
    without = count(tx, dataset, node) - int(tx.execute(having).scalar_one())
    return _largest(found | ({"": without} if without else {}))


def _text_of(tx: Connection, by: Field) -> ColumnElement[Any]:
    if not by.keys:
        return column(by, _item)
    dialect = tx.dialect.name
    text, number, truth = (json_value(dialect, _item.c.attributes, by.keys, of) for of in ("text", "number", "bool"))
    return sa.case(
        (text.is_not(None), text),
        (number.is_not(None), sa.cast(number, sa.String)),
        (truth.is_not(None), sa.case((truth, "true"), else_="false")),
        else_="",
    )


def _largest(found: dict[str, int]) -> dict[str, int]:
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def _where(tx: Connection, dataset: str, node: Node, *, is_of_few: bool = False) -> ColumnElement[bool]:
    return Filter(tx.dialect.name, dataset, scope(tx, dataset, node), is_of_few=is_of_few).where(node)


def _matching(tx: Connection, dataset: str, node: Node, *values: Any, is_of_few: bool = False) -> "sa.Select[Any]":
    live = (_item.c.dataset == dataset, _item.c.deleted_at.is_(None))
    return sa.select(*values).select_from(_item).where(*live, _where(tx, dataset, node, is_of_few=is_of_few))


def _order(tx: Connection, dataset: str, sort: Sort, node: Node) -> list[_Key]:
    down, last = sort.is_down, _Key(_item.c.id)
    by = sort.field
    if by is None:
        mine = (_said.c.dataset == dataset, _said.c.item == _item.c.id, _said.c.deleted_at.is_(None))
        shapes: ColumnElement[Any] = (
            sa.select(sa.func.count()).select_from(_said).where(*mine).correlate(_item).scalar_subquery()
        )
        return [_Key(shapes, down), last]
    if by.name == "id":
        return [_Key(_item.c.id, down)]
    if by.keys:
        number = json_value(tx.dialect.name, _item.c.attributes, by.keys, "number")
        text = json_value(tx.dialect.name, _item.c.attributes, by.keys, "text")
        rank = sa.case((number.is_not(None), 0), (sa.func.coalesce(text, "") != "", 1), else_=2)
        words_of: ColumnElement[Any] = sa.func.coalesce(text, "")
        if tx.dialect.name == "postgresql":
            words_of = words_of.collate("C")
        return [_Key(rank), _Key(sa.func.coalesce(number, 0), down), _Key(words_of, down), last]
    if by.scope == "prediction":
        # A condition that names models is ordered by theirs; else the newest.
        speaks = any(found.scope == "prediction" for found in fields(node))
        named = scope(tx, dataset, node) if speaks else (newest_model(tx, dataset) or "",)
        where = [_guess.c.dataset == dataset, _guess.c.item == _item.c.id]
        where += [_guess.c.model.in_(named)] if named else []
        best = sa.select(sa.func.max(_guess.c.score)).where(*where).correlate(_item).scalar_subquery()
        value: ColumnElement[Any] = best if by.name == "prediction.score" else 1 - best
        return [_Key(sa.case((best.is_(None), 1), else_=0)), _Key(sa.func.coalesce(value, 0), down), last]
    plain = column(by, _item)
    if by.name == "split":
        return [_Key(sa.case((plain == "", 1), else_=0)), _Key(plain, down), last]
    return [_Key(plain, down), last]


def _beyond(order: list[_Key], last: tuple[Any, ...]) -> ColumnElement[bool]:
    """Rows after ``last``: the first key that differs decides."""
    tests: list[ColumnElement[bool]] = []
    same: list[ColumnElement[bool]] = []
    for key, value in zip(order, last, strict=True):
        edge = bound(value)
        tests.append(sa.and_(*same, key.value < edge if key.is_down else key.value > edge))
        same.append(key.value == edge)
    return sa.or_(*tests)
