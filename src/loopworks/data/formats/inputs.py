"""What every reader checks of files from outside: size, encoding, paths, class names, places in the image."""

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from loopworks.core.errors import Invalid
from loopworks.core.fields import is_text
from loopworks.core.values import LabelSchema, Problem, Shape

LIMIT_BYTES = 1 << 30
"""The largest text file that a reader opens, in bytes: one document has to fit in memory beside what it says."""
PEEK_BYTES = 1 << 16
_SLACK_PX = 0.01  # tools write two decimals
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_DRIVE = re.compile(r"[A-Za-z]:")
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class Text:
    """A text file as it is: line ends untouched, and how to turn the text into the same bytes again."""

    text: str
    codec: str = "utf-8"
    is_marked: bool = False
    """Whether the file starts with a byte order mark."""


def read_text(path: Path, where: str) -> Text:
    """The file's text, in the encoding that it declares or shows.

    Raises: Invalid: larger than ``LIMIT_BYTES``, not a readable file, or bytes that no encoding it shows explains.
    """
    try:
        size = path.stat().st_size
        if size > LIMIT_BYTES:
            raise Invalid(f"size of {where}", f"at most {LIMIT_BYTES} bytes", size, "split the file into smaller ones")
        data = path.read_bytes()
    except OSError as error:
        raise Invalid(where, "a readable file", error.strerror or str(error)) from None
    return decode(data, where)


def decode(data: bytes, where: str) -> Text:
    """Bytes as text: by the mark, by the XML declaration, by the zeros of UTF-16, else as UTF-8.

    Raises: Invalid: bytes that this encoding does not have, with their position.
    """
    mark, codec = next(((m, c) for m, c in _MARKS if data.startswith(m)), (b"", ""))
    if not mark:
        codec = _declared(data, where) or _by_zeros(data)
    try:
        return Text(data[len(mark) :].decode(codec), codec, bool(mark))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Invalid(
            f"encoding of {where}",
            f"{codec}, as the file declares or shows",
            f"byte 0x{data[error.start]:02x} at line {line}, byte {error.start + 1}",
            "save the file as UTF-8",
        ) from None


