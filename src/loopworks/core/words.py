"""Words of a text, cut the same way for every database: lower case, without accents, Chinese by pairs of characters."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MAX_WORD = 64
"""Longer words are cut here: nobody types them."""
_RUN = re.compile(r"[^\W_]+")
# Scripts written without blanks between words: kana, Han, Hangul needs none of this, Thai, Lao, Khmer, Myanmar.
_DENSE = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]+"
)


def words(text: str) -> set[str]:
    """The words to file a text under; of scripts without blanks each character and each pair of neighbours."""
    found: set[str] = set()
    for run, is_dense in _runs(text):
        if is_dense:
            found.update(run)
            found.update(run[i : i + 2] for i in range(len(run) - 1))
        else:
            found.add(run[:MAX_WORD])
    return found


def wanted(text: str) -> list[str]:
    """The words that a text must have to be found by this one, in order, each once."""
    found: dict[str, None] = {}
    for run, is_dense in _runs(text):
        if is_dense and len(run) > 1:
            found.update(dict.fromkeys(run[i : i + 2] for i in range(len(run) - 1)))
        else:
            found[run[:MAX_WORD]] = None
    return list(found)


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    plain = text.casefold()
    if not plain.isascii():
        parts = unicodedata.normalize("NFKD", plain)
        plain = unicodedata.normalize("NFC", "".join(c for c in parts if not unicodedata.combining(c))).casefold()
    for match in _RUN.finditer(plain):
        run, at = match[0], 0
        if run.isascii():
            yield run, False
            continue
        for dense in _DENSE.finditer(run):
            if dense.start() > at:
                yield run[at : dense.start()], False
            yield dense[0], True
            at = dense.end()
        if at < len(run):
            yield run[at:], False


def texts(
    name: str, text: str, attributes: Mapping[str, Any], tags: Iterable[str], captions: Iterable[Any]
) -> Iterator[str]:
    """All texts of an item that are searched; ``captions``: the attributes of its shapes of that kind."""
    yield name
    yield text
    yield from tags
    yield from _strings(attributes)
    yield from _strings(list(captions))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
