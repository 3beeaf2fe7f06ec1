"""Asking a model about items and keeping what it says beside the labels, to look and sort by."""

from collections.abc import Callable, Sequence
from typing import Any

from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import LoopworksError
from loopworks.core.values import LabelSchema, Problem
from loopworks.data.stage import Dataset

Open = Callable[[bytes, str], None]
"""Refuses bytes that are no image of a size that is read."""


def score(
    dataset: Dataset,
    model: str,
    task: Learnable,
    schema: LabelSchema,
    *,
    answer: Callable[[Sequence[bytes]], Arrays],
    check: Open,
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
        contents: list[bytes] = []
        for key in ids[at : at + batch]:
            item = dataset.item(key)
            try:
                content = dataset.read(item)
                check(content, item.name)
            except LoopworksError as error:
                problems.append(Problem(where=item.name, error=error.code, message=error.message, hint=error.hint))
                continue
            keys.append(key)
            contents.append(content)
        if keys:
            outputs = answer(contents)
            sure = [{row["label"]: row["score"] for row in said["labels"]} for said in task.decode(outputs, schema)]
            shapes = task.labels(outputs, schema, model)
            rows = zip(keys, shapes, sure, strict=True)
            dataset.look.keep(model, {key: [(s, float(how[s.label])) for s in some] for key, some, how in rows})
        done += len(keys)
        if progress is not None:
            progress(min(at + batch, len(ids)), len(ids))
    return {"model": model, "items": done, "problems": problems}
