"""supervision: read a COCO file, write it again. Arguments: images, labels, scratch folder."""

import sys
from typing import Any

from clock import Clock

images, labels, scratch = sys.argv[1:]
clock = Clock()


def start() -> Any:
    import supervision

    return supervision


supervision = clock.time("start", start)
read = supervision.DetectionDataset.from_coco
found = clock.time("add", lambda: read(images_directory_path=images, annotations_path=labels))
assert len(found) > 0
clock.time("export", lambda: found.as_coco(annotations_path=f"{scratch}/out.json"))
clock.done()
