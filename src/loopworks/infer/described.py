"""What the inference protocol says of a server and its models; the same values from every face."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loopworks import __version__
from loopworks.infer.served import Served

PLATFORMS = {"onnxruntime": "onnx_onnxv1", "openvino": "openvino_ir"}


def server(*extensions: str) -> dict[str, Any]:
    """What this server is."""
    return {"name": "loopworks", "version": __version__, "extensions": list(extensions)}


def platform(served: Served) -> str:
    """The runtime of a model, in the protocol's words."""
    return PLATFORMS.get(served.variant.runtime, served.variant.runtime)


def model(served: Served, versions: Sequence[str] = ()) -> dict[str, Any]:
    """What a model takes and gives; ``versions`` of its name answer now, this one alone where none are told."""
    bundle = served.bundle
    return {
        "name": served.name,
        "versions": list(versions) or [served.version],
        "platform": platform(served),
        "inputs": [spec.to_json() for spec in bundle.inputs],
        "outputs": [spec.to_json() for spec in bundle.outputs],
        "parameters": {
            "task": bundle.task,
            "classes": list(bundle.schema.classes),
            "preprocessing": bundle.rule.to_json(),
            "variant": served.variant.name,
            "device": served.device,
            "limits": {name: value for name, value in asdict(served.limits).items() if name != "memory_mb"},
        },
    }
