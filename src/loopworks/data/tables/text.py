"""Text files as one stream of UTF-8 bytes, whatever their encoding and compression."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from loopworks.core.errors import Invalid, NotFound

CHUNK = 1 << 22
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HAN = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A text file and how its bytes are read."""

    path: Path
    encoding: str
    """Python's name of it."""
    bom: int = 0
    """Length of the byte order mark, in bytes."""
    has_cr_only: bool = False
    """Whether its lines end in a carriage return alone (old Macintosh)."""

    def blocks(self, position: int = 0, size: int = CHUNK) -> Iterator[bytes]:
        """The text as UTF-8 from ``position`` (in bytes of UTF-8) on, ``size`` bytes or so at a time.

        Bytes that the encoding does not have come as the mark U+FFFD, but for UTF-8, where they stay as they are.
        """
        with _opened(self.path) as file:
            if self.encoding == "utf-8" and not self.has_cr_only:
                file.seek(self.bom + position)
                while chunk := _read(file, size, self.path):
                    yield chunk
                return
            file.seek(self.bom)
            decoder = codecs.getincrementaldecoder(self.encoding)(errors="replace")
            left = position
            while True:
                chunk = _read(file, size, self.path)
                text = decoder.decode(chunk, final=not chunk)
                data = (text.replace("\r", "\n") if self.has_cr_only else text).encode("utf-8", "replace")
                if left:
                    left, data = max(0, left - len(data)), data[left:]
                if data:
                    yield data
                if not chunk:
                    return


def open_text(path: Path, encoding: str = "") -> TextFile:
    """Find out how a text file is encoded, by reading all of it once.

    A byte order mark says it; else it is UTF-8 where all bytes fit, or where some text beyond ASCII does (then what
    does not fit is a fault of single lines); else GB18030 where it makes Chinese, else Windows-1252.

    Args:
        path: may be packed (gz, bz2, xz).
        encoding: what the caller knows; empty: find out.
    Raises:
        NotFound: there is no file.
        Invalid: it cannot be read or unpacked, or no such encoding is known.
    """
    if encoding:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise Invalid("encoding", "one that Python knows, such as utf-8 or windows-1252", encoding) from None
    with _opened(path) as file:
        head = _read(file, CHUNK, path)
        for bom, name in _BOMS:
            if head.startswith(bom):
                return TextFile(path=path, encoding=name, bom=len(bom), has_cr_only=_is_cr(head, name))
        if encoding:
            return TextFile(path=path, encoding=codecs.lookup(encoding).name, has_cr_only=_is_cr(head, encoding))
        if name := _without_bom(head):
            return TextFile(path=path, encoding=name, has_cr_only=_is_cr(head, name))
        found = _guess(file, head, path)
    return TextFile(path=path, encoding=found, has_cr_only=_is_cr(head, found))


def _guess(file: IO[bytes], head: bytes, path: Path) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk, good, bad = head, 0, b""
    while True:
        try:
            decoder.decode(chunk, final=not chunk)
            good += 0 if chunk.isascii() else 1
        except UnicodeDecodeError as error:
            start = max(0, error.start - 2000)
            bad = error.object[start : error.start + (1 << 16)]
            good += not error.object[: error.start].isascii()
            break
        if not chunk:
            return "utf-8"
        chunk = _read(file, CHUNK, path)
    if good or _has_utf8(bad):
        return "utf-8"
    return "gb18030" if _is_chinese(bad) else "cp1252"


def _has_utf8(sample: bytes) -> bool:
    """Whether the bytes beyond ASCII are for the most part sound UTF-8."""
    text = sample.decode("utf-8", "replace")
    beyond = [c for c in text if ord(c) > 127]
    return bool(beyond) and sum(c != "\ufffd" for c in beyond) > len(beyond) / 2


def _is_chinese(sample: bytes) -> bool:
    text = sample.decode("gb18030", "replace")
    beyond = [c for c in text if ord(c) > 127]
    # An accented letter and the plain one behind it make a character too, but a rare one, which GB2312 lacks.
    common = [c for c in beyond if _HAN.match(c) and c.encode("gb2312", "ignore")]
    return len(beyond) >= 2 and len(common) > 0.8 * len(beyond)


def _without_bom(head: bytes) -> str:
    """UTF-16 without its mark: every other byte of Western text is zero."""
    sample = head[:2000]
    if len(sample) < 4 or sample.count(0) < len(sample) / 4:
        return ""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > 4 * even:
        return "utf-16-le"
    return "utf-16-be" if even > 4 * odd else ""


def _is_cr(head: bytes, encoding: str) -> bool:
    text = head.decode(encoding, "replace")
    return "\r" in text and "\n" not in text


def _opened(path: Path) -> Any:
    kind = PACKED.get(path.suffix.lower())
    try:
        if kind is None:
            return path.open("rb")
        import importlib

        return importlib.import_module(kind).open(path, "rb")
    except FileNotFoundError:
        raise NotFound("file", str(path), hint="check the path") from None
    except OSError as error:
        raise Invalid(str(path), "a file that can be read", error.strerror or str(error)) from None


def _read(file: IO[bytes], size: int, path: Path) -> bytes:
    import lzma
    import zlib

    try:
        return file.read(size)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise Invalid(
            str(path), "a file that is whole", str(error), "it may be cut off: pack or fetch it again"
        ) from None
