"""What readers of files share: the media below a root, text in its encoding, class names, and what was lost."""

import codecs
import math
import os
import posixpath
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.core.fields import is_text
from loopworks.core.image import SUFFIXES
from loopworks.core.values import LabelSchema, Problem
from loopworks.data.files import SPLITS

LIMIT = 1 << 30
"""Bytes of the largest annotation file that is read (1 GiB)."""
SMALL_LIMIT = 1 << 26
"""Bytes of the largest file read that says something of one image, or of the classes (64 MiB)."""
_HEAD = 1 << 16
_DRIVE = re.compile(r"[a-zA-Z]:")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def is_image(name: str) -> bool:
    """Whether a file is called like an image."""
    return posixpath.splitext(name)[1].lower() in SUFFIXES


def bad(where: str, what: str, expected: str, got: object, hint: str = "") -> Problem:
    """What was wrong at ``where``, in the form that all errors have."""
    error = Invalid(what, expected, got, hint)
    return Problem(where=where, error=error.code, message=error.message, hint=error.hint)


@dataclass(slots=True)
class Tree:
    """The files below a root by their path from it, with slashes; links that lead outside are not among them."""

    root: Path
    files: dict[str, str] = field(default_factory=dict)
    """Path below the root -> path on this machine, in order of name."""
    outside: list[str] = field(default_factory=list)
    """Links that lead out of the root."""

    @classmethod
    def of(cls, root: Path) -> "Tree":
        """Look through ``root``; hidden files and folders that are links are left out."""
        tree = cls(root)
        base = os.path.realpath(root)
        waiting = [(base, "")]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                continue  # what may not be read holds nothing for us; its media are then missing, which is said
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith(".") or not is_text(name):
                    continue
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if not target.startswith(base.rstrip(os.sep) + os.sep):
                        tree.outside.append(name)
                    elif os.path.isfile(target):
                        tree.files[name] = entry.path
                elif entry.is_dir():
                    waiting.append((entry.path, name + "/"))
                elif entry.is_file():
                    tree.files[name] = entry.path
        tree.files = dict(sorted(tree.files.items()))
        return tree

    def images(self) -> Iterator[str]:
        """Names of the files that are called like images."""
        return (name for name in self.files if is_image(name))

    def stems(self) -> dict[str, str]:
        """Name without its ending -> name, of the images; the first one where there are several."""
        found: dict[str, str] = {}
        for name in self.images():
            found.setdefault(posixpath.splitext(name)[0], name)
        return found


def normal(name: object, folder: str = "") -> str:
    """A name from a file as a path below the root, seen from ``folder`` (itself below the root).

    Raises: Invalid: absolute, a drive, out of the root, or no text that a file can be called.
    """
    if not isinstance(name, str) or not name.strip() or not is_text(name) or "\0" in name:
        raise Invalid("file name", "text", name)
    path = name.replace("\\", "/")
    if path.startswith("/") or _DRIVE.match(path) or "://" in path:
        raise Invalid("file name", "a path below the folder that is imported", name)
    joined = posixpath.normpath(posixpath.join(folder, path))
    if joined == ".." or joined.startswith("../") or joined == ".":
        raise Invalid("file name", "a path below the folder that is imported", name)
    return joined


def decode(data: bytes, name: str) -> tuple[str, str]:
    """The text of a file and its encoding: UTF-8 (also with a mark), UTF-16 or UTF-32.

    Raises: Invalid: another encoding, with the place of the first byte that is not UTF-8.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    marked = encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
    if not encoding:
        encoding = _unmarked(data[:64])
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Invalid(
            name,
            "UTF-8 or UTF-16 text",
            f"byte {data[error.start]:#04x} at line {line}, byte {error.start + 1}",
            "save it as UTF-8",
        ) from None
    return (text[1:], encoding + "-mark") if marked else (text, encoding)


def encode(text: str, encoding: str) -> bytes:
    """The bytes that ``decode`` read."""
    if encoding.endswith("-mark"):
        return ("\ufeff" + text).encode(encoding.removesuffix("-mark"))
    return text.encode(encoding or "utf-8")


def read_bytes(path: Path, name: str, limit: int = LIMIT) -> bytes:
    """A whole file.

    Raises: Invalid: no plain file, larger than ``limit``, or the system refuses it.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise Invalid(name, "a file", "a folder or device")
        if facts.st_size > limit:
            raise Invalid(
                name, f"at most {limit} bytes", f"{facts.st_size} bytes", "split it into several files and import each"
            )
        return path.read_bytes()
    except OSError as error:
        raise Invalid(name, "readable", error.strerror or str(error)) from None


