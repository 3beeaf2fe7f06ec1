"""The splits of a dataset: shared out by class, group or time, remembered, and told in figures."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.data import splits
from loopworks.data.media import content_of
from loopworks.store import datasets as rows
from loopworks.store import events, items, operations
from loopworks.store.home import Home
from loopworks.store.ids import new_id
from loopworks.store.items import SPLITS

META = "split"
"""Name under which a dataset remembers how it is split."""
ADDED, FOLDER = "added_at", "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How items are kept together, or in order."""

    by: str = ""
    """Attribute whose equal values stay together; ``folder``: the folder of the item's name; empty: nothing."""
    time: str = ""
    """Attribute that is a time, or ``added_at``: the newest are the test set; empty: time does not matter."""

    def __post_init__(self) -> None:
        """Refuse both at once."""
        if self.by and self.time:
            raise Invalid("by and time", "given one at a time", f"by {self.by} and time {self.time}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How a dataset is split now; of labelled items."""

    rule: Rule
    counts: Mapping[str, int]
    """Split -> items; empty text: none yet."""
    by_class: Mapping[str, Mapping[str, int]]
    """Class -> split -> items that carry it."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Split -> groups with items in it; empty where items are not grouped."""
    ungrouped: int = 0
    """Items without the attribute: each is a group of its own."""
    straddling: tuple[str, ...] = ()
    """Groups with items in several splits (split before they were grouped, or moved by hand)."""
    mixed: int = 0
    """By time: items for training that are not older than the oldest of the test set."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        body: dict[str, Any] = {
            "by": self.rule.by,
            "time": self.rule.time,
            "splits": {name: self.counts.get(name, 0) for name in SPLITS},
            "unsplit": self.counts.get("", 0),
            "by_class": {name: dict(found) for name, found in self.by_class.items()},
        }
        if self.rule.by:
            body |= {"groups": dict(self.groups), "ungrouped": self.ungrouped, "straddling": list(self.straddling)}
        if self.rule.time:
            body |= {"mixed": self.mixed}
        return body


def split(
    home: Home,
    dataset: str,
    *,
    test: float,
    val: float,
    seed: int,
    by: str | None,
    time: str | None,
    author: str,
) -> dict[str, int]:
    """Share out the labelled items that have no split; see ``Dataset.split``."""
    splits.check_shares(test, val)
    with home.catalog.begin() as tx:
        rule = _rule(tx, dataset, by, time)
        labels, now = items.labeled_splits(tx, dataset)
        fresh = _assign(tx, dataset, rule, labels, now, test, val, seed)
        op = new_id()
        items.set_splits(tx, dataset, fresh)
        logged = [
            events.make("item.split", dataset=dataset, item=item, author=author, before="", after=name, op=op)
            for item, name in fresh.items()
        ]
        events.add(tx, logged)
        operations.record(tx, dataset, op, "split", count=len(fresh), author=author)
        _remember(tx, dataset, rule)
    after = Counter({**now, **fresh}.values())
    return {name: after[name] for name in SPLITS}


def figures(home: Home, dataset: str) -> Figures:
    """How the dataset is split now, by the rule that it was split with last."""
    with home.catalog.read() as tx:
        rule = _rule(tx, dataset, None, None)
        labels, now = items.labeled_splits(tx, dataset)
        classes = rows.by_id(tx, dataset).schema.classes
        groups = _groups(tx, dataset, rule.by) if rule.by else {}
        times = _times(tx, dataset, rule.time) if rule.time else {}
    by_class: dict[str, Counter[str]] = {name: Counter() for name in classes}
    for item, said in labels.items():
        for name in set(said) & by_class.keys():
            by_class[name][now[item]] += 1
    inside: dict[Hashable, set[str]] = defaultdict(set)
    for item, group in groups.items():
        inside[group].add(now[item])
    tested = [times[item] for item in times if now[item] == "test"]
    return Figures(
        rule=rule,
        counts=Counter(now.values()),
        by_class={name: {split: found[split] for split in SPLITS} for name, found in by_class.items()},
        groups={name: sum(name in found for found in inside.values()) for name in SPLITS} if groups else {},
        ungrouped=sum(isinstance(group, tuple) for group in groups.values()),
        straddling=tuple(sorted(str(group) for group, found in inside.items() if len(found - {""}) > 1)),
        mixed=sum(time >= min(tested) for item, time in times.items() if now[item] == "train") if tested else 0,
    )


def _assign(
    tx: Any,
    dataset: str,
    rule: Rule,
    labels: Mapping[str, list[str]],
    now: Mapping[str, str],
    test: float,
    val: float,
    seed: int,
) -> dict[str, str]:
    if rule.time:
        return splits.assign_by_time(_times(tx, dataset, rule.time), now, test=test, val=val, seed=seed)
    has_copies = any(len(item) > len(content_of(item)) for item in labels)
    if not rule.by and not has_copies:
        return splits.assign(labels, now, test=test, val=val, seed=seed)
    # Items of equal bytes stay together too, whatever groups they are in: one of them in test gives the others away.
    pairs = [(item, ("content", content_of(item))) for item in labels]
    joined = splits.join([*pairs, *((item, group) for item, group in _groups(tx, dataset, rule.by).items())])
    return splits.assign_groups(labels, now, joined, test=test, val=val, seed=seed)


def _rule(tx: Any, dataset: str, by: str | None, time: str | None) -> Rule:
    """What is asked for; where nothing is said, the rule of the last split, so that no later item breaks it."""
    if by is None and time is None:
        kept = rows.meta(tx, dataset).get(META, {})
        return Rule(by=str(kept.get("by", "")), time=str(kept.get("time", "")))
    return Rule(by=by or "", time=time or "")


def _remember(tx: Any, dataset: str, rule: Rule) -> None:
    meta = rows.meta(tx, dataset)
    wanted = {name: value for name, value in (("by", rule.by), ("time", rule.time)) if value}
    if meta.get(META, {}) != wanted:
        rest = {name: value for name, value in meta.items() if name != META}
        rows.set_meta(tx, dataset, {**rest, META: wanted} if wanted else rest)


def _groups(tx: Any, dataset: str, by: str) -> dict[str, Hashable]:
    """Item id -> its group; an item without the attribute is a group (a tuple) of its own."""
    found: dict[str, Hashable] = {}
    known: set[str] = {FOLDER}
    for item, name, attributes, _ in items.labeled_facts(tx, dataset) if by else ():
        value = attributes.get(by)
        known |= attributes.keys()
        if value is None and by == FOLDER:
            value = name.rpartition("/")[0]
        found[item] = (item,) if value is None else f"{value}"
    if found and all(isinstance(group, tuple) for group in found.values()):
        raise Invalid("by", "an attribute of the items", by, f"known: {', '.join(sorted(known))}")
    return found


def _times(tx: Any, dataset: str, attribute: str) -> dict[str, float]:
    found: dict[str, float] = {}
    known: set[str] = {ADDED}
    for item, name, attributes, added_at in items.labeled_facts(tx, dataset):
        known |= attributes.keys()
        value = attributes.get(attribute, added_at if attribute == ADDED else None)
        if value is None:
            hint = f"known: {', '.join(sorted(known))}; or split by something else"
            raise Invalid("time", "an attribute of every item", f"{attribute}, which {name} has not", hint)
        found[item] = moment(value, f"{attribute} of {name}")
    return found


def moment(value: Any, where: str) -> float:
    """A time as a number that grows with time.

    Args:
        value: a number; a date or time in ISO 8601, or as cameras write it (``2024:05:01 12:30:00``), UTC where it
            names no zone.
        where: what to call it in an error.
    Raises: Invalid: nothing of these.
    """
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return float(value)
    text = str(value).strip()
    if len(text) >= 10 and text[4] == text[7] == ":":
        text = f"{text[:4]}-{text[5:7]}-{text[8:]}"
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(where, "a number or a time such as 2024-05-01T12:30:00", value) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
