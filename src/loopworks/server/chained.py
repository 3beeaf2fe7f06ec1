"""Chains over HTTP: the engine's models ask each other, each with its own queue, batches and metrics."""

import time
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, LoopworksError, NotFound, TimedOut, from_json
from loopworks.infer import items
from loopworks.infer.chains import graph as graphs
from loopworks.infer.chains.run import run
from loopworks.infer.engine import TIMEOUT_S, Replaced, Served
from loopworks.server.serving import Serving
from loopworks.store.chains import Chain


async def find(serving: Serving, name: str) -> Chain | None:
    """The chain called ``name``, if there is one."""
    try:
        return await run_in_threadpool(serving.space.chain, name)
    except NotFound:
        return None


async def predict(
    serving: Serving, chain: Chain, asked: Sequence[tuple[str, items.Asked]], began: float
) -> dict[str, Any]:
    """What a chain says of images, and of those that cannot be read why."""
    outcome = "internal"
    try:
        found = await run_in_threadpool(_predict, serving, chain, asked, began)
        outcome = "done"
    except LoopworksError as error:
        outcome = error.code
        raise
    finally:
        serving.metrics.count(chain.name, outcome, time.perf_counter() - began)
    return found


def _predict(serving: Serving, chain: Chain, asked: Sequence[tuple[str, items.Asked]], began: float) -> dict[str, Any]:
    if not asked:
        raise Invalid("items", "at least one", "none")
    limit = serving.space.settings.max_image_pixels
    graph = graphs.read(chain.graph, f"chain {chain.name}")
    used = {node: _served(serving, ref) for node, ref in graph.nodes.items()}
    bundles = {node: served.bundle for node, served in used.items()}
    graphs.check(graph, bundles)  # a deployment may have got another model since
    loaded, problems = items.load_each(asked, "image", limit)
    good, tensors, bad = items.packed(bundles[graph.order[0]].rule, loaded, limit) if loaded else ([], {}, [])
    problems += bad
    if not good:
        raise from_json({"error": {**problems[0].to_json(), "code": problems[0].error}})
    compute_ns = 0

    def ask(node: str, inputs: Arrays) -> Arrays:
        nonlocal compute_ns
        try:
            answer = used[node].submit(inputs, TIMEOUT_S).result(TIMEOUT_S)
        except Replaced:  # the new revision answers, if it takes the same
            answer = serving.engine.submit(used[node].name, inputs).result(TIMEOUT_S)
        except TimeoutError:
            raise TimedOut(f"node {node!r} must answer within {TIMEOUT_S:g} s; got nothing") from None
        compute_ns += answer.compute_ns
        return answer.outputs

    answers = run(graph, bundles, good, tensors, ask, max_pixels=limit)
    return {
        "deployment": chain.name,
        "revision": chain.revision,
        "models": {node: f"{one.facts['model']}:{one.facts['number']}" for node, one in used.items()},
        "predictions": [
            {"id": chain.prediction(one.item), "name": one.name, "item": one.item, **answer}
            for one, answer in zip(good, answers, strict=True)
        ],
        "problems": [problem.to_json() for problem in problems],
        "timings_ms": {
            "compute": round(compute_ns / 1e6, 3),
            "total": round((time.perf_counter() - began) * 1000, 3),
        },
    }


def _served(serving: Serving, ref: str) -> Served:
    """The loaded model of a node; one that is not deployed is loaded when it is first asked."""
    if ":" not in ref:
        return serving.model(ref)
    try:
        return serving.engine.model(ref)
    except NotFound:
        model = serving.space.model(ref)
        facts = {"model": model.name, "number": model.number}
        return serving.engine.load(ref, serving.space.bundle(model), version=str(model.number), facts=facts)
