"""The trees and the net with LitServe: ``serve_litserve.py FOLDER PORT``."""

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Request

from loopworks.core import image
from loopworks.core.values import ImageRule

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])


def session(name: str) -> Any:
    """One thread a call, as our server has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(FOLDER / name / "model.onnx"), options, providers=["CPUExecutionProvider"])


class Trees(litserve.LitAPI):
    """V2 JSON on the trees."""

    def setup(self, device: str) -> None:
        """Load."""
        self.session = session("trees")

    def decode_request(self, request: dict[str, Any]) -> Any:
        """The tensor."""
        (one,) = request["inputs"]
        return np.asarray(one["data"], np.float32).reshape(one["shape"])

    def predict(self, x: Any) -> Any:
        """The scores."""
        return self.session.run(["scores"], {"features": x})[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """As V2 JSON."""
        told = {"name": "scores", "datatype": "FP32", "shape": list(output.shape), "data": output.ravel().tolist()}
        return {"model_name": "trees", "model_version": "1", "outputs": [told]}


class Net(litserve.LitAPI):
    """A JPEG file on the net."""

    def setup(self, device: str) -> None:
        """Load."""
        self.session = session("net")
        self.rule = ImageRule(height=224, width=224)

    def decode_request(self, request: Request) -> Any:
        """The pixels of the form's file: it takes no other bodies than JSON and forms, and gives the form here."""
        form: Any = request
        return image.decode(form["file"].file.read(), self.rule)[None]

    def predict(self, x: Any) -> Any:
        """The scores."""
        return self.session.run(["scores"], {"image": x})[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The five best classes."""
        best = output[0].argsort()[::-1][:5]
        return {"labels": [{"class": int(i), "score": float(output[0, i])} for i in best]}


if __name__ == "__main__":
    apis = [Trees(api_path="/v2/models/trees/infer"), Net(api_path="/predict/net")]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, log_level="error", generate_client_file=False)
