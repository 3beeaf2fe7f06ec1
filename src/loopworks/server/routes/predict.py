"""Predictions for people: POST an image, a text or a row, get the answer; and the metrics of all of it."""

import time
from urllib.parse import quote

import anyio.to_thread
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import LoopworksError
from loopworks.infer import shown
from loopworks.infer.engine import TIMEOUT_S
from loopworks.server import accepted, answer, asked, chained
from loopworks.server.route import Api
from loopworks.server.serving import KEY_HEADER, Serving
from loopworks.server.telling import NOTE, Note
from loopworks.server.waiting import wait


async def predict(request: Request) -> Response:
    """Answer items: an image or text as the body, files of a form, or JSON with images in base64, texts or rows.

    Of several items the bad ones are listed as problems and the others answered; a lone bad one is an error. The
    header ``Accept`` chooses the form of the answer.
    """
    serving: Serving = request.app.state.serving
    name, version = request.path_params["deployment"], request.query_params.get("version", "")
    key = request.headers.get(KEY_HEADER, "") or request.query_params.get("key", "")
    began = time.perf_counter()
    if name not in serving.engine.names() and (chain := await chained.find(serving, name)) is not None:
        images = [(one.name, one.source) for one in await asked.read(request, "image")]
        return answer.json(await chained.predict(serving, chain, images, began))
    served = await asked.pick(serving, name, version, key)
    outcome = "internal"
    try:
        form = accepted.choose(request.headers.get("accept", ""), (shown.JSON, *shown.FORMS))
        items = await asked.read(request, served.bundle.rule.media)
        found = await asked.ask(serving, served, items, lambda future: wait(request, future, TIMEOUT_S), version, key)
        served = found.served
        serving.watch.offer(served, found.said.items, found.inputs, found.answer.outputs)
        if form != shown.JSON:
            body = await anyio.to_thread.run_sync(shown.FORMS[form], found.said, limiter=serving.decoding)
        outcome = "done"
    except LoopworksError as error:
        outcome = error.code
        raise
    finally:
        serving.metrics.count(served.name, outcome, time.perf_counter() - began, served.version)
    note: Note = request.scope[NOTE]
    note.model = f"{served.name}/{served.version}"
    note.parts_ns = (int(found.decode_s * 1e9), found.answer.queue_ns, found.answer.compute_ns)
    if form == shown.JSON:
        return answer.json(found.to_json(began))
    headers = {
        "Loopworks-Prediction": quote(found.predictions()[0]["id"]),
        "Loopworks-Problems": str(len(found.problems)),
    }
    return Response(body, headers=headers, media_type=form)


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    serving: Serving = request.app.state.serving
    return Response(serving.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


ROUTES = (
    Api(
        method="POST",
        path="/predict/{deployment}",
        endpoint=predict,
        summary="Answer images, texts or rows; Accept chooses JSON, COCO, GeoJSON, CSV, a mask or a drawn picture",
        query={"key": "who asks: the same key meets the same revision", "version": "only this revision"},
        body={"type": "string", "format": "binary"},
        media="image/*",
    ),
    Api(method="GET", path="/metrics", endpoint=metrics, summary="Prometheus metrics", answer="text/plain"),
)
