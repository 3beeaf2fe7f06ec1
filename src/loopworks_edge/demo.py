"""The demonstration in an edge bundle: it checks the bundle, asks the model, and asks it again over HTTP."""

import json
import sys
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core.errors import Failed
from loopworks.infer import items, protocol, wire
from loopworks_edge import model, samples
from loopworks_edge.server import EdgeServer


def main(files: Sequence[Path] = (), folder: Path = model.HOME) -> None:
    """Ask about ``files``, or about noise of the right form where there is none."""
    edge = model.open(folder)
    task = "chain" if edge.manifest.is_chain else edge.bundle.task
    print(f"{edge.manifest.name}: {task}, {edge.variant()}, signed by key {edge.manifest.key[:16]}...")
    asked: list[items.Asked] = [*files] or samples.contents(edge.bundle, 1)
    predictor = edge.load(threads=1)
    answers, problems = edge.predict(predictor, asked)
    for answer in answers[:5]:
        print(json.dumps(answer, ensure_ascii=False)[:400])
    for problem in problems:
        print(f"{problem.where}: {problem.message}")
    feed = samples.tensors(edge.bundle, 1)
    expected = predictor.predict(feed)
    predictor.close()
    server = EdgeServer(edge)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        _check(server.url, edge.manifest.name, feed, expected)
    finally:
        server.shutdown()
        thread.join()
        server.close()
    print("the answers over HTTP are the same, bit for bit")


def _check(url: str, name: str, feed: Any, expected: Any) -> None:
    body, length = protocol.ask(feed)
    request = urllib.request.Request(f"{url}/v2/models/{name}/infer", body)
    request.add_header(protocol.HEADER_LENGTH, str(length))
    with urllib.request.urlopen(request, timeout=60) as reply:
        content, head = reply.read(), int(reply.headers[protocol.HEADER_LENGTH])
    at = head
    for told in wire.loads(content[:head])["outputs"]:
        size = told["parameters"]["binary_data_size"]
        found = protocol.from_bytes(memoryview(content)[at : at + size], told["datatype"], told["shape"], told["name"])
        at += size
        if not np.array_equal(found, expected[told["name"]]):
            raise Failed(f"output {told['name']} must be the same over HTTP; got another")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
