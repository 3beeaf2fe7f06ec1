"""The trees with MLServer, by its own inference protocol: ``serve_mlserver.py FOLDER PORT``."""

import asyncio
import sys
from pathlib import Path

import onnxruntime
from mlserver import MLModel, MLServer
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])


class Trees(MLModel):
    """V2 JSON on the trees."""

    async def load(self) -> bool:
        """Load."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(FOLDER / "trees" / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The scores."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        (found,) = self.session.run(["scores"], {"features": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", found)])


async def main() -> None:
    """Serve, with the model in the server's own process: the quickest of its set-ups for a small model."""
    settings = Settings(
        host="127.0.0.1",
        http_port=PORT,
        grpc_port=PORT + 1,
        metrics_port=PORT + 2,
        parallel_workers=0,
        debug=False,
        logging_settings={"version": 1, "disable_existing_loggers": True},
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="trees", implementation=Trees)])


if __name__ == "__main__":
    asyncio.run(main())
