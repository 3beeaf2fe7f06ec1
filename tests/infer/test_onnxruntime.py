"""Tensors go into ONNX Runtime and come out as they are."""

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
