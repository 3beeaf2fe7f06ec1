"""Predictions for people: POST an image, get labels; and the metrics of all of it."""

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
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import Problem
from loopworks.data.stage import content_id
from loopworks.infer import stage
from loopworks.infer.engine import TIMEOUT_S, Answer, Replaced, Served
from loopworks.server import answer
from loopworks.server.route import Api
from loopworks.server.serving import Serving
from loopworks.server.waiting import wait

MAX_FILES = 256


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    content: bytes


async def predict(request: Request) -> Response:
    """Label images: an image as the body, files of a form, or JSON with base64.

    Of several images the bad ones are listed as problems and the others answered; a lone bad one is an error.
    """
    serving: Serving = request.app.state.serving
    served = serving.model(request.path_params["deployment"])
    began = time.perf_counter()
    outcome = "internal"
    try:
        files = await _files(request)
        while True:
            try:
                good, problems, found, decoded = await _ask(request, serving, served, files)
                break
            except Replaced:  # while the images were decoded by the old model's rule: begin again with the new one
                served = serving.model(served.name)
        sizes = stage.sizes(served, [file.content for file in good])
        values = stage.answers(served, found.outputs, sizes)
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
        "predictions": [_prediction(served, file, value) for file, value in zip(good, values, strict=True)],
        "problems": [problem.to_json() for problem in problems],
        "timings_ms": {
            "decode": _ms(decoded - began),
            "queue": _ms(found.queue_ns / 1e9),
            "compute": _ms(found.compute_ns / 1e9),
            "total": _ms(time.perf_counter() - began),
        },
    })


async def _ask(
    request: Request, serving: Serving, served: Served, files: Sequence[_File]
) -> tuple[list[_File], list[Problem], Answer, float]:
    """Decode what can be decoded and ask ``served`` of it; also when decoding was done."""
    rows: list[Arrays] = []
    good: list[_File] = []
    errors: list[LoopworksError] = []
    problems: list[Problem] = []
    decoded = await asyncio.gather(*(_decode(serving, served, file) for file in files))
    for file, row in zip(files, decoded, strict=True):
        if isinstance(row, LoopworksError):
            errors.append(row)
            problems.append(Problem(where=file.name, error=row.code, message=row.message, hint=row.hint))
        else:
            rows.append(row)
            good.append(file)
    if errors and not rows:
        raise errors[0]
    ready = time.perf_counter()
    future = served.submit(stage.join(rows), TIMEOUT_S)
    return good, problems, await wait(request, future, TIMEOUT_S), ready


async def _decode(serving: Serving, served: Served, file: _File) -> Arrays | LoopworksError:
    limit = serving.space.settings.max_image_pixels
    try:
        return await anyio.to_thread.run_sync(
            stage.pack, served, file.content, file.name, limit, limiter=serving.decoding
        )
    except LoopworksError as error:
        return error


def _prediction(served: Served, file: _File, value: dict[str, Any]) -> dict[str, Any]:
    item = content_id(file.content)
    return {"id": f"{served.name}/{served.version}/{item}", "name": file.name, "item": item, **value}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


async def _files(request: Request) -> list[_File]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await answer.body(request))
    if kind == "multipart/form-data":
        return await _from_form(request)
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        body = await request.body()
        return [_File("image", body)] if body else []
    raise Invalid("content-type", "image/*, multipart/form-data or application/json", kind)


async def _from_form(request: Request) -> list[_File]:
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
            found.append(_File(value.filename or field, await value.read()))
    return found


def _from_json(body: dict[str, Any]) -> list[_File]:
    given = body.get("images", [body["image"]] if "image" in body else None)
    if not isinstance(given, list) or len(given) > MAX_FILES or not all(isinstance(text, str) for text in given):
        raise Invalid("request body", f"{{'image': base64}} or {{'images': [at most {MAX_FILES}]}}", sorted(body))
    found = []
    for i, text in enumerate(given):
        name = f"images[{i}]" if "images" in body else "image"
        try:
            found.append(_File(name, base64.b64decode(text, validate=True)))
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
        summary="Label images",
        body={"type": "string", "format": "binary"},
        media="image/*",
    ),
    Api(method="GET", path="/metrics", endpoint=metrics, summary="Prometheus metrics", answer="text/plain"),
)
