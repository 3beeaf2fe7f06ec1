"""A large dataset's fields as arrays, so that a filter over a million items takes milliseconds.

Fields are read when a query first needs them, in the table's own order, and kept as files in the workspace's cache, so
that the next process maps them. They hold the items as they were at one clock of the dataset; whatever changed since is
left to SQL (``store.look`` joins both), and past ``MAX_CHANGED`` items they are read anew.
"""

import json
import logging
import re
import shutil
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from loopworks.core.query import Among, And, Between, Compare, Count, Field, Match, Missing, Node, Not, Or, Sort, walk
from loopworks.store import arrays, tables
from loopworks.store.arrays import Bits, Values
from loopworks.store.ids import sha256

if TYPE_CHECKING:
    from loopworks.store.catalog import Catalog

log = logging.getLogger(__name__)

MIN_ITEMS = 20_000
"""Smaller datasets are fast enough in SQL."""
MAX_CHANGED = 2_000
"""Items that may have changed before the columns are read anew."""
KEPT = 4
"""Datasets of one workspace whose columns stay mapped; the one that was asked for longest ago goes."""
BATCH = 20_000
"""Rows read at a time."""
_item, _said, _tag, _guess = tables.item, tables.annotation, tables.item_tag, tables.prediction
_TEXTS, _NUMBERS = ("name", "mime", "split", "state"), ("width", "height", "size_bytes", "rev")
_SHAPE_TEXTS, _SHAPE_NUMBERS = ("label", "source", "author", "kind"), ("x", "y", "width", "height")
_SIDES = {"area": (Field("width"), Field("height")), "box.area": (Field("box.width"), Field("box.height"))}
_FOLDER = re.compile(r"[0-9]+-[0-9a-f]*")


@dataclass
class _Entry:
    """What is open of one dataset; the lock is held while it is read."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    columns: "Columns | None" = None


_lock = threading.Lock()
_open: "weakref.WeakKeyDictionary[Catalog, dict[str, _Entry]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the columns: what it looks at decides which of them must be there."""

    node: Node
    sort: Sort
    models: tuple[str, ...]
    """Models that the condition, or the order, speaks of; ``()``: all of them."""


def size(tx: Connection, dataset: str) -> int:
    """How many items there are, from the counters."""
    counted = sa.select(sa.func.sum(tables.tally.c.count))
    return int(
        tx.execute(counted.where(tables.tally.c.dataset == dataset, tables.tally.c.what == "item")).scalar() or 0
    )


def ready(
    catalog: "Catalog", cache: Path, tx: Connection, dataset: str, asked: Asked
) -> "tuple[Columns, set[str]] | None":
    """Columns that can answer, and the ids of items that changed since they were read; ``None``: SQL shall answer."""
    total = size(tx, dataset)
    if total < MIN_ITEMS or not covers(asked):
        return None
    clock = int(tx.execute(sa.select(tables.dataset.c.clock).where(tables.dataset.c.id == dataset)).scalar_one())
    with _lock:
        kept = _open.setdefault(catalog, {})
        entry = kept.pop(dataset) if dataset in kept else _Entry()
        kept[dataset] = entry
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
    with entry.lock:
        folder = cache / "columns" / dataset
        columns = entry.columns or Columns.newest(folder, dataset, clock)
        changed = None if columns is None else columns.changed(tx, clock, total)
        if changed is None and entry.columns is not None:  # another process may have read them anew
            columns = Columns.newest(folder, dataset, clock)
            changed = None if columns is None else columns.changed(tx, clock, total)
        if columns is None or changed is None:
            columns, changed = Columns.read(tx, folder, dataset, clock), set()
        entry.columns = columns
        columns.fill(tx, asked)
    return columns, changed


def forget(catalog: "Catalog") -> None:
    """Let go of the columns that are mapped; the next question opens those in the cache."""
    with _lock:
        _open.pop(catalog, None)


def covers(asked: Asked) -> bool:
    """Whether the columns can answer; words and predictions of several models at once are left to SQL."""
    named = set()
    for part in walk(asked.node):
        if isinstance(part, Match):
            return False
        if isinstance(part, Compare | Among | Between | Missing):
            named.add(part.field.scope)
        if isinstance(part, Compare) and isinstance(part.value, Field):
            named.add(part.value.scope)
            many = not {part.field.scope, part.value.scope} & {"item", "attribute"}
            if many and part.op == "=" and "text" not in (part.field.kind, part.value.kind):
                return False
    if asked.sort.field is not None:
        named.add(asked.sort.field.scope)
    return "prediction" not in named or len(asked.models) == 1


