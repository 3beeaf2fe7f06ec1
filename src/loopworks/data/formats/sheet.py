"""Text files that list items: kept as head, items and tail, so that what did not change comes back byte for byte.

A reader cuts the file into the text before the first item, the text of each item, and the text after the last one;
the item's own text goes into the record's ``extra``. A writer puts the pieces together again, with new text for the
items that did change. So the layout (indents, line ends, order of keys, spelling of numbers) never has to be guessed.
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from loopworks.data.formats.contract import Record
from loopworks.data.formats.inputs import Text, clean_name, encode


@dataclass(frozen=True, slots=True)
class Sheet:
    """All of a file but its items."""

    name: str
    """Path of the file, relative to the root of the data set."""
    head: str
    tail: str
    between: str
    """What stands between two items, most of the time."""
    codec: str = "utf-8"
    is_marked: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for ``Content.meta``."""
        return {
            "name": self.name,
            "head": self.head,
            "tail": self.tail,
            "between": self.between,
            "codec": self.codec,
            "is_marked": self.is_marked,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Sheet":
        """The sheet that ``to_json`` wrote."""
        return cls(**{name: body[name] for name in ("name", "head", "tail", "between", "codec", "is_marked")})


def cut(source: Text, name: str, spans: Sequence[tuple[int, int]], start: int, end: int, between: str) -> Sheet:
    """The sheet of a file whose items lie at ``spans`` (from, to) in its text.

    ``start`` and ``end`` bound the place of the items where there are none. ``between`` stands between two items
    where the file has fewer than two, after the blanks before its first item.
    """
    text = source.text
    if spans:
        gaps = Counter(text[a[1] : b[0]] for a, b in zip(spans, spans[1:], strict=False))
        lead = text[start : spans[0][0]]
        usual = gaps.most_common(1)[0][0] if gaps else between + (lead if not lead.strip() else "")
        return Sheet(name, text[: spans[0][0]], text[spans[-1][1] :], usual, source.codec, source.is_marked)
    return Sheet(name, text[:start], text[end:], between, source.codec, source.is_marked)


def lead_of(text: str, spans: Sequence[tuple[int, int]], at: int, usual: str) -> str | None:
    """What stands before item ``at`` where that is not the ``usual``."""
    if at == 0:
        return None
    gap = text[spans[at - 1][1] : spans[at][0]]
    return None if gap == usual else gap


def in_order(records: Iterable[Record], key: str) -> list[Record]:
    """Records in the order of the files that they came from, which ``n`` in ``extra`` keeps; new ones are last."""

    def place(record: Record) -> float:
        kept = record.extra.get(key)
        number = kept.get("n") if isinstance(kept, Mapping) else None
        return number if isinstance(number, int) else math.inf

    return sorted(records, key=place)


@dataclass(slots=True)
class SheetWriter:
    """Writes sheets item by item; the head comes last, when all is known that it has to say."""

    folder: Path
    sheets: dict[str, Sheet]
    """File -> sheet, in order; those without items are written as well."""
    counts: dict[str, int] = field(default_factory=dict)
    _files: dict[str, BinaryIO] = field(default_factory=dict)

    def add(self, name: str, text: str, lead: str | None = None) -> None:
        """Append an item to the sheet called ``name``; ``lead`` stands before it in place of the usual."""
        sheet = self.sheets[name]
        gap = "" if name not in self.counts else (sheet.between if lead is None else lead)
        if name not in self._files:
            path = self._body(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = path.open("wb")
        self._files[name].write(encode(gap + text, sheet.codec, is_marked=False))
        self.counts[name] = self.counts.get(name, 0) + 1

    def close(self, finish: Callable[[Sheet], Sheet] = lambda sheet: sheet) -> None:
        """Put heads, items and tails together; ``finish`` may change what stands around the items."""
        for file in self._files.values():
            file.close()
        for name, begun in self.sheets.items():
            sheet = finish(begun)
            path = self.folder / clean_name(sheet.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(encode(sheet.head, sheet.codec, sheet.is_marked))
                if name in self._files:
                    with self._body(name).open("rb") as body:
                        shutil.copyfileobj(body, file)
                    self._body(name).unlink()
                file.write(encode(sheet.tail, sheet.codec, is_marked=False))

    def _body(self, name: str) -> Path:
        path = self.folder / clean_name(name)
        return path.with_name(f".{path.name}.part")
