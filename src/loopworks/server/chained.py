"""Chains on the server: the engine's models ask each other, each with its own queue, batches and metrics.

The inference protocol knows them as ensembles. They are looked for where nothing is deployed under a name, so they
cost those that ask deployments nothing.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image
from loopworks.core.content import content_id
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Busy, Invalid, LoopworksError, NotFound, from_json
from loopworks.infer import items, protocol
from loopworks.infer.chains import graph as graphs
from loopworks.infer.chains import tensors
from loopworks.infer.chains.linked import Linked, Said
from loopworks.infer.chains.run import pictures
from loopworks.infer.engine import TIMEOUT_S, Replaced, Served
from loopworks.infer.items import Loaded
from loopworks.infer.statistics import Statistics
from loopworks.store.chains import Chain

if TYPE_CHECKING:
    from loopworks.server.serving import Serving

T = TypeVar("T")
Stopped = Callable[[], bool]
THREADS = 16
"""Requests for chains that are worked on at once; they wait for models most of the time."""
MOST_WAITING = 256
"""Requests for chains that may be under way or wait."""


@dataclass(slots=True)
class Ensemble:
    """One chain as the protocol and the metrics see it."""

    name: str
    version: str
    statistics: Statistics = field(default_factory=Statistics)
    waiting: int = 0
    """Requests under way, or not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The tensors that a chain answered."""

    name: str
    version: str
    outputs: Arrays


class Chains:
    """All chains of a server."""

    def __init__(self, serving: "Serving") -> None:
        """Ask the models of ``serving``."""
        self._serving = serving
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="chain")
        self._free = threading.BoundedSemaphore(MOST_WAITING)
        self._ensembles: dict[str, Ensemble] = {}
        self._links: dict[str, Linked] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # ---- what there is

    def chain(self, name: str, version: str = "") -> Chain | None:
        """The chain called ``name``, if there is one and it is of that revision."""
        if name in self._serving.engine.names():
            return None
        try:
            found = self._serving.space.chain(name)
        except NotFound:
            return None
        if version and version != str(found.revision):
            raise NotFound(f"version of chain {name!r}", version, [str(found.revision)])
        return found

    def link(self, chain: Chain) -> Linked:
        """Its models, loaded.

        Raises: NotFound, Invalid, Busy: one is not loaded, or does not fit, or finds no room.
        """
        known = self._links.get(chain.name)
        if known is not None and known.revision == chain.revision and self._is_current(known):
            return known
        graph = graphs.read(chain.graph, f"chain {chain.name}")
        found = self._links[chain.name] = Linked.of(chain.name, chain.revision, graph, self._model)
        return found

    def _is_current(self, linked: Linked) -> bool:
        try:
            return all(self._model(ref) is linked.models[node] for node, ref in linked.graph.nodes.items())
        except NotFound:
            return False

    def problem(self, chain: Chain) -> str:
        """Why a chain cannot answer now; empty where it can."""
        try:
            self.link(chain)
        except LoopworksError as error:
            return error.message + (f" ({error.hint})" if error.hint else "")
        return ""

    def pick(self, name: str) -> Served | Linked:
        """The loaded model, or chain, behind a name: what a live pipeline asks."""
        try:
            return self._serving.pick(name)
        except NotFound:
            if (chain := self.chain(name)) is None:
                raise
        return self.link(chain)

    def ensemble(self, chain: Chain) -> Ensemble:
        """What a chain did since the server started, or since it was changed."""
        with self._lock:
            found = self._ensembles.get(chain.name)
            if found is None or found.version != str(chain.revision):
                found = self._ensembles[chain.name] = Ensemble(chain.name, str(chain.revision))
            return found

    def ensembles(self) -> list[Ensemble]:
        """Those that were asked since the server started, by name."""
        with self._lock:
            return [self._ensembles[name] for name in sorted(self._ensembles)]

    def tidy(self) -> None:
        """Unload models that no chain asks any more, and forget chains that are gone."""
        chains = self._serving.space.chains()
        wanted = {ref for chain in chains for ref in chain.graph["nodes"].values()}
        for name in self._serving.engine.names():
            if ":" in name and name not in wanted:
                self._serving.engine.unload(name)
        with self._lock:
            for name in set(self._ensembles) - {chain.name for chain in chains}:
                del self._ensembles[name]
                self._links.pop(name, None)

    # ---- asking

    def start(self, work: Callable[[Stopped], T]) -> "Future[T]":
        """Do some of it in a thread; a future that is cancelled stops it before its next node.

        Raises: Busy: too much is under way.
        """
        if not self._free.acquire(blocking=False):
            raise Busy(f"at most {MOST_WAITING} requests may wait for chains; got one more", "try again later")
        found: Future[T] = Future()

        def run() -> None:
            if found.cancelled():
                return
            try:
                said = work(found.cancelled)
            except BaseException as error:  # whoever waits is told
                _settle(found, error=error)
            else:
                _settle(found, said)

        def ended(done: "Future[None]") -> None:
            self._free.release()
            if done.cancelled():
                _settle(found, error=Busy("the server must be running; it stops", "try again later"))

        try:
            self._pool.submit(run).add_done_callback(ended)
        except RuntimeError:  # the pool is shut
            self._free.release()
            raise Busy("the server must be running; it stops", "try again later") from None
        return found

    def tensors(self, chain: Chain, asked: protocol.Request, limit_s: float, stopped: Stopped, began: float) -> Told:
        """What a chain says of a request's tensors."""
        known = [spec.name for spec in tensors.OUTPUTS]
        if (unknown := [one.name for one in asked.outputs if one.name not in known]) != []:
            raise Invalid("outputs", f"among {', '.join(known)}", ", ".join(unknown))

        def work() -> tuple[int, Said, Told]:
            linked = self.link(chain)
            images, loaded = tensors.pictures(asked.inputs, self._serving.space.settings.max_image_pixels)
            left_s = max(0.001, limit_s - (time.perf_counter() - began))
            said = linked.answer(images, limit_s=left_s, stopped=stopped)
            outputs = tensors.answers(linked.ref, said.values, loaded)
            return len(images), said, Told(name=chain.name, version=str(chain.revision), outputs=outputs)

        return self._counted(chain, work, began)

    def predict(
        self, chain: Chain, asked: Sequence[tuple[str, items.Asked]], began: float, stopped: Stopped
    ) -> dict[str, Any]:
        """What a chain says of images, and of those that cannot be read why."""

        def work() -> tuple[int, Said, dict[str, Any]]:
            if not asked:
                raise Invalid("items", "at least one", "none")
            limit = self._serving.space.settings.max_image_pixels
            linked = self.link(chain)
            loaded, problems = items.load_each(asked, "image", limit)
            good, packed, bad = items.packed(linked.rule, loaded, limit) if loaded else ([], {}, [])
            problems += bad
            if not good:
                raise from_json({"error": {**problems[0].to_json(), "code": problems[0].error}})

            def saw(node: str, crops: Sequence[NDArray[np.uint8]], inputs: Arrays, outputs: Arrays) -> None:
                served = linked.models[node]
                if self._serving.watch.is_watched(served.name):
                    self._serving.watch.offer(served, [_cut(one) for one in crops], inputs, outputs)

            said = linked.answer(pictures(good, limit), packed, limit_s=TIMEOUT_S, stopped=stopped, saw=saw)
            self._serving.watch.offer(linked.first, good, packed, said.first)
            return (
                len(good),
                said,
                {
                    "deployment": chain.name,
                    "revision": chain.revision,
                    "models": linked.authors(),
                    "predictions": [
                        {"id": chain.prediction(one.item), "name": one.name, "item": one.item, **answer}
                        for one, answer in zip(good, said.values, strict=True)
                    ],
                    "problems": [problem.to_json() for problem in problems],
                    "timings_ms": {
                        "queue": round(said.queue_ns / 1e6, 3),
                        "compute": round(said.compute_ns / 1e6, 3),
                        "total": round((time.perf_counter() - began) * 1000, 3),
                    },
                },
            )

        return self._counted(chain, work, began)

    def _counted(self, chain: Chain, work: Callable[[], tuple[int, Said, T]], began: float) -> T:
        """Ask, again where a model was replaced meanwhile, and count what became of it."""
        ensemble = self.ensemble(chain)
        outcome = "internal"
        with self._lock:
            ensemble.waiting += 1
        try:
            while True:
                try:
                    images, said, found = work()
                    break
                except Replaced:
                    continue
            outcome = "done"
            return found
        except LoopworksError as error:
            outcome = error.code
            raise
        finally:
            took_ns = int((time.perf_counter() - began) * 1e9)
            with self._lock:
                ensemble.waiting -= 1
                if outcome == "done":
                    _count(ensemble.statistics, images, said, took_ns)
                else:
                    ensemble.statistics.failure += 1
                    ensemble.statistics.failure_ns += took_ns
            self._serving.metrics.count(chain.name, outcome, took_ns / 1e9, str(chain.revision))

    def _model(self, ref: str) -> Served:
        """The loaded model of a node; one that is not deployed is loaded when it is first asked."""
        serving = self._serving
        if ":" not in ref:
            return serving.model(ref)
        try:
            return serving.engine.model(ref)
        except NotFound:
            with self._loading:
                if ref in serving.engine.names():
                    return serving.engine.model(ref)
                model = serving.space.model(ref)
                facts = {"model": model.name, "number": model.number}
                return serving.engine.load(ref, serving.space.bundle(model), version=str(model.number), facts=facts)


def _cut(crop: NDArray[np.uint8]) -> Loaded:
    """A crop as the picture file that a person would have asked about."""
    content = image.encode_png(crop)
    return Loaded(name="crop", item=content_id(content), content=content, size=(crop.shape[1], crop.shape[0]))


def _count(found: Statistics, images: int, said: Said, took_ns: int) -> None:
    found.success += 1
    found.inferences += images
    found.executions += 1
    found.success_ns += took_ns
    found.queue_ns += said.queue_ns
    found.compute_ns += said.compute_ns
    found.last_ms = time.time_ns() // 1_000_000
    found.batches[images] += 1
    found.batch_ns[images] += said.compute_ns


def _settle(found: "Future[T]", said: Any = None, *, error: BaseException | None = None) -> None:
    """Tell who waits, if anybody still does."""
    if not found.set_running_or_notify_cancel():
        return
    if error is not None:
        found.set_exception(error)
    else:
        found.set_result(said)
