"""A real Triton (inside nvidia-pytriton) with the model of ``benchmarks/conformance.py``, until stdin ends."""

import sys
from typing import Any

import numpy as np


def main(http: int, grpc: int, metrics: int) -> None:
    """Serve softmax(12 x mean colour) as ``colors`` on 127.0.0.1."""
    from pytriton.decorators import batch
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

    @batch  # type: ignore[untyped-decorator]
    def colors(image: Any) -> dict[str, Any]:
        logits = image.astype(np.float64).mean(axis=(1, 2)) * 12 / 255
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        return {"scores": (grown / grown.sum(axis=1, keepdims=True)).astype(np.float32)}

    config = TritonConfig(
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
        metrics_address="127.0.0.1",
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
    )
    with Triton(config=config, security_config=TritonSecurityConfig(restricted_endpoints=[])) as server:
        server.bind(
            model_name="colors",
            infer_func=colors,
            inputs=[Tensor(name="image", dtype=np.uint8, shape=(8, 8, 3))],
            outputs=[Tensor(name="scores", dtype=np.float32, shape=(3,))],
            config=ModelConfig(max_batch_size=32),
        )
        server.run()
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
