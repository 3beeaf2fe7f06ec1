"""The type of each column, decided from the census of the whole stream, and cells read as that type."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from loopworks.core.errors import Invalid
from loopworks.data.tables.census import FEW, KNOWN_UNITS, MISSING, WEAK, Census, missing_mask

if TYPE_CHECKING:
    import pyarrow as pa

Type = Literal["bool", "int", "float", "category", "text", "date", "datetime", "time", "id", "empty"]
TYPES: tuple[str, ...] = get_args(Type)
NUMBERS = frozenset({"int", "float"})
TIMES = frozenset({"date", "datetime"})
WORDS = frozenset({"category", "text", "id"})

_NUMERIC = frozenset({"int", "float", "dot3", "inf", "comma", "group", "thousand", "euro"})
_DMY = frozenset({"either", "day_first", "month_first"})
_POSTAL = re.compile(
    r"(?i)(^|[_\W])(zip|postal|postcode|plz|postleitzahl|phone|telephone|tel|iban)([_\W]|code|$)|邮编|电话"
)
_ID = re.compile(r"(?i)(^|[_\W])(id|ids|key|uuid|guid)$|[a-z](ID|Id|Key|UUID)$|^(编号|主键)")
_TRUE, _FALSE = ("true", "yes", "t", "y"), ("false", "no", "f", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the table: how its text is read, and what was noticed about it."""

    name: str
    type: str
    decimal: str = "."
    """The decimal mark of its numbers."""
    thousands: str = ""
    """The mark between its thousands."""
    is_day_first: bool = False
    """Of dates such as 3/4/2021: whether the day comes first."""
    is_zoned: bool = False
    """Of datetimes: whether they name a zone; they are read as UTC."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """What stood for a missing value -> number of cells; null: no cell at all."""
    units: Mapping[str, int] = field(default_factory=dict)
    """Unit of measure -> number of cells. The cells keep it: the column stays text."""
    notes: tuple[str, ...] = ()
    """What a person should know: why this type, mixed types, what is ambiguous."""
    tokens: tuple[str, ...] = ("",)
    """What is read as missing, in lower case."""
    is_chosen: bool = False
    """Whether a person chose the type."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "decimal": self.decimal,
            "thousands": self.thousands,
            "day_first": self.is_day_first,
            "zoned": self.is_zoned,
            "missing": dict(self.missing),
            "units": dict(self.units),
            "notes": list(self.notes),
            "is_chosen": self.is_chosen,
        }


def resolve(name: str, census: Census, declared: str = "", chosen: str = "", is_semicolon: bool = False) -> Column:
    """The column's type.

    Args:
        name: of the column; names such as zip or customer_id count as a hint.
        census: of all its cells.
        declared: type that the file itself gives (Parquet, JSON): text keeps digits from becoming numbers.
        chosen: type that a person chose; it wins, and cells that do not fit are read as missing.
        is_semicolon: whether the file separates cells by semicolons, as it is done where the comma is decimal.
    """
    if chosen and chosen not in TYPES:
        raise Invalid(f"type of column {name!r}", ", ".join(TYPES), chosen)
    found = _infer(name, census, declared, is_semicolon)
    if chosen:
        found = _choose(found, census, chosen)
    tokens = _tokens(found.type, census)
    shown = {token: number for token, number in census.missing.items() if _bare(token) in tokens or token == "null"}
    kept = sorted(set(census.missing) - set(shown))
    notes = found.notes
    if kept:
        notes = (*notes, "kept as values, though they often mean missing: " + ", ".join(repr(t) for t in kept))
    return replace(found, missing=dict(sorted(shown.items())), tokens=tokens, notes=notes)


