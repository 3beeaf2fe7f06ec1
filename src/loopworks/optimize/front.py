"""The front of a tournament: what each variant is worth, which of them no other one beats, as a table and a picture."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import learnable
from loopworks.core.errors import Conflict, NotFound
from loopworks.core.registry import plugins
from loopworks.optimize import labels

FILE = "front.svg"
HERE = ""
"""Name of the machine that the tournament ran on."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 64, 20, 28, 46
COLORS = {"chosen": "#1a7f37", "front": "#1f6feb", "beaten": "#8c959f", "refused": "#cf222e"}


def front(bundle: Bundle, host: str = HERE) -> dict[str, Any]:
    """Every variant with its figures, on this machine or another one.

    Args:
        bundle: of a model that was optimized.
        host: name of a machine whose figures were recorded; empty is the one that the tournament ran on.
    Returns: ``host``, ``machine``, ``headline``, ``chosen`` and ``variants``: a mapping each, with ``name``,
        ``runtime``, ``precision``, ``val`` and ``test`` (the headline as value, low, high, count, or ``None``),
        ``agreement``, ``p50_ms``, ``p99_ms``, ``per_s``, ``batch``, ``size_bytes``, ``memory_bytes``, ``start_s``,
        ``is_chosen``, ``is_refused``, ``is_on_front`` (no other variant is as accurate, as quick and as small, and
        better in one of the three) and ``note``. Figures that were not measured there are ``None``.
    Raises: NotFound: nothing was measured on such a machine. Conflict: the model was not optimized.
    """
    if host and host not in bundle.hosts:
        raise NotFound("host", host, list(bundle.hosts), "loopworks optimize MODEL --on FILE records one")
    if not host and not any(variant.latency_ms for variant in bundle.variants):
        raise Conflict("a model must be optimized to have a front; nothing was measured", "loopworks optimize MODEL")
    told = bundle.hosts[host] if host else None
    headline = learnable(plugins.get(f"task.{bundle.task}")).headline
    chosen = told["chosen"] if told else bundle.chosen
    rows = [_row(variant, headline, chosen, told) for variant in bundle.variants]
    for row in rows:
        row["is_on_front"] = _is_measured(row) and not any(_beats(other, row) for other in rows)
    return {
        "host": host,
        "machine": dict(told["machine"] if told else bundle.measured_on),
        "headline": headline,
        "chosen": chosen,
        "hosts": sorted(bundle.hosts),
        "variants": rows,
    }


def _row(variant: Variant, headline: str, chosen: str, told: Mapping[str, Any] | None) -> dict[str, Any]:
    figures = variant.to_json() if told is None else told["variants"].get(variant.name, {})
    scores = {split: found[headline].to_json() for split, found in variant.metrics.items() if headline in found}
    return {
        "name": variant.name,
        "runtime": variant.runtime,
        "precision": variant.precision,
        "val": scores.get("val"),
        "test": scores.get("test"),
        "agreement": variant.agreement,
        "p50_ms": figures.get("latency_ms", {}).get("p50"),
        "p99_ms": figures.get("latency_ms", {}).get("p99"),
        "per_s": figures.get("throughput_per_s"),
        "batch": figures.get("throughput_batch"),
        "size_bytes": variant.size_bytes,
        "memory_bytes": figures.get("memory_bytes"),
        "start_s": figures.get("start_s"),
        "is_chosen": variant.name == chosen,
        "is_refused": variant.is_refused,
        "note": variant.note,
    }


def _is_measured(row: Mapping[str, Any]) -> bool:
    return not row["is_refused"] and row["p50_ms"] is not None and row["val"] is not None


