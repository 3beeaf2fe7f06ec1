"""What the inference protocol says of the server and its models: the same values over HTTP and gRPC."""

from typing import Any

from loopworks.core.values import TensorSpec
from loopworks.infer import described
from loopworks.infer.chains import graph as graphs
from loopworks.infer.chains import tensors
from loopworks.infer.described import model
from loopworks.infer.engine import Served
from loopworks.server.serving import Serving
from loopworks.server.triton import Counted
from loopworks.store.chains import Chain

__all__ = ["chain", "chain_config", "config", "index", "model", "server", "statistics"]
EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics", "classification")


def server() -> dict[str, Any]:
    """What this server is."""
    return described.server(*EXTENSIONS)


def config(served: Served) -> dict[str, Any]:
    """A model's configuration, as load generators ask for it."""
    return {
        "name": served.name,
        "platform": described.platform(served),
        "backend": served.variant.runtime,
        "max_batch_size": served.max_batch if served.is_batched else 0,
        "input": [_config(spec, served.is_batched) for spec in served.bundle.inputs],
        "output": [_config(spec, served.is_batched) for spec in served.bundle.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
    }


def chain(found: Chain) -> dict[str, Any]:
    """What a chain takes and gives."""
    return tensors.model(found.name, str(found.revision), graphs.read(found.graph, f"chain {found.name}"))


def chain_config(found: Chain) -> dict[str, Any]:
    """A chain's configuration: an ensemble, with its nodes as steps."""
    graph = graphs.read(found.graph, f"chain {found.name}")
    steps = [
        {
            "model_name": graph.nodes[node],
            "model_version": -1,
            "input_map": {"image": "crops of " + ", ".join(sources) if sources else "image"},
            "output_map": {"answer": node},
        }
        for node in graph.order
        for sources in [sorted({edge.source for edge in graph.into(node)})]
    ]
    return {
        "name": found.name,
        "platform": tensors.PLATFORM,
        "backend": "",
        "max_batch_size": 0,
        "input": [{**_config(spec, False), "optional": True} for spec in tensors.INPUTS],
        "output": [_config(spec, False) for spec in tensors.OUTPUTS],
        "ensemble_scheduling": {"step": steps},
    }


def statistics(served: Counted) -> dict[str, Any]:
    """What a model did since it was loaded."""
    found = served.statistics
    return {
        "name": served.name,
        "version": served.version,
        "last_inference": found.last_ms,
        "inference_count": found.inferences,
        "execution_count": found.executions,
        "inference_stats": {
            "success": _duration(found.success, found.success_ns),
            "fail": _duration(found.failure, found.failure_ns),
            "queue": _duration(found.success, found.queue_ns),
            "compute_input": _duration(found.success, found.input_ns),
            "compute_infer": _duration(found.success, found.compute_ns),
            "compute_output": _duration(found.success, found.output_ns),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": _duration(count, found.batch_ns[size])}
            for size, count in sorted(dict(found.batches).items())
        ],
    }


def index(serving: Serving, is_ready_only: bool) -> list[dict[str, str]]:
    """Which deployments there are, and whether they are loaded."""
    loaded = {served.name: served for served in serving.engine.models()}
    listed = []
    for deployment in serving.space.deployments():
        served = loaded.get(deployment.name)
        is_ready = served is not None or serving.engine.is_parked(deployment.name)
        if is_ready_only and not is_ready:
            continue
        why = serving.problem(deployment.name)
        listed.append({
            "name": deployment.name,
            "version": served.version if served else str(deployment.revision),
            "state": "READY" if is_ready else "UNAVAILABLE",
            "reason": why or ("" if is_ready else "unloaded"),
        })
    for found in serving.space.chains():
        why = serving.chains.problem(found)
        if not (why and is_ready_only):
            state = "UNAVAILABLE" if why else "READY"
            listed.append({"name": found.name, "version": str(found.revision), "state": state, "reason": why})
    return listed


def _config(spec: TensorSpec, is_batched: bool) -> dict[str, Any]:
    name = {"BYTES": "STRING"}.get(spec.datatype, spec.datatype)
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(spec.shape[1:] if is_batched else spec.shape)}


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