def typed(cells: "pa.Array", column: Column) -> "pa.Array":
    """The cells as the column's type; missing ones, and those that a chosen type does not fit, are null.

    bool: boolean. int: int64. float: double. date: date32. datetime: microseconds (UTC where zoned). time: seconds
    since midnight (double). The rest: text as written, without the blanks around it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    bare = pc.utf8_trim_whitespace(cells)
    bare = pc.if_else(missing_mask(bare, column.tokens), pa.scalar(None, pa.string()), bare)
    if column.type in WORDS or column.type == "empty":
        return bare
    if column.type == "bool":
        low = pc.utf8_lower(bare)
        is_true = pc.is_in(low, value_set=pa.array([*_TRUE, "1"]))
        is_word = pc.is_in(low, value_set=pa.array([*_TRUE, *_FALSE, "0", "1"]))
        return pc.if_else(is_word, is_true, pa.scalar(None, pa.bool_()))
    if column.type in NUMBERS:
        return _numbers(bare, column)
    if column.type == "time":
        return _seconds(bare)
    return _moments(bare, column)


def _infer(name: str, census: Census, declared: str, is_semicolon: bool) -> Column:
    classes = {key for key, number in census.classes.items() if number}
    notes: list[str] = []
    if not classes:
        return Column(name=name, type="empty", notes=("no cell has a value",))
    if declared == "text":
        if classes <= {"int", "float", "dot3", "code"}:
            notes.append("digits, but the file says text")
        if not classes <= {"date", "datetime", "zoned"}:
            return _words(name, census, notes)
    if classes <= {"bool"}:
        words = set(census.words)
        if any(words <= {yes, no} for yes, no in zip(_TRUE, _FALSE, strict=True)):
            return Column(name=name, type="bool")
        return _words(name, census, notes)
    if "code" in classes and classes <= {"code", "int", "big"}:
        return _words(name, census, [*notes, "leading zeros: codes, kept as text"])
    if _POSTAL.search(name) and classes <= {"code", "int", "big"}:
        return _words(name, census, [*notes, "a name for codes (postal, phone ...): kept as text"])
    if "big" in classes and classes <= {"int", "big"}:
        return _words(name, census, [*notes, "longer than a 64-bit whole number: kept as text"])
    if classes <= _NUMERIC:
        if (number := _number(name, classes, is_semicolon)) is not None:
            return _identity(number, census) if number.type == "int" else number
        return _words(name, census, [*notes, _mixed(census)])
    if (moment := _moment(name, classes, census)) is not None:
        return moment
    if "unit" in classes and (noted := _unit_note(census)):
        notes.append(noted)
        return replace(_words(name, census, notes), units=dict(census.units))
    if len(classes) > 1 and (classes & (_NUMERIC | _DMY | {"date", "datetime", "zoned"})):
        share = sum(census.classes.get(key, 0) for key in _NUMERIC | _DMY | {"date", "datetime", "zoned"})
        if share >= census.filled / 2:
            notes.append(_mixed(census))
    return _words(name, census, notes)


def _number(name: str, classes: set[str], is_semicolon: bool) -> Column | None:
    if classes == {"int"}:
        return Column(name=name, type="int")
    plain, comma = {"int", "float", "dot3", "inf"}, {"int", "comma", "euro", "group", "dot3", "inf"}
    if classes <= plain:
        return Column(name=name, type="float")
    if classes & {"comma", "euro"}:
        thousands = "." if classes & {"dot3", "euro"} else ""
        return Column(name=name, type="float", decimal=",", thousands=thousands) if classes <= comma else None
    if classes <= {*plain, "thousand", "group"}:
        if classes & {"thousand", "float", "dot3"} or not is_semicolon:
            note = () if classes & {"thousand", "float", "dot3"} else ("1,234 may be 1234 or 1.234; read as 1234",)
            whole = classes <= {"int", "group"}
            return Column(name=name, type="int" if whole else "float", thousands=",", notes=note)
        note = ("1,234 may be 1234 or 1.234; read as 1.234, because the file separates cells by semicolons",)
        return Column(name=name, type="float", decimal=",", notes=note)
    return None


def _moment(name: str, classes: set[str], census: Census) -> Column | None:
    if classes <= {"date"}:
        return Column(name=name, type="date")
    if classes <= {"date", "datetime"}:
        return Column(name=name, type="datetime")
    if classes <= {"zoned"}:
        return Column(name=name, type="datetime", is_zoned=True)
    if classes <= {"time"}:
        return Column(name=name, type="time")
    if classes <= _DMY and not {"day_first", "month_first"} <= classes:
        notes: tuple[str, ...] = ()
        is_day_first = "day_first" in classes
        if classes == {"either"}:
            sample = next(iter(census.values or {}), "") or next((v for _, v in census.first.values()), "")
            is_day_first = "/" not in sample
            notes = (f"day and month cannot be told apart; read with the {'day' if is_day_first else 'month'} first",)
        return Column(name=name, type="datetime", is_day_first=is_day_first, notes=notes)
    return None


def _words(name: str, census: Census, notes: Sequence[str]) -> Column:
    """Text of one of three kinds: id (each value once), category (values come again and again), text."""
    column = Column(name=name, type="text", notes=tuple(note for note in notes if note))
    identity = _identity(column, census)
    if identity.type == "id":
        return identity
    filled = max(census.filled, 1)
    if census.values is not None and len(census.values) <= max(20, min(4 * FEW, filled // 5)):
        return replace(column, type="category")
    if census.values is None and census.distinct <= 0.1 * filled and census.longest <= 200:
        return replace(column, type="category")
    return column


def _identity(column: Column, census: Census) -> Column:
    if not census.is_unique or census.filled < 10 or census.filled < census.rows:
        return column
    if _ID.search(column.name) or (column.type == "text" and not census.has_blank and _looks_coded(census)):
        return replace(column, type="id", notes=(*column.notes, "each value once"))
    return column


def _looks_coded(census: Census) -> bool:
    """Long ones without a blank: product codes and hashes. Short ones may be words that happen not to repeat."""
    return 6 <= census.longest <= 64 and census.filled >= 100


def _unit_note(census: Census) -> str:
    known = {unit: number for unit, number in census.units.items() if unit.lower() in KNOWN_UNITS}
    if sum(known.values()) < 0.8 * census.filled:
        return ""
    listed = ", ".join(f"{unit} ({number})" for unit, number in known.items())
    return f"amounts with a unit of measure, left as they are: {listed}"


def _mixed(census: Census) -> str:
    counts = sorted(census.classes.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = ", ".join(f"{name} {number}" for name, number in counts)
    rare = counts[-1][0]
    example = f"; first {rare}: {census.first[rare][1]!r}" if rare in census.first else ""
    return f"mixed: {listed}{example}; kept as text"


def _choose(found: Column, census: Census, chosen: str) -> Column:
    """The type that a person wants, with the marks of numbers and dates that the cells show."""
    notes = [note for note in found.notes if not note.startswith("mixed")]
    if chosen == found.type:
        return replace(found, is_chosen=True)
    classes = set(census.classes)
    misfits = 0
    if chosen in NUMBERS:
        fitting = classes & _NUMERIC | ({"code"} if "code" in classes else set())
        number = _number(found.name, classes & _NUMERIC, False) or Column(name=found.name, type=chosen)
        found = replace(number, type=chosen)
        misfits = sum(census.classes[key] for key in classes - fitting)
    elif chosen in TIMES:
        moment = _moment(found.name, classes & {"date", "datetime", *_DMY}, census) if classes else None
        found = replace(moment or Column(name=found.name, type=chosen), type=chosen)
        misfits = sum(census.classes[key] for key in classes - {"date", "datetime", "zoned", *_DMY})
    else:
        found = Column(name=found.name, type=chosen)
    if misfits:
        notes.append(f"{misfits} cells are no {chosen} and read as missing")
    return replace(found, notes=tuple(notes), is_chosen=True)


def _tokens(kind: str, census: Census) -> tuple[str, ...]:
    if kind not in WORDS and kind != "empty":
        return MISSING
    tokens = set(MISSING) - WEAK
    if "NA" in census.missing and census.values:
        # NA among two-letter codes is Namibia, not nothing.
        others = [value for value in census.values if value]
        if others and all(len(value) == 2 and value.isupper() and value.isalpha() for value in others):
            tokens.discard("na")
    return tuple(sorted(tokens))


def _bare(token: str) -> str:
    return "null" if token == '"null"' else token.lower()


def _numbers(bare: "pa.Array", column: Column) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.thousands:
        bare = pc.replace_substring(bare, column.thousands, "")
    if column.decimal != ".":
        bare = pc.replace_substring(bare, column.decimal, ".")
    bare = pc.if_else(pc.starts_with(bare, "+"), pc.utf8_slice_codeunits(bare, 1), bare)
    kind = pa.int64() if column.type == "int" else pa.float64()
    try:
        return pc.cast(bare, kind)
    except pa.ArrowInvalid:
        pattern = (
            r"^-?\d{1,18}$"
            if column.type == "int"
            else r"^(?i)-?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d{1,3})?|inf(?:inity)?)$"
        )
        bare = pc.if_else(pc.match_substring_regex(bare, pattern), bare, pa.scalar(None, pa.string()))
        return pc.cast(bare, kind)


def _seconds(bare: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.extract_regex(bare, r"^(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2}(?:\.\d+)?))?$")
    hours, minutes, seconds = (pc.struct_field(found, name) for name in "hms")
    seconds = pc.if_else(pc.equal(seconds, ""), "0", seconds)
    whole = pc.add(pc.multiply(pc.cast(hours, pa.float64()), 3600.0), pc.multiply(pc.cast(minutes, pa.float64()), 60.0))
    return pc.add(whole, pc.cast(seconds, pa.float64()))


def _moments(bare: "pa.Array", column: Column) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    iso = bare
    first, second = ("d", "m") if column.is_day_first else ("m", "d")
    pattern = rf"^(?P<{first}>\d{{1,2}})[/.-](?P<{second}>\d{{1,2}})[/.-](?P<y>\d{{4}})(?P<t>.*)$"
    parts = pc.extract_regex(bare, pattern)
    if parts.null_count < len(parts):
        year, month, day, rest = (pc.struct_field(parts, name) for name in "ymdt")
        month, day = (pc.utf8_lpad(part, 2, "0") for part in (month, day))
        swapped = pc.binary_join_element_wise(year, month, day, "-")
        iso = pc.coalesce(pc.binary_join_element_wise(swapped, rest, ""), bare)
    kind = pa.timestamp("us", "UTC") if column.is_zoned else pa.timestamp("us")
    iso = pc.replace_substring_regex(iso, r"^(\S{10})[ T](\d):", r"\1 0\2:")
    try:
        moments = pc.cast(iso, kind)
    except pa.ArrowInvalid:
        moments = pa.array([_moment_of(text, column.is_zoned) for text in iso.to_pylist()], kind)
    if column.type != "date":
        return moments
    return pc.cast(moments, pa.date32(), safe=False)


def _moment_of(text: str | None, is_zoned: bool) -> Any:
    """One at a time, where some are no dates at all (30 February)."""
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if is_zoned:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return found.replace(tzinfo=None)
