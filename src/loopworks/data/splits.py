"""Who goes into train, val and test: by class, by the hash of the item, and never out of test again."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from loopworks.core.errors import Invalid


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
    the same on every machine, whatever order the items came in.

    Args:
        labels: item id -> its classes, of all labelled items; several classes: the rarest decides.
        splits: item id -> train, val, test or empty, of the same items.
        test: share of the test set, in 0..1.
        val: share of the validation set, in 0..1.
        seed: another seed, another order.
    Returns: item id -> split, of the items that had none. A class of two items or more keeps one for training, unless
        all of them were put elsewhere before.
    """
    check_shares(test, val)
    groups: dict[str, list[str]] = {}
    for item, name in _strata(labels).items():
        groups.setdefault(name, []).append(item)
    done: dict[str, str] = {}
    for items in groups.values():
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


def _strata(labels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The class that an item is shared out with: its rarest one, the first by name where several are as rare."""
    count = Counter(name for classes in labels.values() for name in set(classes))
    return {
        item: min(classes, key=lambda name: (count[name], name)) if classes else "" for item, classes in labels.items()
    }


def _more(share: float, total: int, have: int, free: int) -> int:
    """How many more items a split wants to reach its share of ``total``, halves rounded up."""
    return max(0, min(int(share * total + 0.5) - have, free))


def _order(seed: int, item: str) -> bytes:
    return hashlib.sha256(f"{seed}:{item}".encode()).digest()
