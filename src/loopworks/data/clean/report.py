"""The report of findings: one HTML file with pictures, and the command that fixes each."""

import base64
import html
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core import image
from loopworks.core.errors import LoopworksError
from loopworks.core.values import ImageRule
from loopworks.data.clean import fixes
from loopworks.store.blobs import write_error
from loopworks.store.findings import Finding
from loopworks.store.home import Home
from loopworks.store.items import Item, among

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

SIDE = 144
PICTURES = 6
_RULE = ImageRule(height=SIDE, width=SIDE, fit="pad")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;background:#fff}
h2{margin-top:2.2rem;border-bottom:1px solid #d5dae1}
article{border:1px solid #d5dae1;border-radius:8px;padding:.8rem 1rem;margin:.8rem 0}
article p{margin:.2rem 0 .5rem;overflow-wrap:anywhere}
figure{display:inline-block;margin:0 .6rem .4rem 0;width:144px;vertical-align:top}
figcaption{font-size:12px;color:#57606a;overflow-wrap:anywhere}
img{display:block;border-radius:4px}code{background:#f1f3f5;border-radius:4px;padding:.15rem .4rem}
table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0}td+td{text-align:right}small{color:#57606a}
"""


def write(home: Home, dataset: "Dataset", found: Sequence[Finding], path: Path, *, limit: int) -> int:
    """Write the findings to ``path``, at most ``limit`` of each kind; gives how many. ``Denied``, ``NoSpace``."""
    text, count = page(home, dataset, found, limit=limit)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise write_error(path, error) from None
    return count


def page(home: Home, dataset: "Dataset", found: Sequence[Finding], *, limit: int) -> tuple[str, int]:
    """The findings with pictures as HTML, at most ``limit`` of each kind, and how many they are."""
    shown: list[Finding] = []
    seen: Counter[str] = Counter()
    for one in found:
        seen[one.kind] += 1
        if seen[one.kind] <= limit:
            shown.append(one)
    with home.catalog.read() as tx:
        wanted = {item for one in shown for item in one.items[:PICTURES]}
        items = among(tx, dataset.id, wanted)
    return "".join(_page(dataset, shown, seen, items)), len(shown)


def _page(dataset: "Dataset", shown: Sequence[Finding], seen: "Counter[str]", items: dict[str, Item]) -> Iterator[str]:
    name = html.escape(dataset.name)
    yield "<!doctype html><html lang=en><meta charset=utf-8>"
    yield f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">'
    yield f"<title>Findings in {name}</title><style>{_STYLE}</style><h1>Findings in {name}</h1>"
    yield f"<p>{sum(seen.values())} findings.</p>" if seen else "<p>Nothing was found.</p>"
    yield "<table>" + "".join(f"<tr><td>{html.escape(k)}<td>{n}" for k, n in sorted(seen.items())) + "</table>"
    kind = ""
    for one in shown:
        if one.kind != kind:
            kind = one.kind
            more = "" if seen[kind] <= sum(f.kind == kind for f in shown) else ", the worst of them"
            yield f"<h2>{html.escape(kind)} <small>({seen[kind]}{more})</small></h2>"
        yield f"<article id=f{one.id[:12]}><p>{html.escape(one.message)}</p>"
        for item in one.items[:PICTURES]:
            if item in items:
                yield _figure(dataset, items[item])
        if len(one.items) > PICTURES:
            yield f"<small>and {len(one.items) - PICTURES} more</small>"
        state = "" if one.state == "open" else f" <small>{one.state}</small>"
        yield f"<p><code>{html.escape(fixes.command(dataset.name, one.to_json()))}</code>{state}</p></article>"
    yield "</html>\n"


def _figure(dataset: "Dataset", item: Item) -> str:
    labels = ", ".join(sorted({shape.label for shape in item.labels if shape.label}))
    said = html.escape(" · ".join(part for part in (item.name, labels, item.split) if part))
    if item.text:
        return (
            f"<figure><blockquote>{html.escape(item.text[:200])}</blockquote><figcaption>{said}</figcaption></figure>"
        )
    try:
        pixels = image.decode(dataset.read(item), _RULE, item.name)
    except LoopworksError as error:
        return f"<figure><small>{html.escape(error.message)}</small><figcaption>{said}</figcaption></figure>"
    pixels = _unpadded(pixels, item.width, item.height)
    size = f"width={pixels.shape[1]} height={pixels.shape[0]}"
    return f'<figure><img alt="" {size} src="{_thumbnail(pixels)}"><figcaption>{said}</figcaption></figure>'


def _unpadded(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", width: int, height: int) -> Any:
    """The picture without the bars that make it square."""
    longest = max(width, height, 1)
    wide, high = (max(1, round(SIDE * side / longest)) for side in (width, height))
    left, top = (SIDE - wide) // 2, (SIDE - high) // 2
    return pixels[top : top + high, left : left + wide]


def _thumbnail(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
