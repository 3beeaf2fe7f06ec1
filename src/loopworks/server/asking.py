"""Asking the engine from the event loop by callbacks, so that a request costs no task: what all fast ways in share."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Cancelled, LoopworksError, NotFound, TimedOut
from loopworks.infer import light, protocol
from loopworks.infer.engine import TIMEOUT_S, Answer, Replaced, Served
from loopworks.server.answer import Reply, refusal
from loopworks.server.heads import Head
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.server.predicting import Picture


class Asked(light.Asked):
    """One request, and what is known of it so far."""

    __slots__ = (
        "began",
        "body",
        "done",
        "future",
        "head",
        "is_over",
        "key",
        "limit_s",
        "parts_ns",
        "picture",
        "request",
        "served",
        "timer",
    )

    def __init__(self, head: Head, body: bytes, done: Callable[[Reply], None]) -> None:
        """``done`` takes the answer, in the event loop, and once at most."""
        super().__init__()
        self.head = head
        self.key = head.key
        self.body = body
        self.done: Callable[[Reply], None] | None = done
        self.began = time.perf_counter_ns()
        self.parts_ns = (0, 0, 0)
        """How long it was read, queued and computed, once it is answered."""
        self.limit_s = TIMEOUT_S
        self.served: Served | None = None
        self.request: protocol.Request | None = None
        """What an inference request says."""
        self.picture: Picture | None = None
        """What a plain request is about."""
        self.future: Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_over = False

    def forget(self) -> None:
        """Begin again: what is known of the revision that was asked counts no more."""
        self.plain = self.request = self.inputs = self.picture = self.error = None


class Asking(ABC):
    """Answers requests of one kind. All its methods are called in the event loop, where they do not say otherwise."""

    def __init__(self, serving: Serving) -> None:
        """Ask the models of ``serving``."""
        self._serving = serving

    def ask(self, asked: Asked) -> None:
        """Answer ``asked`` sooner or later, by its ``done``; never raises."""
        head = asked.head
        try:
            if self._serving.engine.is_parked(head.model):
                self._apart(asked, self._found_model, self._serving.pick, head.model, head.version, asked.key)
                return
            self._found_model(asked, self._serving.pick(head.model, head.version, asked.key))
        except NotFound as error:
            self._missing(asked, error)
        except Exception as error:  # the top of a request: whatever it is, the client gets one clear answer
            self._refuse(asked, error)

    def cancel(self, asked: Asked) -> None:
        """The client has gone: nobody needs the answer any more."""
        if not asked.is_over:
            asked.done = None
            self._refuse(asked, Cancelled("the client went away before the answer"))

    @abstractmethod
    def _found_model(self, asked: Asked, served: Served) -> None:
        """Go on with who is asked."""

    def _missing(self, asked: Asked, error: NotFound) -> None:
        """Nothing is deployed under the name."""
        self._refuse(asked, error)

    @abstractmethod
    def _answered(self, asked: Asked) -> None:
        """Go on with what the engine said, which is in ``asked.future``."""

    def _wait(self, asked: Asked, future: "Future[Answer]") -> None:
        """Go on when the engine has answered, or the time is up."""
        loop = asyncio.get_running_loop()
        asked.future = future
        asked.timer = loop.call_later(asked.limit_s, self._late, asked)
        future.add_done_callback(partial(self._hand_over, loop, asked))

    def _hand_over(self, loop: asyncio.AbstractEventLoop, asked: Asked, _future: "Future[Answer]") -> None:
        """From a worker's thread into the loop; a loop that has ended has no client left to tell."""
        if not asked.is_over and not loop.is_closed():
            loop.call_soon_threadsafe(self._answered, asked)

    def _late(self, asked: Asked) -> None:
        text = f"the model must answer within {asked.limit_s:g} s; got no answer"
        self._refuse(asked, TimedOut(text, "try again later, or wait longer"))

    def _refuse(self, asked: Asked, error: Exception) -> None:
        if isinstance(error, Replaced) and not asked.is_over:
            asked.forget()
            asyncio.get_running_loop().call_soon(self.ask, asked)
            return
        outcome = error.code if isinstance(error, LoopworksError) else "internal"
        reply = None if asked.done is None else refusal(error, "POST", asked.head.path)
        self._end(asked, outcome, reply)

    def _end(self, asked: Asked, outcome: str, reply: Reply | None) -> None:
        if asked.is_over:
            return
        asked.is_over = True
        if asked.timer is not None:
            asked.timer.cancel()
        if asked.future is not None:
            asked.future.cancel()  # takes it out of the queue, if it is still there
        if asked.served is not None:
            took_s = (time.perf_counter_ns() - asked.began) / 1e9
            self._serving.metrics.count(asked.served.name, outcome, took_s, asked.served.version)
        done, asked.done = asked.done, None
        if done is not None and reply is not None:
            done(reply)

    def _apart(self, asked: Asked, then: Callable[[Asked, Any], None], work: Callable[..., Any], *given: Any) -> None:
        """Do ``work`` in a thread, then go on with what it found."""

        def ended(found: "asyncio.Future[Any]") -> None:
            if asked.is_over or found.cancelled():
                return
            try:
                then(asked, found.result())
            except Exception as error:  # the top of a request, as in ``ask``
                self._refuse(asked, error)

        asyncio.get_running_loop().run_in_executor(None, work, *given).add_done_callback(ended)
