"""Tensors go into ONNX Runtime and come out as they are."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.infer import small
from tests.infer.doubles import PATIENCE_S

from loopworks.core.errors import Invalid
from loopworks.infer.engine import Engine


def test_texts_are_texts_and_one_that_is_none_fails_alone(tmp_path: Path) -> None:
    def texts(*given: bytes) -> dict[str, Any]:
        return {"x": np.array([given], object).T}

    with Engine(workers=1) as engine:
        engine.load("same", small.same(tmp_path, "BYTES", (-1, 1)))
        answers = [engine.submit("same", texts("é\0".encode(), b"")), engine.submit("same", texts(b"\xff"))]
        assert answers[0].result(PATIENCE_S).outputs["y"].tolist() == [["é\0"], [""]]
        with pytest.raises(Invalid, match="input x must be UTF-8 text"):
            answers[1].result(PATIENCE_S)


def test_a_single_number_without_axes(tmp_path: Path) -> None:
    with Engine(workers=1) as engine:
        engine.load("same", small.same(tmp_path, "FP32", ()))
        found = engine.submit("same", {"x": np.array(2.5, np.float32)}).result(PATIENCE_S).outputs["y"]
        assert (found.shape, float(found)) == ((), 2.5)


def test_nothing_is_noted_down_for_its_makers(tmp_path: Path) -> None:
    """Where it may report, it keeps a number of this machine and a queue of reports in the user's home."""
    bundle = small.linear(tmp_path / "linear")
    home = tmp_path / "home"
    home.mkdir()
    path = str(bundle.path("model.onnx"))
    code = f"from loopworks.infer.onnxruntime import OnnxPredictor\nOnnxPredictor({path!r}, 1)"
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(home)}, check=True, timeout=60)
    assert list(home.rglob("*onnxruntime*")) == []


ALONE = """
import sys
import numpy as np
import psutil
from loopworks.infer.onnxruntime import OnnxPredictor

model = OnnxPredictor(sys.argv[1], 1)
large, one = ({"x": np.ones((rows, 1), np.float32)} for rows in (20_000, 1))
answers = [model.predict(one)["y"].tolist()]
before = psutil.Process().memory_info().rss
model.predict(large)
grown = psutil.Process().memory_info().rss - before
assert grown > 60_000_000, grown
model.trim()
answers.append(model.predict(one)["y"].tolist())
left = psutil.Process().memory_info().rss - before
assert left < grown / 2, (left, grown)
answers.append(model.predict(one)["y"].tolist())
assert answers == [[[1.0]]] * 3, answers
"""


def test_what_a_large_run_took_is_given_back(tmp_path: Path) -> None:
    """In a process of its own: what the allocator of one that has done much gives back is its own affair."""
    subprocess.run([sys.executable, "-c", ALONE, str(small.wide(tmp_path))], check=True, timeout=60)
