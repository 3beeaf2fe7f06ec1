"""Loopworks itself, timed the way the peers are. Arguments: images, COCO labels beside them, scratch folder."""

import sys
from pathlib import Path
from typing import Any

from clock import Clock

images, labels, scratch = sys.argv[1:]
clock = Clock()


def start() -> Any:
    import loopworks

    space = loopworks.open(f"{scratch}/workspace")
    return space, space.dataset("photos", task="object-detection")


space, found = clock.time("start", start)
report = clock.time("add", lambda: found.add(Path(images).parent, format="coco"))
assert report.added > 0
assert not report.problems, report.problems[:3]
other = space.dataset("referenced", task="object-detection")
clock.time("reference", lambda: other.add(Path(images).parent, format="coco", by="reference"))
found.split()
clock.time("freeze", lambda: found.freeze("first"))
clock.time("export", lambda: found.version(found.versions()[0].id).export(f"{scratch}/out", format="coco", media=False))
some = found.items(limit=20)
found.label({item.id: item.labels[:1] for item in some}, author="bench")
clock.time("refreeze", lambda: found.freeze("second"))
first, second = found.versions()
difference = clock.time("diff", lambda: first.diff(second))
assert len(difference.changed) == len(some)
space.close()
clock.done()
