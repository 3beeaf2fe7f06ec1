"""Sinks that speak to others: webhook, MQTT, database, dataset."""

import http.client
import json
import logging
import random
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from loopworks.core.content import content_id
from loopworks.core.errors import Failed, LoopworksError, NotFound, Unreachable
from loopworks.data.stage import Dataset, open_dataset
from loopworks.infer.live import definition as said
from loopworks.infer.live.definition import hidden
from loopworks.infer.live.frames import COLUMNS, Result, jpeg
from loopworks.infer.live.mqtt import Connection
from loopworks.store.home import Home
from loopworks.store.results import Results

log = logging.getLogger(__name__)
LONGEST_S = 60.0
"""Longest pause between two attempts, also where the receiver asks for a longer one."""
TRIES = 5
INBOX = "inbox"
"""Tag of frames that a pipeline put into a dataset."""


def pauses(first_s: float, most_s: float = LONGEST_S) -> Iterator[float]:
    """Pauses between attempts: each twice the one before, all with jitter, so that many do not come back at once."""
    pause = first_s
    while True:
        yield min(pause, most_s) * random.uniform(0.5, 1.0)
        pause = min(pause * 2, most_s)


def wait(seconds: float, stopped: Callable[[], bool]) -> None:
    """Sleep, unless the pipeline ends."""
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a receiver must not send our results elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None is followed."""


class Webhook:
    """POSTs each result; tries again where that may help."""

    def __init__(self, sink: said.WebhookSink, stopped: Callable[[], bool]) -> None:
        """Nothing is sent yet."""
        self._sink, self._stopped = sink, stopped
        self._opener = urllib.request.build_opener(_Straight)

    def write(self, results: list[Result]) -> None:
        """Send; ``Unreachable`` once all tries are spent, ``Failed`` where the receiver refuses."""
        for result in results:
            body = json.dumps(result.to_json(), ensure_ascii=False).encode("utf-8", "replace")
            self._send(body)

    def _send(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "loopworks", **self._sink.headers}
        where, told = hidden(self._sink.url), ""
        for left, pause in zip(range(self._sink.tries - 1, -1, -1), pauses(self._sink.backoff_s), strict=False):
            asked = urllib.request.Request(self._sink.url, body, headers, method="POST")
            try:
                with self._opener.open(asked, timeout=self._sink.timeout_s) as answer:
                    answer.read(1 << 16)
                return
            except urllib.error.HTTPError as error:
                told = f"status {error.code}"
                wanted = error.headers.get("Retry-After", "")
                error.close()
                if error.code != 429 and error.code < 500:
                    raise Failed(f"webhook {where} must take results; got {told}") from None
                if wanted.isdecimal():
                    pause = min(float(wanted), LONGEST_S)
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", error)  # of the library's own error
                told = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            if self._stopped() or not left:
                break
            wait(pause, self._stopped)
        raise Unreachable(f"webhook {where} must take results; got {told} (tried {self._sink.tries - left} times)")

    def close(self) -> None:
        """Nothing is kept open."""


class Publisher:
    """Publishes each result; keeps one connection, and makes another where it broke."""

    def __init__(self, sink: said.MqttSink, stopped: Callable[[], bool]) -> None:
        """Nothing is opened yet."""
        self._sink, self._stopped = sink, stopped
        self._connection: Connection | None = None

    def write(self, results: list[Result]) -> None:
        """Publish; ``Unreachable`` where the broker stayed away."""
        for result in results:
            body = json.dumps(result.to_json(), ensure_ascii=False).encode("utf-8", "replace")
            for left, pause in zip(range(TRIES - 1, -1, -1), pauses(0.5), strict=False):
                try:
                    if self._connection is None:
                        self._connection = Connection(self._sink.url, self._sink.timeout_s).__enter__()
                    self._connection.publish(self._sink.topic, body, self._sink.qos, retain=self._sink.retain)
                    break
                except LoopworksError as error:
                    self.close()
                    if not left or self._stopped() or not isinstance(error, Unreachable):
                        raise
                    wait(pause, self._stopped)

    def close(self) -> None:
        """Take leave."""
        if self._connection is not None:
            self._connection.__exit__()
            self._connection = None


class Database:
    """Rows into a table; opens it with the first result, and again where it was away."""

    def __init__(self, sink: said.DatabaseSink, folder: Path, stopped: Callable[[], bool]) -> None:
        """Nothing is opened yet."""
        self._url = sink.url or f"sqlite:///{folder / 'results.db'}"
        self._table, self._stopped = sink.table, stopped
        self._results: Results | None = None

    def write(self, results: list[Result]) -> None:
        """Add the rows of some results at once; ``Unreachable`` where the database stayed away."""
        rows = [row for result in results for row in result.rows()]
        for left, pause in zip(range(TRIES - 1, -1, -1), pauses(0.5), strict=False):
            try:
                if self._results is None:
                    self._results = Results(self._url, self._table, COLUMNS).__enter__()
                self._results.add(rows)
                return
            except Unreachable:
                if not left or self._stopped():
                    raise
                wait(pause, self._stopped)

    def close(self) -> None:
        """Close it."""
        if self._results is not None:
            self._results.__exit__(None, None, None)
            self._results = None


class Inbox:
    """Frames into a dataset, to be labelled; what the model said of them is kept as its prediction."""

    def __init__(self, sink: said.DatasetSink, home: Home) -> None:
        """Raises: NotFound: no such dataset. Invalid: it is none of images."""
        self._sink, self._home = sink, home
        dataset = open_dataset(home, sink.dataset)
        if dataset.task.media != "image":
            raise Failed(f"dataset {sink.dataset} must be one of images; got one of {dataset.task.media}s")
        self._next_s = 0.0

    def keep(self, result: Result) -> Result | None:
        """The result with its frame as a file, where it is wanted: a JPEG takes a hundredth of the pixels' memory."""
        if result.uncertainty < self._sink.uncertain or result.frame.time_s < self._next_s:
            return None
        self._next_s = result.frame.time_s + self._sink.gap_s
        content = result.frame.content
        data = content if isinstance(content, bytes) else jpeg(result.frame.picture(1 << 30), 92)
        return replace(result, frame=replace(result.frame, pixels=None, content=data, settle=None))

    def write(self, chosen: list[Result]) -> None:
        """Add the frames."""
        dataset = open_dataset(self._home, self._sink.dataset)
        ids: dict[str, Result] = {}
        with tempfile.TemporaryDirectory(prefix="loopworks-live-", dir=self._home.cache) as scratch:
            folder = Path(scratch) / chosen[0].pipeline
            folder.mkdir()
            for result in chosen:
                data = result.frame.content
                stem = f"{result.at.replace(':', '')[:23]}-{result.frame.index:06}"
                (folder / f"{stem}.jpg").write_bytes(data)
                ids[content_id(data)] = result
            report = dataset.add(scratch, labels="none", author=f"live:{chosen[0].pipeline}")
        if bad := report.problems:
            log.warning("frame left out dataset=%s: %s", self._sink.dataset, bad[0].message)
        known = {key: result for key, result in ids.items() if _has(dataset, key)}
        if known:
            dataset.tag_items(list(known), INBOX, author=f"live:{chosen[0].pipeline}")
        for key, result in known.items():
            if all(shape.label in dataset.schema.classes for shape in result.shapes):
                said_of = list(zip(result.shapes, result.confidences, strict=True))
                dataset.look.keep(result.learnt or result.model, {key: said_of})

    def close(self) -> None:
        """Nothing is held back."""


def _has(dataset: Dataset, key: str) -> bool:
    try:
        dataset.item(key)
    except NotFound:
        return False
    return True
