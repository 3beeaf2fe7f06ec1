"""A large dataset's fields as arrays, so that a filter over a million items takes milliseconds.

Fields are read when a query first needs them, in the table's own order, and kept as files in the workspace's cache, so
that the next process maps them. They hold the items as they were at one clock of the dataset; whatever changed since is
left to SQL (``store.look`` joins both); past ``MAX_CHANGED`` items the columns take in what changed.
"""

import json
import logging
import re
import shutil
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from loopworks.core.query import Among, Between, Compare, Count, Field, Match, Missing, Node, walk
from loopworks.store import arrays, postings, tables, words
from loopworks.store.answers import SIDES, Answers, Asked, covers
from loopworks.store.arrays import Values
from loopworks.store.ids import sha256
from loopworks.store.postings import Block

if TYPE_CHECKING:
    from loopworks.store.catalog import Catalog

log = logging.getLogger(__name__)

MIN_ITEMS = 20_000
"""Smaller datasets are fast enough in SQL."""
MAX_CHANGED = 5_000
"""Items that may have changed before a question waits until the columns have taken them in."""
MANY_CHANGED = 2_000
"""Items that may have changed before somebody who prepares columns lets them be taken in."""
USUAL_KEYS = 8
"""Attributes that are read before anybody asks for them, where at least half of the items have them."""
MAX_RENEWED = 0.25
"""Share of the items that may have changed before all of them are read anew."""
KEPT = 4
"""Datasets of one workspace whose columns stay mapped; the one that was asked for longest ago goes."""
SAMPLE = 1_000
"""Items that are looked at to find the usual attributes."""
BATCH = 20_000
"""Rows read at a time."""
_item, _said, _tag, _guess = tables.item, tables.annotation, tables.item_tag, tables.prediction
_TEXTS, _NUMBERS = ("name", "mime", "split", "state"), ("width", "height", "size_bytes", "rev")
_SHAPE_TEXTS, _SHAPE_NUMBERS = ("label", "source", "author", "kind"), ("x", "y", "width", "height")
_WORDS = "words"
_FOLDER = re.compile(r"[0-9]+-[0-9a-f]*")


