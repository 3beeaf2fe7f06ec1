"""Who goes into train, val and test: by class, by group or by time, and never out of test again."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from loopworks.core.errors import Invalid

NAMES = ("train", "val", "test")


def check_shares(test: float, val: float) -> None:
    """Refuse shares that leave nothing to train on."""
    for name, share in (("test share", test), ("val share", val)):
        if not 0 <= share < 1:
            raise Invalid(name, "in 0..1, below 1", share)
    if test + val >= 1:
        raise Invalid("test and val share together", "below 1", test + val, "leave something to train on")


def assign(
    labels: Mapping[str, Sequence[str]],
    splits: Mapping[str, str],
    *,
    test: float,
    val: float,
    seed: int,
) -> dict[str, str]:
    """Splits for the items that have none yet.

    Each class is shared out by itself, counting the items that are in a split already, so that labels which arrive a
    few at a time come out like labels that arrive together. Within a class the order is the hash of seed and item id:
    the same on every machine, whatever order the items came in. Where items carry several classes (boxes of several
    kinds, multi-label) all classes are balanced at once, the rarest first (iterative stratification).

    Args:
        labels: item id -> its classes, of all labelled items.
        splits: item id -> train, val, test or empty, of the same items.
        test: share of the test set, in 0..1.
        val: share of the validation set, in 0..1.
        seed: another seed, another order.
    Returns: item id -> split, of the items that had none. A class of two items or more keeps one for training, unless
        all of them were put elsewhere before.
    """
    check_shares(test, val)
    if any(len(set(classes)) > 1 for classes in labels.values()):
        return _iterate(labels, splits, {"train": 1 - test - val, "val": val, "test": test}, seed)
    strata: dict[str, list[str]] = {}
    for item, classes in labels.items():
        strata.setdefault(classes[0] if classes else "", []).append(item)
    done: dict[str, str] = {}
    for items in strata.values():
        fresh = sorted((item for item in items if not splits[item]), key=lambda item: _order(seed, item))
        have = Counter(splits[item] for item in items)
        wanted_test = _more(test, len(items), have["test"], len(fresh))
        wanted_val = _more(val, len(items), have["val"], len(fresh) - wanted_test)
        if not have["train"] and fresh and wanted_test + wanted_val == len(fresh):
            if wanted_val:
                wanted_val -= 1
            else:
                wanted_test -= 1
        for place, item in enumerate(fresh):
            is_val = place < wanted_test + wanted_val
            done[item] = "test" if place < wanted_test else "val" if is_val else "train"
    return done


def assign_groups(
    labels: Mapping[str, Sequence[str]],
    splits: Mapping[str, str],
    groups: Mapping[str, Hashable],
    *,
    test: float,
    val: float,
    seed: int,
) -> dict[str, str]:
    """Splits for the items that have none yet, such that a group (a camera, a patient, a video) is in one split alone.

    Groups are shared out from the largest to the smallest, each to the split whose numbers of items and of each class
    it brings nearest to their shares. A group with items in a split already follows them: into test where one of them
    is there, else to where most are.

    Args:
        labels, splits, test, val, seed: as in ``assign``.
        groups: item id -> its group, of the same items.
    Returns: item id -> split, of the items that had none. Every split with a share gets a group, where there are
        enough of them; with few groups the shares can be far from those asked for.
    """
    check_shares(test, val)
    shares = {"train": 1 - test - val, "val": val, "test": test}
    members: dict[Hashable, list[str]] = defaultdict(list)
    for item in labels:
        members[groups[item]].append(item)
    need = _Need(labels, shares)
    done: dict[str, str] = {}
    free: list[list[str]] = []
    for items in members.values():
        have = Counter(splits[item] for item in items if splits[item])
        if not have:
            free.append(sorted(items))
            continue
        split = "test" if have["test"] else max(NAMES, key=lambda name: have[name])
        done |= {item: split for item in items if not splits[item]}
        for item in items:
            need.take(splits[item] or split, [item])
    placed: dict[str, list[list[str]]] = {name: [] for name in NAMES}
    for items in sorted(free, key=lambda items: (-len(items).bit_length(), _order(seed, items[0]))):
        split = need.best(items)
        need.take(split, items)
        placed[split].append(items)
    for name in ("test", "val"):  # few groups: a set without any would be no set
        is_empty = shares[name] > 0 and not placed[name] and name not in {*splits.values(), *done.values()}
        if is_empty and len(placed["train"]) > 1:
            placed[name].append(placed["train"].pop(placed["train"].index(min(placed["train"], key=len))))
    return done | {item: name for name, sets in placed.items() for items in sets for item in items}


def assign_by_time(
    times: Mapping[str, float], splits: Mapping[str, str], *, test: float, val: float, seed: int = 0
) -> dict[str, str]:
    """Splits for the items that have none yet: the newest are the test set, those before them val, the rest train.

    Items of one moment stay together, so a share may be missed by as many as there are.

    Args:
        times: item id -> time in seconds (or any other number that grows with time).
        splits: item id -> train, val, test or empty, of the same items.
        test: share of the test set, in 0..1, counting the items that are in it already.
        val: share of the validation set, in 0..1.
        seed: has no effect; here because every way to split takes one.
    Returns: item id -> split, of the items that had none; the oldest moment is always for training.
    """
    check_shares(test, val)
    have = Counter(splits.values())
    at: dict[float, list[str]] = defaultdict(list)
    for item, time in times.items():
        if not splits[item]:
            at[time].append(item)
    moments = sorted(at, reverse=True)
    done: dict[str, str] = {}
    for name, share in (("test", test), ("val", val)):
        left = _more(share, len(times), have[name], len(splits))
        while len(moments) > 1 and left > 0 and len(at[moments[0]]) <= 2 * left:  # nearer with them than without
            left -= len(at[moments[0]])
            done |= dict.fromkeys(at[moments.pop(0)], name)
    return done | {item: "train" for moment in moments for item in at[moment]}


def join(pairs: Iterable[tuple[str, Hashable]]) -> dict[str, int]:
    """Groups of items that share any key, directly or through others.

    Args:
        pairs: item id and one of its keys; an item may come with several keys.
    Returns: item id -> number of its group.
    """
    owner: dict[Hashable, str] = {}
    parent: dict[str, str] = {}

    def root(item: str) -> str:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for item, key in pairs:
        parent.setdefault(item, item)
        first = root(owner.setdefault(key, item))
        if (other := root(item)) != first:
            parent[max(first, other)] = min(first, other)
    numbers: dict[str, int] = {}
    return {item: numbers.setdefault(root(item), len(numbers)) for item in parent}


def keep_test(now: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What may be done of ``wanted`` (item id -> split) without any item leaving the test set, and who would have left.

    For whatever brings splits from elsewhere: a restored version, a merge, a second import.
    """
    staying = sorted(item for item, split in wanted.items() if now.get(item) == "test" and split != "test")
    kept = set(staying)
    return {item: split for item, split in wanted.items() if item not in kept}, staying


