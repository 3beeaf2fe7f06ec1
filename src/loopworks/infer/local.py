"""Answers of a model in this process, without a server."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core import image
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Predictor, Rule
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.fields import is_text
from loopworks.core.values import Problem
from loopworks.data.stage import content_id, read_file
from loopworks.infer import rows
from loopworks.store.ids import batches

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


def answer(predictor: Predictor, bundle: Bundle, contents: Iterable[Any], *, batch: int, max_pixels: int) -> Arrays:
    """A model's raw answer for items (bytes of image files, texts, rows), in order; ``batch`` of them at once.

    Raises: Invalid: no item, or one that cannot be read.
    """
    parts: list[Arrays] = [
        predictor.predict(bundle.rule.pack(some, max_pixels=max_pixels)) for some in batches(contents, batch)
    ]
    if not parts:
        raise Invalid("items", "at least one", "none")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def load(sources: Sequence[Asked], media: str, max_pixels: int) -> tuple[list[Loaded], list[Problem]]:
    """The items behind ``sources``, for a model of ``media``, and what cannot be read; a file of rows is many items."""
    found: list[Loaded] = []
    problems: list[Problem] = []
    for place, source in enumerate(sources, 1):
        name = str(source) if isinstance(source, Path) or (media != "text" and isinstance(source, str)) else ""
        try:
            if media == "row" and isinstance(source, str | Path):
                listed, bad = rows.read(Path(source))
                found += [one(row, f"{name} row {i}", media, max_pixels) for i, row in enumerate(listed, 1)]
                problems += bad
            else:
                found.append(one(source, name or f"{media} {place}", media, max_pixels))
        except LoopworksError as error:
            problems.append(problem(error, name or f"{media} {place}"))
    return found, problems


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
