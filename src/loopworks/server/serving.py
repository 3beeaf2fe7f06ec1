"""What the server has in use: the engine with every deployment of the workspace, kept up to date; and who answers."""

import itertools
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from loopworks.core.errors import LoopworksError, NotFound
from loopworks.infer.engine import Engine, Served
from loopworks.infer.observers import Observers
from loopworks.infer.shadows import Pair, Shadows
from loopworks.infer.watch.watcher import Watcher
from loopworks.server.chained import Chains
from loopworks.server.metrics import Metrics
from loopworks.server.quotas import Quotas
from loopworks.server.telling import Telling
from loopworks.server.tokens import Tokens
from loopworks.server.upkeep import Upkeep
from loopworks.server.watch_metrics import WatchMetrics
from loopworks.store.agreements import Agreement

if TYPE_CHECKING:
    from loopworks.workspace import Deployment, Workspace

log = logging.getLogger(__name__)
KEY_HEADER = "x-loopworks-key"
"""Who asks, as far as canaries go: the same key always meets the same revision."""
LOOK_S = 1.0
"""How often to look for what other processes deployed."""
RETRY_S = 30.0
KEEP_S = 600.0
"""How long the revision before stays loaded, for an instant rollback."""
WRITE_S = 5.0
"""How often counts of agreement are written to the catalog."""


@dataclass(frozen=True, slots=True)
class _Canary:
    served: Served
    share: float


def _keys(rows: "Iterable[Deployment]") -> list[tuple[str, str, float]]:
    return [row.key for row in rows]


def point(name: str, key: str) -> float:
    """Where a key falls in 0..100: a canary of that share or more answers it. Always the same for the same key."""
    digest = blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100


