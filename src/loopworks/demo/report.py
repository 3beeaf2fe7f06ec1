"""The demo's ``report.html``: one file, pictures inside, no script and no network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopworks.core.bundle import Bundle
from loopworks.core.units import bytes_text

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: #fff; border-radius: 6px; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.chosen { font-weight: 600; }
ol { padding-left: 1.2rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


def write(path: Path, figures: Mapping[str, Any], bundle: Bundle) -> Path:
    """Write the page and return ``path``."""
    rounds = figures["rounds"]
    body = [
        "<h1>Loopworks demo</h1>",
        f"<p>{html.escape(Path(figures['data']).name)}: from raw images to served predictions. The annotator was "
        "played by labels that were hidden before.</p>",
        "<h2>What active learning saved</h2>",
        f"<p>{html.escape(figures['saved'])}</p>",
        _picture(labels_curve(rounds), "Accuracy on the frozen test set against the number of labels"),
        _table(
            ("labels", "model picks", "95 % interval", "random picks", "95 % interval"),
            [
                (
                    str(row["labels"]),
                    *(
                        text
                        for way in ("active", "random")
                        for text in (f"{row[way]['value']:.3f}", f"{row[way]['low']:.3f} - {row[way]['high']:.3f}")
                    ),
                )
                for row in rounds
            ],
        ),
        "<h2>Accuracy against latency</h2>",
        _picture(front(bundle), "Test accuracy of each variant against its latency"),
        _table(
            ("variant", "val", "test", "95 % interval", "p50 ms", "images/s", "size"),
            [_variant(v) for v in bundle.variants],
            marked=[v.name == bundle.chosen for v in bundle.variants],
        ),
        "<p>The choice used the validation split alone; the frozen test set is only reported.</p>",
        "<h2>Lineage of one prediction</h2>",
        "<ol>" + "".join(_node(node) for node in figures["served"]["lineage"]) + "</ol>",
        f"<p>Measured on {html.escape(', '.join(f'{k} {v}' for k, v in bundle.measured_on.items()))}.</p>",
    ]
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Loopworks demo</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")
    return path


def labels_curve(rounds: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy per number of labels, both ways of picking with their 95 % bands, as a PNG file."""
    figure, axes = _axes("labels given", "accuracy on the frozen test set")
    at = [row["labels"] for row in rounds]
    for way, text, color in (("active", "the model picks", "#1769aa"), ("random", "random picks", "#b3541e")):
        axes.plot(at, [row[way]["value"] for row in rounds], "o-", color=color, label=text)
        low, high = [row[way]["low"] for row in rounds], [row[way]["high"] for row in rounds]
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xticks(at)
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def front(bundle: Bundle) -> bytes:
    """Accuracy against latency of every variant, as a PNG file; filled is chosen, grey is refused."""
    figure, axes = _axes("latency of one image, p50, ms", "accuracy on the frozen test set")
    colors = ("#1769aa", "#b3541e", "#3a7d44", "#7b4fa3", "#8a6d00", "#b02a5b")
    for i, variant in enumerate(bundle.variants):
        score = next(iter(variant.metrics["test"].values()))
        is_chosen = variant.name == bundle.chosen
        color = "#999999" if variant.is_refused else colors[i % len(colors)]
        axes.errorbar(
            variant.latency_ms["p50"],
            score.value,
            yerr=[[score.value - score.low], [score.high - score.value]],
            fmt="osD^vP"[i % 6],
            color=color,
            markerfacecolor=color if is_chosen else "white",
            markersize=11 if is_chosen else 8,
            capsize=3,
            label=f"{variant.name}, {bytes_text(variant.size_bytes)}"
            + (" (chosen)" if is_chosen else " (refused)" if variant.is_refused else ""),
        )
    axes.set_xlim(left=0, right=1.1 * max(v.latency_ms["p50"] for v in bundle.variants))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return _png(figure)


def _axes(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _picture(png: bytes, text: str) -> str:
    return f"<img alt='{html.escape(text)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    lines = []
    for i, row in enumerate(rows):
        kind = " class='chosen'" if i < len(marked) and marked[i] else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _node(node: Mapping[str, Any]) -> str:
    facts = ", ".join(f"{k} {v}" for k, v in node.items() if k not in ("kind", "id", "item") and v not in ("", None))
    return f"<li>{html.escape(node['kind'])} <code>{html.escape(node['id'])}</code> {html.escape(facts)}</li>"


def _variant(variant: Any) -> tuple[str, ...]:
    val, test = variant.metrics["val"]["accuracy"], variant.metrics["test"]["accuracy"]
    return (
        variant.name,
        f"{val.value:.3f}",
        f"{test.value:.3f}",
        f"{test.low:.3f} - {test.high:.3f}",
        f"{variant.latency_ms['p50']:.3f}",
        "-" if variant.throughput_per_s is None else f"{variant.throughput_per_s:.0f}",
        bytes_text(variant.size_bytes),
    )
