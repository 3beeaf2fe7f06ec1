"""Values of one field of many items as NumPy arrays: tested against a value, kept as files that are mapped."""

import bisect
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from loopworks.core.query import Value
from loopworks.store.ids import new_id

Bits = NDArray[np.bool_]
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PARTS = ("rows", "numbers", "codes", "truths", "others")


@dataclass(frozen=True, slots=True)
class Values:
    """A field's values; each is a number, a text, a truth, something else, or missing in all of them."""

    rows: NDArray[np.int32] | None = None
    """Position of the item of each value; ``None``: one value for each item."""
    numbers: NDArray[np.float64] | None = None
    """NaN: none. Times are microseconds since 1970."""
    codes: NDArray[np.int32] | None = None
    """Places in ``texts``; -1: none, or an empty text."""
    texts: Any = None
    """The different texts by code point, as an Arrow array."""
    truths: NDArray[np.int8] | None = None
    """-1: none."""
    others: NDArray[np.int8] | None = None
    """1: a list or an object."""

    def __len__(self) -> int:
        """How many values."""
        return next(len(part) for part in (self.numbers, self.codes) if part is not None)

    def test(self, op: str, value: Value) -> Bits:
        """For each value whether it compares so; values of another kind do not."""
        if isinstance(value, bool):
            return self._none() if self.truths is None else self.truths == int(value)
        if isinstance(value, str):
            return self._test_text(op, value)
        if self.numbers is None:
            return self._none()
        number = micros(value) if isinstance(value, datetime) else float(value)
        return np.asarray(COMPARE[op](self.numbers, number), np.bool_)

    def among(self, values: Sequence[Value]) -> Bits:
        """For each value whether it is one of these."""
        hits = self._none()
        for truth in (value for value in values if isinstance(value, bool)):
            hits |= self.test("=", truth)
        plain = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if plain and self.numbers is not None:
            hits |= np.isin(self.numbers, np.array([float(value) for value in plain]))
        said = [value for value in values if isinstance(value, str)]
        if said and self.codes is not None:
            table = np.zeros(len(self.texts) + 1, np.bool_)  # -1, no value, is the last place
            for text in said:
                table[place(self.texts, text) : place(self.texts, text, after=True)] = True
            hits |= table[self.codes]
        return hits

    def present(self) -> Bits:
        """For each value whether it is there."""
        hits = self._none() if self.others is None else self.others > 0
        if self.numbers is not None:
            hits |= ~np.isnan(self.numbers)
        if self.codes is not None:
            hits |= self.codes >= 0
        if self.truths is not None:
            hits |= self.truths >= 0
        return hits

    def _none(self) -> Bits:
        return np.zeros(len(self), np.bool_)

    def _test_text(self, op: str, text: str) -> Bits:
        if self.codes is None:
            return self._none()
        if op == "like":
            return np.append(like(self.texts, text), False)[self.codes]
        low, high = place(self.texts, text), place(self.texts, text, after=True)
        if op == "=":
            return self.codes == low if low < high else self._none()
        if op in ("<", "<="):
            return (self.codes >= 0) & (self.codes < (low if op == "<" else high))
        return self.codes >= (high if op == ">" else low)


def compare(one: Values, op: str, two: Values, size: int, *, is_text: bool, is_paired: bool) -> Bits:
    """For each of ``size`` items whether one of its first values compares so with one of its second ones.

    With ``is_paired`` each value is compared with the one at the same place alone, and the answer is for each place.
    Values of many items each on both sides are compared for equality by texts alone.
    """
    left, right = _alike(one, two) if is_text else (one.numbers, two.numbers)
    if left is None or right is None:
        return np.zeros(len(one) if is_paired else size, np.bool_)
    if is_paired or (one.rows is None and two.rows is None):
        return np.asarray(_valid(left) & _valid(right) & COMPARE[op](left, right), np.bool_)
    if one.rows is None or two.rows is None:
        rows = two.rows if one.rows is None else one.rows
        assert rows is not None
        left = left if one.rows is not None else left[rows]
        right = right if two.rows is not None else right[rows]
        return _of_items(rows[_valid(left) & _valid(right) & COMPARE[op](left, right)], size)
    if op == "=":
        many = np.int64(max(left.max(initial=0), right.max(initial=0)) + 1)
        first, second = _valid(left), _valid(right)
        pairs = one.rows[first] * many + left[first]
        return _of_items(one.rows[first][np.isin(pairs, two.rows[second] * many + right[second])], size)
    # Some value of the first is below some of the second where the least is below the largest.
    is_below = op in ("<", "<=")
    ends = []
    for values, rows, is_least in ((left, one.rows, is_below), (right, two.rows, not is_below)):
        end = np.full(size, np.inf if is_least else -np.inf)
        keep = _valid(values)
        (np.minimum if is_least else np.maximum).at(end, rows[keep], values[keep].astype(np.float64))
        ends.append(end)
    return np.asarray(~(np.isinf(ends[0]) | np.isinf(ends[1])) & COMPARE[op](ends[0], ends[1]), np.bool_)


