"""A dataset of 1,000,000 items on SQLite: count by class, freeze, freeze after 1,000 changes, compare.

    python -m benchmarks scale

The items have a label of one of eight classes, a split, a camera and (a tenth of them) a tag; no bytes are there,
because nothing here reads any. ``million(folder)`` makes them once, for every measurement of this folder.
"""

import hashlib
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loopworks
from benchmarks.figure import Figure
from loopworks.core.values import Shape
from loopworks.store import annotations, items
from loopworks.store.ids import batches, now
from loopworks.workspace import Workspace

CLASSES = ("car", "bus", "bicycle", "person", "litter", "sign", "tree", "other")
NAME = "million"


def million(folder: Path, count: int = 1_000_000) -> Workspace:
    """A workspace in ``folder`` whose dataset ``million`` has ``count`` items; made where it is not there yet."""
    space = loopworks.open(folder)
    if NAME in {found["name"] for found in space.datasets()}:
        return space
    dataset = space.dataset(NAME, "image-classification", classes=CLASSES)
    chance, moment = random.Random(0), now()
    plain = {"dataset": dataset.id, "uri": "", "stamp": "", "mime": "image/jpeg", "added_at": moment, "rev": 1}
    for batch in batches(range(count), 20_000):
        rows, labels, tags = [], {}, {}
        for number in batch:
            key = hashlib.sha256(str(number).encode()).hexdigest()
            split = chance.choices(("train", "val", "test"), (7, 1, 2))[0]
            size = chance.choice(((640, 480), (1280, 720), (1920, 1080)))
            rows.append({
                **plain, "id": key, "name": f"street/{number % 100:02}/{number:07}.jpg", "blob": key,
                "width": size[0], "height": size[1], "size_bytes": chance.randrange(20_000, 900_000), "split": split,
                "state": "labeled", "attributes": {"camera": f"C{number % 12}"},
            })  # fmt: skip
            labels[key] = [Shape(label=chance.choices(CLASSES, (30, 8, 12, 25, 10, 8, 6, 1))[0], author="ann")]
            if number % 10 == 0:
                tags[key] = ["night"]
        with space.home.catalog.begin() as tx:
            items.add(tx, dataset.id, rows)
            annotations.write(tx, dataset.id, labels, before={}, author="ann", at=moment)
            items.add_tags(tx, dataset.id, tags)
    return space


def measure(count: int = 1_000_000, changes: int = 1_000) -> dict[str, Any]:
    """Seconds of each step, and ``STEP_mb``: the memory peak of the process when it ended, in MB."""
    took: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        done = work()
        took[name] = round(time.perf_counter() - begin, 3)
        took[f"{name}_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return done

    with tempfile.TemporaryDirectory() as name:
        space = timed("make", lambda: million(Path(name) / "space", count))
        with space:
            dataset = space.dataset(NAME)
            timed("count", dataset.counts)
            first = timed("freeze", lambda: dataset.freeze("first"))
            chosen = random.Random(1).sample(range(count), changes)
            keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in chosen]
            timed("label", lambda: dataset.label({key: ["other"] for key in keys}, author="bob"))
            second = timed("refreeze", lambda: dataset.freeze("second"))
            found = timed("diff", lambda: first.diff(second))
            assert 0 < len(found.changed) <= changes
    return took


def main() -> list[Figure]:
    """The figures against their targets."""
    found = measure()

    def peak(step: str) -> str:
        return f"memory peak so far {found[f'{step}_mb']} MB"

    making = f"1,000,000 items made in {found['make']} s, {peak('make')}"
    return [
        Figure(name="count by class of 1,000,000", value=found["count"], unit="s", target=0.2, detail=making),
        Figure(name="first freeze of 1,000,000", value=found["freeze"], unit="s", target=60, detail=peak("freeze")),
        Figure(name="freeze after 1,000 changes", value=found["refreeze"], unit="s", target=1, detail=peak("refreeze")),
        Figure(name="diff after 1,000 changes", value=found["diff"], unit="s", target=5, detail=peak("diff")),
        Figure(name="memory peak of all of it", value=found["diff_mb"], unit="MB", target=1000),
    ]
