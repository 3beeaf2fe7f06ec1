"""Waiting for a model's answer without blocking the event loop, and not a moment longer than anybody listens."""

import asyncio
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from loopworks.core.errors import Cancelled, TimedOut
from loopworks.infer.engine import Answer

T = TypeVar("T")


async def wait(request: Request, future: "Future[Answer]", timeout_s: float) -> Answer:
    """The answer of a queued request.

    Raises:
        Cancelled: the client went away; the request leaves the queue.
        TimedOut: no answer within ``timeout_s``.
    """
    answer: asyncio.Future[Answer] = asyncio.wrap_future(future)
    gone: asyncio.Future[None] = asyncio.ensure_future(_gone(request.receive))
    both: list[asyncio.Future[Any]] = [answer, gone]
    try:
        await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if gone.done():
            raise Cancelled("the client went away before the answer")
        raise TimedOut(
            f"the model must answer within {timeout_s:g} s; got no answer", "try again later, or wait longer"
        )
    finally:
        gone.cancel()
        answer.cancel()


async def unless_gone(request: Request, found: "asyncio.Future[T]") -> T | None:
    """What comes of ``found``; ``None`` where the client goes away before."""
    gone: asyncio.Future[None] = asyncio.ensure_future(_gone(request.receive))
    both: list[asyncio.Future[Any]] = [found, gone]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return found.result() if found.done() else None
    finally:
        gone.cancel()
        found.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
