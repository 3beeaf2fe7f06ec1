"""What the cells of a column look like: counted per segment, added up over the whole stream, never guessed from a head.

Cells are text exactly as written. A census says how many of them read as whole numbers, decimal numbers, dates, codes
with leading zeros, amounts with a unit ...; ``schema.py`` decides the column's type from the sum of all segments.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", "\\n", "(null)", "<na>", "missing")
"""What stands for a missing value, in lower case and without the blanks around it."""
WEAK = frozenset({"none", "nil", "-", "--", "missing"})
"""Of these, the ones that are values where a column holds text."""
FEW = 64
"""A segment's distinct values are written down up to this number."""
_WIDE = 60  # characters: longer values are counted, not written down
_UNITS = 12

_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_CLOCK = r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,9})?)?"
_ISO = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_TAIL = rf"(?:[ T]{_CLOCK})?"
CLASSES: tuple[tuple[str, str], ...] = (
    ("code", r"^0\d+$"),
    ("int", r"^[-+]?\d{1,18}$"),
    ("big", r"^[-+]?\d{19,}$"),
    ("dot3", r"^[-+]?[1-9]\d{0,2}\.\d{3}$"),
    ("float", r"^[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d{1,3})?$"),
    ("inf", r"^(?i)[-+]?inf(?:inity)?$"),
    ("group", r"^[-+]?[1-9]\d{0,2},\d{3}$"),
    ("comma", r"^[-+]?\d+,\d+$"),
    ("thousand", r"^[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?$"),
    ("euro", r"^[-+]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d*)?$"),
    ("bool", r"^(?i)(?:true|false|yes|no|t|f|y|n)$"),
    ("date", rf"^{_ISO}$"),
    ("datetime", rf"^{_ISO}[ T]{_CLOCK}$"),
    ("zoned", rf"^{_ISO}[ T]{_CLOCK} ?(?:Z|[-+]\d{{2}}:?\d{{2}})$"),
    ("either", rf"^(?:0?[1-9]|1[0-2])([/.-])(?:0?[1-9]|1[0-2])[/.-]\d{{4}}{_TAIL}$"),
    ("day_first", rf"^{_DAY}[/.-](?:0?[1-9]|1[0-2])[/.-]\d{{4}}{_TAIL}$"),
    ("month_first", rf"^(?:0?[1-9]|1[0-2])[/.-]{_DAY}[/.-]\d{{4}}{_TAIL}$"),
    ("time", rf"^{_CLOCK}$"),
    (
        "unit",
        r"^[-+]?[$€£¥₹]\s?\d[\d.,]*$|^[-+]?\d[\d.,]*\s*(?:[%‰°$€£¥₹\"'′″]|[A-Za-zµμΩ°\p{Han}][A-Za-z0-9/²³°·^\p{Han}]{0,11})$",
    ),
)
"""Name and pattern of each class of values, in the order they are tried; what fits none is text."""
_UNIT_NAMES = (
    "% ‰ ° ' \" ′ ″ $ € £ ¥ ₹ usd eur gbp cny rmb jpy kg g mg µg μg t lb lbs oz st m cm mm µm μm nm km ft in inch "
    "yd mi m2 m² km2 km² ha ft2 sqft m3 m³ l ml cl dl gal °c °f k s sec secs ms µs ns min mins h hr hrs hour hours "
    "day days d week weeks w month months mo yr yrs year years y kwh mwh wh kw mw kv v mv a ma mah hz khz mhz ghz "
    "b kb mb gb tb mbps gbps bit mph kmh km/h kph m/s knots kn ppm ppb bar mbar pa kpa hpa mpa psi atm pcs px dpi "
    "pt kcal cal j kj n nm rpm db lm lx mol mmol 元 万元 公斤 千克 克 吨 米 厘米 毫米 公里 千米 天 日 小时 分钟 秒 岁 "
    "年 月 个 件 平方米 升 毫升"
)
KNOWN_UNITS = frozenset(_UNIT_NAMES.split())
"""Units of measure that are reported, in lower case; what follows a number otherwise may be a house's letter."""


