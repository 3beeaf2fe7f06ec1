"""Getting large datasets ready for their first question: in the background of a server, and after a large import."""

import logging
import threading
import time

from loopworks.core.errors import LoopworksError
from loopworks.store import columns, datasets, look
from loopworks.store.home import Home

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds between two looks for datasets that changed."""
SHARE = 20
"""After preparing, wait this many times as long as it took: a long import is not slowed by more than a twentieth."""
IMPORTED = 0.05
"""Share of a dataset's items that an import must have changed to pay for getting it ready."""


def after_import(home: Home, dataset: str, count: int) -> None:
    """Get a dataset ready where an import changed ``count`` of its items, which is a good part of them."""
    with home.catalog.read() as tx:
        total = columns.size(tx, dataset)
    if total >= columns.MIN_ITEMS and count >= IMPORTED * total:
        prepare(home, dataset)


def prepare(home: Home, dataset: str) -> None:
    """Read what questions about a large dataset usually look at, as far as it is not there yet."""
    begin = time.monotonic()
    look.prepare(home.catalog, home.cache, dataset)
    log.info("dataset ready dataset=%s seconds=%.1f", dataset, time.monotonic() - begin)


class Preparer:
    """A thread that keeps the large datasets of a workspace ready until it is closed."""

    def __init__(self, home: Home) -> None:
        """Start it."""
        self._home = home
        self._stopping = threading.Event()
        self._done: dict[str, tuple[int, str]] = {}
        """Dataset -> clock and newest model when it was got ready last."""
        self._thread = threading.Thread(target=self._run, name="preparer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the field that is being read."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            begin = time.monotonic()
            try:
                self._look()
            except LoopworksError as error:  # a locked or full database: the next look may find it better
                log.warning("datasets could not be got ready: %s", error)
            pause = max(LOOK_S, SHARE * (time.monotonic() - begin))

    def _look(self) -> None:
        with self._home.catalog.read() as tx:
            found = {
                row.id: (columns.clock(tx, row.id), look.newest_model(tx, row.id) or "")
                for row in datasets.every(tx)
                if columns.size(tx, row.id) >= columns.MIN_ITEMS
            }
        for dataset, state in found.items():
            if self._done.get(dataset) != state and not self._stopping.is_set():
                look.prepare(self._home.catalog, self._home.cache, dataset, self._stopping.is_set)
                self._done[dataset] = state
