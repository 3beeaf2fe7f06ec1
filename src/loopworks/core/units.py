"""Text forms of quantities that people type and read."""

import re

from loopworks.core.errors import Invalid

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str | float, what: str = "budget") -> float:
    """A duration such as ``90``, ``90s``, ``5m``, ``1.5h`` or ``2d`` in seconds.

    Raises: Invalid: not a duration above zero.
    """
    if isinstance(text, int | float):
        value = float(text)
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?\s*", text)
        value = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if not 0 < value < 1e9:
        raise Invalid(what, "a duration above zero such as 30s, 5m or 1.5h", text)
    return value


def bytes_text(size: float) -> str:
    """A size such as ``12 B``, ``1.5 kB``, ``3.2 MB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < (999.5 if unit == "B" else 999.95) or unit == "GB":  # what rounds to 1000 is the next unit's 1.0
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def seconds_text(value: float) -> str:
    """A duration such as ``850 ms``, ``4.2 s``, ``3 min 20 s``."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
