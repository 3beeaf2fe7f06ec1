"""The trees and the net with Ray Serve: ``serve_ray.py FOLDER PORT``."""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray import serve
from starlette.requests import Request

from loopworks.core import image
from loopworks.core.values import ImageRule

FOLDER, PORT = sys.argv[1], int(sys.argv[2])


def session(name: str) -> Any:
    """One thread a call, as our server has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = Path(FOLDER) / name / "model.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@serve.deployment(logging_config={"enable_access_log": False}, ray_actor_options={"num_cpus": 1})
class Served:
    """V2 JSON on the trees, a JPEG file on the net."""

    def __init__(self) -> None:
        """Load."""
        self.trees, self.net = session("trees"), session("net")
        self.rule = ImageRule(height=224, width=224)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """By the path."""
        if request.url.path.startswith("/predict"):
            pixels = image.decode(await request.body(), self.rule)[None]
            (found,) = self.net.run(["scores"], {"image": pixels})
            best = found[0].argsort()[::-1][:5]
            return {"labels": [{"class": int(i), "score": float(found[0, i])} for i in best]}
        (one,) = (await request.json())["inputs"]
        x = np.asarray(one["data"], np.float32).reshape(one["shape"])
        (found,) = self.trees.run(["scores"], {"features": x})
        told = {"name": "scores", "datatype": "FP32", "shape": list(found.shape), "data": found.ravel().tolist()}
        return {"model_name": "trees", "model_version": "1", "outputs": [told]}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Served.bind(), route_prefix="/")
    threading.Event().wait()