@dataclass
class _Entry:
    """What is open of one dataset; the lock is held while it is read."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    columns: "Columns | None" = None


_lock = threading.Lock()
_open: "weakref.WeakKeyDictionary[Catalog, dict[str, _Entry]]" = weakref.WeakKeyDictionary()


def size(tx: Connection, dataset: str) -> int:
    """How many items there are, from the counters."""
    counted = sa.select(sa.func.sum(tables.tally.c.count))
    return int(
        tx.execute(counted.where(tables.tally.c.dataset == dataset, tables.tally.c.what == "item")).scalar() or 0
    )


def clock(tx: Connection, dataset: str) -> int:
    """The clock of the dataset."""
    return int(tx.execute(sa.select(tables.dataset.c.clock).where(tables.dataset.c.id == dataset)).scalar_one())


def usual_keys(tx: Connection, dataset: str) -> list[str]:
    """The attributes that most items have, from a sample."""
    some = sa.select(sa.type_coerce(_item.c.attributes, sa.Text)).where(_mine(_item, dataset)).limit(SAMPLE)
    seen = [json.loads(text) for text in tx.execute(some).scalars()]
    found = Counter(key for facts in seen for key, value in facts.items() if not isinstance(value, dict | list))
    return [key for key, number in found.most_common(USUAL_KEYS) if number * 2 >= len(seen)]


def ready(
    catalog: "Catalog", cache: Path, tx: Connection, dataset: str, asked: Asked, *, most: int | None = None
) -> "tuple[Columns, set[str]] | None":
    """Columns that can answer, and the ids of items that changed since they were read; ``None``: SQL shall answer.

    They take in what changed where it is more than ``most`` items (default ``MAX_CHANGED``).
    """
    most = MAX_CHANGED if most is None else most
    total = size(tx, dataset)
    if total < MIN_ITEMS or not covers(asked):
        return None
    if has_words(asked.node) and not words.is_filed(tx, dataset):  # somebody has just changed an item
        return None
    now = clock(tx, dataset)
    with _lock:
        kept = _open.setdefault(catalog, {})
        entry = kept.pop(dataset) if dataset in kept else _Entry()
        kept[dataset] = entry
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
    with entry.lock:
        folder = cache / "columns" / dataset
        columns = entry.columns or Columns.newest(folder, dataset, now)
        changed = None if columns is None else columns.changed(tx, now, total, most)
        if changed is None and entry.columns is not None:  # another process may have read them anew
            columns = Columns.newest(folder, dataset, now)
            changed = None if columns is None else columns.changed(tx, now, total, most)
        if columns is None or changed is None:
            columns = None if columns is None else columns.renewed(tx, folder, now, total)
            columns, changed = columns or Columns.read(tx, folder, dataset, now).kept(folder), set()
        entry.columns = columns
        columns.fill(tx, asked)
    return columns, changed


def has_words(node: Node) -> bool:
    """Whether a condition asks for words."""
    return any(isinstance(part, Match) for part in walk(node))


def forget(catalog: "Catalog") -> None:
    """Let go of the columns that are mapped; the next question opens those in the cache."""
    with _lock:
        _open.pop(catalog, None)


class Columns(Answers):
    """The items of one dataset that were there at one clock, by id."""

    def __init__(self, folder: Path, dataset: str, clock: int, ids: NDArray[np.bytes_], mark: str) -> None:
        """Hold the ids; ``folder``: where the values are kept; ``mark``: id of the dataset's last event then."""
        super().__init__(ids)
        self.clock = clock
        self._folder = folder
        self._dataset = dataset
        self._mark = mark
        self._since: int | None = None
        self._has_words = False

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
    def read(cls, tx: Connection, folder: Path, dataset: str, clock: int, since: int | None = None) -> "Columns":
        """Read ids and plain fields of all items, or of those that changed ``since`` that clock."""
        last = sa.select(sa.func.max(tables.event.c.id)).where(_mine(tables.event, dataset))
        mark = str(tx.execute(last).scalar() or "")
        self = cls(folder / f"{clock}-{mark}", dataset, clock, np.empty(0, "S1"), mark)
        self._since = since
        added = sa.type_coerce(_item.c.added_at, sa.Text) if tx.dialect.name == "sqlite" else _item.c.added_at
        names = (*_TEXTS, *_NUMBERS, "added_at")
        ids: list[Any] = [np.empty(0, "S1")]
        parts: list[list[Any]] = [[] for _ in names]
        for keys, *values in self._scan(tx, _item, [*(_item.c[name] for name in names[:-1]), added]):
            ids.append(np.array(keys, np.bytes_))
            for part, piece, name in zip(parts, values, names, strict=True):
                part.append(_piece(name, piece))
        whole = np.concatenate(ids)
        order = np.argsort(whole)
        self.ids = whole[order]
        for name, part in zip(names, parts, strict=True):
            one = arrays.coded(part) if name in _TEXTS else Values(numbers=_joined(part))
            self._known[name] = Values(
                numbers=None if one.numbers is None else one.numbers[order],
                codes=None if one.codes is None else one.codes[order],
                texts=one.texts,
            )
        return self

    def kept(self, folder: Path) -> "Columns":
        """These, put in place of what the cache holds; who has the old ones mapped keeps them."""
        shutil.rmtree(folder, ignore_errors=True)
        self._keep("plain", self._known)
        return self

    def renewed(self, tx: Connection, folder: Path, clock: int, total: int) -> "Columns | None":
        """The same with what changed since, put in place of these; ``None``: all is to be read anew."""
        if clock <= self.clock or not self._is_of(tx):
            return None
        since = sa.select(_item.c.id).where(_mine(_item, self._dataset), _item.c.changed > self.clock)
        gone = set(tx.execute(since.limit(int(total * MAX_RENEWED) + 1)).scalars())
        if len(gone) > total * MAX_RENEWED:
            return None
        small = Columns.read(tx, folder, self._dataset, clock, self.clock)
        stays = np.ones(len(self.ids), np.bool_)
        stays[self.at(gone)] = False
        new = Columns(
            small._folder, self._dataset, clock, np.sort(np.concatenate([self.ids[stays], small.ids])), small._mark
        )
        if len(new.ids) != total:
            return None
        old_at, small_at = np.searchsorted(new.ids, self.ids), np.searchsorted(new.ids, small.ids)
        groups = {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()
        groups = (groups | {"plain"}) - {_WORDS}
        plain = {name: self._known[name] for name in small._known}
        for group in sorted(groups, key=lambda name: (name != "plain", "-" in name)):  # raw ones before what is dug
            found = plain if group == "plain" else arrays.load(self._folder / group)
            if found is None or not small._follow(tx, next(iter(found))):
                continue  # read when it is asked for
            merged = {
                name: arrays.merged(values, old_at, stays, small._known[name], small_at, len(new.ids))
                for name, values in found.items()
            }
            new._keep(group, merged)
        filed = postings.load(self._folder / _WORDS) if words.is_filed(tx, self._dataset) else None
        if filed is not None:
            new._keep_words(postings.renewed(filed, old_at, stays, small._read_words(tx, small_at)))
        for path in folder.iterdir():
            if path != new._folder:
                shutil.rmtree(path, ignore_errors=True)
        return new

    def _follow(self, tx: Connection, name: str) -> bool:
        """Read the group of the field of this name; ``False`` where it has gone out of date."""
        if name in self._known:
            return True
        models: tuple[str, ...] = ()
        one = Field(name.split("@")[0])
        if "@" in name:
            _, clock, model = name.split("@", 2)
            models = (model,)
            self._scored[model] = self._clock_of(tx, model)
            if self._scored[model] != int(clock):
                return False
        elif "[" in name:
            raw, _, keys = name.partition(".[")
            one = Field(raw, tuple(json.loads(f"[{keys}")))
            if raw not in self._known:
                return False
        self._known |= self._read(tx, one, models)
        return True

    def changed(self, tx: Connection, clock: int, total: int, most: int) -> set[str] | None:
        """Ids of items that changed since; ``None``: too many, or the catalog is not the one that was read."""
        if clock < self.clock:
            return None
        if not self._is_of(tx):
            return None
        query = sa.select(_item.c.id, _item.c.deleted_at.is_(None)).where(
            _mine(_item, self._dataset), _item.c.changed > self.clock
        )
        rows = list(tx.execute(query.limit(most + 1))) if clock > self.clock else []
        gone, live = {row[0] for row in rows}, sum(bool(row[1]) for row in rows)
        if len(rows) > most or len(self.ids) - len(self.at(gone)) + live != total:
            return None
        return gone

    def _is_of(self, tx: Connection) -> bool:
        """Not so where an older copy of the catalog was brought back."""
        marked = sa.select(tables.event.c.id).where(tables.event.c.id == self._mark)
        return not self._mark or tx.execute(marked).scalar() is not None

    # ---- reading

    def fill(self, tx: Connection, asked: Asked) -> None:
        """Read the fields that the question needs and that are not there yet."""
        wanted = {part.field for part in walk(asked.node) if isinstance(part, Compare | Among | Between | Missing)}
        wanted |= {p.value for p in walk(asked.node) if isinstance(p, Compare) and isinstance(p.value, Field)}
        wanted.add(asked.sort.field or Field("label"))
        if any(isinstance(part, Count) for part in walk(asked.node)):
            wanted.add(Field("label"))
        if has_words(asked.node) and not self._has_words:
            found = postings.load(self._folder / _WORDS)
            if found is None:
                self._keep_words(self._read_words(tx, np.arange(len(self.ids))))
            else:
                self._words, self._has_words = found, True
        for one in wanted:
            if one.scope == "prediction":
                self._scored[asked.models[0]] = self._clock_of(tx, asked.models[0])
            if one.keys:
                self._need(tx, Field(one.name))
            for part in SIDES.get(one.name, (one,)):
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

    def _clock_of(self, tx: Connection, model: str) -> int:
        """When the predictions of the model were written last."""
        mine = (_mine(tables.scored, self._dataset), tables.scored.c.model == model)
        return tx.execute(sa.select(tables.scored.c.clock).where(*mine)).scalar() or 0

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
        query = sa.select(key, *columns).where(*where)
        if table is _item:
            query = query.where(_item.c.deleted_at.is_(None))
        if self._since is not None:
            mine = (_mine(_item, self._dataset), _item.c.changed > self._since)
            query = query.where(*mine) if table is _item else query.where(key.in_(sa.select(_item.c.id).where(*mine)))
        everything = sa.select(sa.func.sum(tables.tally.c.count)).where(tables.tally.c.what == "item")
        is_most = size(tx, self._dataset) * 5 > int(tx.execute(everything).scalar() or 0)
        if self._since is None and table is not _tag and is_most:
            # Rows looked up one by one through an index take far longer than the table from front to back.
            query = query.where(tables.unindexed(tx.dialect.name, table.c.dataset) == self._dataset)
        else:
            query = query.where(_mine(table, self._dataset))
        if tx.dialect.name == "sqlite":  # its rows as they come: a third of the time went into wrapping each
            with tx.execute(query) as found:
                assert found.cursor is not None
                while batch := found.cursor.fetchmany(BATCH):
                    yield list(zip(*batch, strict=True))
            return
        with tx.execute(query, execution_options={"yield_per": BATCH}) as found:
            for rows in found.partitions():
                yield list(zip(*rows, strict=True))

    def _read_words(self, tx: Connection, to: NDArray[np.intp]) -> Iterator[Block]:
        """The words of all items, where item ``i`` lies at ``to[i]``."""

        def batches() -> Iterator[tuple[NDArray[np.int32], list[str]]]:
            for keys, said in self._scan(tx, tables.searched, [tables.searched.c.words]):
                places, is_ours = self._places(keys)
                texts = [text for text, is_it in zip(said, is_ours.tolist(), strict=True) if is_it]
                yield to[places[is_ours]].astype(np.int32), texts

        return postings.blocks(batches())

    def _keep_words(self, found: Iterator[Block]) -> None:
        self._words, failed = postings.keep(found, self._folder / _WORDS)
        self._has_words = True
        if failed is not None:
            self._warn(failed)

    def _warn(self, error: OSError) -> None:
        log.warning("columns of dataset %s stay in memory, there is no writing to %s: %s",
                    self._dataset, self._folder, error)  # fmt: skip

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
            self._warn(error)
        self._known |= found


def _mine(table: Any, dataset: str) -> Any:
    return table.c.dataset == dataset


def _is_number(name: str) -> bool:
    return name in _NUMBERS or name.startswith(("box.", "prediction.score"))


def _piece(name: str, values: Any) -> Any:
    """A batch of one column as an array."""
    if _is_number(name):
        return np.array(values, np.float64)
    if name != "added_at":
        return arrays.texts(values)
    if values and isinstance(values[0], str):
        return arrays.moments(values)
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
