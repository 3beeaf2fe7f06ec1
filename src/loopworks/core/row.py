"""The rule that turns rows of a table into a model's input: one tensor per column, then one matrix of numbers.

A row is a mapping from column to value. Keys that are no column of the model are ignored; a missing key, ``None`` and
what the column's ``missing`` lists ("", "NA" ...) are missing values. Text stands for a number, a bool or a date where
it reads as one by the marks that the column states, so that rows of a CSV file need no types.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.core.fields import Fields
from loopworks.core.values import TensorSpec

FEATURES = "features"
Kind = Literal["number", "bool", "time", "category", "moment", "text"]
Part = Literal["year", "month", "day", "weekday", "hour", "minute", "yearday", "days"]
LARGEST = float(np.finfo(np.float32).max)
_TRUE, _FALSE = frozenset(("true", "yes", "t", "y", "1")), frozenset(("false", "no", "f", "n", "0"))
_BYTES = frozenset({"category", "moment", "text"})
_WORD = re.compile(r"[^\W_]+")
_HAN = re.compile(r"[\u3400-\u9fff]")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?")
_DAY = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})(.*)", re.DOTALL)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - moments are kept without a zone, in UTC where they had one
_DAY_US = 86_400e6
"""Microseconds of a day: both ways of taking moments apart divide the same whole number by it."""
_FEW = 16
"""Up to so many moments are taken apart one by one, which is quicker than to set numpy up for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: how its cells are read, and the features that are made of it."""

    name: str
    kind: Kind
    missing: tuple[str, ...] = ("",)
    """Text that stands for a missing value, in lower case."""
    decimal: str = "."
    thousands: str = ""
    is_day_first: bool = False
    """Of dates such as 3/4/2021: whether the day comes first."""
    values: tuple[str, ...] = ()
    """Of a category: the values with a code of their own, which is their place; all others share the next code."""
    parts: tuple[Part, ...] = ()
    """Of a moment: what is taken of it; ``days`` are those since 1970."""
    terms: tuple[str, ...] = ()
    """Of a text: words, and pairs of words with a blank between; the feature is log(1 + how often it occurs)."""
    _codes: dict[bytes, float] = field(init=False, repr=False, compare=False, default_factory=dict)
    _gone: frozenset[str] = field(init=False, repr=False, compare=False, default=frozenset())

    def __post_init__(self) -> None:
        """Refuse what makes no sense, and index the values."""
        if self.kind not in get_args(Kind):
            raise Invalid(f"kind of column {self.name!r}", ", ".join(get_args(Kind)), self.kind)
        if bad := [part for part in self.parts if part not in get_args(Part)]:
            raise Invalid(f"parts of column {self.name!r}", ", ".join(get_args(Part)), bad[0])
        lists = {"category": "values", "moment": "parts", "text": "terms"}
        for kind, name in lists.items():
            listed = getattr(self, name)
            if len(set(listed)) != len(listed) or (listed and self.kind != kind):
                raise Invalid(f"{name} of column {self.name!r}", f"different ones, of a {kind}", listed)
        codes = {value.encode(): float(code) for code, value in enumerate(self.values)}
        codes[b""] = math.nan
        if self.kind == "text":
            codes = {term.encode(): float(place) for place, term in enumerate(self.terms)}
        object.__setattr__(self, "_codes", codes)
        object.__setattr__(self, "_gone", frozenset(self.missing) | {""})

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in their order."""
        if self.kind == "moment":
            return tuple(f"{self.name}.{part}" for part in self.parts)
        if self.kind == "text":
            return tuple(f"{self.name}:{term}" for term in self.terms)
        return (self.name,)

    @property
    def spec(self) -> TensorSpec:
        """The tensor that clients send."""
        return TensorSpec(name=self.name, datatype="BYTES" if self.kind in _BYTES else "FP64", shape=(-1, 1))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "missing": list(self.missing),
            "decimal": self.decimal,
            "thousands": self.thousands,
            "is_day_first": self.is_day_first,
            "values": list(self.values),
            "parts": list(self.parts),
            "terms": list(self.terms),
        }

    @classmethod
    def from_json(cls, body: Any, where: str = "column") -> "Column":
        """The column that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        return cls(
            name=fields.text("name"),
            kind=fields.one_of("kind", get_args(Kind)),
            missing=fields.texts("missing"),
            decimal=fields.text("decimal"),
            thousands=fields.text("thousands"),
            is_day_first=fields.flag("is_day_first"),
            values=fields.texts("values"),
            parts=fields.texts("parts"),  # type: ignore[arg-type]
            terms=fields.texts("terms"),
        )

    # ---- pack: a value of a row to a cell of the tensor

    def cell(self, value: Any, where: str) -> Any:
        """A value as the tensor has it: float or bytes.

        Raises: Invalid: of a type or form that the column does not take.
        """
        kind = type(value)
        if self.kind not in _BYTES:
            if kind is float or kind is int:
                return self._number(value, where)
            if value is None:
                return math.nan
            if isinstance(value, bool | np.bool_):
                if self.kind == "bool":
                    return float(value)
            elif isinstance(value, int | float | np.integer | np.floating):
                return self._number(value, where)
            elif isinstance(value, str | bytes):
                return self._read(self._text(value, where).strip(), where)
            raise self._refused(value, where)
        if value is None or (kind is float and math.isnan(value)):
            return b""
        if isinstance(value, str | bytes):
            text = self._text(value, where).strip()
            if text.lower() in self._gone:
                return b""
            return self._moment(text, where).isoformat().encode() if self.kind == "moment" else text.encode()
        if self.kind == "moment" and isinstance(value, date):
            whole = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001
            return _naive(whole).isoformat().encode()
        if self.kind == "category" and isinstance(value, int | np.integer) and not isinstance(value, bool):
            return str(int(value)).encode()
        raise self._refused(value, where)

    def _number(self, value: Any, where: str) -> float:
        try:
            return float(value)
        except OverflowError:
            raise self._refused(value, where) from None

    def _read(self, text: str, where: str) -> float:
        low = text.lower()
        if low in self._gone:
            return math.nan
        if self.kind == "bool":
            if low in _TRUE or low in _FALSE:
                return float(low in _TRUE)
        elif self.kind == "time" and (clock := _CLOCK.fullmatch(text)):
            return 3600.0 * int(clock[1]) + 60.0 * int(clock[2]) + float(clock[3] or 0)
        elif "_" not in text:
            plain = text.replace(self.thousands, "") if self.thousands else text
            if self.decimal != ".":
                plain = plain.replace(self.decimal, ".")
            try:
                return float(plain)
            except ValueError:
                pass  # the one error below says what is wrong
        raise self._refused(text, where)

    def _moment(self, text: str, where: str) -> datetime:
        if found := _DAY.fullmatch(text):
            first, second, year, rest = found.groups()
            day, month = (first, second) if self.is_day_first else (second, first)
            text = f"{year}-{month:0>2}-{day:0>2}{rest}"
        try:
            return _naive(datetime.fromisoformat(text))
        except ValueError:
            raise self._refused(text, where) from None

    def _text(self, value: str | bytes, where: str) -> str:
        if isinstance(value, str):
            return value
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise self._refused(value, where) from None

    def _refused(self, value: Any, where: str) -> Invalid:
        wanted = {
            "number": "a number",
            "bool": "true or false",
            "time": "a time of day such as 13:45, or its seconds",
            "category": "text or a whole number",
            "moment": "a date or time such as 2024-05-31 or 2024-05-31T13:45:00",
            "text": "text",
        }[self.kind]
        shown = value if isinstance(value, str) else f"{value!r}"
        return Invalid(f"column {self.name!r}" + (f" of {where}" if where else ""), f"{wanted}, or missing", shown)

    # ---- encode: cells to features

    def codes(self, cells: list[Any]) -> list[float]:
        """Of a category: the code of each cell, NaN for a missing one."""
        found = [self._codes.get(cell) for cell in cells]
        if None not in found:
            return found  # type: ignore[return-value]
        return [self._code(cell) if code is None else code for cell, code in zip(cells, found, strict=True)]

    def encode(self, cells: list[Any], out: NDArray[np.float32]) -> None:
        """Of a moment or text: write the features of the cells into ``out``, shape ``(items, features)``."""
        if self.kind == "moment":
            self._encode_moments(cells, out)
            return
        out[:] = 0.0
        for row, cell in zip(out, cells, strict=True):
            for term, count in Counter(terms_of(_decoded(cell))).items():
                if (place := self._codes.get(term.encode())) is not None:
                    row[int(place)] = math.log1p(count)

    def _code(self, cell: Any) -> float:
        """The code of a cell as a client may write it that did not use ``pack``."""
        text = _decoded(cell).strip()
        return math.nan if text.lower() in self._gone else self._codes.get(text.encode(), float(len(self.values)))

    def _encode_moments(self, cells: list[Any], out: NDArray[np.float32]) -> None:
        if len(cells) <= _FEW:
            for row, cell in zip(out, cells, strict=True):
                packed = self.cell(_decoded(cell), "")
                if not packed:
                    row[:] = math.nan
                    continue
                found = datetime.fromisoformat(packed.decode())
                row[:] = [_PARTS[part](found) for part in self.parts]
            return
        try:
            stamps = np.array([cell[:26] or b"NaT" for cell in cells], "S26").astype("U").astype("datetime64[us]")
        except (ValueError, TypeError):
            texts = [self.cell(_decoded(cell), "") or b"NaT" for cell in cells]
            stamps = np.array([text[:26] for text in texts], "S26").astype("U").astype("datetime64[us]")
        lost = np.isnat(stamps)
        days = stamps.astype("datetime64[D]")
        months, years = days.astype("datetime64[M]"), days.astype("datetime64[Y]")
        seconds = (stamps - days).astype("timedelta64[s]").astype(np.int64)
        number = days.astype(np.int64)
        made: dict[str, Callable[[], Any]] = {
            "year": lambda: years.astype(np.int64) + 1970,
            "month": lambda: months.astype(np.int64) % 12 + 1,
            "day": lambda: (days - months).astype(np.int64) + 1,
            "weekday": lambda: (number + 3) % 7,
            "hour": lambda: seconds // 3600,
            "minute": lambda: seconds // 60 % 60,
            "yearday": lambda: (days - years).astype(np.int64) + 1,
            "days": lambda: stamps.astype(np.int64) / _DAY_US,
        }
        for place, part in enumerate(self.parts):
            out[:, place] = np.where(lost, np.nan, made[part]())


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRule:
    """Rows of a table as tensors: numbers, bools and times FP64 ``(items, 1)`` with NaN for missing, the rest BYTES."""

    columns: tuple[Column, ...]
    _numeric: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())
    _coded: tuple[Column, ...] = field(init=False, repr=False, compare=False, default=())
    _wide: tuple[tuple[Column, slice], ...] = field(init=False, repr=False, compare=False, default=())
    _places: Mapping[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    _known: frozenset[str] = field(init=False, repr=False, compare=False, default=frozenset())
    _width: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        """Refuse no column or two of one name, and lay out the features."""
        names = [column.name for column in self.columns]
        if not names or len(set(names)) != len(names):
            raise Invalid("columns of a row rule", "at least one, each with a name of its own", names or "none")
        at = 0
        places: dict[str, list[int]] = {"numeric": [], "coded": []}
        wide = []
        for column in self.columns:
            width = len(column.features)
            if column.kind in ("moment", "text"):
                wide.append((column, slice(at, at + width)))
            else:
                places["coded" if column.kind == "category" else "numeric"].append(at)
            at += width
        object.__setattr__(self, "_numeric", tuple(c.name for c in self.columns if c.kind not in _BYTES))
        object.__setattr__(self, "_coded", tuple(c for c in self.columns if c.kind == "category"))
        object.__setattr__(self, "_wide", tuple(wide))
        object.__setattr__(self, "_known", frozenset(names))
        object.__setattr__(self, "_width", at)
        object.__setattr__(self, "_places", {kind: _run(listed) for kind, listed in places.items()})

    @property
    def media(self) -> str:
        """What an item is: ``row``."""
        return "row"

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of the encoded matrix."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def width(self) -> int:
        """How many features there are."""
        return self._width

    def inputs(self) -> tuple[TensorSpec, ...]:
        """One tensor per column, ``(items, 1)``."""
        return tuple(column.spec for column in self.columns)

    def pack(
        self, contents: Sequence[Any], *, names: Sequence[str] = (), max_pixels: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """Rows (mappings from column to value), or one Arrow table, as ``inputs``.

        Raises: Invalid: no row, one that is no mapping or holds no column of the model, or a value of a wrong type.
        """
        if hasattr(contents, "column_names"):
            return self._pack_table(contents)
        count = len(contents)
        if not count:
            raise Invalid("rows", "at least one", "none")
        where = list(names) if names else [f"row {i}" for i in range(1, count + 1)] if count > 1 else [""]
        self._check(contents, where)
        found: dict[str, NDArray[Any]] = {}
        numbers = np.empty((len(self._numeric), count, 1), np.float64)
        at = 0
        for column in self.columns:
            name, cell = column.name, column.cell
            cells = [cell(row.get(name), place) for row, place in zip(contents, where, strict=True)]
            if column.kind in _BYTES:
                told = found[name] = np.empty((count, 1), object)
                told[:, 0] = cells
            else:
                numbers[at, :, 0] = cells
                found[name] = numbers[at]
                at += 1
        return found

    def encode(self, batch: Mapping[str, NDArray[Any]], /) -> dict[str, NDArray[Any]]:
        """``features``: float32 ``(items, features)``; infinite numbers become the largest that there are."""
        out = np.empty((len(batch[self.columns[0].name]), self.width), np.float32)
        if self._numeric:
            numbers = np.concatenate([batch[name] for name in self._numeric], axis=1, dtype=np.float64)
            out[:, self._places["numeric"]] = numbers.clip(-LARGEST, LARGEST)
        if self._coded:
            codes = [column.codes(batch[column.name].ravel().tolist()) for column in self._coded]
            out[:, self._places["coded"]] = np.array(codes, np.float32).T
        for column, at in self._wide:
            column.encode(batch[column.name].ravel().tolist(), out[:, at])
        return {FEATURES: out}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"kind": "row", "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, body: Any, where: str = "preprocessing") -> "RowRule":
        """The rule that ``to_json`` wrote; a field that this version does not know is refused."""
        fields = Fields.of(body, where)
        rule = cls(columns=fields.each("columns", Column.from_json))
        for found, known, path in [
            (fields.body, {"kind": "row", "columns": ()}, where),
            *((told, Column(name="", kind="number").to_json(), f"{where}.columns") for told in fields.body["columns"]),
        ]:
            if unknown := sorted(set(found) - set(known)):
                raise Invalid(f"{path}.{unknown[0]}", "absent (this version does not know it)", found[unknown[0]])
        return rule

    def _check(self, contents: Sequence[Any], where: Sequence[str]) -> None:
        """Each row must be a mapping with a column of the model: one with none is of another table."""
        for row, place in zip(contents, where, strict=True):
            if not isinstance(row, Mapping):
                raise Invalid(place or "row", "an object: column -> value", type(row).__name__)
            if self._known.isdisjoint(row):
                listed = ", ".join(sorted(self._known)[:12])
                raise Invalid(f"columns of {place or 'the row'}", f"some of the model's ({listed})", list(row)[:12])

    def _pack_table(self, table: Any) -> dict[str, NDArray[Any]]:
        """Columns of an Arrow table; each value that occurs is turned into bytes once."""
        count = table.num_rows
        if not count:
            raise Invalid("rows", "at least one", "none")
        held = set(table.column_names)
        if not held & {column.name for column in self.columns}:
            raise Invalid("table", "of columns that the model knows", sorted(held)[:12])
        found = {name: table.column(name) for name in held}
        return {column.name: _arrow(column, found.get(column.name), count) for column in self.columns}


def _run(places: list[int]) -> Any:
    """Places as a slice where they follow each other, which numpy writes to in a third of the time."""
    if places and places == list(range(places[0], places[0] + len(places))):
        return slice(places[0], places[0] + len(places))
    return places


def _arrow(column: Column, cells: Any, count: int) -> NDArray[Any]:
    """A chunked Arrow array as the column's tensor; ``None`` is a column that the table does not have."""
    is_text = column.kind in _BYTES
    nothing, kept = (b"", object) if is_text else (np.nan, np.float64)
    if cells is None:
        return np.full((count, 1), nothing, kept)
    kind = str(cells.type)
    if not is_text and kind.startswith(("int", "uint", "float", "double")):
        return np.asarray(cells.to_numpy(), np.float64).reshape(count, 1)
    coded = cells.combine_chunks()
    coded = coded if kind.startswith("dictionary") else coded.dictionary_encode()
    told = np.empty(len(coded.dictionary) + 1, kept)
    told[:-1] = [column.cell(value, "") for value in coded.dictionary.to_pylist()]
    told[-1] = nothing
    places = coded.indices.fill_null(len(told) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(told[places.astype(np.int64)].reshape(count, 1))


def terms_of(text: str) -> list[str]:
    """The words of a text in lower case (Chinese: each sign), and each pair of neighbours with a blank between."""
    words = [part for word in _WORD.findall(text.lower()) for part in _cut(word)]
    return words + [f"{left} {right}" for left, right in zip(words, words[1:], strict=False)]


def _cut(word: str) -> list[str]:
    if not _HAN.search(word):
        return [word]
    return [part for part in re.split(r"([\u3400-\u9fff])", word) if part]


def _decoded(cell: Any) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


_PARTS: dict[str, Any] = {
    "year": lambda m: m.year,
    "month": lambda m: m.month,
    "day": lambda m: m.day,
    "weekday": lambda m: m.weekday(),
    "hour": lambda m: m.hour,
    "minute": lambda m: m.minute,
    "yearday": lambda m: m.timetuple().tm_yday,
    "days": lambda m: ((m - _EPOCH) // timedelta(microseconds=1)) / _DAY_US,
}
