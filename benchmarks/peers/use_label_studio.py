"""Label Studio: start, import 2,000 tasks with their boxes that name the files, export COCO. Arguments: images, COCO
labels, scratch folder. It serves no images here, so this is its cheapest way in: references, not uploads.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from clock import Clock

images, labels, scratch = sys.argv[1:]
TOKEN = "0123456789abcdef0123456789abcdef01234567"
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]
URL = f"http://127.0.0.1:{PORT}"
CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="car"/><Label value="bus"/><Label value="sign"/><Label value="person"/></RectangleLabels></View>'
)


def ask(path: str, body: Any = None, auth: str = f"Token {TOKEN}") -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers={"Authorization": auth})
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=300) as answer:
        return bytes(answer.read())


def tasks() -> list[dict[str, Any]]:
    """The COCO file as Label Studio's tasks, boxes in per cent."""
    body = json.loads(Path(labels).read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in body["categories"]}
    boxes: dict[int, list[dict[str, Any]]] = {}
    for one in body["annotations"]:
        x, y, width, height = one["bbox"]
        value = {"x": x / 6.4, "y": y / 4.8, "width": width / 6.4, "height": height / 4.8, "rotation": 0}
        boxes.setdefault(one["image_id"], []).append({
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": 640,
            "original_height": 480,
            "value": {**value, "rectanglelabels": [names[one["category_id"]]]},
        })
    return [
        {
            "data": {"image": f"/data/local-files/?d={one['file_name']}"},
            "annotations": [{"result": boxes.get(one["id"], [])}],
        }
        for one in body["images"]
    ]


def start() -> "subprocess.Popen[bytes]":
    words = [
        "start",
        "--no-browser",
        "--internal-host",
        "127.0.0.1",
        "--port",
        str(PORT),
        "--data-dir",
        f"{scratch}/data",
    ]
    who = ["--username", "bench@example.org", "--password", "bench-12345", "--user-token", TOKEN]
    env = {**os.environ, "COLLECT_ANALYTICS": "false", "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "SENTRY_DSN": ""}
    program = str(Path(sys.executable).with_name("label-studio"))
    with open(f"{scratch}/log", "wb") as log:
        server = subprocess.Popen([program, *words, *who], stdout=log, stderr=log, env=env)
    for _ in range(600):
        try:
            ask("/health")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.3)
        else:
            return server
    server.kill()
    raise RuntimeError(Path(scratch, "log").read_text(encoding="utf-8")[-600:])


clock = Clock()
server = clock.time("start", start)
try:
    project = json.loads(ask("/api/projects", {"title": "bench", "label_config": CONFIG}))["id"]
    found = clock.time("add", lambda: ask(f"/api/projects/{project}/import?return_task_ids=false", tasks()))
    assert json.loads(found)["annotation_count"] > 0, found
    archive = clock.time(
        "export", lambda: ask(f"/api/projects/{project}/export?exportType=COCO&download_resources=false")
    )
    assert archive[:2] == b"PK", archive[:200]
finally:
    server.terminate()
    server.wait(30)
clock.done()
