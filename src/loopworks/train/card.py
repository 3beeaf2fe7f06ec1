"""The card of a model: what it is, how it was made, how good it is and where it is not; for people."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.units import bytes_text
from loopworks.train import plots

FILE = "card.md"
ROWS = 20
"""Rows of a table on the card; the rest is in ``evaluation.json``."""
Cells = tuple[str, ...]
Media = Mapping[str, str]
"""Item id -> HTML that shows it."""


def markdown(bundle: Bundle, evaluation: Mapping[str, Any], title: str = "") -> str:
    """The card as Markdown, without pictures."""
    parts = [f"# {title or 'Model card'}", ""]
    for heading, columns, rows, note in _tables(bundle, evaluation):
        parts += [f"## {heading}", ""]
        if note:
            parts += [note, ""]
        if rows:
            parts += [_row(columns), _row(["---"] * len(columns)), *map(_row, rows), ""]
    parts += ["## Limits", "", *(f"* {line}" for line in _limits(bundle, evaluation)), ""]
    return "\n".join(parts)


def html(
    bundle: Bundle,
    evaluation: Mapping[str, Any],
    title: str,
    media: Media | None = None,
    facts: Sequence[Cells] = (),
    fronts: Sequence[str] = (),
) -> str:
    """The card as one HTML page that needs nothing beside it.

    Args:
        bundle: the model.
        evaluation: as ``judge.read`` gives it.
        title: at the head of the page.
        media: how to show the items of the worst mistakes.
        facts: more rows of name and value for the first table.
        fronts: pictures (SVG) of what the variants are worth.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    for heading, columns, rows, note in _tables(bundle, evaluation):
        if heading == "Worst mistakes" and media:
            continue  # they come as pictures
        if heading == "Variants":
            parts += [_pictures(evaluation), _mistakes(evaluation, media or {})]
        if heading == "What it is":
            rows = [*facts, *rows]
        parts.append(f"<section><h2>{escape(heading)}</h2>")
        if note:
            parts.append(f"<p>{escape(note)}</p>")
        if rows:
            parts.append(_table(columns, rows))
        if heading == "Variants":
            parts += fronts
        parts.append("</section>")
    limits = "".join(f"<li>{escape(line)}</li>" for line in _limits(bundle, evaluation))
    parts.append(f"<section><h2>Limits</h2><ul>{limits}</ul></section>")
    return _PAGE.format(title=escape(title), body="\n".join(part for part in parts if part))


def _tables(bundle: Bundle, evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Cells, Sequence[Cells], str]]:
    """Heading, columns, rows and a sentence, of every table."""
    yield "What it is", ("", ""), list(_facts(bundle, evaluation)), ""
    splits = evaluation.get("splits", {})
    if splits:
        names = list(next(iter(splits.values()))["metrics"])
        rows = [
            (f"{name}{_direction(name, evaluation)}", *(_interval(splits[split]["metrics"][name]) for split in splits))
            for name in names
        ]
        heads = tuple(f"{split} ({body['count']} items)" for split, body in splits.items())
        yield (
            "Scores",
            ("metric", *heads),
            rows,
            "With 95 % bootstrap intervals, from the answers of the exported file.",
        )
    else:
        yield "Scores", (), [], "Not measured: the version has neither a val nor a test split."
    shown = splits.get("test") or splits.get("val") or {}
    where = "test" if "test" in splits else "val"
    if by_class := shown.get("by_class"):
        columns = list(next(iter(by_class.values())))
        worst = sorted(by_class.items(), key=lambda one: next(iter(one[1].values())))
        rows = [(name, *(_cell(column, values.get(column)) for column in columns)) for name, values in worst[:ROWS]]
        more = f", the worst {ROWS} of {len(by_class)}" if len(by_class) > ROWS else ""
        yield f"By class ({where}{more})", ("class", *columns), rows, ""
    if "slices" in shown:
        yield _slices(shown["slices"], evaluation, where)
    if mistakes := shown.get("mistakes"):
        rows = [(m["name"] or m["item"][:12], m["truth"], m["answer"], f"{m['quality']:.3f}") for m in mistakes[:ROWS]]
        yield "Worst mistakes", ("item", "truth", "answer", "quality"), rows, f"The least right answers on {where}."
    yield (
        "Variants",
        _VARIANT,
        [_variant(v, bundle, str(evaluation.get("headline", ""))) for v in bundle.variants],
        _measured_on(bundle),
    )
    used = [(name, str(value)[:120]) for name, value in bundle.params.items() if not isinstance(value, dict | list)]
    yield "Parameters", ("parameter", "value"), used, ""


