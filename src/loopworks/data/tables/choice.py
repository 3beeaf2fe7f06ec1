"""Choosing target, id, time and types; deleting rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import LabelSchema
from loopworks.data.tables import keys, merge, schema, segments
from loopworks.data.tables.intake import id_keys
from loopworks.data.tables.schema import Column
from loopworks.data.tables.spool import Spool
from loopworks.store.ids import canonical, new_id, sha256
from loopworks.store.segments import Segment, State

if TYPE_CHECKING:
    from loopworks.data.tables.table import Live, Schema, Table

MOST_CLASSES = 1_000


def choose(
    table: "Table",
    *,
    target: str | None,
    id: str | None,
    time: str | None,
    types: Mapping[str, str] | None,
    author: str,
) -> "Schema":
    """See ``Table.choose``."""
    from loopworks.data.tables.table import schema_of

    live = table.live(with_stats=True)
    body = dict(live.state.body)
    for name in (target, id, time, *(types or {})):
        if name and name not in live.names:
            raise NotFound("column", name, live.names)
    kinds = {**body.get("types", {}), **(types or {})}
    body["types"] = {name: kind for name, kind in kinds.items() if kind}
    for key, value in (("target", target), ("time", time)):
        if value is not None:
            body[key] = value
    trial = schema_of(replace(live.state, body=body))
    if trial.time and trial.column(trial.time).type not in schema.TIMES:
        raise Invalid("time column", "of type date or datetime", trial.column(trial.time).type)
    classes = None
    if trial.target and (target or types):
        classes = _classes(table, live, trial.column(trial.target))
    gone: list[int] = []
    fresh: list[Segment] = []
    digits = live.state.digits
    if id is not None and id != body.get("id", ""):
        body["id"] = id
        fresh = _rekeyed(table, live, id)
        gone = [segment.number for segment in live.segments]
    after = State(
        clock=live.state.clock + 1, digits=digits, rows=live.state.rows, body=body, op="choose", author=author
    )
    table.commit(live, after, gone, fresh, author, classes)
    return table.schema


def class_names(table: "Table", found: Sequence[Segment], column: Column) -> set[str]:
    """The values of the target column in these segments."""
    import pyarrow.compute as pc

    names: set[str] = set()
    words = replace(column, type="category")
    for part in segments.scan(table.home.blobs, found, [column.name]):
        values = schema.typed(segments.cells(part).column(column.name).combine_chunks(), words)
        names |= {value for value in pc.unique(values).to_pylist() if value is not None}
        if len(names) > MOST_CLASSES:
            hint = "choose another column, or make the dataset for tabular-regression"
            raise Invalid("target", f"a column with at most {MOST_CLASSES} values", f"{column.name!r}, with more", hint)
    return names


def delete(table: "Table", ids: Sequence[str], *, author: str) -> int:
    """See ``Table.delete``."""
    live = table.live(with_stats=True)
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return 0
    found = np.concatenate([key_of(live, one) for one in wanted])
    hit = 0

    def step(part: Any) -> Any:
        nonlocal hit
        mine = keys.numbers(segments.key_column(part))
        is_gone = np.isin(mine[:, 0], doomed[:, 0]) & np.isin(mine[:, 1], doomed[:, 1])
        hit += int(is_gone.sum())
        return part.filter(~is_gone) if is_gone.any() else None

    doomed = keys.numbers(found)
    places = set(keys.partitions(found, live.state.digits).tolist())
    touched = [segment for segment in live.segments if segment.number in places]
    with table.home.blobs.writer() as writer:
        done = merge.rewrite(table.home.blobs, writer, touched, live.state.digits, step)
    if hit != len(wanted):
        raise NotFound("row", wanted[0] if len(wanted) == 1 else f"one of {len(wanted)}", hint="nothing was deleted")
    gone, fresh, digits = done.gone, done.fresh, live.state.digits
    left = live.state.rows - hit
    if segments.digits_for(left) != digits:
        kept = [segment for segment in live.segments if segment.number not in set(gone)]
        with table.home.blobs.writer() as writer:
            fresh = merge.recut(table.home.blobs, writer, [*kept, *fresh], digits, segments.digits_for(left))
        gone, digits = [segment.number for segment in live.segments], segments.digits_for(left)
    after = State(
        clock=live.state.clock + 1, digits=digits, rows=left, body=live.state.body, op="delete", author=author
    )
    table.commit(live, after, gone, fresh, author)
    return hit


def key_of(live: "Live", one: str) -> keys.Keys:
    """The key of a row by what is shown as its id."""
    import pyarrow as pa

    if live.state.body.get("id"):
        return id_keys(pa.array([one]))
    try:
        return np.frombuffer(bytes.fromhex(one), "V16")
    except ValueError:
        raise Invalid("id of a row", "32 hex digits", one) from None


def _classes(table: "Table", live: "Live", column: Column) -> list[str] | None:
    if table.task == "tabular-regression":
        if column.type not in schema.NUMBERS:
            hint = f"choose another column, or say types={{{column.name!r}: 'float'}}"
            raise Invalid("target of a regression", "a column of numbers", f"{column.name!r} of {column.type}", hint)
        return None
    names = sorted(class_names(table, live.segments, column))
    return list(LabelSchema(classes=tuple(names)).classes)


def _rekeyed(table: "Table", live: "Live", id: str) -> list[Segment]:
    """All rows under keys by the id column (or by their content, where it is empty)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    name = sha256(canonical([table.dataset, live.state.clock, id, new_id()]))[:24]
    digits = live.state.digits
    spool = Spool(table.home.cache / "imports" / f"id-{name}", min(2, digits))
    try:
        for part in table.scan(live):
            user = segments.cells(part)
            content = segments.content_column(part)
            if id:
                bare = pc.utf8_trim_whitespace(user.column(id).combine_chunks())
                lost = part.num_rows - (pc.sum(pc.fill_null(pc.not_equal(bare, ""), False)).as_py() or 0)
                if lost:
                    raise Invalid("id column", "filled in every row", f"{id!r}, empty in {lost} rows or more")
                key = id_keys(bare)
            else:
                key = content
            columns = {"_key": keys.as_arrow(key), "_hash": keys.as_arrow(content)}
            columns |= {own: part.column(own) for own in ("_order", "_split")}
            columns["_file"] = pa.array(np.zeros(part.num_rows, np.int32))
            rows = pa.table({**columns, **{":" + n: user.column(n) for n in user.column_names}})
            spool.add(rows, key)
            if spool.is_full:
                spool.flush()
        if not id:
            merge.spread_equal_rows(spool)
        with table.home.blobs.writer() as writer:
            return merge.settle(writer, spool, live.names, digits, id=id)
    finally:
        spool.close(is_done=True)