@dataclass(slots=True, kw_only=True)
class Census:
    """The counts of one column."""

    rows: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    """Class of values -> number of cells; missing ones are not among them."""
    missing: dict[str, int] = field(default_factory=dict)
    """What stood for a missing value (null: no cell at all) -> number of cells."""
    words: dict[str, int] = field(default_factory=dict)
    """Of class bool: the words in lower case -> number."""
    units: dict[str, int] = field(default_factory=dict)
    """Of class unit: unit -> number."""
    first: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Class -> (import number of its first row, that value), where a column has several classes."""
    values: dict[str, int] | None = field(default_factory=dict)
    """Value -> number of cells, of at most ``FEW``; ``None`` where there are more, or long ones."""
    distinct: float = 0.0
    """Sum over the segments of the distinct values in each one."""
    segments: int = 0
    is_unique: bool = True
    """Whether no segment has a value twice."""
    has_blank: bool = False
    """Whether a value has a blank inside."""
    longest: int = 0
    """Length of the longest value, in characters."""

    @property
    def filled(self) -> int:
        """Cells that are not missing, by any reading of missing."""
        return sum(self.classes.values())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        body: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        body["first"] = {name: list(pair) for name, pair in self.first.items()}
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Census":
        """What ``to_json`` wrote."""
        first = {name: (int(pair[0]), str(pair[1])) for name, pair in body["first"].items()}
        return cls(**{**body, "first": first})


def count(column: "pa.Array", order: "pa.Array") -> Census:
    """The census of one segment's column.

    Args:
        column: its cells as text.
        order: the import number of each row.
    """
    import pyarrow.compute as pc

    found = Census(rows=len(column), segments=1)
    pairs = column.value_counts()
    values, counts = pairs.field("values"), pairs.field("counts").to_numpy(zero_copy_only=False)
    bare = pc.utf8_trim_whitespace(values)
    is_missing = _missing(bare)
    for place in np.flatnonzero(is_missing).tolist():
        written = bare[place].as_py()
        key = "null" if written is None else written
        key = '"null"' if written == "null" else key
        found.missing[key] = found.missing.get(key, 0) + int(counts[place])
    kept = np.flatnonzero(~is_missing)
    if not len(kept):
        found.values = {}
        return found
    raw, bare, counts = values.take(kept), bare.take(kept), counts[kept]
    found.distinct = float(len(kept))
    found.is_unique = bool((counts == 1).all())
    lengths = pc.utf8_length(bare).to_numpy(zero_copy_only=False)
    found.longest = int(lengths.max())
    names = _classify(bare)
    _tell_classes(found, names, raw, bare, counts, column, order)
    if len(bare) <= FEW and found.longest <= _WIDE:
        written_down: dict[str, int] = {}
        for value, number in zip(bare.to_pylist(), counts.tolist(), strict=True):
            written_down[value] = written_down.get(value, 0) + number
        found.values = written_down
    else:
        found.values = None
    return found


def merge(parts: Iterable[Census]) -> Census:
    """The census of several segments together."""
    done = Census()
    values: dict[str, int] | None = {}
    for part in parts:
        done.rows += part.rows
        done.segments += part.segments
        done.distinct += part.distinct
        done.is_unique &= part.is_unique
        done.has_blank |= part.has_blank
        done.longest = max(done.longest, part.longest)
        for mine, other in (
            (done.classes, part.classes),
            (done.missing, part.missing),
            (done.words, part.words),
            (done.units, part.units),
        ):
            for key, number in other.items():
                mine[key] = mine.get(key, 0) + number
        for name, pair in part.first.items():
            done.first[name] = min(done.first.get(name, pair), pair)
        if values is not None:
            if part.values is None:
                values = None
            else:
                for value, number in part.values.items():
                    values[value] = values.get(value, 0) + number
                values = values if len(values) <= 4 * FEW else None
    done.values = values
    return done


def missing_mask(bare: "pa.Array", tokens: Iterable[str]) -> "pa.Array":
    """Which of the trimmed cells are missing, under these tokens."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.is_in(pc.utf8_lower(bare), value_set=pa.array(sorted(tokens), pa.string()))
    return pc.or_(known, pc.is_null(bare))


def _missing(bare: "pa.Array") -> Any:
    return missing_mask(bare, MISSING).to_numpy(zero_copy_only=False)


def _classify(bare: "pa.Array") -> Any:
    """The class of each value, as places in ``CLASSES``; its length for text."""
    import pyarrow.compute as pc

    places = np.full(len(bare), len(CLASSES), np.int8)
    rest = np.arange(len(bare))
    for place, (_, pattern) in enumerate(CLASSES):
        if not len(rest):
            break
        found = bare if len(rest) == len(bare) else bare.take(rest)
        is_match = pc.match_substring_regex(found, pattern).to_numpy(zero_copy_only=False)
        places[rest[is_match]] = place
        rest = rest[~is_match]
    return places


def _tell_classes(
    found: Census, names: Any, raw: "pa.Array", bare: "pa.Array", counts: Any, column: "pa.Array", order: "pa.Array"
) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    present = np.unique(names).tolist()
    for place in present:
        name = CLASSES[place][0] if place < len(CLASSES) else "text"
        where = np.flatnonzero(names == place)
        found.classes[name] = int(counts[where].sum())
        if name == "text":
            found.has_blank = bool(pc.any(pc.match_substring(bare.take(where), " ")).as_py())
        if len(present) > 1:
            rows = pc.is_in(column, value_set=raw.take(where))
            numbers = order.filter(rows)
            low = pc.min(numbers).as_py()
            at = pc.index(order, pa.scalar(low, order.type)).as_py()
            found.first[name] = (low, str(column[at].as_py())[:80])
        if name in ("bool", "unit"):
            said = pc.utf8_lower(bare.take(where)) if name == "bool" else _units(bare.take(where))
            tally: dict[str, int] = {}
            for word, number in zip(said.to_pylist(), counts[where].tolist(), strict=True):
                tally[word] = tally.get(word, 0) + number
            top = sorted(tally.items(), key=lambda pair: (-pair[1], pair[0]))[:_UNITS]
            setattr(found, "words" if name == "bool" else "units", dict(top))


def _units(bare: "pa.Array") -> "pa.Array":
    import pyarrow.compute as pc

    # The sign of the number and its digits go; what is left of "12.5 km/h" or "$3" is the unit.
    lead = pc.replace_substring_regex(bare, r"^[-+]?\d[\d.,]*\s*", "")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(lead, r"(^|\s)\d[\d.,]*$|^[-+]|\d[\d.,]+$", ""))