_VARIANT = ("name", "precision", "val", "test", "p50 / p99 ms", "items/s (batch)", "size", "memory", "start s", "")


def _variant(variant: Variant, bundle: Bundle, headline: str) -> Cells:
    def score(split: str) -> str:
        found = variant.metrics.get(split, {}).get(headline)
        return _interval(found.to_json()) if found else "-"

    times, batch = variant.latency_ms, variant.throughput_batch
    mark = "chosen" if variant.name == bundle.chosen else f"refused: {variant.note}" if variant.is_refused else ""
    return (
        variant.name,
        f"{variant.precision}, {variant.runtime}",
        score("val"),
        score("test"),
        f"{times['p50']:.3g} / {times['p99']:.3g}" if times else "-",
        f"{variant.throughput_per_s:.4g}{f' ({batch})' if batch else ''}" if variant.throughput_per_s else "-",
        bytes_text(variant.size_bytes),
        bytes_text(variant.memory_bytes) if variant.memory_bytes else "-",
        f"{variant.start_s:.2f}" if variant.start_s else "-",
        mark,
    )


def _measured_on(bundle: Bundle) -> str:
    told = bundle.measured_on
    if not told:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in told.get("versions", {}).items())
    return (
        f"Measured on {told.get('processor', 'a machine')}, {told.get('cores', '?')} cores, {told.get('threads', '?')} "
        f"threads a call ({' '.join(told.get('instructions', ())) or 'instruction sets not known'}); {versions}."
    )


def _facts(bundle: Bundle, evaluation: Mapping[str, Any]) -> Iterator[Cells]:
    classes = bundle.schema.classes
    yield "task", bundle.task
    if classes:
        more = f" and {len(classes) - ROWS} more" if len(classes) > ROWS else ""
        many = ", any number per item" if bundle.schema.is_multi else ""
        yield "classes", f"{', '.join(classes[:ROWS])}{more} ({len(classes)}{many})"
    yield "recipe", bundle.recipe
    yield "learnt from version", bundle.version
    for name, tensors in (("input", bundle.inputs), ("output", bundle.outputs)):
        yield name, ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in tensors) or "none"
    for note in bundle.notes:
        yield "note", note
    if calibration := _shown(evaluation).get("calibration"):
        verdict = "no more than chance explains" if calibration["error"] <= calibration["by_chance"] else "more"
        yield (
            "calibration error",
            f"{calibration['error']:.3f}; chances without fault stay under {calibration['by_chance']:.3f} in 19 of 20 "
            f"draws of as many items: {verdict}",
        )


def _slices(
    found: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any], where: str
) -> tuple[str, Cells, Sequence[Cells], str]:
    worse = [one for one in found if one["is_worse"]]
    columns = ("slice", str(evaluation.get("headline", "headline")), "elsewhere", "items", "chance")
    rows = [
        (
            f"{one['column']}: {one['group']}",
            _interval(one),
            _number(one["rest"]),
            str(one["count"]),
            f"{one['chance']:.3f}",
        )
        for one in worse[:ROWS]
    ]
    if worse:
        note = f"Worse than the rest beyond chance, of {len(found)} slices that were looked at."
    elif found:
        note = f"None of the {len(found)} slices that were looked at is worse than the rest beyond chance."
    else:
        note = "Nothing is known of the items by which they could be grouped."
    return f"Worst slices ({where})", columns, rows, note


def _limits(bundle: Bundle, evaluation: Mapping[str, Any]) -> Iterator[str]:
    splits = evaluation.get("splits", {})
    yield "The scores are about items like those of the version; of other places, seasons or sources they say nothing."
    if "test" not in splits:
        yield "There was no test split: the figures are those of the split that chose the epoch, and flatter the model."
    elif splits["test"]["count"] < 100:
        yield f"The test split holds {splits['test']['count']} items; look at the intervals, not at the values."
    rare = [
        name for name, values in _shown(evaluation).get("by_class", {}).items() if 0 < values.get("count", ROWS) < 10
    ]
    if rare:
        yield f"Classes with fewer than ten items to judge by: {', '.join(rare[:ROWS])}."
    if any(note.startswith("warning") for note in bundle.notes):
        yield "The notes above hold warnings."


