"""What a finding's fix makes of the items: pure, so that it is the same whoever asks for it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from loopworks.core.contracts import Task
from loopworks.core.errors import Conflict, Invalid, LoopworksError
from loopworks.core.values import LabelSchema, Shape
from loopworks.store.changes import Facts
from loopworks.store.findings import Finding
from loopworks.store.items import Item


def touched(finding: Finding) -> list[str]:
    """Ids of the items that must be known to fix it."""
    fix = finding.detail["fix"]
    return list(dict.fromkeys([*finding.items, *fix.get("drop", ()), *fix.get("moves", ())]))


def plan(
    finding: Finding, items: Mapping[str, Item], task: Task, schema: LabelSchema, author: str, elsewhere: Iterable[str]
) -> dict[str, Facts]:
    """What each item is to be.

    Args:
        finding: to be fixed.
        items: those of ``touched`` that are there now.
        task: of the dataset.
        schema: its classes.
        author: who fixes it.
        elsewhere: of a finding that names another dataset: the items that it still holds.
    Raises:
        Invalid: there is no fix.
        Conflict: the items are not what they were when it was found.
    """
    fix = finding.detail["fix"]
    if fix["action"] == "delete":
        return _delete(finding, items, set(elsewhere))
    if fix["action"] == "split":
        # Never out of the test set, also where an item came into it after the check.
        moves = {one: to for one, to in fix["moves"].items() if one in items and items[one].split != "test"}
        return {one: Facts(split=to) for one, to in moves.items()}
    if fix["action"] == "tag":
        tag = fix["tag"]
        return {one: Facts(tags=tuple(sorted({*items[one].tags, tag}))) for one in finding.items if one in items}
    if fix["action"] == "none":
        raise Invalid(f"finding {finding.id[:12]}", "one with a fix", finding.message, "ignore it, or change the data")
    (one,) = finding.items
    if one not in items:
        raise _changed(finding, "the item is gone")
    item = items[one]
    said = _relabel(finding, item, author) if fix["action"] == "relabel" else _edit(finding, item, author)
    return {one: Facts(labels=_checked(said, task, schema))}


def _delete(finding: Finding, items: Mapping[str, Item], elsewhere: set[str]) -> dict[str, Facts]:
    drop = [one for one in finding.detail["fix"]["drop"] if one in items]
    if "dataset" in finding.detail["facts"]:
        drop = [one for one in drop if one in elsewhere and items[one].split != "test"]
    elif (kept := finding.items[0]) not in finding.detail["fix"]["drop"]:
        if kept not in items:
            raise _changed(finding, "the item to keep is gone")
        drop = [one for one in drop if items[one].split != "test" or items[kept].split == "test"]
    return {one: Facts(is_here=False) for one in drop}


def _relabel(finding: Finding, item: Item, author: str) -> tuple[Shape, ...]:
    fix = finding.detail["fix"]
    if [shape.label for shape in item.labels] != [fix["given"]]:
        raise _changed(finding, f"the item is labelled {', '.join(shape.label for shape in item.labels) or 'nothing'}")
    return (Shape(label=fix["suggested"], source="person", author=author),)


def _edit(finding: Finding, item: Item, author: str) -> tuple[Shape, ...]:
    said: list[Shape] = list(item.labels)
    for change in finding.detail["fix"]["edits"]:
        old = Shape.from_json(change["before"])
        # Of equal shapes the last goes, so that the first keeps its place.
        place = next((at for at in range(len(said) - 1, -1, -1) if said[at] == old), None)
        if place is None:
            raise _changed(finding, "a shape is not what it was")
        if change["after"] is None:
            del said[place]
        else:
            said[place] = replace(Shape.from_json(change["after"]))
    there = {shape.label for shape in said}
    more = [name for name in finding.detail["fix"].get("add", ()) if name not in there]
    return (*said, *(Shape(label=name, source="person", author=author) for name in more))


def _checked(said: tuple[Shape, ...], task: Task, schema: LabelSchema) -> tuple[Shape, ...] | None:
    if said:
        return task.check(said, schema)
    try:
        return task.check(said, schema)
    except LoopworksError:
        return None  # where no label at all is no answer, the item is unlabelled now


def _changed(finding: Finding, why: str) -> LoopworksError:
    message = f"finding {finding.id[:12]} must still hold; got a change since: {why}"
    return Conflict(message, "loopworks data check looks again")


def command(dataset: str, finding: Mapping[str, Any]) -> str:
    """The command that fixes a finding (as JSON); that waves it through where there is no fix."""
    verb = "ignore" if finding["fix"]["action"] == "none" else "fix"
    return f"loopworks data {verb} {dataset} {finding['id'][:12]}"
