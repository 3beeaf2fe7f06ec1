"""Items that come back from a model in use: into their dataset, unlabelled, tagged, with what the model said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loopworks.core.values import Problem, Shape
from loopworks.data.formats.contract import Record
from loopworks.data.intake import Intake
from loopworks.data.sources import Opened
from loopworks.data.stage import Dataset
from loopworks.store import items, predictions
from loopworks.store.home import Home

TAG = "inbox"
AUTHOR = "watch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One item for an inbox."""

    item: str
    """Id that its content has in every dataset."""
    content: bytes | str
    attributes: Mapping[str, Any]
    model: str
    said: Sequence[tuple[Shape, float]]
    """What the model says of it, in pixels of the stored image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of them."""

    added: frozenset[str]
    """Ids of those that the dataset did not have before."""
    problems: tuple[Problem, ...]


def receive(home: Home, dataset: Dataset, incoming: Sequence[Incoming]) -> Received:
    """Add items to the inbox of a dataset of images or texts; those that it has already keep their labels and state.

    Raises: NoSpace, Busy: as any import.
    """
    with home.catalog.read() as tx:
        before = items.among(tx, dataset.id, [one.item for one in incoming])
    intake = Intake(home, dataset.id, dataset.task, dataset.schema, "copy", AUTHOR, "", Opened())
    intake.run([_record(one) for one in incoming if one.item not in before], lambda _count: None)
    with home.catalog.begin() as tx:
        there = items.among(tx, dataset.id, [one.item for one in incoming])
        models: dict[str, dict[str, Sequence[tuple[Shape, float]]]] = {}
        for one in incoming:
            if one.item in there:
                models.setdefault(one.model, {})[one.item] = one.said
        for model, said in models.items():
            predictions.write(tx, dataset.id, model, said)
    return Received(added=frozenset(there.keys() - before.keys()), problems=tuple(intake.problems))


def _record(one: Incoming) -> Record:
    is_text = isinstance(one.content, str)
    return Record(
        name=f"inbox/{one.item[:16]}",
        data=None if is_text else one.content,  # type: ignore[arg-type]
        text=one.content if is_text else None,  # type: ignore[arg-type]
        tags=(TAG,),
        attributes=one.attributes,
        is_labeled=False,
    )
