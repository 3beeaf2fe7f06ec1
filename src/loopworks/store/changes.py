"""Making items what they should be: the one engine behind undo, restore, merge and edits of tags and attributes."""

import functools
from collections.abc import Mapping
from typing import Any, TypedDict

from sqlalchemy.engine import Connection

from loopworks.core.values import Shape
from loopworks.store import annotations, events, items

Labels = tuple[Shape, ...] | None
"""The shapes of an item; none at all is an answer too, ``None`` is an item that nobody has labelled."""


class Facts(TypedDict, total=False):
    """What can change of an item; a part that is not given stays as it is."""

    is_here: bool
    labels: Labels
    split: str
    tags: tuple[str, ...]
    attributes: Mapping[str, Any]


PARTS = ("is_here", "labels", "split", "tags", "attributes")


def of(item: items.Item, *, is_here: bool = True) -> Facts:
    """The facts of an item as it was read."""
    return Facts(
        is_here=is_here,
        labels=item.labels if item.state == "labeled" else None,
        split=item.split,
        tags=item.tags,
        attributes=item.attributes,
    )


def read(tx: Connection, dataset: str, ids: Mapping[str, Any] | set[str] | list[str]) -> dict[str, Facts]:
    """Item id -> its facts as they are now, also of deleted items."""
    wanted = list(ids)
    gone = items.deleted(tx, dataset, wanted)
    found = items.among(tx, dataset, wanted, deleted=True)
    return {key: of(item, is_here=key not in gone) for key, item in found.items()}


def to_json(part: str, value: Any) -> Any:
    """One part as an event holds it."""
    if part == "labels":
        return None if value is None else [shape.to_json() for shape in value]
    return list(value) if part == "tags" else dict(value) if part == "attributes" else value


def from_json(part: str, value: Any) -> Any:
    """What ``to_json`` made plain."""
    if part == "labels":
        return None if value is None else tuple(Shape.from_json(one) for one in value)
    return tuple(value) if part == "tags" else bool(value) if part == "is_here" else value


def apply(tx: Connection, dataset: str, wanted: Mapping[str, Facts], *, author: str, op: str) -> int:
    """Give items the facts that are wanted of them, with an event for each change; gives the number of items changed.

    Items that do not exist are left out. What is so already is not written again.
    """
    now = items.among(tx, dataset, wanted, deleted=True)
    gone = items.deleted(tx, dataset, wanted)
    facts = {key: of(item, is_here=key not in gone) for key, item in now.items()}
    news = {key: _news(facts[key], want) for key, want in wanted.items() if key in facts}
    news = {key: found for key, found in news.items() if found}
    items.bring_back(tx, dataset, [key for key, new in news.items() if new.get("is_here")], author=author, op=op)
    said = {key: new["labels"] for key, new in news.items() if "labels" in new}
    full = {key: labels for key, labels in said.items() if labels is not None}
    annotations.write(tx, dataset, full, before=now, author=author, op=op)
    annotations.clear(tx, dataset, {key: now[key] for key in said if said[key] is None}, author=author, op=op)
    moved = {key: new["split"] for key, new in news.items() if "split" in new}
    items.set_splits(tx, dataset, moved)
    tags = {key: new["tags"] for key, new in news.items() if "tags" in new}
    items.set_tags(tx, dataset, tags, now)
    known = {key: dict(new["attributes"]) for key, new in news.items() if "attributes" in new}
    items.change(tx, dataset, "attributes", known)
    make = functools.partial(events.make, dataset=dataset, author=author, op=op)
    logged = [make("item.split", item=key, before=now[key].split, after=split) for key, split in moved.items()]
    logged += [make("item.tags", item=key, before=list(now[key].tags), after=list(new)) for key, new in tags.items()]
    logged += [
        make("item.attributes", item=key, before=dict(now[key].attributes), after=new) for key, new in known.items()
    ]
    events.add(tx, logged)
    away = [key for key, new in news.items() if new.get("is_here") is False]
    items.delete(tx, dataset, away, author=author, op=op)
    return len(news)


def _news(now: Facts, want: Facts) -> Facts:
    """The parts that differ, compared as they would be stored."""
    found = Facts()
    for part in PARTS:
        if part in want and to_json(part, want[part]) != to_json(part, now[part]):  # type: ignore[literal-required]
            found[part] = want[part]  # type: ignore[literal-required]
    return found
