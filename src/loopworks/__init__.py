"""Loopworks: from raw data to a decision in use, in one place.

import loopworks as lw
ws = lw.open("city")
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopworks.workspace import Workspace, open

__all__ = ["Workspace", "__version__", "open"]
__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime tells its makers of every model that it loads. It reads this when it is loaded, which may
# happen anywhere; whoever wants it sets the variable themselves.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251 - before anything else is imported


def __getattr__(name: str) -> Any:
    """Load the workspace when it is asked for, so that ``import loopworks`` stays instant."""
    if name in ("open", "Workspace"):
        from loopworks import workspace

        return getattr(workspace, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
