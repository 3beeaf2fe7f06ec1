"""Bundles that run on predictors under the test's control."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.infer.doubles import Double, Doubles

from loopworks.core.bundle import Bundle
from loopworks.core.registry import plugins


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> list[Double]:
    made: list[Double] = []
    plugins.load()
    monkeypatch.setitem(plugins._found, "runtime.double", type("Runtime", (Doubles,), {"made": made}))
    return made


@pytest.fixture
def double(tmp_path: Path, colors: Any, doubles: list[Double]) -> Bundle:
    """A bundle that runs on the double."""
    bundle: Bundle = colors.write(tmp_path / "double")
    return replace(bundle, variants=(replace(bundle.variants[0], runtime="double"),))
