"""What a team writes by hand with FastAPI: ``python benchmarks/serving/plain_fastapi.py FOLDER``."""

import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import Body, FastAPI
from pydantic import BaseModel

from loopworks.core import image
from loopworks.core.values import ImageRule


class Tensor(BaseModel):
    """One input."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Infer(BaseModel):
    """A request."""

    inputs: list[Tensor]
    id: str = ""


def session(path: Path) -> Any:
    """One thread a call, as our server has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def create(folder: Path) -> FastAPI:
    """Trees on a tensor, and the net on a JPEG file."""
    app = FastAPI()
    trees, net = session(folder / "trees" / "model.onnx"), session(folder / "net" / "model.onnx")
    rule = ImageRule(height=224, width=224)

    @app.post("/v2/models/trees/infer")
    async def infer(asked: Infer) -> dict[str, Any]:  # no thread: the model takes less than the way to one
        x = np.asarray(asked.inputs[0].data, np.float32).reshape(asked.inputs[0].shape)
        (found,) = trees.run(["scores"], {"features": x})
        output = {"name": "scores", "datatype": "FP32", "shape": list(found.shape), "data": found.ravel().tolist()}
        return {"model_name": "trees", "model_version": "1", "outputs": [output], "id": asked.id}

    @app.post("/predict/net")
    def predict(body: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
        (found,) = net.run(["scores"], {"image": image.decode(body, rule)[None]})
        best = found[0].argsort()[::-1][:5]
        return {"labels": [{"class": int(i), "score": float(found[0, i])} for i in best]}

    return app


if __name__ == "__main__":
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        print(f"http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
        config = uvicorn.Config(create(Path(sys.argv[1])), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[bound])
