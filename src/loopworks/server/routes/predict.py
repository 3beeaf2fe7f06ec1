"""Predictions for people: POST an image, get labels; and the metrics of all of it."""

import asyncio
import base64
import binascii
import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.data.stage import content_id
from loopworks.infer import stage
from loopworks.server import answer
from loopworks.server.route import Api
from loopworks.server.serving import Serving

MAX_FILES = 256


async def predict(request: Request) -> Response:
    """Label images: an image as the body, files of a form, or JSON with base64."""
    serving: Serving = request.app.state.serving
    served = serving.engine.model(request.path_params["deployment"])
    began = time.perf_counter()
    outcome = "failed"
    try:
        files = await _files(request)
        limit = serving.space.settings.max_image_pixels
        inputs = await run_in_threadpool(stage.images, served, files, limit)
        decoded = time.perf_counter()
        outputs = await asyncio.wrap_future(serving.engine.submit(served.name, inputs))
        answers = stage.answers(served, outputs)
        outcome = "done"
    except LoopworksError as error:
        outcome = error.code
        raise
    finally:
        took = time.perf_counter() - began
        serving.metrics.requests.labels(served.name, outcome).inc()
        serving.metrics.seconds.labels(served.name).observe(took)
    items = [content_id(file) for file in files]
    facts = served.facts
    return answer.json({
        "deployment": served.name,
        "revision": int(served.version),
        "model": f"{facts['model']}:{facts['number']}",
        "variant": served.variant.name,
        "predictions": [
            {"id": f"{served.name}/{served.version}/{item}", "item": item, **found}
            for item, found in zip(items, answers, strict=True)
        ],
        "timings_ms": {
            "decode": round((decoded - began) * 1000, 3),
            "total": round(took * 1000, 3),
        },
    })


async def _files(request: Request) -> list[bytes]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await answer.body(request))
    if kind == "multipart/form-data":
        async with request.form(max_files=MAX_FILES, max_part_size=1 << 20) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [await file.read() for file in files]
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        body = await request.body()
        return [body] if body else []
    raise Invalid("content-type", "image/*, multipart/form-data or application/json", kind)


def _from_json(body: dict[str, Any]) -> list[bytes]:
    given = body.get("images", [body["image"]] if "image" in body else None)
    if not isinstance(given, list) or len(given) > MAX_FILES or not all(isinstance(text, str) for text in given):
        raise Invalid("request body", f"{{'image': base64}} or {{'images': [at most {MAX_FILES}]}}", sorted(body))
    found = []
    for i, text in enumerate(given):
        try:
            found.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Invalid(f"images[{i}]", "base64", str(error)) from None
    return found


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    serving: Serving = request.app.state.serving
    for name in serving.engine.names():
        serving.metrics.waiting.labels(name).set(serving.engine.model(name).waiting)
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
