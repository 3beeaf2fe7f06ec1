"""What importing Loopworks pulls in; how long it takes is measured in benchmarks/start.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loopworks.core.settings import Settings

CORE = Path(sys.modules[Settings.__module__].__file__ or "").parent
LIGHT = {"numpy", "pydantic"}
WATCHED = [
    "numpy",
    "pydantic",
    "PIL",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "sklearn",
    "pandas",
    "matplotlib",
    "mlflow",
    "dbos",
    "sqlalchemy",
    "alembic",
    "pyarrow",
    "obstore",
    "starlette",
    "uvicorn",
    "rich",
    "typer",
    "jsonschema",
    "orjson",
    "psutil",
    "prometheus_client",
    "asyncio",
    "hypothesis",
    "pytest",
]


def imported(*modules: str) -> set[str]:
    """Which of the watched packages a fresh interpreter holds after importing ``modules``."""
    code = (
        f"import {', '.join(modules)}, json, sys\n"
        f"print(json.dumps([name for name in {WATCHED!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def test_importing_loopworks_imports_nothing_else() -> None:
    assert imported("loopworks") == set()


def test_all_of_core_needs_numpy_and_pydantic_alone() -> None:
    modules = [f"loopworks.core.{path.stem}" for path in CORE.glob("*.py") if path.stem != "__init__"]
    assert imported(*modules) == LIGHT


@pytest.mark.parametrize("module", ["bundle", "values", "errors"])
def test_a_bundle_is_read_with_the_standard_library_alone(module: str) -> None:
    assert imported(f"loopworks.core.{module}") == set()


def test_contract_tests_import_core_alone() -> None:
    assert imported("loopworks.testing") == LIGHT