def read_text(path: Path, name: str, limit: int = LIMIT) -> tuple[str, str]:
    """A whole file's text and its encoding; see ``decode`` and ``read_bytes``."""
    return decode(read_bytes(path, name, limit), name)


def peek(path: Path) -> str:
    """The beginning and the end of a file as far as it is text: enough to see what it is. Never raises."""
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD)
            size = os.fstat(file.fileno()).st_size
            tail = b""
            if size > _HEAD:
                file.seek(max(_HEAD, size - _HEAD))
                tail = file.read(_HEAD)
    except OSError:
        return ""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), _unmarked(data[:64]))
    return data.decode(encoding, "replace") + tail.decode(encoding, "replace")


def size_of(path: str) -> tuple[int, int]:
    """Width and height of an image file in pixels, as stored; (0, 0) where it is broken."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # Pillow raises anything from SyntaxError to struct.error for broken files
        return 0, 0


def split_of(*names: str) -> str:
    """train, val or test where a word of a name says so (``instances_val2017``); the first name that does, decides."""
    for name in names:
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def number(value: object) -> float:
    """A finite number of JSON.

    Raises: Invalid: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Invalid("number", "finite", value)
    return float(value)


def outside(box: tuple[float, float, float, float], width: int, height: int) -> bool:
    """Whether a box leaves its image by more than rounding; never where the size is not known."""
    x, y, w, h = box
    return bool(width and height) and (x < -0.5 or y < -0.5 or x + w > width + 0.5 or y + h > height + 0.5)


class Classes:
    """Class names on their way in: what a label schema refuses is made to fit and said."""

    def __init__(self, problems: list[Problem]) -> None:
        """No class yet; ``problems`` gets what had to change."""
        self.names: list[str] = []
        self._known: dict[str, str] = {}
        self.problems = problems

    def add(self, name: object, where: str, *, quiet: bool = False) -> str:
        """The class called ``name``, which is added if it is new; an empty one is called by ``where``'s last word."""
        text = name if isinstance(name, str) and is_text(name) else str(name).encode("ascii", "replace").decode()
        label = text.strip() or f"class {where.rsplit(' ', 1)[-1]}"
        key = unicodedata.normalize("NFC", label).casefold()
        found = self._known.get(key)
        if found is None:
            self._known[key] = found = label
            self.names.append(label)
        elif found != label and not quiet:
            self.problems.append(
                bad(where, "class names", "different in more than upper and lower case", f"{found!r} and {label!r}")
            )
        return found

    def find(self, name: str) -> str | None:
        """The class called ``name``, if there is one."""
        return self._known.get(unicodedata.normalize("NFC", name.strip()).casefold())

    def schema(self) -> LabelSchema:
        """The classes in the order in which they came."""
        return LabelSchema(classes=tuple(self.names))


class Losses:
    """What a format cannot hold, counted by what was done about it."""

    def __init__(self, name: str) -> None:
        """Nothing lost yet; ``name`` is the format's."""
        self._name = name
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, what: str, instead: str) -> None:
        """One more ``what``; ``instead`` is what was written."""
        self._counts[what, instead] += 1

    def problems(self) -> Iterator[Problem]:
        """One for each kind of loss."""
        for (what, instead), count in sorted(self._counts.items()):
            yield Problem(
                where=self._name,
                error=Invalid.code,
                message=f"{what} must be something that {self._name} holds; got {count} of them, {instead}",
                hint="export to datumaro or coco to keep everything",
            )


def unique(name: str, taken: Iterable[str]) -> bool:
    """Whether no other is called so, seen by a file system that does not tell upper from lower case."""
    return name.casefold() not in taken


def json_facts(body: dict[str, Any]) -> dict[str, Any]:
    """The part of a mapping that JSON can hold (no NaN, no infinity)."""
    return {key: value for key, value in body.items() if _is_plain(value)}


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if depth > 64:
        return False
    if isinstance(value, dict):
        return all(is_text(key) and _is_plain(part, depth + 1) for key, part in value.items())
    if isinstance(value, list):
        return all(_is_plain(part, depth + 1) for part in value)
    return not isinstance(value, str) or is_text(value)


def _unmarked(head: bytes) -> str:
    if len(head) >= 4 and head[0] and not head[1] and head[2] and not head[3]:
        return "utf-16-le"
    if len(head) >= 4 and not head[0] and head[1] and not head[2] and head[3]:
        return "utf-16-be"
    return "utf-8"
