"""Where results go. A sink that fails is counted and told, and never stops the pipeline or the other sinks.

Slow ones (webhook, MQTT, database, dataset) have a thread and a queue with a limit of their own.
"""

import csv
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from loopworks.core.errors import LoopworksError
from loopworks.infer.live import definition as said
from loopworks.infer.live.frames import COLUMNS, Result, jpeg
from loopworks.store.blobs import write_error
from loopworks.store.home import Home

log = logging.getLogger(__name__)
FLUSH_S = 10.0
"""How long a sink may work on what waits when its pipeline ends."""
Draw = Callable[[Result], Any]
"""Pixels of a result's frame with what was found in it."""
Keep = Callable[[Result], Result | None]


class Sink(Protocol):
    """Takes results one after the other, from one thread."""

    def write(self, results: list[Result]) -> None:
        """Take some; raise what went wrong with them."""

    def close(self) -> None:
        """Write what is held back and let go of everything."""


@dataclass(slots=True)
class Tally:
    """What became of a sink's results."""

    kind: str
    to: str = ""
    """Where they go: path, topic, table or URL, without a password."""
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    error: str = ""
    """What went wrong last."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in ("kind", "to", "sent", "failed", "dropped", "error")}


class Outlet:
    """A sink with its tally; ``Queued`` is one with a thread of its own."""

    def __init__(self, said_of: said.Sink, sink: Sink) -> None:
        """Guard ``sink``."""
        self.tally = Tally(said_of.kind, said.target(said_of))
        self._sink = sink

    def put(self, result: Result) -> None:
        """Give it a result; whatever goes wrong is counted."""
        self._write([result])

    def close(self) -> None:
        """End it."""
        try:
            self._sink.close()
        except Exception as error:  # a sink may raise anything; the others are closed all the same
            self._fail(error, 0)

    def _write(self, results: list[Result]) -> None:
        try:
            self._sink.write(results)
            self.tally.sent += len(results)
        except Exception as error:  # a full disk or a broken receiver must not stop the pipeline
            self._fail(error, len(results))

    def _fail(self, error: Exception, count: int) -> None:
        self.tally.failed += count
        told = str(error) or type(error).__name__
        if told != self.tally.error:
            known = isinstance(error, LoopworksError | OSError)
            log.warning(
                "sink failed kind=%s to=%s: %s", self.tally.kind, self.tally.to, told, exc_info=None if known else error
            )
        self.tally.error = told


class Queued(Outlet):
    """A sink whose results wait in a queue with a limit, and are written by a thread."""

    def __init__(
        self, said_of: said.Sink, sink: Sink, limit: int, *, is_lossless: bool, most: int = 1, keep: Keep | None = None
    ) -> None:
        """``most`` results are written at once; where the queue is full, ``put`` waits (``is_lossless``) or drops.

        ``keep`` makes of a result what waits, or nothing; by default it waits without its picture.
        """
        super().__init__(said_of, sink)
        self._limit, self._is_lossless, self._most = limit, is_lossless, most
        self._keep: Keep = keep or Result.without_picture
        self._waiting: deque[Result] = deque()
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._work, name=f"sink-{said_of.kind}", daemon=True)
        self._thread.start()

    def put(self, result: Result) -> None:
        """Queue a result."""
        try:
            kept = self._keep(result)
        except Exception as error:  # a picture that cannot be drawn or packed must not stop the pipeline
            self._fail(error, 1)
            return
        if kept is None:
            return
        with self._changed:
            if self._is_lossless:
                self._changed.wait_for(lambda: len(self._waiting) < self._limit or not self._is_open)
            elif len(self._waiting) >= self._limit:
                self._waiting.popleft()
                self.tally.dropped += 1
            self._waiting.append(kept)
            self._changed.notify_all()

    def close(self) -> None:
        """Write what waits, for at most ``FLUSH_S``; what is left then is dropped and counted."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        self._thread.join(FLUSH_S)
        with self._changed:
            self.tally.dropped += len(self._waiting)
            self._waiting.clear()
        if not self._thread.is_alive():
            super().close()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or not self._is_open)
                if not self._waiting:
                    return
                some = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                self._changed.notify_all()
            self._write(some)