class _Need:
    """How many items, and how many of each class, every split still lacks."""

    def __init__(self, labels: Mapping[str, Sequence[str]], shares: Mapping[str, float]) -> None:
        self._labels = labels
        self._total = Counter(name for classes in labels.values() for name in set(classes))
        self._total[""] = max(1, len(labels))  # the items themselves count like one more class
        self._lack = {s: {name: share * count for name, count in self._total.items()} for s, share in shares.items()}
        self._shares = shares

    def take(self, split: str, items: Iterable[str]) -> None:
        for name, count in self._count(items).items():
            self._lack[split][name] -= count

    def best(self, items: Sequence[str]) -> str:
        count = self._count(items)

        def cost(split: str) -> float:
            lack = self._lack[split]
            return sum(((lack[name] - n) ** 2 - lack[name] ** 2) / self._total[name] ** 2 for name, n in count.items())

        return min((name for name in NAMES if self._shares[name] > 0), key=cost)

    def _count(self, items: Iterable[str]) -> Counter[str]:
        found = Counter(name for item in items for name in set(self._labels[item]))
        found[""] = len(items) if isinstance(items, Sequence) else sum(1 for _ in items)
        return found


def _iterate(
    labels: Mapping[str, Sequence[str]], splits: Mapping[str, str], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Items of several classes: the class with the fewest items left is shared out first, each item to the split that
    lacks most of it.

    Source: Sechidis, Tsoumakas, Vlahavas 2011, "On the stratification of multi-label data", algorithm 1 (iterative
    stratification); items that have a split count as placed.
    """
    total: Counter[str] = Counter()
    lack = {name: Counter[str]() for name in NAMES}
    left: dict[str, set[str]] = defaultdict(set)
    for item, classes in labels.items():
        for name in {*classes, ""}:  # "" stands for any item
            total[name] += 1
            if splits[item]:
                lack[splits[item]][name] -= 1
            else:
                left[name].add(item)
    trained = {name for name in total if lack["train"][name]}
    everything = left.pop("", set())
    lacking = {s: {name: shares[s] * total[name] + lack[s][name] for name in total} for s in NAMES}
    done: dict[str, str] = {}

    def place(item: str, split: str) -> None:
        done[item] = split
        everything.discard(item)
        for name in {*labels[item], ""}:
            lacking[split][name] -= 1
            left.get(name, set()).discard(item)
            if split == "train":
                trained.add(name)

    waiting = set(left)
    while waiting:
        rarest = min(waiting, key=lambda name: (len(left[name]), name))
        waiting.discard(rarest)
        for item in sorted(left[rarest], key=lambda item: _order(seed, item)):
            # Every class keeps one for training.
            is_last = any(len(left[name]) == 1 and name not in trained for name in set(labels[item]))
            place(item, "train" if is_last else _most(lacking, rarest, shares))
    for item in sorted(everything, key=lambda item: _order(seed, item)):
        place(item, _most(lacking, "", shares))
    return done


def _most(lacking: Mapping[str, Mapping[str, float]], name: str, shares: Mapping[str, float]) -> str:
    """The split that lacks most of a class; among equals the one that lacks most items."""
    open_ones = [split for split in NAMES if shares[split] > 0]
    return max(open_ones, key=lambda split: (round(lacking[split][name], 9), round(lacking[split][""], 9)))


def _more(share: float, total: int, have: int, free: int) -> int:
    """How many more items a split wants to reach its share of ``total``, halves rounded up."""
    return max(0, min(int(share * total + 0.5) - have, free))


def _order(seed: int, item: str) -> bytes:
    return hashlib.sha256(f"{seed}:{item}".encode()).digest()
