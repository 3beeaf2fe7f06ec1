"""Items that a model is asked about, and its answers for people: what server, workspace and edge bundle share.

Needs numpy and Pillow alone.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core import image
from loopworks.core.bundle import Bundle
from loopworks.core.content import content_id, read_file
from loopworks.core.contracts import Arrays, Learnable, Predictor, Rule
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.fields import is_text
from loopworks.core.registry import plugins
from loopworks.core.values import Problem

MAX_FILES = 256
"""Images or texts of one request."""
MAX_ROWS = 10_000
"""Rows of one request."""
WORDS = {"image": ("image", "images"), "text": ("text", "texts"), "row": ("row", "rows")}
"""What one and several items are called in JSON, by the model's medium."""
FORMS = {"image": "base64", "text": "text", "row": "an object"}
Asked = str | Path | bytes | Mapping[str, Any]
"""What a model is asked about: a path or the bytes of an image file, a text, or a row as column -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One item that can be asked about."""

    name: str
    item: str
    """Id that its content has in every dataset."""
    content: Any
    size: tuple[int, int] | None = None
    """Width and height of an image as it is shown, in pixels."""


def answered(
    predictor: Predictor, bundle: Bundle, asked: Sequence[Loaded], *, batch: int, max_pixels: int
) -> tuple[list[tuple[Loaded, dict[str, Any]]], list[Problem]]:
    """The task's answer for each item that can be read, in order, ``batch`` at once; and what is wrong with others."""
    task: Learnable = plugins.get(f"task.{bundle.task}")
    found: list[tuple[Loaded, dict[str, Any]]] = []
    problems: list[Problem] = []
    for at in range(0, len(asked), batch):
        good, tensors, bad = packed(bundle.rule, asked[at : at + batch], max_pixels)
        problems += bad
        if good:
            sizes = [item.size for item in good if item.size is not None]
            found += zip(good, task.decode(predictor.predict(tensors), bundle.schema, sizes), strict=True)
    return found, problems


def named(body: Mapping[str, Any], media: str, times: int = 1) -> list[tuple[str, Asked]]:
    """The items in a request's JSON (images in base64, texts, rows), each with its name for errors.

    Up to ``times`` what one answer may have.

    Raises: Invalid: another form, or too many.
    """
    one, many = WORDS[media]
    kind = dict if media == "row" else str
    given = body.get(many, [body[one]] if one in body else None)
    most = (MAX_ROWS if media == "row" else MAX_FILES) * times
    if not isinstance(given, list) or len(given) > most or not all(isinstance(item, kind) for item in given):
        form = FORMS[media]
        raise Invalid("request body", f"{{'{one}': {form}}} or {{'{many}': [at most {most}]}}", sorted(body))
    names = [f"{many}[{i}]" for i in range(len(given))] if many in body else [one]
    if media != "image":
        return list(zip(names, given, strict=True))
    found: list[tuple[str, Asked]] = []
    for name, item in zip(names, given, strict=True):
        try:
            found.append((name, base64.b64decode(item, validate=True)))
        except (binascii.Error, ValueError) as error:
            raise Invalid(name, "base64", str(error)) from None
    return found


def load_each(named: Sequence[tuple[str, Asked]], media: str, max_pixels: int) -> tuple[list[Loaded], list[Problem]]:
    """The items behind sources that have names of their own (parts of a request), and what cannot be read."""
    found: list[Loaded] = []
    problems: list[Problem] = []
    for name, source in named:
        try:
            found.append(one(source, name, media, max_pixels))
        except LoopworksError as error:
            problems.append(problem(error, name))
    return found, problems


def packed(rule: Rule, asked: Sequence[Loaded], max_pixels: int) -> tuple[list[Loaded], Arrays, list[Problem]]:
    """The items that the rule can read, with their tensors; and what is wrong with the others."""
    try:
        return (
            list(asked),
            rule.pack([a.content for a in asked], names=[a.name for a in asked], max_pixels=max_pixels),
            [],
        )
    except LoopworksError:
        pass  # one by one, to keep the good ones
    good: list[Loaded] = []
    parts: list[Arrays] = []
    problems: list[Problem] = []
    for item in asked:
        try:
            parts.append(rule.pack([item.content], names=[item.name], max_pixels=max_pixels))
            good.append(item)
        except LoopworksError as error:
            problems.append(problem(error, item.name))
    return good, {name: np.concatenate([p[name] for p in parts]) for name in (parts[0] if parts else ())}, problems


def problem(error: LoopworksError, where: str) -> Problem:
    """An error as one of the problems of a batch."""
    return Problem(where=where, error=error.code, message=error.message, hint=error.hint)


def one(source: Asked, name: str, media: str, max_pixels: int) -> Loaded:
    """The item behind ``source``, called ``name``, for a model of ``media``.

    Raises: Invalid, NotFound: it cannot be read, or is nothing that such a model is asked about.
    """
    return {"image": _image, "text": _text, "row": _row}[media](source, name, max_pixels)


def _image(source: Asked, name: str, max_pixels: int) -> Loaded:
    if isinstance(source, Mapping):
        raise Invalid(name, "the path or bytes of an image file", "a mapping", "the model is one for images")
    content = source if isinstance(source, bytes) else read_file(Path(source))
    size = image.displayed_size(content, name, max_pixels)
    return Loaded(name=name, item=content_id(content), content=content, size=size)


def _text(source: Asked, name: str, _max_pixels: int) -> Loaded:
    if isinstance(source, Mapping):
        raise Invalid(name, "a text, or the path of a text file", "a mapping", "the model is one for texts")
    data = read_file(source) if isinstance(source, Path) else source
    if isinstance(data, bytes):
        try:
            data = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Invalid(name, "text in UTF-8", str(error)) from None
    if not is_text(data):
        raise Invalid(name, "Unicode text", "half a character", "it was cut in the middle of one")
    return Loaded(name=name, item=content_id(data.encode()), content=data)


def _row(source: Asked, name: str, _max_pixels: int) -> Loaded:
    if not isinstance(source, Mapping):
        raise Invalid(name, "a row: column -> value", type(source).__name__, "the model is one for tables")
    told = json.dumps(dict(source), sort_keys=True, default=str, ensure_ascii=False)
    return Loaded(name=name, item=content_id(told.encode()), content=source)
