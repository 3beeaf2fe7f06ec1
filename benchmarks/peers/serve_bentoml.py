"""The trees and the net with BentoML: ``serve_bentoml.py FOLDER PORT``."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
import onnxruntime
from bentoml.validators import ContentType

from loopworks.core import image
from loopworks.core.values import ImageRule


def session(name: str) -> Any:
    """One thread a call, as our server has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = Path(os.environ["SERVED"]) / name / "model.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@bentoml.service(workers=1)
class Served:
    """V2 JSON on the trees, a JPEG file on the net."""

    def __init__(self) -> None:
        """Load."""
        self.trees, self.net = session("trees"), session("net")
        self.rule = ImageRule(height=224, width=224)

    @bentoml.api(route="/v2/models/trees/infer")
    def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """V2 JSON."""
        x = np.asarray(inputs[0]["data"], np.float32).reshape(inputs[0]["shape"])
        (found,) = self.trees.run(["scores"], {"features": x})
        told = {"name": "scores", "datatype": "FP32", "shape": list(found.shape), "data": found.ravel().tolist()}
        return {"model_name": "trees", "model_version": "1", "outputs": [told]}

    @bentoml.api(route="/predict/net")
    def predict(self, file: Annotated[Path, ContentType("image/jpeg")], /) -> dict[str, Any]:
        """A JPEG file as the body."""
        (found,) = self.net.run(["scores"], {"image": image.decode(file.read_bytes(), self.rule)[None]})
        best = found[0].argsort()[::-1][:5]
        return {"labels": [{"class": int(i), "score": float(found[0, i])} for i in best]}


if __name__ == "__main__":
    os.environ.update(SERVED=sys.argv[1], BENTOML_DO_NOT_TRACK="True")
    here = Path(__file__)
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", f"{here.stem}:Served", "--port", sys.argv[2]]
    os.execv(command[0], [*command, "--host", "127.0.0.1", "--working-dir", str(here.parent)])
