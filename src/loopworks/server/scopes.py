"""Which scope a request needs: by method and path, for HTTP, its fast path and gRPC alike.

What is not named here needs ``read`` to be seen and ``write`` to be changed, so a new route is never open by mistake.
"""

from dataclasses import dataclass

OPEN = frozenset({"/v2/health/live", "/v2/health/ready", "/api/health", "/", "/page.css", "/page.js"})
"""Paths that need no token: health, and the page itself, which holds nothing of the workspace."""
_LOOKS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Need:
    """Any of these scopes will do; ``deployment`` is the one that is asked, empty where it is none in particular."""

    scopes: frozenset[str]
    deployment: str = ""
    is_common: bool = False
    """Whether every token will do, also one that may ask some deployments alone."""

    @property
    def is_asking(self) -> bool:
        """Whether a model or a chain is asked for predictions."""
        return self.scopes == _PREDICT and self.deployment != ""


_PREDICT = frozenset({"predict"})
_ANY = Need(frozenset({"predict", "read", "write", "admin"}), is_common=True)
_READ = Need(frozenset({"read"}))
_WRITE = Need(frozenset({"write"}))
_ADMIN = Need(frozenset({"admin"}))
_EITHER = frozenset({"predict", "read"})


def needed(method: str, path: str) -> Need:
    """What the request with this path, already decoded, needs."""
    parts = path.strip("/").split("/")
    looks = method in _LOOKS
    if parts[0] == "predict" and len(parts) > 1:
        return Need(_PREDICT, parts[1])
    if parts[0] == "v2":
        return _protocol(parts[1:], looks)
    if parts == ["api", "feedback"]:
        return Need(_PREDICT, is_common=True)  # of which deployment stands in the body, and the route looks at it
    if parts[:2] == ["api", "tokens"]:
        return _ADMIN
    if path == "/openapi.json" and looks:
        return _ANY
    return _READ if looks else _WRITE


def _protocol(parts: list[str], looks: bool) -> Need:
    if not parts:
        return _ANY if looks else _WRITE
    if parts[0] == "models" and len(parts) > 1 and parts[1:] != ["stats"]:
        if looks:
            return Need(_EITHER, parts[1])
        return Need(_PREDICT, parts[1]) if parts[-1] in ("infer", "generate", "generate_stream") else _WRITE
    if parts == ["repository", "index"] or (looks and parts[0] == "models"):
        return Need(_EITHER)
    return _READ if looks else _WRITE
