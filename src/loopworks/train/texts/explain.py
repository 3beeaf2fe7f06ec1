"""Which words of a text speak for a label, and how much."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Predictor
from loopworks.core.errors import Invalid, Missing, NotFound
from loopworks.core.text import TextRule, TokenRule, plain
from loopworks.tasks.classes import OUTPUT
from loopworks.train.images import WEIGHTS

Span = tuple[int, int, float]
"""First character, the one after the last, and the weight: above 0 speaks for the label, below 0 against it."""
MOST_WORDS = 128
"""Parts of a text that are left out one after the other; longer texts have several words in a part."""
BATCH = 32
_WORDS = TextRule(words=(1, 1), chars=(0, 0), buckets=2, most_chars=1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a model saw in a text."""

    label: str
    spans: tuple[Span, ...]
    """Words in their order."""
    base: float
    """What the model thinks without any word, in the same unit: with the weights it adds up to ``total`` where the
    model is one on pieces of words."""
    total: float
    """Log odds of the label; of classes that exclude each other, its logit above the mean of all logits."""


def attributions(bundle: Bundle, text: str, label: str = "") -> list[Span]:
    """The words of a text with their weights for ``label`` (default: the model's answer), in their order; see
    ``evidence``."""
    return list(evidence(bundle, text, label).spans)


def evidence(bundle: Bundle, text: str, label: str = "") -> Evidence:
    """Which words speak for a label.

    On pieces of words the weights are exact: each piece's share of the logit, spread evenly over the letters that it
    covers. On tokens, each word's weight is how much the log odds fall when it is left out.

    Args:
        bundle: a model of texts.
        text: any.
        label: a class; empty is the one that the model gives.
    Raises: Invalid: a model of something else. NotFound: no such class.
    Source: on pieces, the decomposition of a network that is linear around its input (gradient times input).
    """
    rule = bundle.rule
    if label and label not in bundle.schema.classes:
        raise NotFound("class", label, bundle.schema.classes)
    if isinstance(rule, TextRule):
        return _of_pieces(bundle, rule, text, label)
    if isinstance(rule, TokenRule):
        return _of_tokens(bundle, rule, text, label)
    raise Invalid("model to explain", "one of texts", bundle.task)


def words(text: str) -> list[tuple[int, int]]:
    """First character and the one after the last of each word of a text; a Chinese character is a word."""
    start, end = _origins(text)
    found = _WORDS.pieces([text])
    return [(int(start[a]), int(end[b - 1])) for a, b in zip(found.start, found.end, strict=True)]


def _of_pieces(bundle: Bundle, rule: TextRule, text: str, label: str) -> Evidence:
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise Missing("safetensors", "train", "reading a model's weights") from None
    held = load_file(bundle.path(WEIGHTS))
    text = text[: rule.most_chars]
    found = rule.pieces([text])
    _, place_of, often = np.unique(found.bucket, return_inverse=True, return_counts=True)
    buckets = np.unique(found.bucket)
    known = held["known"]
    at = np.minimum(np.searchsorted(known, buckets), len(known) - 1)
    place = np.where(known[at] == buckets, at + 1, 0)
    weight = (1 + np.log(np.maximum(often, 1))) * held["idf"][place]
    weight /= max(float(np.sqrt((weight * weight).sum())), 1e-9)
    vectors = held["vectors"][place] * weight[:, None]
    inner = vectors.sum(axis=0) + held["bias"]
    if "head.weight" in held:
        rows, bias = held["head.weight"] * (inner > 0), held["head.bias"]
    else:
        rows, bias = np.eye(len(inner), dtype=np.float32), np.zeros(len(inner), np.float32)
    logits = rows @ inner + bias
    chosen = bundle.schema.classes.index(label) if label else int(logits.argmax())
    row, base = rows[chosen], float(bias[chosen])
    if not bundle.schema.is_multi:
        row, base = row - rows.mean(axis=0), base - float(bias.mean())
    share = ((vectors @ row) / np.maximum(often, 1))[place_of]
    spans = words(text)
    weights = _spread(text, found.start, found.end, share)
    total = float(logits[chosen] - (0.0 if bundle.schema.is_multi else logits.mean()))
    return Evidence(
        label=bundle.schema.classes[chosen],
        spans=tuple((start, end, float(value)) for (start, end), value in zip(spans, weights, strict=True)),
        base=base + float(row @ held["bias"]),
        total=total,
    )


