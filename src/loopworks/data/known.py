"""Which item a record is: found again by its bytes, and among equal bytes by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from loopworks.data.formats.contract import Record
from loopworks.data.media import content_of
from loopworks.store import items

Policy = Literal["merge", "distinct"]
"""merge: equal bytes are one item (folders of images). distinct: each record of an import is an item of its own, even
where two have equal bytes, because an annotation file says something of each."""
_AHEAD = 16


class Keyed(Protocol):
    """Something with bytes that are known by their SHA-256."""

    @property
    def record(self) -> Record:
        """What the source says."""

    @property
    def key(self) -> str:
        """SHA-256 of the bytes."""


T = TypeVar("T", bound=Keyed)


@dataclass(slots=True)
class Places:
    """Ids of one import's records. The first record of some bytes has their SHA-256, the next ones ``SHA-256-2`` ..."""

    _seen: set[bytes] = field(default_factory=set)
    _used: dict[str, set[str]] = field(default_factory=dict)
    """Of bytes that came more than once, or under another name than before: the ids that are given."""

    def find(
        self, tx: Any, dataset: str, policy: Policy, taken: Sequence[T]
    ) -> tuple[list[tuple[str, T]], dict[str, items.Item]]:
        """The id of each, and those of the ids that exist already."""
        before = items.among(tx, dataset, {one.key for one in taken})
        if policy == "merge":
            return [(one.key, one) for one in taken], before
        placed = []
        found: dict[str, items.Item] = {}
        for one in taken:
            item = self._place(tx, dataset, one, before)
            if item in before:
                found[item] = before[item]
            placed.append((item, one))
        return placed, found

    def _place(self, tx: Any, dataset: str, one: Keyed, before: dict[str, items.Item]) -> str:
        digest = bytes.fromhex(one.key)
        old = before.get(one.key)
        is_first = digest not in self._seen
        self._seen.add(digest)
        if is_first and (old is None or old.name == one.record.name):
            return one.key
        used = self._used.setdefault(one.key, set() if is_first else {one.key})
        there = {key: item for key, item in before.items() if content_of(key) == one.key} | _copies(
            tx, dataset, one.key
        )
        before.update(there)
        item = _choose(one, there, used)
        used.add(item)
        return item


def _choose(one: Keyed, there: Mapping[str, items.Item], used: set[str]) -> str:
    free = sorted((key for key in there if key not in used), key=_number)
    named = [key for key in free if there[key].name == one.record.name]
    if found := named or free:
        return found[0]
    return f"{one.key}-{max(map(_number, [*there, *used]), default=0) + 1}"


def _number(item: str) -> int:
    return int(item[65:] or 1)


def _copies(tx: Any, dataset: str, key: str) -> dict[str, items.Item]:
    found: dict[str, items.Item] = {}
    for start in range(2, 1 << 20, _AHEAD):
        more = items.among(tx, dataset, [f"{key}-{n}" for n in range(start, start + _AHEAD)])
        found |= more
        if len(more) < _AHEAD:
            break
    return found