class Columns:
    """The items of one dataset that were there at one clock, by id."""

    def __init__(self, folder: Path, dataset: str, clock: int, ids: NDArray[np.bytes_], mark: str) -> None:
        """Hold the ids; ``folder``: where the values are kept; ``mark``: id of the dataset's last event then."""
        self.clock = clock
        self.ids = ids
        self._folder = folder
        self._dataset = dataset
        self._mark = mark
        self._known: dict[str, Values] = {}
        self._scored: dict[str, int] = {}

    # ---- opening

    @classmethod
    def newest(cls, folder: Path, dataset: str, clock: int) -> "Columns | None":
        """Those in the cache that were read last, but not after ``clock``."""
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        there = sorted(((int(n.split("-")[0]), n) for n in names if _FOLDER.fullmatch(n)), reverse=True)
        for begin, name in there:
            plain = arrays.load(folder / name / "plain") if begin <= clock else None
            if plain is not None:
                try:
                    ids = np.load(folder / name / "ids.npy", mmap_mode="r")
                except (OSError, ValueError):
                    continue  # being taken away
                self = cls(folder / name, dataset, begin, np.asarray(ids), name.split("-")[1])
                self._known |= plain
                return self
        return None

    @classmethod
    def read(cls, tx: Connection, folder: Path, dataset: str, clock: int) -> "Columns":
        """Read ids and plain fields of all items, and put them in place of what the cache holds."""
        last = sa.select(sa.func.max(tables.event.c.id)).where(_mine(tables.event, dataset))
        mark = str(tx.execute(last).scalar() or "")
        self = cls(folder / f"{clock}-{mark}", dataset, clock, np.empty(0, "S1"), mark)
        added = sa.type_coerce(_item.c.added_at, sa.Text) if tx.dialect.name == "sqlite" else _item.c.added_at
        wanted = [*(_item.c[name] for name in (*_TEXTS, *_NUMBERS)), added]
        ids: list[Any] = [np.empty(0, "S1")]
        parts: list[list[Any]] = [[] for _ in wanted]
        for keys, *values in self._scan(tx, _item, wanted):
            ids.append(np.array(keys, np.bytes_))
            for part, piece, name in zip(parts, values, (*_TEXTS, *_NUMBERS, "added_at"), strict=True):
                part.append(_piece(name, piece))
        whole = np.concatenate(ids)
        order = np.argsort(whole)
        self.ids = whole[order]
        shutil.rmtree(folder, ignore_errors=True)  # who has the old ones mapped keeps them
        found = {}
        for name, part in zip((*_TEXTS, *_NUMBERS, "added_at"), parts, strict=True):
            one = arrays.coded(part) if name in _TEXTS else Values(numbers=_joined(part))
            found[name] = Values(
                numbers=None if one.numbers is None else one.numbers[order],
                codes=None if one.codes is None else one.codes[order],
                texts=one.texts,
            )
        self._keep("plain", found)
        return self

    def changed(self, tx: Connection, clock: int, total: int) -> set[str] | None:
        """Ids of items that changed since; ``None``: too many, or the catalog is not the one that was read."""
        if clock < self.clock:
            return None
        marked = sa.select(tables.event.c.id).where(tables.event.c.id == self._mark)
        if self._mark and tx.execute(marked).scalar() is None:
            return None  # an older copy of the catalog was brought back
        query = sa.select(_item.c.id, _item.c.deleted_at.is_(None)).where(
            _mine(_item, self._dataset), _item.c.changed > self.clock
        )
        rows = list(tx.execute(query.limit(MAX_CHANGED + 1))) if clock > self.clock else []
        gone, live = {row[0] for row in rows}, sum(bool(row[1]) for row in rows)
        if len(rows) > MAX_CHANGED or len(self.ids) - len(self.at(gone)) + live != total:
            return None
        return gone

    # ---- answers

    def page(self, asked: Asked, limit: int, after: str | None, without: set[str]) -> list[str] | None:
        """Ids in order, those of ``without`` left out; ``None`` where ``after`` is no item of ours."""
        keys = self._keys(asked)
        hits = self._bits(asked, asked.node, is_shape=False)
        hits[self.at(without)] = False
        if after is not None:
            at = self.at({after})
            if not len(at) or after in without:
                return None
            beyond = np.arange(len(self.ids)) > at[0]
            for key in reversed(keys):
                beyond = (key > key[at[0]]) | ((key == key[at[0]]) & beyond)
            hits &= beyond
        rows = _first(np.flatnonzero(hits), keys, limit)
        return [key.decode() for key in self.ids[rows].tolist()]

    def count(self, asked: Asked, without: set[str]) -> int:
        """How many items fulfil the condition, those of ``without`` left out."""
        hits = self._bits(asked, asked.node, is_shape=False)
        hits[self.at(without)] = False
        return int(hits.sum())

    def at(self, ids: set[str]) -> NDArray[np.intp]:
        """Positions of those ids that are ours."""
        places, is_ours = self._places(sorted(ids))
        return places[is_ours]

    # ---- reading

    def fill(self, tx: Connection, asked: Asked) -> None:
        """Read the fields that the question needs and that are not there yet."""
        wanted = {part.field for part in walk(asked.node) if isinstance(part, Compare | Among | Between | Missing)}
        wanted |= {p.value for p in walk(asked.node) if isinstance(p, Compare) and isinstance(p.value, Field)}
        wanted.add(asked.sort.field or Field("label"))
        if any(isinstance(part, Count) for part in walk(asked.node)):
            wanted.add(Field("label"))
        for one in wanted:
            if one.scope == "prediction":
                mine = (_mine(tables.scored, self._dataset), tables.scored.c.model == asked.models[0])
                self._scored[asked.models[0]] = tx.execute(sa.select(tables.scored.c.clock).where(*mine)).scalar() or 0
            if one.keys:
                self._need(tx, Field(one.name))
            for part in _SIDES.get(one.name, (one,)):
                self._need(tx, part, asked.models)

    def _need(self, tx: Connection, one: Field, models: tuple[str, ...] = ()) -> None:
        name = self._name(one, models)
        if name not in self._known:
            group = _group(name, one)
            found = arrays.load(self._folder / group)
            if found is None:
                self._keep(group, self._read(tx, one, models))
            else:
                self._known |= found

    def _name(self, one: Field, models: tuple[str, ...]) -> str:
        if one.scope == "prediction":
            last = "label" if one.name in ("prediction.label", "prediction.model") else "score"
            return f"prediction.{last}@{self._scored[models[0]]}@{models[0]}"
        return f"{one.name}.{json.dumps(one.keys)}" if one.keys else one.name

    def _read(self, tx: Connection, one: Field, models: tuple[str, ...]) -> dict[str, Values]:
        if one.keys:
            return {self._name(one, ()): arrays.dug(self._known[one.name], one.keys)}
        if one.name == "id":
            return {"id": arrays.coded([_piece("id", [key.decode() for key in self.ids.tolist()])])}
        if one.name == "tag":
            return self._of_many(tx, _tag, {"tag": _tag.c.tag})
        if one.scope == "prediction":
            names = [(Field(name), _guess.c[name[11:]]) for name in ("prediction.label", "prediction.score")]
            columns: dict[str, Any] = {self._name(field, models): column for field, column in names}
            return self._of_many(tx, _guess, columns, _guess.c.model == models[0])
        if one.scope == "shape":
            columns = {name: _said.c[name] for name in _SHAPE_TEXTS}
            columns |= {f"box.{name}": _said.c[name] for name in _SHAPE_NUMBERS}
            columns["shape.attributes"] = _said.c.attributes
            return self._of_many(tx, _said, columns, _said.c.deleted_at.is_(None))
        found = self._of_many(tx, _item, {one.name: sa.type_coerce(_item.c[one.name], sa.Text)})[one.name]
        assert found.rows is not None
        assert found.codes is not None
        codes = np.full(len(self.ids), -1, np.int32)
        codes[found.rows] = found.codes
        return {one.name: Values(codes=codes, texts=found.texts)}

    def _of_many(self, tx: Connection, table: Any, wanted: dict[str, Any], *where: Any) -> dict[str, Values]:
        rows: list[Any] = [np.empty(0, np.int32)]
        parts: dict[str, list[Any]] = {name: [] for name in wanted}
        for keys, *values in self._scan(tx, table, list(wanted.values()), *where):
            places, is_ours = self._places(keys)
            rows.append(places[is_ours].astype(np.int32))
            for name, piece in zip(wanted, values, strict=True):
                one = _piece(name, piece)
                parts[name].append(one[is_ours] if isinstance(one, np.ndarray) else one.filter(is_ours))
        at = np.concatenate(rows)
        return {
            name: Values(rows=at, numbers=_joined(part)) if _is_number(name) else arrays.coded(part, at)
            for name, part in parts.items()
        }

    def _scan(self, tx: Connection, table: Any, columns: list[Any], *where: Any) -> Iterator[list[Any]]:
        """Item ids and columns, a batch of rows at a time."""
        key = _item.c.id if table is _item else table.c.item
        query = sa.select(key, *columns).where(_mine(table, self._dataset), *where)
        if table is _item:
            query = query.where(_item.c.deleted_at.is_(None))
        everything = sa.select(sa.func.sum(tables.tally.c.count)).where(tables.tally.c.what == "item")
        if table is not _tag and size(tx, self._dataset) * 5 > int(tx.execute(everything).scalar() or 0):
            # Rows looked up one by one through an index take ten times as long as the table from front to back.
            query = query.with_hint(table, "NOT INDEXED", "sqlite")
        with tx.execute(query, execution_options={"yield_per": BATCH}) as found:
            for batch in found.partitions():
                yield list(zip(*batch, strict=True))

    def _places(self, keys: Any) -> tuple[NDArray[np.intp], Bits]:
        wanted = np.array(keys, np.bytes_) if len(keys) else np.empty(0, "S1")
        places = np.searchsorted(self.ids, wanted)
        inside = np.minimum(places, len(self.ids) - 1)
        is_ours = self.ids[inside] == wanted if len(self.ids) else np.zeros(len(wanted), np.bool_)
        return places, np.asarray(is_ours, np.bool_)

    def _keep(self, group: str, found: dict[str, Values]) -> None:
        """Write to the cache and go on with what is mapped; where there is no room, with what is in memory."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if group == "plain":
                np.save(self._folder / "ids.npy", self.ids)
                self.ids = np.asarray(np.load(self._folder / "ids.npy", mmap_mode="r"))
            arrays.save(found, self._folder / group)
            found = arrays.load(self._folder / group) or found
        except OSError as error:
            log.warning("columns of dataset %s stay in memory, there is no writing to %s: %s",
                        self._dataset, self._folder, error)  # fmt: skip
        self._known |= found

    # ---- conditions

    def _of(self, asked: Asked, one: Field) -> Values:
        if one.name in _SIDES:
            wide, high = (self._known[side.name] for side in _SIDES[one.name])
            assert wide.numbers is not None
            assert high.numbers is not None
            return Values(rows=wide.rows, numbers=wide.numbers * high.numbers)
        found = self._known[self._name(one, asked.models)]
        if one.name == "prediction.model":
            assert found.codes is not None
            only = arrays.coded([_piece("id", asked.models)])
            return Values(rows=found.rows, codes=np.zeros_like(found.codes), texts=only.texts)
        if one.name == "prediction.uncertainty":
            assert found.numbers is not None
            return Values(rows=found.rows, numbers=1 - found.numbers)
        return found

    def _bits(self, asked: Asked, node: Node, *, is_shape: bool) -> Bits:
        """For each item, or for each shape, whether the condition holds."""
        size = len(self._known["label"]) if is_shape else len(self.ids)
        match node:
            case And(parts):
                hits = np.ones(size, np.bool_)
                for part in parts:
                    hits &= self._bits(asked, part, is_shape=is_shape)
                return hits
            case Or(parts):
                hits = np.zeros(size, np.bool_)
                for part in parts:
                    hits |= self._bits(asked, part, is_shape=is_shape)
                return hits
            case Not(part):
                return ~self._bits(asked, part, is_shape=is_shape)
            case Count(where, op, number):
                rows = self._known["label"].rows
                assert rows is not None
                inside = rows if where is None else rows[self._bits(asked, where, is_shape=True)]
                return np.asarray(arrays.COMPARE[op](np.bincount(inside, minlength=size), number), np.bool_)
            case Compare(found, op, Field() as other):
                is_text = "text" in (found.kind, other.kind)
                one, two = self._of(asked, found), self._of(asked, other)
                return arrays.compare(one, op, two, size, is_text=is_text, is_paired=is_shape)
            case Match():
                raise AssertionError("columns know no words")
        of = self._of(asked, node.field)
        match node:
            case Missing():
                hits = of.present()
            case Among(_, values):
                hits = of.among(values)
            case Between(_, low, high):
                hits = of.test(">=", low) & of.test("<=", high)
            case Compare(_, op, value):
                assert not isinstance(value, Field)
                hits = of.test(op, value)
        if of.rows is not None and not is_shape:
            items = np.zeros(size, np.bool_)
            items[of.rows[hits]] = True
            hits = items
        return ~hits if isinstance(node, Missing) else hits

    def _keys(self, asked: Asked) -> list[NDArray[Any]]:
        """What to sort by, smaller first; after all of them by position, which is by id."""
        sign, by = -1 if asked.sort.is_down else 1, asked.sort.field
        if by is None:
            rows = self._known["label"].rows
            assert rows is not None
            return [sign * np.bincount(rows, minlength=len(self.ids))]
        if by.name == "id":
            return [sign * np.arange(len(self.ids))]
        if by.scope == "prediction":
            score = self._of(asked, Field("prediction.score"))
            assert score.rows is not None
            assert score.numbers is not None
            best = np.full(len(self.ids), -1.0)
            np.maximum.at(best, score.rows, score.numbers)
            value = best if by.name == "prediction.score" else 1 - best
            return [np.where(best < 0, np.inf, sign * value)]
        of = self._of(asked, by)
        if by.keys:
            assert of.numbers is not None
            assert of.codes is not None
            is_number, is_text = ~np.isnan(of.numbers), of.codes >= 0
            rank = np.where(is_number, np.int8(0), np.where(is_text, np.int8(1), np.int8(2)))
            return [rank, np.where(is_number, sign * of.numbers, 0.0), np.where(is_text, sign * of.codes, 0)]
        if of.numbers is not None:
            return [sign * of.numbers]
        assert of.codes is not None
        if by.name == "split":
            return [np.where(of.codes < 0, np.int32(len(of.texts)), sign * of.codes)]
        return [sign * of.codes]


def _first(rows: NDArray[np.intp], keys: list[NDArray[Any]], limit: int) -> NDArray[np.intp]:
    """The first ``limit`` rows in order; only what may be among them is sorted."""
    if not keys:
        return rows[:limit]
    key = keys[0][rows]
    if len(rows) <= limit:
        return rows[np.lexsort((rows, *(key[rows] for key in reversed(keys))))]
    edge = np.partition(key, limit - 1)[limit - 1]
    sure = rows[key < edge]
    ends = _first(rows[key == edge], keys[1:], limit - len(sure))
    return np.concatenate([_first(sure, keys, limit), ends])


def _mine(table: Any, dataset: str) -> Any:
    return table.c.dataset == dataset


def _is_number(name: str) -> bool:
    return name in _NUMBERS or name.startswith(("box.", "prediction.score"))


def _piece(name: str, values: Any) -> Any:
    """A batch of one column as an array."""
    if _is_number(name):
        return np.array(values, np.float64)
    if name != "added_at":
        import pyarrow as pa

        return pa.array(values, pa.large_string())
    if values and isinstance(values[0], str):
        plain = np.array([value.rstrip("Z") for value in values], "datetime64[us]")
        return plain.astype(np.int64).astype(np.float64)
    return np.array([arrays.micros(value) for value in values], np.float64)


def _joined(parts: list[Any]) -> NDArray[np.float64]:
    return np.concatenate([np.empty(0), *parts])


def _group(name: str, one: Field) -> str:
    """The folder of the fields that are read together with this one."""
    if one.scope == "shape" and not one.keys:
        return "shapes"
    if one.scope == "prediction":
        return f"prediction-{sha256(name.split('@', 1)[1].encode())[:20]}"
    return f"{one.scope}-{sha256(name.encode())[:20]}" if one.keys else one.name
