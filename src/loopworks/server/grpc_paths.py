"""Which HTTP request asks the same as a gRPC call: one set of rules says who may ask what, for both."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

_HEALTH = "GET", "/v2/health/live"
_FIXED: dict[str, tuple[str, str]] = {
    "ServerLive": _HEALTH,
    "ServerReady": ("GET", "/v2/health/ready"),
    "Check": _HEALTH,
    "Watch": _HEALTH,
    "ServerMetadata": ("GET", "/v2"),
    "ModelStreamInfer": ("GET", "/v2"),  # whoever opens it; each of its messages is a request of its own
    "RepositoryIndex": ("POST", "/v2/repository/index"),
}
_MEMORY = {"Status": "GET", "Register": "POST", "Unregister": "POST"}


def same(name: str, message: Any) -> tuple[str, str]:
    """Method and path of the HTTP request that asks what ``message`` asks of the gRPC method ``name``."""
    if name in _FIXED:
        return _FIXED[name]
    if name in _BY_MESSAGE:
        return _BY_MESSAGE[name](message)
    kind, _, action = name.partition("SharedMemory")
    region = f"/region/{quote(message.name, safe='')}" if message.name else ""
    return _MEMORY[action], f"/v2/{kind.lower()}sharedmemory{region}/{action.lower()}"


def _model(ending: str, method: str = "GET") -> Callable[[Any], tuple[str, str]]:
    return lambda message: (method, f"/v2/models/{quote(message.name, safe='')}{ending}")


def _infer(message: Any) -> tuple[str, str]:
    return "POST", f"/v2/models/{quote(message.model_name, safe='')}/infer"


def _statistics(message: Any) -> tuple[str, str]:
    return _model("/stats")(message) if message.name else ("GET", "/v2/models/stats")


def _trace(message: Any) -> tuple[str, str]:
    at = f"/v2/models/{quote(message.model_name, safe='')}" if message.model_name else "/v2"
    return "POST" if message.settings else "GET", f"{at}/trace/setting"


def _repository(ending: str) -> Callable[[Any], tuple[str, str]]:
    return lambda message: ("POST", f"/v2/repository/models/{quote(message.model_name, safe='')}/{ending}")


_BY_MESSAGE: dict[str, Callable[[Any], tuple[str, str]]] = {
    "ModelReady": _model("/ready"),
    "ModelMetadata": _model(""),
    "ModelConfig": _model("/config"),
    "ModelStatistics": _statistics,
    "ModelInfer": _infer,
    "RepositoryModelLoad": _repository("load"),
    "RepositoryModelUnload": _repository("unload"),
    "TraceSetting": _trace,
    "LogSettings": lambda message: ("POST" if message.settings else "GET", "/v2/logging"),
}
