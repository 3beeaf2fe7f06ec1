"""The rules that turn texts into a model's input: hashed pieces of words for small models, tokens for encoders.

Readers need numpy alone for pieces, and the ``tokenizers`` package for tokens.
"""

import codecs
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid, Missing
from loopworks.core.fields import Fields
from loopworks.core.values import TensorSpec

INPUT = "text"
SPECS = (TensorSpec(name=INPUT, datatype="BYTES", shape=(-1,)),)
MOST_BUCKETS = 1 << 24
MOST_CHARS = 1 << 20
_CHUNK = 1 << 20
"""Characters that are cut into pieces at once."""

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_BREAK, _LETTER, _SIGN, _UNKNOWN = 0, 1, 2, 255
_SIGNS = ("CJK UNIFIED", "CJK COMPAT", "HIRAGANA", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
"""Scripts that put no blanks between words, by the names of their characters: each character is a word."""
_kinds = np.full(0x110000, _UNKNOWN, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Pieces of texts; arrays of one length, a piece that occurs twice is there twice."""

    row: NDArray[np.int64]
    """Which text."""
    bucket: NDArray[np.int32]
    """The piece's number."""
    start: NDArray[np.int64]
    """First character in the plain form of its text; see ``plain``."""
    end: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRule:
    """A text as counts of its pieces: runs of words, and runs of characters.

    The text is cut to ``most_chars`` and brought to one form (NFKC, case folded). Whatever is no letter, digit or mark
    parts words; in scripts without blanks (Chinese, Japanese, Thai) each character is a word. Runs of characters go
    across words: what parts them, and the start and end of the text, counts as one blank. A piece's number is the first
    bits of its 64-bit hash.
    """

    words: tuple[int, int] = (1, 2)
    """Fewest and most words of a run; (0, 0) takes none."""
    chars: tuple[int, int] = (2, 5)
    """Fewest and most characters of a run; (0, 0) takes none."""
    buckets: int = 1 << 20
    """Numbers that pieces have; a power of two."""
    most_chars: int = 5000
    """Characters that are read of a text; the rest is left out."""

    def __post_init__(self) -> None:
        """Refuse what no text can be cut by."""
        for name, (low, high), most in (("words", self.words, 4), ("chars", self.chars, 8)):
            if (low, high) != (0, 0) and not 1 <= low <= high <= most:
                raise Invalid(f"text rule {name}", f"two numbers that rise within 1..{most}, or 0 and 0", (low, high))
        if self.words == self.chars == (0, 0):
            raise Invalid("text rule", "one that takes words or characters", "neither")
        if not 2 <= self.buckets <= MOST_BUCKETS or self.buckets & (self.buckets - 1):
            raise Invalid("text rule buckets", f"a power of two in 2..{MOST_BUCKETS}", self.buckets)
        if not 1 <= self.most_chars <= MOST_CHARS:
            raise Invalid("text rule most_chars", f"between 1 and {MOST_CHARS}", self.most_chars)

    @property
    def media(self) -> str:
        """What an item is: ``text``."""
        return INPUT

    def inputs(self) -> tuple[TensorSpec, ...]:
        """``text``: UTF-8."""
        return SPECS

    def pack(
        self, contents: Sequence[Any], *, names: Sequence[str] = (), max_pixels: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """Texts as ``inputs``; ``Invalid`` names the first that is none."""
        return pack(contents, names)

    def encode(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """``pieces`` int32 and ``counts`` float32, both ``(texts, most pieces of any of them, at least 1)``, filled
        up with zeros."""
        texts = read(batch[INPUT], self.most_chars)
        row, bucket, count = self.counts(texts)
        sizes = np.bincount(row, minlength=len(texts))
        place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        shape = (len(texts), max(1, int(sizes.max(initial=0))))
        pieces, counts = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        pieces[row, place] = bucket
        counts[row, place] = count
        return {"pieces": pieces, "counts": counts}

    def counts(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Row, piece and how often it is there, sorted by row and piece."""
        found = []
        for first, some in _chunks(texts, self.most_chars):
            pieces = self.pieces(some)
            keys, often = np.unique(pieces.row * self.buckets + pieces.bucket, return_counts=True)
            found.append((first + keys // self.buckets, (keys % self.buckets).astype(np.int32), often))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
        row, bucket, often = (np.concatenate(part) for part in zip(*found, strict=True))
        return row, bucket, often

    def pieces(self, texts: Sequence[str]) -> Pieces:
        """Every piece of every text, runs of words first."""
        line = _Line([plain(text[: self.most_chars]) for text in texts])
        found = [line.words(count) for count in range(self.words[0], self.words[1] + 1) if count]
        found += [line.chars(count) for count in range(self.chars[0], self.chars[1] + 1) if count]
        hashes, start, end, row = (np.concatenate(part) for part in zip(*found, strict=True))
        shift = np.uint64(65 - self.buckets.bit_length())
        return Pieces(
            row=row,
            bucket=(hashes >> shift).astype(np.int32),
            # The breaks before and after a text are no part of it.
            start=np.maximum(line.place[start] - line.first[row], 0),
            end=np.minimum(line.place[end - 1] + 1 - line.first[row], line.sizes[row]),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with the constant parts of the rule written out for readers of other languages."""
        return {
            "kind": "text",
            "encoding": "utf-8",
            "form": "NFKC, casefold, NFKC",
            "words": list(self.words),
            "chars": list(self.chars),
            "buckets": self.buckets,
            "hash": "polynomial-64, murmur3 finalizer, first bits",
            "most_chars": self.most_chars,
        }

    @classmethod
    def from_json(cls, body: Any, where: str = "preprocessing") -> "TextRule":
        """The rule that ``to_json`` wrote; another rule's constants are refused, never guessed around."""
        fields = Fields.of(body, where)
        rule = cls(
            words=_pair(fields, "words"),
            chars=_pair(fields, "chars"),
            buckets=fields.whole("buckets", 2),
            most_chars=fields.whole("most_chars", 1),
        )
        _same(rule.to_json(), fields)
        return rule


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule:
    """A text as the tokens of a tokenizer, which lies in the bundle as a ``tokenizer.json`` of Hugging Face.

    Texts longer than ``most_tokens`` are cut, shorter ones filled up with ``pad`` to the longest of the batch; the
    model's graph takes ``pad`` for nothing.
    """

    file: str = "tokenizer.json"
    """Path of the tokenizer inside the bundle."""
    pad: int = 0
    """Number of the token that fills up."""
    most_tokens: int = 128
    most_chars: int = 20_000
    """Characters that are read of a text; the rest is left out."""
    folder: Path | None = field(default=None, compare=False)
    """Where the bundle lies; ``opened`` sets it."""

    def __post_init__(self) -> None:
        """Refuse sizes that no model has."""
        for name, value, most in (("pad", self.pad + 1, 1 << 31), ("most_tokens", self.most_tokens, 1 << 16)):
            if not 1 <= value <= most:
                raise Invalid(f"token rule {name}", f"at most {most}", value)
        if not 1 <= self.most_chars <= MOST_CHARS:
            raise Invalid("token rule most_chars", f"between 1 and {MOST_CHARS}", self.most_chars)

    @property
    def media(self) -> str:
        """What an item is: ``text``."""
        return INPUT

    def inputs(self) -> tuple[TensorSpec, ...]:
        """``text``: UTF-8."""
        return SPECS

    def opened(self, folder: Path) -> "TokenRule":
        """The rule of a bundle in ``folder``."""
        return replace(self, folder=folder)

    def pack(
        self, contents: Sequence[Any], *, names: Sequence[str] = (), max_pixels: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """Texts as ``inputs``; ``Invalid`` names the first that is none."""
        return pack(contents, names)

    def encode(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """``tokens``: int64, ``(texts, most tokens of any of them, at least 1)``.

        Raises: Missing: no ``tokenizers`` package. Invalid: no tokenizer in the bundle, or a text that is none.
        """
        found = [
            one.ids[: self.most_tokens] for one in self.tokenizer().encode_batch(read(batch[INPUT], self.most_chars))
        ]
        out = np.full((len(found), max(1, *map(len, found))), self.pad, np.int64)
        for row, tokens in zip(out, found, strict=True):
            row[: len(tokens)] = tokens
        return {"tokens": out}

    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` of the bundle."""
        if self.folder is None:
            raise Invalid(
                "token rule", "opened with the folder of its bundle", "no folder", "load it by predictor.load"
            )
        path = self.folder / self.file
        if not path.is_file():
            raise Invalid(f"tokenizer {path}", "a file", "nothing there")
        return _tokenizer(str(path), path.stat().st_mtime_ns, self.most_tokens)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; the folder is no part of it."""
        return {
            "kind": "tokens",
            "encoding": "utf-8",
            "file": self.file,
            "pad": self.pad,
            "most_tokens": self.most_tokens,
            "most_chars": self.most_chars,
        }

    @classmethod
    def from_json(cls, body: Any, where: str = "preprocessing") -> "TokenRule":
        """The rule that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        file = fields.text("file")
        if not file or "\\" in file or ":" in file or "\0" in file or {"", ".", ".."} & set(file.split("/")):
            raise Invalid(fields.path("file"), "a relative path inside the bundle", file)
        rule = cls(
            file=file,
            pad=fields.whole("pad"),
            most_tokens=fields.whole("most_tokens", 1),
            most_chars=fields.whole("most_chars", 1),
        )
        _same(rule.to_json(), fields)
        return rule


def pack(contents: Sequence[Any], names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Texts as UTF-8, shape ``(texts,)`` of Python bytes; ``Invalid`` names the first that is no Unicode text."""
    out = np.empty(len(contents), object)
    for place, content in enumerate(contents):
        name = names[place] if names else f"text {place + 1}"
        if not isinstance(content, str):
            raise Invalid(name, "a text", type(content).__name__)
        try:
            out[place] = content.encode()
        except UnicodeEncodeError as error:
            raise Invalid(name, "Unicode text", str(error)) from None
    return {INPUT: out}


def read(batch: NDArray[Any], most_chars: int) -> list[str]:
    """The first characters of each packed text; ``Invalid`` where it is not UTF-8."""
    found = []
    for place, data in enumerate(batch.tolist(), 1):
        if isinstance(data, str):
            found.append(data[:most_chars])
            continue
        some = data[: 4 * most_chars]
        try:
            whole = codecs.getincrementaldecoder("utf-8")().decode(some, final=len(some) == len(data))
        except UnicodeDecodeError as error:
            raise Invalid(f"text {place}", "UTF-8", str(error)) from None
        found.append(whole[:most_chars])
    return found


def plain(text: str) -> str:
    """A text as it is compared: one form of each character, one case (Unicode's NFKC and case folding)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


class _Line:
    """Texts in one line of characters, with one break before, between and after words."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Lay out plain texts."""
        whole = " ".join(["", *texts, ""])
        codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), np.uint32)
        kinds = _kinds_of(codes)
        self.sizes = np.array([len(text) for text in texts], np.int64)
        self.first = np.cumsum(self.sizes + 1) - self.sizes
        """Where each text begins."""
        kept = kinds != _BREAK
        kept[1:] |= kinds[:-1] != _BREAK  # the first break after a word stays
        kept[0] = True
        self.place = np.flatnonzero(kept)
        """Where each kept character was."""
        self._kinds = kinds[kept]
        self._row = np.searchsorted(self.first, self.place, side="right") - 1
        shifted = np.where(self._kinds == _BREAK, np.uint32(32), codes[kept]).astype(np.uint64) + np.uint64(1)
        self._down, up = _powers(len(shifted))
        # With s = sum of c[k] P^k, the run from i to j hashes to (s[j] - s[i]) P^-i, wherever it stands.
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(shifted * up, dtype=np.uint64)])

    def chars(self, count: int) -> tuple[NDArray[Any], ...]:
        """Hash, start, end and row of every run of ``count`` characters of one text, a break counting as one."""
        is_break = self._kinds == _BREAK
        if count == 1:
            start = np.flatnonzero(~is_break)
            row = self._row[start]
        else:
            # The break between two texts is the end of the one and the start of the other.
            start = np.arange(max(0, len(is_break) - count + 1))
            end = start + count - 1
            row = self._row[np.where(is_break[start], start + 1, start)]
            inside = row == self._row[np.where(is_break[end], end - 1, end)]
            start, row = start[inside], row[inside]
        return _mixed(self._run(start, start + count), count), start, start + count, row

    def words(self, count: int) -> tuple[NDArray[Any], ...]:
        """Hash, start, end and row of every run of ``count`` words of one text."""
        kinds = self._kinds
        before = np.concatenate([[_BREAK], kinds[:-1]])
        start = np.flatnonzero((kinds == _SIGN) | ((kinds == _LETTER) & (before != _LETTER)))
        if len(start) < count:
            return _none()
        after = np.concatenate([kinds[1:], [_BREAK]])
        end = np.flatnonzero((kinds == _SIGN) | ((kinds == _LETTER) & (after != _LETTER))) + 1
        row = self._row[start]
        hashes = self._run(start, end)
        last = len(start) - count + 1
        joined = hashes[:last]
        for step in range(1, count):
            joined = _mixed(joined, 16) + hashes[step : last + step]
        inside = row[:last] == row[count - 1 :]
        return (
            _mixed(joined, 16 + count)[inside],
            start[:last][inside],
            end[count - 1 :][inside],
            row[:last][inside],
        )

    def _run(self, start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.uint64]:
        return np.asarray((self._sums[end] - self._sums[start]) * self._down[start])


def _none() -> tuple[NDArray[Any], ...]:
    empty = np.zeros(0, np.int64)
    return np.zeros(0, np.uint64), empty, empty, empty


def _mixed(hashes: NDArray[np.uint64], kind: int) -> NDArray[np.uint64]:
    """The finalizer of MurmurHash3, which spreads every bit over all others; ``kind`` parts the sorts of pieces."""
    x = hashes + np.uint64((kind * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.asarray(x ^ (x >> np.uint64(33)))


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """P^-i and P^i for i in 0..count, modulo 2^64."""
    down, up = _power_tables(1 << max(12, (count - 1).bit_length()))
    return down[:count], up[:count]


@lru_cache(maxsize=4)
def _power_tables(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    tables = []
    for base in (_INVERSE, _PRIME):
        steps = np.full(count, base, np.uint64)
        steps[0] = 1
        tables.append(np.multiply.accumulate(steps))
    return tables[0], tables[1]


def _kinds_of(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    kinds = _kinds[codes]
    if (kinds == _UNKNOWN).any():
        for code in np.unique(codes[kinds == _UNKNOWN]).tolist():
            _kinds[code] = _kind(chr(code))
        kinds = _kinds[codes]
    return kinds


def _kind(char: str) -> int:
    if unicodedata.category(char)[0] not in "LNM":
        return _BREAK
    return _SIGN if unicodedata.name(char, "").startswith(_SIGNS) else _LETTER


def _chunks(texts: Sequence[str], most_chars: int) -> Any:
    """Texts in pieces of some million characters, each with the place of its first."""
    first, size = 0, 0
    for place, text in enumerate(texts):
        size += min(len(text), most_chars) + 1
        if size >= _CHUNK or place == len(texts) - 1:
            yield first, texts[first : place + 1]
            first, size = place + 1, 0


@lru_cache(maxsize=8)
def _tokenizer(path: str, _changed: int, most_tokens: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise Missing("tokenizers", "text", "the model reads tokens") from None
    try:
        found = Tokenizer.from_file(path)
    except Exception as error:  # its Rust side raises plain Exception
        raise Invalid(f"tokenizer {path}", "a tokenizer.json of Hugging Face", str(error)) from None
    found.enable_truncation(most_tokens)
    found.no_padding()
    return found


def _pair(fields: Fields, key: str) -> tuple[int, int]:
    numbers = fields.wholes(key)
    if len(numbers) != 2:
        raise Invalid(fields.path(key), "two whole numbers", list(numbers))
    return numbers[0], numbers[1]


def _same(known: Mapping[str, Any], fields: Fields) -> None:
    for key in sorted(known.keys() | fields.body.keys()):
        found = fields.body.get(key)
        if found != known.get(key) or isinstance(found, bool):
            raise Invalid(
                fields.path(key),
                f"{known.get(key, 'absent')} (the rule that this version knows)",
                fields.body.get(key, "nothing"),
            )
