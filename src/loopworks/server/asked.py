"""What people ask of a model over HTTP: the items of a request's body, decoded and answered by the engine."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, LoopworksError, from_json
from loopworks.core.values import Problem
from loopworks.infer import items, shown, stage
from loopworks.infer import rows as tables
from loopworks.infer.engine import TIMEOUT_S, Answer, Replaced, Served
from loopworks.infer.items import Loaded
from loopworks.server import answer
from loopworks.server.serving import Serving

BODIES = {"image": "image/*, multipart/form-data", "text": "text/plain, multipart/form-data", "row": "text/csv"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One item of a request."""

    name: str
    source: items.Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a model said of the items that could be read, and what is wrong with the others."""

    served: Served
    said: shown.Said
    problems: Sequence[Problem]
    inputs: Arrays
    """The tensors that were made of the items."""
    answer: Answer
    decode_s: float

    def predictions(self) -> list[dict[str, Any]]:
        """One JSON value per item."""
        name = f"{self.served.name}/{self.served.version}"
        pairs = zip(self.said.items, self.said.values, strict=True)
        return [{"id": f"{name}/{one.item}", "name": one.name, "item": one.item, **value} for one, value in pairs]

    def to_json(self, began: float) -> dict[str, Any]:
        """The whole answer; ``began`` is when the request came, by ``time.perf_counter``."""
        served = self.served
        return {
            "deployment": served.name,
            "revision": int(served.version),
            "model": self.said.author,
            "variant": served.variant.name,
            "predictions": self.predictions(),
            "problems": [problem.to_json() for problem in self.problems],
            "timings_ms": {
                "decode": _ms(self.decode_s),
                "queue": _ms(self.answer.queue_ns / 1e9),
                "compute": _ms(self.answer.compute_ns / 1e9),
                "total": _ms(time.perf_counter() - began),
            },
        }


async def pick(serving: Serving, name: str, version: str = "", key: str = "") -> Served:
    """Who answers; a model that has to be loaded again is, in a thread."""
    if serving.engine.is_parked(name):
        return await run_in_threadpool(serving.pick, name, version, key)
    return serving.pick(name, version, key)


async def ask(
    serving: Serving, served: Served, asked: Sequence[Asked], wait: "Waiting", version: str = "", key: str = ""
) -> Answered:
    """Decode what can be decoded, and what ``served`` says of it, or who comes after it for ``version`` and ``key``.

    Of several items the bad ones become problems; where no item can be read, the first one's fault is raised.
    """
    while True:
        try:
            return await _ask(serving, served, asked, wait)
        except Replaced:  # while the items were decoded by the old model's rule: begin again with the new one
            served = await pick(serving, served.name, version, key)


Waiting = Callable[["Future[Answer]"], Awaitable[Answer]]
"""Waits for the engine's answer, and not longer than anybody listens."""


async def _ask(serving: Serving, served: Served, asked: Sequence[Asked], wait: Waiting) -> Answered:
    began = time.perf_counter()
    if not asked:
        raise Invalid("items", "at least one", "none")
    media, limit = served.bundle.rule.media, serving.space.settings.max_image_pixels
    # Images take milliseconds each, so they are decoded side by side; texts and rows take microseconds.
    size = 1 if media == "image" else len(asked)
    groups = [asked[at : at + size] for at in range(0, len(asked), size)]

    def read(group: Sequence[Asked]) -> tuple[list[Loaded], Arrays, list[Problem]]:
        return decode(served, group, limit)

    decoded = await asyncio.gather(
        *(anyio.to_thread.run_sync(read, group, limiter=serving.decoding) for group in groups)
    )
    good = [item for part, _, _ in decoded for item in part]
    problems = [problem for _, _, found in decoded for problem in found]
    if not good:
        raise error_of(problems[0])
    decode_s = time.perf_counter() - began
    inputs = stage.join([tensors for part, tensors, _ in decoded if part])
    found = await wait(served.submit(inputs, TIMEOUT_S))
    return said_of(served, good, problems, inputs, found, decode_s, limit)


def decode(served: Served, group: Sequence[Asked], max_pixels: int) -> tuple[list[Loaded], Arrays, list[Problem]]:
    """The items that can be read, their tensors, and what is wrong with the others."""
    loaded, problems = items.load_each([(one.name, one.source) for one in group], served.bundle.rule.media, max_pixels)
    good, tensors, bad = items.packed(served.bundle.rule, loaded, max_pixels) if loaded else ([], {}, [])
    return good, tensors, [*problems, *bad]


def error_of(problem: Problem) -> LoopworksError:
    """The error that a lone item's problem is."""
    return from_json({"error": {**problem.to_json(), "code": problem.error}})


def said_of(
    served: Served,
    good: Sequence[Loaded],
    problems: Sequence[Problem],
    inputs: Arrays,
    found: Answer,
    decode_s: float,
    max_pixels: int,
) -> Answered:
    """What the engine's answer says of the items."""
    sizes = [one.size for one in good if one.size is not None]
    said = shown.Said(
        bundle=served.bundle,
        author=f"{served.facts['model']}:{served.facts['number']}",
        items=good,
        outputs=found.outputs,
        values=stage.answers(served, found.outputs, sizes),
        max_pixels=max_pixels,
    )
    return Answered(served=served, said=said, problems=problems, inputs=inputs, answer=found, decode_s=decode_s)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


async def read(request: Request, media: str, most: int = 1) -> list[Asked]:
    """The items of a request for a model of ``media``; ``most`` times as many as one answer may have.

    Raises: Invalid: the body is none that such a model is asked with.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return [Asked(*one) for one in items.named(await answer.body(request), media, most)]
    if media == "row" and kind in tables.KINDS:
        return await _from_table(await request.body(), kind, most)
    if media != "row":
        if kind == "multipart/form-data":
            return await _from_form(request, most)
        if kind.startswith("image/" if media == "image" else "text/") or kind in ("application/octet-stream", ""):
            body = await request.body()
            return [Asked(media, body)] if body else []
    raise Invalid("content-type", " or ".join([*filter(None, [BODIES.get(media)]), "application/json"]), kind)


async def _from_table(body: bytes, kind: str, most: int) -> list[Asked]:
    found, problems = await anyio.to_thread.run_sync(tables.parse, body, kind)
    if problems:
        raise Invalid("rows", "all readable", problems[0].message, "mend the line, or leave it out")
    if len(found) > items.MAX_ROWS * most:
        raise Invalid("rows", f"at most {items.MAX_ROWS * most}", len(found), "send them in parts")
    return [Asked(f"row {place}", row) for place, row in enumerate(found, 1)]


async def _from_form(request: Request, most: int) -> list[Asked]:
    _, options = parse_options_header(request.headers["content-type"])
    if not (boundary := options.get(b"boundary")):
        raise Invalid("content-type", "multipart/form-data with a boundary", "none")
    end = b"--" + boundary + b"--"
    if not (await request.body()).rstrip().endswith(end):
        raise Invalid("form", "whole", "a form without its end", "send it again")  # the parser would drop the rest
    found = []
    async with request.form(max_files=items.MAX_FILES * most, max_part_size=1 << 20) as form:
        for field, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise Invalid(f"field {field!r}", "a file", "text", "curl -F file=@photo.jpg")
            found.append(Asked(value.filename or field, await value.read()))
    return found
