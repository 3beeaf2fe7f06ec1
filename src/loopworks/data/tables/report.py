"""The profile as one HTML page with plots as inline SVG: no script, nothing to load."""

import re
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopworks.data.tables.profile import ColumnProfile, Profile

_STYLE = """body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse}td,th{padding:.15rem .6rem;text-align:left;vertical-align:top}
section{border-top:1px solid #d5d9de;padding:.6rem 0;display:grid;grid-template-columns:20rem 1fr;gap:1rem}
h2{margin:0;font-size:1rem}small{color:#59636e}li.leak{color:#b42318;font-weight:600}svg{max-width:100%}
rect{fill:#4b7bec}path{fill:none;stroke:#8a939d}text{font:11px system-ui,sans-serif;fill:#1b1f24}"""
_WIDTH, _HEIGHT, _LEFT, _TOP = 480, 90, 60, 4
_QUANTILE = re.compile(r"p\d+")


def html(profile: "Profile") -> str:
    """The page."""
    warnings = "".join(
        f'<li class="{"leak" if one.kind == "leak" else "note"}"><b>{escape(one.kind)}</b> {escape(one.message)}</li>'
        for one in profile.warnings
    )
    target = f", target {escape(profile.target)}" if profile.target else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(profile.dataset)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(profile.dataset)}</h1>"
        f"<p>{profile.rows} rows, {len(profile.columns)} columns, {profile.duplicates} duplicate rows{target}</p>"
        f"<ul>{warnings or '<li>nothing looks wrong</li>'}</ul>"
        + "".join(_section(c) for c in profile.columns)
        + "</html>"
    )


def _section(column: "ColumnProfile") -> str:
    exact = "" if column.is_distinct_exact else "about "
    facts = [("type", column.type), ("missing", str(column.missing)), ("distinct", f"{exact}{column.distinct}")]
    if column.type not in ("date", "datetime"):
        plain = [(name, f"{value:.6g}") for name, value in column.numbers.items() if not _QUANTILE.fullmatch(name)]
        facts += [(name, value) for name, value in plain if name != "infinite" or value != "0"]
        quantiles = [(name[1:], f"{value:.6g}") for name, value in column.numbers.items() if _QUANTILE.fullmatch(name)]
        if quantiles:
            facts.append((" / ".join(q for q, _ in quantiles) + " %", " / ".join(value for _, value in quantiles)))
    if column.leak_score is not None:
        facts.append(("alone predicts", f"{column.leak_score:.3f}"))
    rows = "".join(f"<tr><td><small>{escape(name)}</small><td>{escape(value)}" for name, value in facts)
    is_listed = not column.histogram and column.top and column.top[0][1] == 1
    plot = _histogram(column) if column.histogram else "<small>each value once</small>" if is_listed else _top(column)
    return f"<section><div><h2>{escape(column.name)}</h2><table>{rows}</table></div><div>{plot}</div></section>"


def _histogram(column: "ColumnProfile") -> str:
    most = max(count for _, _, count in column.histogram) or 1
    wide = (_WIDTH - _LEFT) / len(column.histogram)
    is_time = column.type in ("date", "datetime")
    bars = "".join(
        f'<rect x="{_LEFT + at * wide:.1f}" y="{_TOP + _HEIGHT * (1 - count / most):.1f}" width="{wide - 1:.1f}" '
        f'height="{_HEIGHT * count / most:.1f}"><title>{_value(low, is_time)} to {_value(high, is_time)}: {count}'
        "</title></rect>"
        for at, (low, high, count) in enumerate(column.histogram)
    )
    low, high, floor = column.histogram[0][0], column.histogram[-1][1], _TOP + _HEIGHT
    across = "".join(
        f'<text x="{x}" y="{floor + 14}" text-anchor="{anchor}">{_value(value, is_time)}</text>'
        for x, anchor, value in (
            (_LEFT, "start", low),
            ((_LEFT + _WIDTH) / 2, "middle", (low + high) / 2),
            (_WIDTH, "end", high),
        )
    )
    axes = (
        f'<path d="M{_LEFT} {_TOP}V{floor}H{_WIDTH}"></path>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 9}" text-anchor="end">{most}</text>'
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
        f'<text x="{_LEFT - 6}" y="{_TOP + _HEIGHT / 2 + 4}" text-anchor="end">rows</text>'
    )
    return _svg(bars + axes + across, floor + 20, f"histogram of {column.name}")


def _value(value: float, is_time: bool) -> str:
    """A number of the axis; of times the date, as their numbers are seconds since 1970."""
    if not is_time:
        return f"{value:.4g}"
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d}"


def _top(column: "ColumnProfile") -> str:
    if not column.top:
        return ""
    most = max(count for _, count in column.top) or 1
    bars = "".join(
        f'<rect x="180" y="{at * 18:.0f}" width="{200 * count / most:.1f}" height="14"></rect>'
        f'<text x="174" y="{at * 18 + 11}" text-anchor="end">{escape(value[:28])}</text>'
        f'<text x="{186 + 200 * count / most:.1f}" y="{at * 18 + 11}">{count}</text>'
        for at, (value, count) in enumerate(column.top)
    )
    return _svg(bars, 18 * len(column.top), f"most frequent values of {column.name}")


def _svg(inside: str, height: int, label: str) -> str:
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    return f'<svg {size} role="img" aria-label="{escape(label, quote=True)}">{inside}</svg>'
