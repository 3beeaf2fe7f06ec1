"""Time of adding 2,000 JPEGs by path against the least that any program must do, and of freezing and comparing them.

    python benchmarks/ingest.py [--images 2000] [--rounds 3]

The floor reads each file, takes its SHA-256, copies it, reads its header with Pillow and writes one row per file in one
SQLite transaction: one thread, and nothing is made safe against a power cut. ``Dataset.add`` makes every file safe
(fsync) before its row, checks that it is whole, and writes the label, its audit event and the indexes. ``durable``
is the floor with an fsync per file. Prints one JSON line.
"""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.figure import Figure
from loopworks.core import image
from loopworks.data import door
from loopworks.data.stage import create_dataset
from loopworks.store.home import create_home


def make(folder: Path, count: int) -> None:
    """Photos of a kind: smooth colours with some texture, 640 x 480, quality 85, in four class folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        pixels = pixels + rng.normal(0, 6, pixels.shape).astype(np.int16)
        path = folder / f"class-{number % 4}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def floor(files: list[Path], target: Path, *, durable: bool) -> None:
    target.mkdir()
    rows = []
    for path in files:
        data = path.read_bytes()
        key = hashlib.sha256(data).hexdigest()
        with (target / key).open("wb") as out:
            out.write(data)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        with Image.open(io.BytesIO(data)) as picture:
            rows.append((key, str(path), picture.width, picture.height, len(data)))
    database = sqlite3.connect(target / "rows.db")
    database.execute("CREATE TABLE item (id TEXT PRIMARY KEY, name TEXT, width INT, height INT, size INT)")
    database.executemany("INSERT INTO item VALUES (?, ?, ?, ?, ?)", rows)
    database.commit()
    database.close()


def ours(source: Path, target: Path) -> dict[str, float]:
    with create_home(target) as home:
        dataset = create_dataset(home, "photos", "image-classification")
        add = timed(lambda: dataset.add(source))
        again = timed(lambda: dataset.add(source))
        dataset.split()
        freeze = timed(lambda: dataset.freeze("first"))
        first = dataset.versions()[0]
        dataset.label({item.id: ["class-0"] for item in dataset.items(limit=20)}, author="bench")
        refreeze = timed(lambda: dataset.freeze("second"))
        second = dataset.versions()[1]
        return {
            "add": add,
            "again": again,
            "freeze": freeze,
            "refreeze": refreeze,
            "diff": timed(lambda: first.diff(second)),
        }


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(images: int = 2000, rounds: int = 3) -> dict[str, Any]:
    """Seconds of everything, medians over the rounds, in which floor and import take turns."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make(work / "source", images)
        files = sorted((work / "source").rglob("*.jpg"))
        took: dict[str, list[float]] = {}
        for number in range(rounds):
            for kind, durable in (("floor", False), ("durable", True)):
                target = work / f"{kind}-{number}"
                took.setdefault(kind, []).append(timed(partial(floor, files, target, durable=durable)))
                shutil.rmtree(target)
            target = work / f"ours-{number}"
            for kind, value in ours(work / "source", target).items():
                took.setdefault(kind, []).append(value)
            shutil.rmtree(target)
        few = [path.read_bytes() for path in files[:200]]
        took["look_200"] = [timed(lambda: [door.look(data, "x", 10**8) for data in few])]
        took["full_decode_200"] = [timed(lambda: [image.check(data, "x", 10**8) for data in few])]
        megabytes = sum(path.stat().st_size for path in files) / 1e6
    middle = {kind: round(statistics.median(values), 4) for kind, values in took.items()}
    return {
        "images": images,
        "megabytes": round(megabytes, 1),
        "seconds": middle,
        "ratio_to_floor": round(middle["add"] / middle["floor"], 2),
        "ratio_to_durable_floor": round(middle["add"] / middle["durable"], 2),
        "all": {kind: [round(value, 3) for value in values] for kind, values in took.items()},
    }


def main() -> list[Figure]:
    """The figures against their targets."""
    found = measure()
    second = found["seconds"]
    floors = f"floor {second['floor']} s, with each file flushed to the disk {second['durable']} s"
    return [
        Figure(
            name="add 2,000 JPEGs by path",
            value=found["ratio_to_floor"],
            unit="x the floor",
            target=1.5,
            detail=f"{second['add']} s; {floors}; {found['ratio_to_durable_floor']} x the flushed floor",
        ),
        Figure(name="freeze 2,000 items", value=second["freeze"], unit="s", target=0.3),
        Figure(name="diff two versions of 2,000 items", value=second["diff"], unit="s", target=0.1),
    ]


if __name__ == "__main__":
    print(json.dumps(measure()))
