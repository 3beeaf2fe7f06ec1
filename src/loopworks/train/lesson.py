"""What trainings of networks have in common, whatever the medium: who judges an epoch, what a checkpoint belongs to."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.contracts import Arrays
from loopworks.data.source import Source
from loopworks.tasks import scores
from loopworks.train.contracts import Lesson

if TYPE_CHECKING:
    from loopworks.train.checkpoint import Progress


def judge_of(source: Source) -> Callable[[Arrays], float]:
    """The headline of answers for ``val``; it holds no source, so that it can go to another machine."""
    truth = source.targets("val") if source.counts.get("val", 0) else np.zeros((0, 0), np.float32)
    task, schema = source.task, source.schema

    def judge(answers: Arrays) -> float:
        return scores.headline(task, truth, answers, schema)

    return judge


def fingerprint(lesson: Lesson, seed: int, recipe: str, params: Any) -> str:
    """Says what is trained from what: a checkpoint with another one is not gone on with; ``params`` is a dataclass."""
    facts = {
        "version": lesson.source.id,
        "schema": lesson.source.schema.to_json(),
        "counts": dict(lesson.source.counts),
        "recipe": recipe,
        "params": asdict(params),
        "seed": seed,
        "budget_s": lesson.budget_s,
        "start": dict(lesson.start.sha256) if lesson.start else None,
    }
    if lesson.prune:
        facts["prune"] = lesson.prune
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def ending(progress: "Progress", *, epochs: int, batch: int, has_val: bool, unchecked: str = "") -> list[str]:
    """Notes on how a training ended; ``unchecked`` is what else is so where there is no validation split."""
    notes = []
    if progress.ended == "budget":
        notes.append(
            f"the time budget ended training after {progress.epoch} of at most {epochs} epochs (the last one "
            "may be a part)"
        )
    if progress.pieces > 1:
        notes.append(
            f"batches of {batch} had no room in memory: each was fed in {progress.pieces} parts, their gradients "
            "added up"
        )
    if progress.unsaved:
        notes.append(f"the disk was full: {progress.unsaved} checkpoints could not be written")
    if not has_val:
        notes.append(f"there is no validation split: the weights of the last epoch were kept, unchecked{unchecked}")
    return notes
