"""What Prometheus reads: our names, Triton's, and the process's."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from loopworks.core.errors import error_classes
from loopworks.server import triton

TENSOR = {"name": "image", "datatype": "UINT8", "shape": [2, 8, 8, 3], "data": [7] * 384}


def read(client: TestClient) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels; what Prometheus cannot read fails here."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (_written(sample.name), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def _written(name: str) -> str:
    """This parser, unlike Prometheus, calls every counter ..._total."""
    return name.removesuffix("_total") if name.startswith("nv_") else name


def test_tritons_names_count_what_triton_counts(client: TestClient, photo: Callable[..., bytes]) -> None:
    for inputs in ([TENSOR], [TENSOR], []):
        client.post("/v2/models/colors/infer", json={"inputs": inputs})
    client.post("/predict/colors", content=photo("red"), headers={"content-type": "image/png"})
    assert 'nv_inference_count{model="colors",version="1"} 5' in client.get("/metrics").text.splitlines()
    found = read(client)
    model = ("colors", "1")
    assert found["nv_inference_request_success", *model] == 3
    assert found["nv_inference_count", *model] == 5  # two requests of two rows, and an image
    assert found["nv_inference_exec_count", *model] == 3
    assert found["nv_inference_pending_request_count", *model] == 0
    reasons = {key[-2]: value for key, value in found.items() if key[0] == "nv_inference_request_failure"}
    assert reasons == {"OTHER": 1, "REJECTED": 0, "CANCELED": 0, "BACKEND": 0}
    parts = [found[f"nv_inference_{name}_duration_us", *model] for name in ("queue", "compute_infer", "compute_output")]
    assert 0 < sum(parts) <= found["nv_inference_request_duration_us", *model] + 3
    statistics = client.get("/v2/models/colors/stats").json()["model_stats"][0]
    assert statistics["inference_count"] == found["nv_inference_count", *model]


def test_the_process_is_measured(client: TestClient) -> None:
    found = read(client)
    assert found[("process_resident_memory_bytes",)] > 10_000_000
    assert found[("process_cpu_seconds_total",)] > 0


def test_a_reason_is_given_for_known_codes_alone() -> None:
    assert set(triton.REASONS) <= {*error_classes(), "internal"}


def test_a_dashboard_asks_for_metrics_that_exist(client: TestClient, photo: Callable[..., bytes]) -> None:
    client.post("/predict/colors", content=photo("red"), headers={"content-type": "image/png"})
    names = {key[0] for key in read(client)} | {"loopworks_compared_rows_total"}
    text = (Path(__file__).parents[2] / "examples" / "grafana" / "serving.json").read_text(encoding="utf-8")
    panels: list[Any] = json.loads(text)["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"(?:loopworks|nv|process)_\w+", query)}
    assert len(panels) >= 6
    assert asked - names == set()