def peek(path: Path) -> str:
    """The start of a text file for ``detect``, unknown bytes replaced; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(PEEK_BYTES)
    except OSError:
        return ""
    mark, codec = next(((m, c) for m, c in _MARKS if data.startswith(m)), (b"", _by_zeros(data)))
    return data[len(mark) :].decode(codec, "replace")


def encode(text: str, codec: str, is_marked: bool) -> bytes:
    """The bytes that ``decode`` read; characters that the encoding lacks make it UTF-8 ones escaped as in XML."""
    mark = next((m for m, c in _MARKS if c == codec), b"") if is_marked else b""
    return mark + text.encode(codec, "xmlcharrefreplace")


def _declared(data: bytes, where: str) -> str:
    found = _DECLARED.match(data[:400])
    if not found:
        return ""
    name = found.group(1).decode("ascii")
    try:
        info = codecs.lookup(name)
    except LookupError:
        raise Invalid(f"encoding of {where}", "one that Python knows", name) from None
    if not getattr(info, "_is_text_encoding", True) or len("<".encode(info.name)) != 1:
        return _by_zeros(data)  # it says UTF-16 in single bytes: the declaration is wrong
    return info.name


def _by_zeros(data: bytes) -> str:
    if len(data) >= 4 and data[0] and not data[1] and data[2] and not data[3]:
        return "utf-16-le"
    if len(data) >= 4 and not data[0] and data[1] and not data[2] and data[3]:
        return "utf-16-be"
    return "utf-8"


def inside(root: Path, name: str) -> Path:
    """The path of ``name`` below ``root``, links followed; it need not exist.

    Raises: Invalid: an absolute name, one with ``..``, or one that a link leads out of ``root``.
    """
    plain = _checked(name)
    path = root / plain
    try:
        real, base = os.path.realpath(path), os.path.realpath(root).rstrip(os.sep)
    except (OSError, ValueError):  # too long a name, a ring of links
        raise Invalid("file name", "a path that this machine can hold", name) from None
    if real != base and not real.startswith(base + os.sep):
        raise Invalid("file name", "a path inside the folder of the data set", f"{name}, a link that leads out")
    return path


def _checked(name: str) -> str:
    """A relative name with slashes, as text; what is on the disk is not looked at."""
    plain = name.replace("\\", "/")
    parts = plain.split("/")
    bad = not plain or plain.startswith("/") or _DRIVE.match(plain) or ".." in parts
    if bad or "\0" in plain or not is_text(plain):
        raise Invalid("file name", "a path inside the folder of the data set", name)
    if len(plain) > 4000 or any(len(part) > 63 and len(part.encode()) > 255 for part in parts):
        raise Invalid("file name", "a path that this machine can hold", name)
    return plain


def find(root: Path, names: Iterable[str]) -> Path | None:
    """The first of ``names`` that is a file inside ``root``."""
    base = os.fspath(root)
    for name in names:
        try:
            # Following links is dear: only for what is there. ``inside`` refuses what must not even be looked at.
            plain = name.replace("\\", "/")
            if not plain.startswith("/") and ".." not in plain and os.path.isfile(f"{base}/{plain}"):
                return inside(root, name)
        except (Invalid, OSError, ValueError):
            continue
    return None


def clean_name(name: str) -> str:
    """``name`` as a relative path with slashes: what ``Record.name`` holds.

    Raises: Invalid: a name that leads out of the data set, or none.
    """
    return PurePosixPath(_checked(name)).as_posix()


def split_of(name: str) -> str:
    """train, val or test for the names that formats use for them; empty for others."""
    return _SPLITS.get(name.lower(), "")


def measure(path: str | BinaryIO) -> tuple[int, int]:
    """Width and height of an image file in pixels; (0, 0) where it is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0


def is_outside(shape: Shape, width: int, height: int) -> bool:
    """Whether a shape leaves an image of this size in pixels; ``False`` where the size is not known."""
    box = shape.bounds
    if box is None or not (width and height):
        return False
    x, y, w, h = box
    return x < -_SLACK_PX or y < -_SLACK_PX or x + w > width + _SLACK_PX or y + h > height + _SLACK_PX


@dataclass(slots=True)
class ClassNames:
    """Names as a file spells them, and the names that a schema may hold for them."""

    found: dict[str, str] = field(default_factory=dict)
    """As in the file -> as in the schema."""
    keys: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> str:
        """The schema's name for ``name``; blanks around it go, and names that differ in case alone are one class."""
        if name in self.found:
            return self.found[name]
        plain = "".join(c if is_text(c) else "?" for c in name).strip()
        if plain:
            plain = self.keys.setdefault(unicodedata.normalize("NFC", plain).casefold(), plain)
        self.found[name] = plain
        return plain

    @property
    def schema_names(self) -> tuple[str, ...]:
        """All of them in the order they came."""
        return tuple(self.keys.values())

    def problems(self, where: str) -> list[Problem]:
        """One for each name that could not stay as it was."""
        return [
            Problem(where=where, error="invalid", message=f"class {name!r} was read as {kept!r}")
            for name, kept in self.found.items()
            if name != kept
        ]

    def schema(self, is_multi: bool = False) -> LabelSchema:
        """The classes as a schema."""
        return LabelSchema(classes=self.schema_names, is_multi=is_multi)


@dataclass(slots=True)
class Tally:
    """Things said once per kind with their number, not once per thing."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, what: str, hint: str = "") -> None:
        """One more of ``what``."""
        self.counts[what, hint] = self.counts.get((what, hint), 0) + 1

    def problems(self, where: str) -> list[Problem]:
        """One problem per kind."""
        return [
            Problem(where=where, error="invalid", message=f"{what} ({count}x)", hint=hint)
            for (what, hint), count in self.counts.items()
        ]
