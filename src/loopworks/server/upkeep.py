"""What a server does now and then for watched deployments: train again, and erase what is too old."""

import logging
import threading
import time
from typing import TYPE_CHECKING

from loopworks.core.errors import LoopworksError, NotFound

if TYPE_CHECKING:
    from loopworks.workspace import Workspace

log = logging.getLogger(__name__)
LOOK_S = 300.0
PURGE_S = 86_400.0


class Upkeep:
    """A thread that asks every watched deployment, some minutes apart, whether there is something to do."""

    def __init__(self, space: "Workspace") -> None:
        """Begin; the first look is after ``LOOK_S``."""
        self._space = space
        self._stopping = threading.Event()
        self._purge_at = time.monotonic() + PURGE_S
        self._thread = threading.Thread(target=self._work, name="upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after what is under way."""
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Do what is due now."""
        is_purge = time.monotonic() >= self._purge_at
        if is_purge:
            self._purge_at = time.monotonic() + PURGE_S
        for name in self._space.watches():
            try:
                self._one(name, is_purge=is_purge)
            except NotFound as error:  # no rules for training, or the deployment has ended meanwhile
                log.debug("nothing to keep up deployment=%s: %s", name, error)
            except LoopworksError as error:
                log.warning("upkeep failed deployment=%s: %s", name, error)

    def _one(self, name: str, *, is_purge: bool) -> None:
        if is_purge:
            self._space.purge(name)
        done = self._space.retrain(name)
        if done["state"] not in ("idle", "held_back", "running"):
            log.info("retrain deployment=%s state=%s", name, done["state"])

    def _work(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # the top of a thread: the next look may find the catalog free again
                log.warning("upkeep failed", exc_info=error)
