"""KServe's clients against a server: URL of HTTP, HOST:PORT of gRPC, and the tensor's place come as arguments.

In a process of its own: the package registers the protocol's messages under the names that tritonclient takes.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np


async def main(http: str, grpc: str, pixels_path: str) -> dict[str, Any]:
    """Every call of both clients; what each gave, or the error."""
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
    from kserve.inference_client import RESTConfig

    pixels = np.load(pixels_path)
    found: dict[str, Any] = {}

    async def call(name: str, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            found[name] = await work()
        except Exception as error:  # a benchmark tells what failed
            found[name] = f"{type(error).__name__}: {error}"

    def asked(is_binary: bool, is_typed: bool = False) -> Any:
        one = InferInput(name="image", shape=list(pixels.shape), datatype="UINT8")
        one.set_data_from_numpy(pixels, binary_data=is_binary and not is_typed)
        return InferRequest(model_name="colors", infer_inputs=[one], request_id="7")

    def told(answer: Any) -> list[Any]:
        return [answer.id, np.round(answer.outputs[0].as_numpy().astype(float), 5).tolist()]

    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    await call("rest live", lambda: rest.is_server_live(http))
    await call("rest ready", lambda: rest.is_server_ready(http))
    await call("rest model ready", lambda: rest.is_model_ready(http, "colors"))
    for is_binary in (True, False):

        async def over_rest(is_binary: bool = is_binary) -> list[Any]:
            return told(await rest.infer(base_url=http, data=asked(is_binary), model_name="colors"))

        await call(f"rest infer {'binary' if is_binary else 'json'}", over_rest)
    client = InferenceGRPCClient(url=grpc, retries=0, timeout=20)
    await call("grpc live", client.is_server_live)
    await call("grpc ready", client.is_server_ready)
    await call("grpc model ready", lambda: client.is_model_ready("colors"))
    for is_typed in (False, True):

        async def over_grpc(is_typed: bool = is_typed) -> list[Any]:
            return told(await client.infer(infer_request=asked(True, is_typed)))

        await call(f"grpc infer {'typed' if is_typed else 'raw'}", over_grpc)
    await client.close()
    await rest.close()
    return found


if __name__ == "__main__":
    places = sys.argv[1:]
    sys.argv = sys.argv[:1]  # the package parses the arguments when it is imported
    print(json.dumps(asyncio.run(main(*places))))