def outlets(
    sinks: Iterable[said.Sink], *, folder: Path, home: Home, draw: Draw, is_lossless: bool, stopped: Callable[[], bool]
) -> list[Outlet]:
    """The sinks of a pipeline, open.

    Args:
        sinks: as defined.
        folder: of the pipeline.
        home: the workspace.
        draw: draws a result.
        is_lossless: whether the pipeline waits for slow sinks.
        stopped: whether the pipeline ends: then nothing is tried again.
    Raises: Missing, Invalid, NotFound: one of them will never work.
    """
    from loopworks.infer.live import senders

    made: list[Outlet] = []
    for one in sinks:
        if isinstance(one, said.FolderSink):
            made.append(Outlet(one, FolderWriter(one, draw, home.settings.max_image_pixels)))
        elif isinstance(one, said.TableSink):
            made.append(Outlet(one, CsvWriter(one) if one.kind == "csv" else ParquetWriter(one)))
        elif isinstance(one, said.WebhookSink):
            made.append(Queued(one, senders.Webhook(one, stopped), one.queue, is_lossless=is_lossless))
        elif isinstance(one, said.MqttSink):
            made.append(Queued(one, senders.Publisher(one, stopped), one.queue, is_lossless=is_lossless))
        elif isinstance(one, said.DatabaseSink):
            sink = senders.Database(one, folder, stopped)
            made.append(Queued(one, sink, one.queue, is_lossless=is_lossless, most=100))
        else:
            inbox = senders.Inbox(one, home)
            made.append(Queued(one, inbox, one.queue, is_lossless=is_lossless, most=16, keep=inbox.keep))
    return made


class FolderWriter:
    """A JPEG and a JSON file for each result, named by its time or file, and its frame."""

    def __init__(self, sink: said.FolderSink, draw: Draw, max_pixels: int) -> None:
        """Nothing is made yet."""
        self._sink, self._draw, self._max_pixels = sink, draw, max_pixels
        self._folder = Path(sink.path)

    def write(self, results: list[Result]) -> None:
        """The picture first, so that whoever waits for the JSON file finds both."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for result in results:
                stamp = datetime.fromtimestamp(result.frame.came_s, UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]
                stem = os.path.splitext(os.path.basename(result.frame.name))[0] or stamp
                name = f"{stem}-{result.frame.index:06}"
                if self._sink.images and (result.frame.pixels is not None or isinstance(result.frame.content, bytes)):
                    pixels = self._draw(result) if self._sink.drawn else result.frame.picture(self._max_pixels)
                    _replace(self._folder / f"{name}.jpg", jpeg(pixels, self._sink.quality))
                told = json.dumps(result.to_json(), ensure_ascii=False)
                _replace(self._folder / f"{name}.json", told.encode("utf-8", "replace"))
        except OSError as error:
            raise write_error(self._folder, error) from None

    def close(self) -> None:
        """Nothing is held back."""


class CsvWriter:
    """Rows appended to a CSV file; whole lines, on their way to the disk at once."""

    def __init__(self, sink: said.TableSink) -> None:
        """Nothing is made yet."""
        self._path = Path(sink.path)
        self._file: Any = None

    def write(self, results: list[Result]) -> None:
        """A row for each object."""
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                is_new = not self._path.exists() or not self._path.stat().st_size
                self._file = self._path.open("a", encoding="utf-8", newline="")
                if is_new:
                    csv.writer(self._file).writerow(COLUMNS)
            writer = csv.DictWriter(self._file, list(COLUMNS))
            for result in results:
                writer.writerows(result.rows())
            self._file.flush()
        except OSError as error:
            raise write_error(self._path, error) from None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class ParquetWriter:
    """Rows as Parquet files in a folder; each appears when it is whole."""

    def __init__(self, sink: said.TableSink) -> None:
        """Nothing is made yet."""
        self._sink, self._folder = sink, Path(sink.path)
        self._rows: list[dict[str, Any]] = []
        self._since = time.monotonic()

    def write(self, results: list[Result]) -> None:
        """A row for each object; they reach the disk when there are enough, or they have waited long enough."""
        if not self._rows:
            self._since = time.monotonic()
        for result in results:
            self._rows += result.rows()
        if len(self._rows) >= self._sink.rows or time.monotonic() - self._since >= self._sink.hold_s:
            self.close()

    def close(self) -> None:
        """Write what is held back."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        name = datetime.now(UTC).strftime("results-%Y%m%dT%H%M%S%f")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temp = self._folder / f".{name}.partial"
            pq.write_table(pa.Table.from_pylist(self._rows, schema=schema), temp, compression="zstd")
            os.replace(temp, self._folder / f"{name}.parquet")
        except OSError as error:
            raise write_error(self._folder, error) from None
        finally:
            self._rows = []


def _replace(path: Path, data: bytes) -> None:
    temp = path.with_name(f".{path.name}.partial")
    temp.write_bytes(data)
    os.replace(temp, path)
