"""Looking at 1,000,000 items on SQLite: first pages and counts of many different queries, each timed three times.

Before them the words are filed and the columns are read, as an import or a server does it (``look.prepare``). The
median is shown, with the first time where it took longer than a second, and the memory peak of the process so far.

``python -m benchmarks.look [FOLDER] [ITEMS]``: the folder is kept, so that a second run only measures.
"""

import json
import random
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import sqlalchemy as sa

from loopworks.core.values import LabelSchema
from loopworks.data.preparing import prepare
from loopworks.data.stage import Dataset, open_dataset
from loopworks.store import datasets, tables, tallies, words
from loopworks.store.home import create_home, open_home

QUERIES: tuple[tuple[str, str], ...] = (
    ("", ""),
    ("split = 'val'", ""),
    ("state = 'unlabeled'", ""),
    ("label = 'car'", ""),
    ("label = 'rare'", ""),
    ("label = 'nothing'", ""),
    ("tag = 'night'", ""),
    ("not tag = 'night'", ""),
    ("tag = 'none such'", ""),
    ("width > 1900", ""),
    ("width > 999999", ""),
    ("width > height and split = 'test'", ""),
    ("area < 100", ""),
    ("size_bytes between 5000 and 5100", "-size"),
    ("", "-size"),
    ("", "-added_at"),
    ("label = 'car'", "-size"),
    ("count(car) >= 2", ""),
    ("count(car) >= 2 and split in ('train', 'val') and width > 640", "-area"),
    ("count(*) = 9", ""),
    ("", "-count"),
    ("attributes.camera = 'A3'", ""),
    ("attributes.camera = 'no such'", ""),
    ("attributes.speed > 99.99", "-attributes.speed"),
    ("box.area < 100", ""),
    ("any(label = 'car' and box.area > 99999999)", ""),
    ("added_at >= '2026-03-01' and state = 'unlabeled'", ""),
    ("name like 'street/0007%'", ""),
    ("name like '%99999.jpg'", ""),
    ("name like '%no such%'", ""),
    ("split = 'train' and width < 200 and tag = 'night' and label = 'bus'", ""),
    ("prediction.score < 0.01", "prediction.score"),
    ("prediction.label != label", ""),
    ("match('pothole main street')", ""),
    ("match('nothing')", ""),
    ("match('jpg')", ""),
    ("match('jpg') and not match('snow')", "-size"),
    ("match('pothole') and width > 1900", "-area"),
    ("label != 'car' and not (split = 'test' or attributes.camera = 'A1')", "-attributes.speed"),
)
CLASSES = ("car", "bus", "person", "bike", "rare")


def make(folder: Path, count: int) -> Dataset:
    if (folder / "loopworks.toml").is_file():
        return open_dataset(open_home(folder), "city")
    home, rng = create_home(folder), random.Random(0)
    with home.catalog.begin() as tx:
        row = datasets.add(tx, "city", "object-detection", LabelSchema(classes=CLASSES))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for begin in range(0, count, 20_000):
        items, said, tags, guesses = [], [], [], []
        for i in range(begin, min(begin + 20_000, count)):
            key = f"{rng.getrandbits(256):064x}"
            shapes = rng.choices((0, 1, 2, 3, 9), (20, 40, 25, 14, 1))[0]
            words = rng.sample(("pothole", "main", "street", "litter", "lamp", "tree", "snow"), 2)
            items.append({
                "dataset": row.id, "id": key, "name": f"street/{i // 1000:05}/{i:07}.jpg", "blob": key, "uri": "",
                "stamp": "", "mime": "image/jpeg", "width": rng.choice((320, 640, 1280, 1920)) + rng.randrange(9),
                "height": rng.choice((240, 480, 720, 1080)), "size_bytes": rng.randrange(2_000, 2_000_000),
                "split": rng.choices(("train", "val", "test", ""), (70, 10, 15, 5))[0],
                "state": "labeled" if shapes else "unlabeled", "added_at": start + timedelta(seconds=i * 6), "rev": 1,
                "text": "", "extra": {}, "changed": 1,
                "attributes": {"camera": f"A{rng.randrange(40)}", "speed": round(rng.random() * 100, 3),
                               "caption": " ".join(words)},
            })  # fmt: skip
            for place in range(shapes):
                label = rng.choices(CLASSES, (50, 20, 20, 10, 0.01))[0]
                w, h = rng.random() * 300, rng.random() * 300
                said.append({
                    "id": f"{i:08x}{place:024x}", "dataset": row.id, "item": key, "label": label, "source": "person",
                    "author": "ann", "rev": 1, "event": "", "created_at": start, "place": place, "kind": "box",
                    "x": 1.0, "y": 1.0, "width": w, "height": h, "points": json.dumps([[1.0, 1.0, w, h]]),
                })  # fmt: skip
            tags += [{"dataset": row.id, "tag": t, "item": key} for t in ("night", "rain") if rng.random() < 0.1]
            if i % 2:
                guesses.append({"dataset": row.id, "model": "m:1", "item": key, "place": 0, "score": rng.random(),
                                "label": rng.choice(CLASSES), "shape": "{}"})  # fmt: skip
        with home.catalog.begin() as tx:
            for table, rows in ((tables.item, items), (tables.annotation, said), (tables.item_tag, tags)):
                tx.execute(sa.insert(table), rows)
            tx.execute(sa.insert(tables.prediction), guesses)
    with home.catalog.begin() as tx:
        tx.execute(sa.insert(tables.scored).values(dataset=row.id, model="m:1", clock=1, items=count, created_at=start))
        tx.execute(sa.update(tables.dataset).values(clock=1))
        tallies.recount(tx, row.id)
    return open_dataset(home, "city")


def peak() -> str:
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"


def main(folder: str = "look-bench", count: str = "1000000") -> None:
    begin = time.perf_counter()
    dataset = make(Path(folder), int(count))
    print(f"made or opened {count} items in {time.perf_counter() - begin:.1f} s")
    begin = time.perf_counter()
    words.catch_up(dataset._home.catalog, dataset.id)
    print(f"words filed in {time.perf_counter() - begin:.1f} s, {peak()}")
    begin = time.perf_counter()
    prepare(dataset._home, dataset.id)
    print(f"columns read in {time.perf_counter() - begin:.1f} s, {peak()}")
    missed = 0
    for query, sort in QUERIES:
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            found = dataset.find(query, sort=sort, limit=50)
            times.append((time.perf_counter() - begin) * 1000)
            if len(times) > 1 and times[1] > 3000:
                break
        missed += median(times) > 100
        once = f" (the first time {times[0] / 1000:.1f} s)" if times[0] > 1000 else ""
        order = f" by {sort}" if sort else ""
        print(f"{median(times):9.1f} ms  {len(found):3} of {query or 'all'}{order}{once}, {peak()}", flush=True)
    begin = time.perf_counter()
    dataset.counts()
    print(f"{(time.perf_counter() - begin) * 1000:9.1f} ms  count by class")
    for query in ("label = 'car'", "width > 999999", "count(car) >= 2"):
        begin = time.perf_counter()
        number = dataset.look.count(query)
        print(f"{(time.perf_counter() - begin) * 1000:9.1f} ms  count of {query}: {number}")
    print(f"largest memory: {peak()}")
    print(f"{missed} of {len(QUERIES)} first pages over 100 ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
