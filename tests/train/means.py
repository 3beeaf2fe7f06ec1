"""The example recipe ``train.means``: it trains in milliseconds, so that searches can be tested without torch."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from loopworks.core.registry import plugins

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipe" / "loopworks_means.py"


def load() -> ModuleType:
    """The example's module; importing it once registers the recipe."""
    name = "loopworks_means"
    if name not in sys.modules:
        plugins.names()
        spec = importlib.util.spec_from_file_location(name, EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
