"""Names in pictures: a font of this machine that has their letters, tags that stay inside, tiny pictures enlarged."""

import functools
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.core.values import Shape

log = logging.getLogger(__name__)
COLORS = ((230, 57, 70), (29, 132, 181), (42, 157, 80), (244, 162, 40), (131, 56, 186), (0, 150, 136), (120, 85, 60))
"""Of classes and tracks, in turn."""
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
"""Where systems keep their fonts; below them too."""
_ENDINGS = (".ttf", ".ttc", ".otf", ".otc")
_MOST_FILES = 5000
_LIKED = ("sans", "gothic", "hei", "pingfang", "arial", "segoe", "micro")
_DISLIKED = ("bold", "italic", "oblique", "black", "light", "thin", "mono", "serif", "condensed", "narrow", "emoji")
_NO_LETTER = "\U0010fffd"
"""Of no font: what is drawn for it is what is drawn for every letter that a font lacks."""
_SMALLEST = 9
_TINY_PX, _ENLARGED_PX = 160, 320
_preferred: list[str] = []


def prefer(path: str) -> None:
    """Draw with this font file, in this process, what it has the letters of; the setting ``font``.

    Raises: Invalid: no font that can be read.
    """
    path = os.path.expanduser(path)
    if _opened(path, 16) is None:
        raise Invalid("font", "a font file (.ttf, .otf, .ttc) that can be read", path)
    if _preferred[:1] != [path]:
        _preferred[:] = [path, *(one for one in _preferred if one != path)]
        _file.cache_clear()


def font(text: str, size: int) -> Any:
    """A font of ``size`` pixels that has all letters of ``text``; ``None`` where this machine has none."""
    from PIL import ImageFont

    path = _file(text)
    return ImageFont.load_default(size) if path == "" else None if path is None else _opened(path, size)


def legible(name: str, classes: Sequence[str]) -> str:
    """The name as it can be drawn: itself, or its class's number where no font has its letters, which the log says."""
    if font(name, 16) is not None:
        return name
    _tell()
    return f"class {classes.index(name)}" if name in classes else "?"


def renamed(shapes: Sequence[Shape], classes: Sequence[str]) -> list[Shape]:
    """Shapes whose names can be drawn; see ``legible``."""
    return [replace(shape, label=legible(shape.label, classes)) for shape in shapes]


def enlargement(width: int, height: int) -> int:
    """How many times larger a picture is drawn, so that a name has room in it; 1 but for tiny ones."""
    longer = max(width, height, 1)
    return -(-_ENLARGED_PX // longer) if longer < _TINY_PX else 1


def pen_width(width: int, height: int) -> int:
    """Of outlines in a picture of this size, in pixels."""
    return max(2, round(max(width, height) / 500))


def letter_size(width: int, height: int) -> int:
    """Of names in a picture of this size, in pixels."""
    return max(12, round(max(width, height) / 60))


def fitted(text: str, width: float, size: int) -> tuple[str, Any]:
    """A text and its font, smaller or cut short where it would be wider than ``width`` pixels."""
    text = text if font(text, size) is not None else "?"
    for smaller in range(size, _SMALLEST - 1, -1):
        found = font(text, smaller)
        if found.getlength(text) <= width:
            return text, found
    smallest = font(text, _SMALLEST)
    kept = text
    while kept and smallest.getlength(f"{kept}...") > width:
        kept = kept[:-1]
    return f"{kept}..." if kept else text[:1], smallest


def tag(pen: Any, at: tuple[float, float], text: str, color: tuple[int, int, int], size: int) -> None:
    """A name on its color, whose lower left corner is at ``at``; moved so that all of it is inside the picture."""
    wide, high = pen.im.size
    text, found = fitted(text, wide - size, size)
    left, top, right, bottom = found.getbbox(text)
    edge = max(2, size // 5)
    width, height = right - left + 2 * edge, bottom - top + 2 * edge
    x = min(max(0.0, at[0]), max(0.0, wide - width))
    y = at[1] - height if at[1] >= height else at[1]
    y = min(max(0.0, y), max(0.0, high - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    red, green, blue = color
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 150
    pen.text((x + edge - left, y + edge - top), text, font=found, fill=(0, 0, 0) if is_light else (255, 255, 255))


@functools.lru_cache(maxsize=4096)
def _file(text: str) -> str | None:
    """The font file that has all letters of a text; empty is Pillow's own, ``None`` none."""
    letters = {one for one in text if unicodedata.category(one)[0] not in "ZC"}
    for path in _preferred:
        if _has(path, letters):
            return path
    if all(one.isascii() for one in letters) or _has("", letters):
        return ""
    for path in _found():
        if _has(path, letters):
            return path
    return None


@functools.cache
def _tell() -> None:
    log.warning(
        "no font of this machine has the letters of every name: numbers of classes are drawn instead; install one that"
        " has (Debian: fonts-noto-cjk), or name a font file in the setting font"
    )


def _has(path: str, letters: set[str]) -> bool:
    from PIL import ImageFont

    found = ImageFont.load_default(16) if path == "" else _opened(path, 16)
    if found is None:
        return False
    lacking = _marks(found, _NO_LETTER)
    return all(_marks(found, one) != lacking for one in letters)


def _marks(found: Any, letter: str) -> tuple[Any, bytes]:
    drawn = found.getmask(letter)
    return drawn.size, bytes(drawn)


@functools.lru_cache(maxsize=256)
def _opened(path: str, size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.truetype(path, size)
    except OSError:  # no font, or one of bitmaps that has no such size
        return None


@functools.cache
def _found() -> tuple[str, ...]:
    """The font files of this machine, plain ones first."""

    def files() -> Iterator[str]:
        for folder in FOLDERS:
            for root, _, names in os.walk(os.path.expanduser(folder)):
                yield from (os.path.join(root, name) for name in names if name.lower().endswith(_ENDINGS))

    def rank(path: str) -> tuple[int, str]:
        name = os.path.basename(path).lower().replace("sansserif", "sans")
        return sum(one in name for one in _DISLIKED) - any(one in name for one in _LIKED), path

    # A font of last resort has a sign for every letter, and none of them can be read.
    some = [path for path, _ in zip(files(), range(_MOST_FILES), strict=False) if "lastresort" not in path.lower()]
    return tuple(sorted(some, key=rank))
