"""FiftyOne: import a COCO file with its images by path, write it again. Arguments: images, labels, scratch folder.

Its versions (snapshots) are not in the open edition, so there is no freeze and no diff to time.
"""

import os
import sys
from typing import Any

from clock import Clock

images, labels, scratch = sys.argv[1:]
os.environ.update(
    FIFTYONE_DATABASE_DIR=f"{scratch}/db",
    FIFTYONE_DO_NOT_TRACK="true",
    FIFTYONE_SHOW_PROGRESS_BARS="false",
    FIFTYONE_CONFIG_PATH=f"{scratch}/config.json",
)

clock = Clock()


def start() -> Any:
    import fiftyone

    fiftyone.list_datasets()
    return fiftyone


fiftyone = clock.time("start", start)
kind = fiftyone.types.COCODetectionDataset
found = clock.time(
    "add",
    lambda: fiftyone.Dataset.from_dir(
        dataset_type=kind, data_path=images, labels_path=labels, label_types=["detections"], include_id=True
    ),
)
field = next(name for name in found.get_field_schema() if name in ("ground_truth", "detections"))
clock.time("export", lambda: found.export(dataset_type=kind, labels_path=f"{scratch}/out.json", label_field=field))
assert len(found) > 0
clock.done()
os._exit(0)
