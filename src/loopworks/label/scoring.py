"""Asking a model about items and keeping what it says beside the labels, to look and sort by."""

from collections.abc import Callable, Sequence
from typing import Any

from loopworks.core import image, turning
from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import LoopworksError
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data.stage import Dataset, Item


def score(
    dataset: Dataset,
    model: str,
    task: Learnable,
    schema: LabelSchema,
    *,
    answer: Callable[[Sequence[Any]], Arrays],
    read: Callable[[Item], Any],
    query: str = "",
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Keep what ``model`` says of the items that fulfil ``query``; see ``Workspace.score``."""
    ids = list(dataset.ids(query))
    done = 0
    problems: list[Problem] = []
    for at in range(0, len(ids), batch):
        keys: list[str] = []
        contents: list[Any] = []
        turns: list[int] = []
        stored: list[tuple[int, int]] = []
        for key in ids[at : at + batch]:
            item = dataset.item(key)
            try:
                content = read(item)
            except LoopworksError as error:
                problems.append(Problem(where=item.name, error=error.code, message=error.message, hint=error.hint))
                continue
            keys.append(key)
            contents.append(content)
            if item.width:
                turns.append(image.orientation(content, item.name))
                stored.append((item.width, item.height))
        if keys:
            outputs = answer(contents)
            sizes = [turning.shown_size(size, turn) for size, turn in zip(stored, turns, strict=True)]
            said: Sequence[Sequence[tuple[Shape, float]]] = task.labels(outputs, schema, model, sizes)
            if sizes:  # a model sees an image as it is shown, a label lies in it as it is stored
                said = [
                    [(turning.stored(shape, size, turn), sure) for shape, sure in some]
                    for some, size, turn in zip(said, stored, turns, strict=True)
                ]
            dataset.look.keep(model, {key: list(some) for key, some in zip(keys, said, strict=True)})
        done += len(keys)
        if progress is not None:
            progress(min(at + batch, len(ids)), len(ids))
    return {"model": model, "items": done, "problems": problems}