def _shown(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    splits = evaluation.get("splits", {})
    found: Mapping[str, Any] = splits.get("test") or splits.get("val") or {}
    return found


def _pictures(evaluation: Mapping[str, Any]) -> str:
    shown = _shown(evaluation)
    found = []
    learning = evaluation.get("learning", {})
    losses = {name: points for name, points in learning.items() if "loss" in name}
    others = {name: points for name, points in learning.items() if "loss" not in name}
    for title, curves in (("Loss while learning", losses), ("Headline while learning", others)):
        if picture := plots.lines(curves, x="epoch", y="loss" if curves is losses else "value"):
            found.append((title, picture))
    if calibration := shown.get("calibration"):
        found.append(("Calibration", plots.reliability(calibration["bins"])))
    if drawn := shown.get("curves"):
        roc = {f"{one['class']} (auc {one['auc']:.3f})": one["roc"] for one in drawn[:8]}
        pr = {f"{one['class']} (ap {one['average_precision']:.3f})": one["pr"] for one in drawn[:8]}
        found.append((
            "ROC",
            plots.lines(roc, x="false positive rate", y="true positive rate", unit=True, diagonal=True),
        ))
        found.append(("Precision and recall", plots.lines(pr, x="recall", y="precision", unit=True)))
    figures = [f"<figure><figcaption>{title}</figcaption>{picture}</figure>" for title, picture in found]
    if "matrix" in (table := shown.get("confusion", {})):
        picture = plots.confusion(table["matrix"], table["classes"])
        figures.append(f'<figure class="wide"><figcaption>Confusion</figcaption>{picture}</figure>')
    return f'<section><h2>Pictures</h2><div class="figures">{"".join(figures)}</div></section>' if figures else ""


def _mistakes(evaluation: Mapping[str, Any], media: Media) -> str:
    cards = [
        f'<div class="item">{media[one["item"]]}<b>{escape(one["truth"])}</b><span>said {escape(one["answer"])}</span>'
        f"<small>{escape(one['name'])}</small></div>"
        for one in _shown(evaluation).get("mistakes", ())
        if one["item"] in media
    ]
    if not cards:
        return ""
    return f'<section><h2>Worst mistakes</h2><div class="items">{"".join(cards)}</div></section>'


def _direction(name: str, evaluation: Mapping[str, Any]) -> str:
    return " (less is better)" if name in evaluation.get("lower_is_better", ()) else ""


def _interval(score: Mapping[str, Any]) -> str:
    return f"{_number(score['value'])} [{_number(score['low'])}, {_number(score['high'])}]"


def _cell(column: str, value: object) -> str:
    return f"{value:.0f}" if column == "count" and isinstance(value, int | float) else _number(value)


def _number(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.5g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _table(columns: Sequence[str], rows: Sequence[Cells]) -> str:
    head = f"<tr>{''.join(f'<th>{escape(one)}</th>' for one in columns)}</tr>" if any(columns) else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>
body{{font:14px/1.45 system-ui,sans-serif;color:#1f2328;max-width:1120px;margin:24px auto;padding:0 20px}}
h1{{font-size:24px;margin:0 0 8px}}
h2{{font-size:16px;margin:26px 0 8px;border-bottom:1px solid #d8dee4;padding-bottom:4px}}
table{{border-collapse:collapse}}td,th{{padding:3px 14px 3px 0;text-align:left;vertical-align:top}}
th{{color:#57606a;font-weight:600}}td{{border-top:1px solid #eaeef2;overflow-wrap:anywhere}}
td:first-child{{min-width:104px}}
.figures,.items{{display:flex;flex-wrap:wrap;gap:18px}}figure{{margin:0;max-width:100%}}
figcaption{{font-weight:600;margin-bottom:4px}}svg{{max-width:100%;height:auto}}
.legend{{display:flex;flex-wrap:wrap;gap:2px 12px;font-size:12px;max-width:360px}}
.legend i{{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:4px}}
.item{{width:128px;display:flex;flex-direction:column;overflow-wrap:anywhere}}
.item img{{width:128px;height:128px;object-fit:contain;background:#f6f8fa;image-rendering:auto}}
.item p{{margin:0;max-height:128px;overflow:hidden;background:#f6f8fa;padding:4px}}
.item small{{color:#57606a}}</style></head><body>
{body}
</body></html>
"""