class Serving:
    """The deployments of a workspace, loaded; looks for new revisions while it runs."""

    def __init__(
        self,
        space: "Workspace",
        tokens: Tokens | None = None,
        telling: Telling | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """Load every deployment. One that cannot be loaded does not hold up the others and is tried again later."""
        self.space = space
        self.tokens = tokens or Tokens(space, space.settings.token)
        """Who may ask, kept up to date."""
        self.telling = telling or Telling(space.settings)
        """Who hears of every request."""
        self.quotas = quotas or Quotas(space.settings)
        """How often deployments may be asked."""
        self.cores = cores = space.settings.threads or os.cpu_count() or 1
        settings = space.settings
        self.shadows = Shadows()
        self.watch = Watcher(space.home)
        self.engine = Engine(
            workers=cores,
            limits=settings.limits_for,
            memory_bytes=settings.max_model_mb << 20,
            observe=Observers(self.shadows, self.watch),
        )
        self.chains = Chains(self)
        """Several models behind one name."""
        self.metrics = Metrics(self.engine, self.shadows, self.chains.ensembles)
        self.metrics.registry.register(WatchMetrics(self.watch))
        self.decoding = CapacityLimiter(cores)
        """How many images are decoded at once."""
        self.stopping = threading.Event()
        """Set when the server begins to stop: streams end."""
        self.grpc_address = ""
        """HOST:PORT of the gRPC port, where there is one."""
        self._rows: dict[str, list[Deployment]] = {}
        """Deployment -> the revisions that it was brought to."""
        self.quotas.names = self._rows
        self._canaries: dict[str, _Canary] = {}
        self._kept: dict[str, tuple[str, float]] = {}
        """Deployment -> the version before, and until when it stays loaded."""
        self._twins: dict[tuple[str, str], Served] = {}
        """Live revisions loaded once more, to answer what canaries answered."""
        self._written: dict[tuple[str, str, str], tuple[int, float, int, int]] = {}
        self._writing = threading.Lock()
        self._next_write = 0.0
        self._problems: dict[str, tuple[str, float]] = {}
        self._turn = itertools.count()
        self._lock = threading.Lock()
        self.sync()
        self.quotas.write(space)
        self._watcher = threading.Thread(target=self._watch, name="deployments", daemon=True)
        self._watcher.start()
        self._upkeep = Upkeep(space)

    def close(self) -> None:
        """Stop looking and unload everything."""
        self.stopping.set()
        self._watcher.join()
        self.chains.close()
        self._upkeep.close()
        self.shadows.close()
        try:
            self.write()
            self.tokens.write()
            self.quotas.write(self.space)
        except LoopworksError as error:
            log.warning("counts of agreement, uses of tokens or counts of quotas were not written: %s", error)
        for twin in self._twins.values():
            twin.close()
        self.engine.close()
        self.watch.close()
        self.telling.close()

    def sync(self) -> None:
        """Load what was deployed since, unload what is no longer deployed."""
        wanted: dict[str, list[Deployment]] = defaultdict(list)
        with self._lock:
            for row in self.space.in_use():
                wanted[row.name].append(row)
            for name in set(self._rows) - set(wanted):
                self._forget(name)
                del self._rows[name]
            self._problems = {name: problem for name, problem in self._problems.items() if name in wanted}
            for name, rows in wanted.items():
                if _keys(self._rows.get(name, ())) != _keys(rows) or self._is_due(name):
                    try:
                        self._bring(name, rows)  # what did not load is logged and tried again
                    except Exception as error:  # whatever it is, the other deployments go on
                        log.error("cannot take deployment=%s into use", name, exc_info=error)
                        self._fails(name, error)
            for name, (version, until) in list(self._kept.items()):
                if time.monotonic() > until:
                    del self._kept[name]
                    if version in [served.version for served in self.engine.beside(name)]:
                        self.engine.unload(name, version)

    def load(self, name: str) -> Served:
        """Load a deployment again, or what is new of it."""
        with self._lock:
            self.space.deployment(name)
            rows = self.space.in_use(name)
            error = self._bring(name, rows, again=_keys(self._rows.get(name, ())) == _keys(rows))
            if error is not None:
                raise error
            return self.engine.model(name)

    def unload(self, name: str) -> None:
        """Take a deployment out of memory until it is loaded or deployed again."""
        with self._lock:
            if name not in self.engine.names():
                raise NotFound("model", name, self.engine.names())
            self._problems.pop(name, None)
            self._forget(name)

    def pick(self, name: str, version: str = "", key: str = "") -> Served:
        """Who answers: the version asked for, or the canary for its share of the keys, or the live revision.

        The same key always meets the same revision; without a key each request is one of its own.
        Raises: NotFound: nothing of that name or version is loaded.
        """
        canary = self._canaries.get(name)
        if canary is None or version:
            return self.model(name, version)
        if point(name, key or f"\0{self.space.settings.seed}\0{next(self._turn)}") < canary.share:
            return canary.served
        return self.model(name)

    def model(self, name: str, version: str = "") -> Served:
        """The loaded model; where its deployment could not be loaded, the error says why."""
        try:
            return self.engine.model(name, version)
        except NotFound as error:
            if name not in self.engine.names() and (why := self.problem(name)):
                raise NotFound("loaded model", name, hint=f"it could not be loaded: {why}") from error
            raise

    @property
    def is_ready(self) -> bool:
        """Whether every deployment can answer, be it by the revision before one that does not load; the protocol's
        meaning of a server that is ready."""
        return not self.stopping.is_set() and set(self.engine.names()) >= self._problems.keys()

    def check_ready(self, name: str, version: str = "") -> None:
        """``NotFound`` unless the model can be asked. One that made room for others can, and is not loaded for this:
        who only watches must not push out what is in use."""
        if not (self.engine.is_parked(name) and version in ("", *self.engine.versions(name))):
            self.model(name, version)

    def problem(self, name: str) -> str:
        """Why the deployment's newest revision could not be loaded; empty where it could."""
        return self._problems.get(name, ("", 0.0))[0]

    def write(self) -> None:
        """Write what was compared since the last time to the catalog."""
        with self._writing:
            more = []
            pairs = self.shadows.counts()
            gone = self.shadows.forget()
            for pair in pairs:
                key, now = (pair.name, pair.other, pair.live), (pair.rows, pair.agreed, pair.dropped, pair.failed)
                before = self._written.get(key, (0, 0.0, 0, 0))
                if now != before:
                    more.append(
                        Agreement(
                            name=pair.name,
                            revision=int(pair.other),
                            live=int(pair.live),
                            rows=now[0] - before[0],
                            agreed=now[1] - before[1],
                            dropped=now[2] - before[2],
                            failed=now[3] - before[3],
                        )
                    )
                    self._written[key] = now
            if more:
                self.space.compared(more)
            for pair in gone:
                self._written.pop((pair.name, pair.other, pair.live), None)

    def _is_due(self, name: str) -> bool:
        return name in self._problems and time.monotonic() > self._problems[name][1]

    def _fails(self, name: str, error: Exception) -> None:
        self._problems[name] = (str(error) or type(error).__name__, time.monotonic() + RETRY_S)

    def _bring(self, name: str, rows: "list[Deployment]", *, again: bool = False) -> Exception | None:
        """Load what is missing, then let it answer as the rows say, then unload what is not used any more.

        Where a revision does not load, what was loaded before stays in use, and ``sync`` tries again later.

        Returns: the first such error.
        """
        self._rows[name] = rows
        failed: list[Exception] = []
        for row in rows:
            if again or str(row.revision) not in self.engine.versions(name):
                try:
                    self._load(row, is_first=row.role == "live" and (again or name not in self.engine.names()))
                except Exception as error:  # a model file may raise anything
                    is_known = isinstance(error, LoopworksError)
                    log.error("cannot serve deployment=%s: %s", row.ref, error, exc_info=None if is_known else error)
                    failed.append(error)
        live = str(rows[0].revision)
        if live in [served.version for served in self.engine.beside(name)]:
            if (before := self.engine.front(name)) is not None and not self.space.settings.max_model_mb:
                self._kept[name] = (before.version, time.monotonic() + KEEP_S)
            self.engine.switch(name, live)
        self._route(name)
        wanted = {*(str(row.revision) for row in rows), self._kept.get(name, ("", 0.0))[0]}
        for served in self.engine.beside(name):
            if served.version not in wanted:
                self.engine.unload(name, served.version)
        if failed:
            self._fails(name, failed[0])
            return failed[0]
        self._problems.pop(name, None)
        return None

    def _load(self, row: "Deployment", *, is_first: bool) -> None:
        facts = {name: value for name, value in row.to_json().items() if name not in ("role", "share", "ended_at")}
        self.engine.load(
            row.name,
            self.space.bundle(row),
            variant=row.variant,
            version=str(row.revision),
            facts=facts,
            beside=not is_first,
        )

    def _route(self, name: str) -> None:
        """Send requests where the rows say, and see to what is compared."""
        beside = {served.version: served for served in self.engine.beside(name)}
        for row in self._rows[name]:
            if row.role == "canary" and (served := beside.get(str(row.revision))):
                self._canaries[name] = _Canary(served, row.share)
                break
        else:
            self._canaries.pop(name, None)
        self._compare()

    def _compare(self) -> None:
        """Say anew which answers are compared: the live one's with each shadow, a canary's with the live one."""
        pairs: dict[tuple[str, str], list[Pair]] = {}
        twins: dict[tuple[str, str], Served] = {}
        silent: set[tuple[str, str]] = set()
        for live in filter(None, map(self.engine.front, self.engine.names())):
            roles = {str(row.revision): row.role for row in self._rows.get(live.name, ())}
            shadows = [one for one in self.engine.beside(live.name) if roles.get(one.version) == "shadow"]
            silent |= {(one.name, one.version) for one in shadows}
            pairs[live.name, live.version] = [
                self.shadows.pair(live.name, live.version, one.version, one) for one in shadows
            ]
            canary = self._canaries.get(live.name)
            if canary is not None and (twin := self._twin(live)) is not None:
                twins[live.name, live.version] = twin
                pairs[live.name, canary.served.version] = [
                    self.shadows.pair(live.name, live.version, canary.served.version, twin)
                ]
        self.shadows.compare(pairs)
        self.watch.silent = frozenset(silent)  # what nobody was answered is no answer to keep
        gone, self._twins = self._twins, twins
        for key, twin in gone.items():
            if twins.get(key) is not twin:
                twin.close()

    def _twin(self, live: Served) -> Served | None:
        """The live revision once more; ``None`` where there is no room for it: then nothing is compared."""
        known = self._twins.get((live.name, live.version))
        if known is not None:
            return known
        try:
            return Served(live.name, live.bundle, variant=live.variant.name, version=live.version, facts=live.facts)
        except LoopworksError as error:
            log.warning("canary is not compared deployment=%s/%s: %s", live.name, live.version, error)
            return None

    def _forget(self, name: str) -> None:
        """Unload everything of a deployment."""
        self._canaries.pop(name, None)
        self._kept.pop(name, None)
        if self.engine.versions(name):
            self.engine.unload(name)
        self._compare()

    def _watch(self) -> None:
        while not self.stopping.wait(LOOK_S):
            jobs = [
                ("look for tokens", self.tokens.refresh),
                ("look for deployments", self.sync),
                ("look for chains", self.chains.tidy),
                ("keep jobs going", self.space.jobs.wake),
            ]
            if time.monotonic() > self._next_write:
                self._next_write = time.monotonic() + WRITE_S
                jobs += [("write counts of agreement", self.write), ("write when tokens were used", self.tokens.write)]
                jobs.append(("write what was asked", partial(self.quotas.write, self.space)))
            for name, work in jobs:
                try:
                    work()
                except Exception as error:  # the top of a thread: a busy catalog must not end the watch
                    log.warning("cannot %s: %s", name, error)
