"""Small pictures as inline SVG: lines, reliability, confusion. No library, no script, sharp at every size."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 360, 250, 60, 36, 10, 12
COLORS = ("#1f6feb", "#d1480c", "#1a7f37", "#8250df", "#bf8700", "#0a7ea4", "#cf222e", "#57606a")
Points = Sequence[Sequence[float]]


def lines(
    curves: Mapping[str, Points],
    *,
    x: str,
    y: str,
    unit: bool = False,
    diagonal: bool = False,
) -> str:
    """Curves in one frame.

    Args:
        curves: name -> points ``(x, y)``; points whose y is not a number are left out.
        x: name of the axis.
        y: likewise.
        unit: both axes go from 0 to 1; else they follow the points.
        diagonal: draw the line of chance.
    """
    kept = {name: [p for p in points if p[1] is not None] for name, points in curves.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    xs = [p[0] for points in kept.values() for p in points]
    ys = [p[1] for points in kept.values() for p in points]
    box = (0.0, 1.0, 0.0, 1.0) if unit else (min(xs), max(xs), *_padded(min(ys), max(ys)))
    frame = _Frame(*box)
    parts = [frame.axes(x, y)]
    if diagonal:
        parts.append(_path([frame.at(0, 0), frame.at(1, 1)], "#afb8c1", dashed=True))
    for place, points in enumerate(kept.values()):
        color = COLORS[place % len(COLORS)]
        at = [frame.at(p[0], p[1]) for p in points]
        parts.append(_path(at, color))
        if len(at) == 1:
            parts.append(f'<circle cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="3" fill="{color}"/>')
    return _svg(parts) + _legend(list(kept))


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Share that is right over the chance that was said; the area of a dot is the number of items."""
    frame = _Frame(0, 1, 0, 1)
    parts = [frame.axes("chance that the model says", "share that is right")]
    parts.append(_path([frame.at(0, 0), frame.at(1, 1)], "#afb8c1", dashed=True))
    parts.append(_path([frame.at(one["chance"], one["right"]) for one in bins], COLORS[0]))
    most = max(one["count"] for one in bins)
    for one in bins:
        cx, cy = frame.at(one["chance"], one["right"])
        radius = 2.5 + 7 * (one["count"] / most) ** 0.5
        parts.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}" fill="{COLORS[0]}" fill-opacity=".65">'
            f"<title>{one['count']} items</title></circle>"
        )
    return _svg(parts)


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Truth by row, answer by column; the shade is the share of the row."""
    size = len(classes)
    cell = max(14, min(38, 520 // size))
    longest = max(map(len, classes))
    left = min(150, 20 + 7 * longest)
    is_told = cell >= 20
    parts = []
    for row, (name, counts) in enumerate(zip(classes, matrix, strict=True)):
        total = sum(counts)
        y = 40 + row * cell
        parts.append(_text(left - 6, y + cell / 2 + 4, _short(name), anchor="end"))
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            color = "31,111,235" if row == column else "209,72,12"
            x = left + column * cell
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="rgba({color},{share:.3f})" '
                f'stroke="#d8dee4" stroke-width=".5"><title>{escape(name)} taken for {escape(classes[column])}: {count}'
                "</title></rect>"
            )
            if count and is_told:
                shade = "#fff" if share > 0.55 else "#1f2328"
                parts.append(_text(x + cell / 2, y + cell / 2 + 4, str(count), anchor="middle", fill=shade))
    width, height = left + size * cell + 10, 40 + size * cell + min(150, 16 + 7 * longest)
    for column, name in enumerate(classes):
        middle, under = left + column * cell + cell / 2 + 4, 40 + size * cell + 8
        if longest * 8 <= cell + 6:
            parts.append(_text(middle - 4, under + 6, name, anchor="middle"))
        else:
            parts.append(
                f'<text x="{middle:.1f}" y="{under}" text-anchor="end" transform="rotate(-90 {middle:.1f} {under})">'
                f"{escape(_short(name))}</text>"
            )
    parts.append(_text(left, 18, "rows: truth, columns: answer", fill="#57606a"))
    return _svg(parts, width, height)


class _Frame:
    """Values to places on the picture."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self._x = (x_low, x_high if x_high > x_low else x_low + 1)
        self._y = (y_low, y_high)

    def at(self, x: float, y: float) -> tuple[float, float]:
        share_x = (x - self._x[0]) / (self._x[1] - self._x[0])
        share_y = (y - self._y[0]) / (self._y[1] - self._y[0])
        return LEFT + share_x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share_y * (HEIGHT - BOTTOM - TOP)

    def axes(self, x: str, y: str) -> str:
        found = []
        for step in range(5):
            at_x = self._x[0] + (self._x[1] - self._x[0]) * step / 4
            at_y = self._y[0] + (self._y[1] - self._y[0]) * step / 4
            px, py = self.at(at_x, at_y)
            found.append(f'<path d="M{LEFT} {py:.1f}H{WIDTH - RIGHT}" stroke="#eaeef2"/>')
            found.append(_text(LEFT - 5, py + 4, f"{at_y:.3g}", anchor="end", fill="#57606a"))
            found.append(_text(px, HEIGHT - BOTTOM + 15, f"{at_x:.3g}", anchor="middle", fill="#57606a"))
        found.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#8c959f"/>')
        found.append(_text((LEFT + WIDTH) / 2, HEIGHT - 5, x, anchor="middle"))
        middle = (TOP + HEIGHT - BOTTOM) / 2
        found.append(
            f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">{escape(y)}</text>'
        )
        return "".join(found)


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.06 or max(abs(low) * 0.1, 0.5)
    return low - pad, high + pad


def _path(points: Sequence[tuple[float, float]], color: str, *, dashed: bool = False) -> str:
    places = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    style = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<path d="M{places}" fill="none" stroke="{color}" stroke-width="1.8"{style}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#1f2328") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _svg(parts: Sequence[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="system-ui,sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    marks = [
        f'<span><i style="background:{COLORS[place % len(COLORS)]}"></i>{escape(_short(name, 40))}</span>'
        for place, name in enumerate(names)
    ]
    return f'<div class="legend">{"".join(marks)}</div>'