def micros(moment: datetime) -> float:
    """Microseconds since 1970; exact, as a double holds all up to the year 2255."""
    return float((moment - _EPOCH) // timedelta(microseconds=1))


def moments(values: Sequence[str]) -> NDArray[np.float64]:
    """Microseconds since 1970 of times in UTC as ISO text."""
    import pyarrow as pa

    found = pa.array(values, pa.string()).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(found.to_numpy(zero_copy_only=False), np.float64)


def texts(values: Sequence[str | None]) -> Any:
    """Texts as Arrow has them."""
    import pyarrow as pa

    return pa.array(values, pa.large_string())


def coded(pieces: Sequence[Any], rows: NDArray[np.int32] | None = None) -> Values:
    """Values from pieces of Arrow texts; a missing text is as an empty one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.concat_arrays([texts([]), *pieces]).fill_null("").dictionary_encode()
    known = whole.dictionary
    order = pc.sort_indices(known).to_numpy()
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    known = known.take(pa.array(order))
    codes = ranks[whole.indices.to_numpy()] if len(whole) else np.empty(0, np.int32)
    if len(known) and known[0].as_py() == "":
        known, codes = known.slice(1), codes - 1
    return Values(rows=rows, codes=codes.astype(np.int32), texts=known)


def dug(of: Values, keys: Sequence[str]) -> Values:
    """The values at ``keys`` of JSON objects, each different text read once."""

    assert of.codes is not None
    size = len(of.texts) + 1  # the last one stands for no text
    numbers, truths = np.full(size, np.nan), np.full(size, -1, np.int8)
    others, said = np.zeros(size, np.int8), [""] * size
    for begin in range(0, size - 1, 10_000):
        for i, text in enumerate(of.texts[begin : begin + 10_000].to_pylist(), begin):
            value = _read(text)
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, bool):
                truths[i] = value
            elif isinstance(value, int | float):
                numbers[i] = _double(value)
            elif isinstance(value, str):
                said[i] = value
            elif value is not None:
                others[i] = 1
    spoken = coded([texts(said)])
    assert spoken.codes is not None
    at = of.codes
    return Values(of.rows, numbers[at], spoken.codes[at], spoken.texts, truths[at], others[at])


def _read(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # NaN and Infinity, which JSON itself does not know
        return json.loads(text)


def merged(
    old: Values, old_at: NDArray[np.intp], stays: Bits, new: Values, new_at: NDArray[np.intp], size: int
) -> Values:
    """A field of ``size`` items from what stays of the old ones and all of the new ones.

    Args:
        old: the field of the old items.
        old_at: where each old item lies among all of them.
        stays: which of the old items stay.
        new: the field of the new items.
        new_at: where each new item lies.
        size: of all of them together.
    """
    keep = stays if old.rows is None else stays[old.rows]
    texts, first, second = old.texts, None, None
    if old.codes is not None:
        both = coded([old.texts, new.texts])
        assert both.codes is not None
        texts, last = both.texts, np.array([-1], np.int32)  # -1, no text, stays what it is
        first = np.append(both.codes[: len(old.texts)], last)[old.codes]
        second = np.append(both.codes[len(old.texts) :], last)[new.codes]

    def join(one: Any, two: Any) -> Any:
        if one is None or two is None:
            return None
        if old.rows is not None:
            return np.concatenate([one[keep], two])
        whole = np.empty(size, one.dtype)
        whole[old_at[keep]], whole[new_at] = one[keep], two
        return whole

    rows = None
    if old.rows is not None and new.rows is not None:
        rows = np.concatenate([old_at[old.rows[keep]], new_at[new.rows]]).astype(np.int32)
    plain = {part: join(getattr(old, part), getattr(new, part)) for part in ("numbers", "truths", "others")}
    return Values(rows=rows, codes=join(first, second), texts=texts, **plain)


def save(group: Mapping[str, Values], folder: Path) -> None:
    """Write fields that were read together, with the same rows, as one new folder; whole or not at all.

    Raises: OSError: the disk is full, the folder cannot be written, or is there already.
    """
    fresh = folder.with_name(f"{folder.name}.{new_id()}")
    fresh.mkdir(parents=True)
    try:
        for i, values in enumerate(group.values()):
            for part in _PARTS:
                array = getattr(values, part)
                if array is not None and (i == 0 or part != "rows"):
                    np.save(fresh / f"{i}.{part}.npy", array)
            if values.texts is not None:
                save_texts(values.texts, fresh / f"{i}.texts")
        (fresh / "names.json").write_text(json.dumps(list(group)), encoding="utf-8")
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load(folder: Path) -> dict[str, Values] | None:
    """The fields in a folder, mapped; ``None`` where there are none, or broken ones."""
    try:
        found: dict[str, Values] = {}
        rows = _mapped(folder / "0.rows.npy")
        for i, name in enumerate(json.loads((folder / "names.json").read_text(encoding="utf-8"))):
            arrays = {part: _mapped(folder / f"{i}.{part}.npy") for part in _PARTS[1:]}
            source = folder / f"{i}.texts"
            texts = load_texts(source) if source.is_file() else None
            found[name] = Values(rows=rows, texts=texts, **arrays)
        return found
    except (OSError, ValueError):  # Arrow's errors are ValueErrors too
        return None


def save_texts(found: Any, path: Path) -> None:
    """Write an Arrow array of texts."""
    import pyarrow as pa

    table = pa.table({"texts": found})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def load_texts(path: Path) -> Any:
    """What ``save_texts`` wrote, mapped; ``OSError`` or ``ValueError`` where it is not there, or broken."""
    import pyarrow as pa

    column = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("texts")
    return column.chunk(0) if column.num_chunks else pa.array([], pa.large_string())


def place(found: Any, text: str, *, after: bool = False) -> int:
    """Where a text lies, or would lie, among an Arrow array of texts by code point."""
    find = bisect.bisect_right if after else bisect.bisect_left
    return find(range(len(found)), text, key=lambda i: found[i].as_py())


def _mapped(path: Path) -> Any:
    return np.asarray(np.load(path, mmap_mode="r")) if path.is_file() else None


def _double(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def like(texts: Any, pattern: str) -> Bits:
    """For each of an Arrow array of texts, none of them missing, whether it is like SQL's pattern."""
    import pyarrow.compute as pc

    if "\\" in pattern:
        parts: Iterable[str] = re.findall(r"\\.|[^\\]", pattern, re.DOTALL)
        plain = (".*" if p == "%" else "." if p == "_" else re.escape(p[-1]) for p in parts)
        found = pc.match_substring_regex(texts, f"(?s)^{''.join(plain)}$")
    else:
        found = pc.match_like(texts, pattern)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def _alike(one: Values, two: Values) -> tuple[Any, Any]:
    """The codes of both among the texts of both."""
    import pyarrow as pa

    if one.codes is None or two.codes is None:
        return None, None
    both = coded([one.texts, two.texts]).codes
    assert both is not None
    ends = np.array([-1], np.int32)
    first, second = np.append(both[: len(one.texts)], ends), np.append(both[len(one.texts) :], ends)
    assert isinstance(one.texts, pa.Array)
    return first[one.codes], second[two.codes]


def _valid(values: NDArray[Any]) -> Bits:
    return np.asarray(values >= 0 if values.dtype.kind == "i" else ~np.isnan(values), np.bool_)


def _of_items(rows: NDArray[np.int32], size: int) -> Bits:
    items = np.zeros(size, np.bool_)
    items[rows] = True
    return items