def _beats(other: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    if other is row or not _is_measured(other):
        return False
    pairs = [
        (other["val"]["value"], row["val"]["value"]),
        (-other["p50_ms"], -row["p50_ms"]),
        (-other["size_bytes"], -row["size_bytes"]),
    ]
    return all(theirs >= ours for theirs, ours in pairs) and any(theirs > ours for theirs, ours in pairs)


def svg(found: Mapping[str, Any]) -> str:
    """The front as a picture: latency of one item from left to right (by magnitude), the headline on val upwards."""
    rows = [row for row in found["variants"] if row["p50_ms"] and row["val"]]
    if not rows:
        return ""
    rows.sort(key=lambda row: list(COLORS).index(_kind(row)))  # what matters most chooses its place first
    places = _Places(rows)
    parts = [places.axes(str(found["headline"]))]
    line = sorted((row for row in rows if row["is_on_front"]), key=lambda row: row["p50_ms"])
    if len(line) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (places.of(row) for row in line))
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLORS["front"]}" stroke-dasharray="4 4"/>')
    names = labels.place(
        [
            labels.Point(x=x, y=y, low=low, high=high, text=_named(row))
            for row in rows
            for (x, y), (low, high) in [(places.of(row), places.interval(row))]
        ],
        (LEFT + 2, TOP, WIDTH - 2, HEIGHT - BOTTOM - 2),
    )
    parts.extend(_dot(row, places) for row in rows)
    parts.extend(_name(row, places, name) for row, name in zip(rows, names, strict=True))
    machine = found["machine"]
    title = f"{found['host'] or 'this machine'}: {machine.get('processor', '')}, {machine.get('threads', '?')} threads"
    parts.append(_text(LEFT, 16, title, fill="#57606a"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui,sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


class _Places:
    """Figures to places on the picture."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        times = [math.log10(row["p50_ms"]) for row in rows]
        self._x = (min(times) - 0.08, max(times) + 0.35)  # room for the names at the right
        low, high = min(row["val"]["low"] for row in rows), max(row["val"]["high"] for row in rows)
        pad = (high - low) * 0.06 or 0.05
        self._y = (low - pad, high + pad)

    def at(self, ms: float, value: float) -> tuple[float, float]:
        x = (math.log10(ms) - self._x[0]) / (self._x[1] - self._x[0])
        y = (value - self._y[0]) / (self._y[1] - self._y[0])
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - BOTTOM - TOP)

    def of(self, row: Mapping[str, Any]) -> tuple[float, float]:
        return self.at(row["p50_ms"], row["val"]["value"])

    def interval(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """Heights of the lower and the upper end of the headline's interval."""
        ends = (row["val"]["low"], row["val"]["high"])
        return self.at(row["p50_ms"], ends[0])[1], self.at(row["p50_ms"], ends[1])[1]

    def axes(self, headline: str) -> str:
        parts = []
        for step in range(5):
            value = self._y[0] + (self._y[1] - self._y[0]) * step / 4
            ms = 10 ** (self._x[0] + (self._x[1] - self._x[0]) * step / 4)
            x, y = self.at(ms, value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#eaeef2"/>')
            parts.append(_text(LEFT - 6, y + 4, f"{value:.3f}", anchor="end", fill="#57606a"))
            parts.append(_text(x, HEIGHT - BOTTOM + 16, f"{ms:.3g}", anchor="middle", fill="#57606a"))
        parts.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#8c959f"/>')
        parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 10, "p50 of one item, ms", anchor="middle"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
            f"{escape(headline)} on val</text>"
        )
        return "".join(parts)


def _kind(row: Mapping[str, Any]) -> str:
    if row["is_chosen"]:
        return "chosen"
    if row["is_refused"]:
        return "refused"
    return "front" if row["is_on_front"] else "beaten"


def _named(row: Mapping[str, Any]) -> str:
    kind = _kind(row)
    return f"{row['name']} ({kind})" if kind in ("chosen", "refused") else str(row["name"])


def _dot(row: Mapping[str, Any], places: _Places) -> str:
    kind = _kind(row)
    x, y = places.of(row)
    low, high = places.interval(row)
    about = f"{row['name']}: {row['val']['value']:.4f}, {row['p50_ms']:.3g} ms, {row['size_bytes']} bytes"
    return (
        f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{COLORS[kind]}" stroke-opacity=".35"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if kind == "chosen" else 4}" fill="{COLORS[kind]}">'
        f"<title>{escape(about)}</title></circle>"
    )


def _name(row: Mapping[str, Any], places: _Places, name: labels.Label) -> str:
    """The name, and a thin line to its point where it had to go away from it."""
    color = COLORS[_kind(row)]
    x, y = places.of(row)
    line = ""
    if name.is_away:
        to_x, to_y = name.nearest(x, y)
        line = f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="{color}" stroke-width=".6"/>'
    return line + _text(name.left, name.baseline, _named(row), fill=color)


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#1f2328") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
