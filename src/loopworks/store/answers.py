"""What the columns of a dataset answer: pages and counts by a condition, as filters in SQL would give them."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.query import Among, And, Between, Compare, Count, Field, Match, Missing, Node, Not, Or, Sort, walk
from loopworks.core.words import wanted
from loopworks.store import arrays, postings
from loopworks.store.arrays import Bits, Values
from loopworks.store.postings import Postings

SIDES = {"area": (Field("width"), Field("height")), "box.area": (Field("box.width"), Field("box.height"))}
"""Fields that are the product of two others."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the columns: what it looks at decides which of them must be there."""

    node: Node
    sort: Sort
    models: tuple[str, ...]
    """Models that the condition, or the order, speaks of; ``()``: all of them."""


def covers(asked: Asked) -> bool:
    """Whether the columns can answer; predictions of several models at once are left to SQL."""
    named = set()
    for part in walk(asked.node):
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


class Answers:
    """The items of one dataset at one time, by id, with those of their fields that are known."""

    def __init__(self, ids: NDArray[np.bytes_]) -> None:
        """Hold the ids, in order."""
        self.ids = ids
        self._known: dict[str, Values] = {}
        self._scored: dict[str, int] = {}
        self._words: Postings = []

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

    def _places(self, keys: Any) -> tuple[NDArray[np.intp], Bits]:
        wanted = np.array(keys, np.bytes_) if len(keys) else np.empty(0, "S1")
        places = np.searchsorted(self.ids, wanted)
        inside = np.minimum(places, len(self.ids) - 1)
        is_ours = self.ids[inside] == wanted if len(self.ids) else np.zeros(len(wanted), np.bool_)
        return places, np.asarray(is_ours, np.bool_)

    def _name(self, one: Field, models: tuple[str, ...]) -> str:
        if one.scope == "prediction":
            last = "label" if one.name in ("prediction.label", "prediction.model") else "score"
            return f"prediction.{last}@{self._scored[models[0]]}@{models[0]}"
        return f"{one.name}.{json.dumps(one.keys)}" if one.keys else one.name

    def _of(self, asked: Asked, one: Field) -> Values:
        if one.name in SIDES:
            wide, high = (self._known[side.name] for side in SIDES[one.name])
            assert wide.numbers is not None
            assert high.numbers is not None
            return Values(rows=wide.rows, numbers=wide.numbers * high.numbers)
        found = self._known[self._name(one, asked.models)]
        if one.name == "prediction.model":
            assert found.codes is not None
            only = arrays.coded([arrays.texts(asked.models)])
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
            case Match(text):
                return postings.having(self._words, wanted(text), size)
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
