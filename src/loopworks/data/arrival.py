"""Data for a dataset that may not exist yet: it is made for the task kind that the data fits."""

from typing import Any

from loopworks.core.errors import Conflict
from loopworks.data import importer, stage
from loopworks.data.files import Source
from loopworks.data.intake import AddReport, Progress
from loopworks.store.home import Home


def add(
    home: Home,
    name: str,
    source: Source,
    *,
    task: str = "",
    is_multi: bool = False,
    progress: Progress | None = None,
    **how: Any,
) -> AddReport:
    """Add to the dataset called ``name``, or make it first; see ``Dataset.add`` and ``Import.guess``.

    Raises: Conflict: it exists for another task kind.
    """
    if name in (dataset.name for dataset in stage.datasets(home)):
        found = stage.open_dataset(home, name)
        if task and found.task.name != task:
            raise Conflict(f"dataset {name!r} must be of task {task}; got {found.task.name}", "use another name")
        return found.add(source, progress=progress, **how)
    if task in stage.TABLE_TASKS:
        return stage.create_dataset(home, name, task).add(source, progress=progress, **how)
    with importer.prepare(home, source, **how) as ready:
        guessed, several = ready.guess()
        made = stage.create_dataset(home, name, task or guessed, is_multi=is_multi or (not task and several))
        return ready.run(made, progress)
