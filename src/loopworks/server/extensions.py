"""What clients of the protocol may ask for and we do not have, or only to read: the same answer over HTTP and gRPC."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from loopworks.core.errors import Invalid, Unsupported

TRACE: Mapping[str, list[str]] = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}


def trace(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The trace settings, of which none can be changed: nothing is traced by way of this protocol.

    Raises: Unsupported, Invalid: a setting is to become another, or does not exist.
    """
    now = {name: value if name == "trace_level" else value[0] for name, value in TRACE.items()}
    _unchanged("trace setting", asked, now)
    return now


def logs(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the server's own log tells; the settings can be read, and are changed by whoever starts the server.

    Raises: Unsupported, Invalid: a setting is to become another, or does not exist.
    """
    told = logging.getLogger("loopworks")
    now = {
        "log_file": "",
        "log_info": told.isEnabledFor(logging.INFO),
        "log_warning": told.isEnabledFor(logging.WARNING),
        "log_error": told.isEnabledFor(logging.ERROR),
        "log_verbose_level": int(told.isEnabledFor(logging.DEBUG)),
        "log_format": "default",
    }
    _unchanged("log setting", asked, now)
    return now


def check_load(parameters: Iterable[str]) -> None:
    """``Unsupported`` where a model is to be loaded as something else than its deployment says."""
    if (given := sorted(parameters)) != []:
        raise Unsupported(
            f"a model is loaded as its deployment says; got parameters {', '.join(given)}", "deploy another bundle"
        )


def check_unload(parameters: Mapping[str, Any]) -> None:
    """``Unsupported`` for anything but ``unload_dependents``, which may be either: no model depends on another."""
    if (unknown := sorted(set(parameters) - {"unload_dependents"})) != []:
        raise Unsupported(f"a model is unloaded with unload_dependents at most; got parameters {', '.join(unknown)}")


def refuse_chain(name: str) -> None:
    """``Unsupported``: a chain holds nothing in memory but its models, which others may ask too."""
    raise Unsupported(f"chain {name!r} is in memory as its models; got a chain to unload", "unload these models")


def refuse_memory(kind: str) -> None:
    """``Unsupported``: memory of the client's machine is never mapped."""
    raise Unsupported(f"{kind} shared memory is not offered; got a region to register", "send the tensors themselves")


def _unchanged(what: str, asked: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        if name not in now:
            raise Invalid(f"{what}s", f"among {', '.join(now)}", name)
        same = value in (now[name], [now[name]]) or str(value) == str(now[name]) or value is None or value == []
        if not same:
            raise Unsupported(
                f"{what} {name} must stay {now[name]!r}; got {value!r}", "this server lets it be read only"
            )