def _spread(
    text: str, start: NDArray[np.int64], end: NDArray[np.int64], share: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The pieces' shares by word: each piece's goes evenly to the characters of words that it covers."""
    form = plain(text)
    found = _WORDS.pieces([text])
    of_word = np.full(len(form) + 1, -1)
    for place, (first, last) in enumerate(zip(found.start, found.end, strict=True)):
        of_word[first:last] = place
    inside = np.concatenate([[0], np.cumsum(of_word[:-1] >= 0)])
    covered = np.maximum(inside[end] - inside[start], 1)
    # What each character gets is the sum over the pieces that cover it: up at a start, down after an end.
    steps = np.zeros(len(form) + 1)
    np.add.at(steps, start, share / covered)
    np.add.at(steps, end, -share / covered)
    each = np.cumsum(steps)[:-1]
    is_in = of_word[:-1] >= 0
    return np.asarray(np.bincount(of_word[:-1][is_in], each[is_in], minlength=len(found.start)), np.float64)


def _of_tokens(bundle: Bundle, rule: TokenRule, text: str, label: str) -> Evidence:
    parts = _parts(words(text[: rule.most_chars]))
    predictor = predictors.load(bundle.variants[0], bundle.folder, rule)
    try:
        whole = _logits(predictor, [text, ""], bundle)
        chosen = bundle.schema.classes.index(label) if label else int(whole[0].argmax())
        without = [text[:start] + text[end:] for start, end in parts]
        left = _logits(predictor, without, bundle)[:, chosen] if parts else np.zeros(0)
    finally:
        predictor.close()
    weights = whole[0, chosen] - left
    return Evidence(
        label=bundle.schema.classes[chosen],
        spans=tuple((start, end, float(value)) for (start, end), value in zip(parts, weights, strict=True)),
        base=float(whole[1, chosen]),
        total=float(whole[0, chosen]),
    )


def _logits(predictor: Predictor, texts: Sequence[str], bundle: Bundle) -> NDArray[np.float64]:
    """Log odds per class; of classes that exclude each other the logits, less their mean."""
    chances = np.concatenate([
        predictor.predict(bundle.rule.pack(texts[at : at + BATCH]))[OUTPUT] for at in range(0, len(texts), BATCH)
    ]).astype(np.float64)
    logs = np.log(np.maximum(chances, 1e-12))
    if bundle.schema.is_multi:
        return np.asarray(logs - np.log(np.maximum(1 - chances, 1e-12)))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


def _parts(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most 128 runs of neighbouring words."""
    if not spans:
        return []
    groups = np.array_split(np.arange(len(spans)), min(len(spans), MOST_WORDS))
    return [(spans[group[0]][0], spans[group[-1]][1]) for group in groups]


def _origins(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each character of ``plain(text)``, the first character of ``text`` that it came from, and the one after."""
    form = plain(text)
    for cut in (_clusters, _chunks):
        pieces = cut(text)
        forms = [plain(piece) for piece in pieces]
        if "".join(forms) == form:
            break
    else:  # normalization went across blanks: then the text is one piece
        pieces, forms = [text], [form]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    sizes = [len(piece) for piece in forms]
    starts = ends - np.array([len(piece) for piece in pieces], np.int64)
    return np.repeat(starts, sizes), np.repeat(ends, sizes)


def _clusters(text: str) -> list[str]:
    """Characters, each with the marks on it."""
    found: list[str] = []
    for char in text:
        if found and (unicodedata.combining(char) or "\u1160" <= char <= "\u11ff"):
            found[-1] += char
        else:
            found.append(char)
    return found


def _chunks(text: str) -> list[str]:
    """Words and blanks."""
    return re.findall(r"\s+|\S+", text)
