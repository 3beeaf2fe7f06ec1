"""Predictions for people: POST an image, a text or a row, get the answer; and the metrics of all of it."""

import asyncio
import base64
import binascii
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, LoopworksError, from_json
from loopworks.core.values import Problem
from loopworks.infer import local, stage
from loopworks.infer import rows as tables
from loopworks.infer.engine import TIMEOUT_S, Answer, Replaced, Served
from loopworks.infer.local import Loaded
from loopworks.server import answer
from loopworks.server.route import Api
from loopworks.server.serving import Serving
from loopworks.server.waiting import wait

MAX_FILES = 256
MAX_ROWS = 10_000
"""Rows of a table in one request."""
WORDS = {"image": ("image", "images"), "text": ("text", "texts"), "row": ("row", "rows")}
"""What one and several items are called in JSON, by the model's medium."""
FORMS = {"image": "base64", "text": "text", "row": "an object"}
BODIES = {"image": "image/*, multipart/form-data", "text": "text/plain, multipart/form-data", "row": "text/csv"}


@dataclass(frozen=True, slots=True)
class _Asked:
    name: str
    source: local.Asked


async def predict(request: Request) -> Response:
    """Answer items: an image or text as the body, files of a form, or JSON with images in base64, texts or rows.

    Of several items the bad ones are listed as problems and the others answered; a lone bad one is an error.
    """
    serving: Serving = request.app.state.serving
    served = serving.model(request.path_params["deployment"])
    began = time.perf_counter()
    outcome = "internal"
    try:
        asked = await _items(request, served.bundle.rule.media)
        while True:
            try:
                good, problems, found, decoded, tensors = await _ask(request, serving, served, asked)
                break
            except Replaced:  # while the items were decoded by the old model's rule: begin again with the new one
                served = serving.model(served.name)
        sizes = [one.size for one in good if one.size is not None]
        values = stage.answers(served, found.outputs, sizes)
        serving.watch.offer(served, good, tensors, found.outputs)
        outcome = "done"
    except LoopworksError as error:
        outcome = error.code
        raise
    finally:
        serving.metrics.count(served.name, outcome, time.perf_counter() - began)
    facts = served.facts
    return answer.json({
        "deployment": served.name,
        "revision": int(served.version),
        "model": f"{facts['model']}:{facts['number']}",
        "variant": served.variant.name,
        "predictions": [_prediction(served, one, value) for one, value in zip(good, values, strict=True)],
        "problems": [problem.to_json() for problem in problems],
        "timings_ms": {
            "decode": _ms(decoded - began),
            "queue": _ms(found.queue_ns / 1e9),
            "compute": _ms(found.compute_ns / 1e9),
            "total": _ms(time.perf_counter() - began),
        },
    })


async def _ask(
    request: Request, serving: Serving, served: Served, asked: Sequence[_Asked]
) -> tuple[list[Loaded], list[Problem], Answer, float, Arrays]:
    """Decode what can be decoded and ask ``served`` of it; also when decoding was done, and the tensors."""
    if not asked:
        raise Invalid("items", "at least one", "none")
    media, limit = served.bundle.rule.media, serving.space.settings.max_image_pixels
    # Images take milliseconds each, so they are decoded side by side; texts and rows take microseconds.
    size = 1 if media == "image" else len(asked)
    groups = [asked[at : at + size] for at in range(0, len(asked), size)]

    def read(group: Sequence[_Asked]) -> tuple[list[Loaded], Arrays, list[Problem]]:
        loaded, problems = local.load_each([(one.name, one.source) for one in group], media, limit)
        good, tensors, bad = local.packed(served.bundle.rule, loaded, limit) if loaded else ([], {}, [])
        return good, tensors, [*problems, *bad]

    decoded = await asyncio.gather(
        *(anyio.to_thread.run_sync(read, group, limiter=serving.decoding) for group in groups)
    )
    good = [item for items, _, _ in decoded for item in items]
    problems = [problem for _, _, found in decoded for problem in found]
    if not good:
        raise from_json({"error": {**problems[0].to_json(), "code": problems[0].error}})
    ready = time.perf_counter()
    joined = stage.join([tensors for items, tensors, _ in decoded if items])
    future = served.submit(joined, TIMEOUT_S)
    return good, problems, await wait(request, future, TIMEOUT_S), ready, joined


def _prediction(served: Served, one: Loaded, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"{served.name}/{served.version}/{one.item}", "name": one.name, "item": one.item, **value}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


async def _items(request: Request, media: str) -> list[_Asked]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await answer.body(request), media)
    if media == "row" and kind in tables.KINDS:
        return await _from_table(await request.body(), kind)
    if media != "row":
        if kind == "multipart/form-data":
            return await _from_form(request)
        if kind.startswith("image/" if media == "image" else "text/") or kind in ("application/octet-stream", ""):
            body = await request.body()
            return [_Asked(media, body)] if body else []
    raise Invalid("content-type", " or ".join([*filter(None, [BODIES.get(media)]), "application/json"]), kind)


async def _from_table(body: bytes, kind: str) -> list[_Asked]:
    found, problems = await anyio.to_thread.run_sync(tables.parse, body, kind)
    if problems:
        raise Invalid("rows", "all readable", problems[0].message, "mend the line, or leave it out")
    if len(found) > MAX_ROWS:
        raise Invalid("rows", f"at most {MAX_ROWS}", len(found), "send them in parts")
    return [_Asked(f"row {place}", row) for place, row in enumerate(found, 1)]


async def _from_form(request: Request) -> list[_Asked]:
    _, options = parse_options_header(request.headers["content-type"])
    if not (boundary := options.get(b"boundary")):
        raise Invalid("content-type", "multipart/form-data with a boundary", "none")
    end = b"--" + boundary + b"--"
    if not (await request.body()).rstrip().endswith(end):
        raise Invalid("form", "whole", "a form without its end", "send it again")  # the parser would drop the rest
    found = []
    async with request.form(max_files=MAX_FILES, max_part_size=1 << 20) as form:
        for field, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise Invalid(f"field {field!r}", "a file", "text", "curl -F file=@photo.jpg")
            found.append(_Asked(value.filename or field, await value.read()))
    return found


def _from_json(body: dict[str, Any], media: str) -> list[_Asked]:
    one, many = WORDS[media]
    kind = dict if media == "row" else str
    given = body.get(many, [body[one]] if one in body else None)
    most = MAX_ROWS if media == "row" else MAX_FILES
    if not isinstance(given, list) or len(given) > most or not all(isinstance(item, kind) for item in given):
        form = FORMS[media]
        raise Invalid("request body", f"{{'{one}': {form}}} or {{'{many}': [at most {most}]}}", sorted(body))
    names = [f"{many}[{i}]" for i in range(len(given))] if many in body else [one]
    if media != "image":
        return [_Asked(name, item) for name, item in zip(names, given, strict=True)]
    found = []
    for name, item in zip(names, given, strict=True):
        try:
            found.append(_Asked(name, base64.b64decode(item, validate=True)))
        except (binascii.Error, ValueError) as error:
            raise Invalid(name, "base64", str(error)) from None
    return found


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    serving: Serving = request.app.state.serving
    return Response(generate_latest(serving.metrics.registry), media_type=CONTENT_TYPE_LATEST)


ROUTES = (
    Api(
        method="POST",
        path="/predict/{deployment}",
        endpoint=predict,
        summary="Answer images, texts or rows",
        body={"type": "string", "format": "binary"},
        media="image/*",
    ),
    Api(method="GET", path="/metrics", endpoint=metrics, summary="Prometheus metrics", answer="text/plain"),
)
