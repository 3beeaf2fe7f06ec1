"""Datumaro: read a COCO data set, write its labels again. Arguments: data set folder, unused, scratch folder."""

import logging
import sys
from typing import Any

from clock import Clock

logging.disable(logging.WARNING)
folder, _, scratch = sys.argv[1:]
clock = Clock()


def start() -> Any:
    import datumaro

    return datumaro


datumaro = clock.time("start", start)


def read() -> Any:
    found = datumaro.Dataset.import_from(folder, "coco")
    found.init_cache()
    return found


found = clock.time("add", read)
assert len(found) > 0
clock.time("export", lambda: found.export(f"{scratch}/out", "coco_instances", save_media=False))
clock.done()
