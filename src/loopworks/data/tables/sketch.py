"""Summaries of streams in bounded memory: quantiles, distinct values, frequent values."""

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.data.tables import keys


class Quantiles:
    """Quantiles of numbers: exact up to 32,768 of them, then with a rank error below 0.1 % of their number.

    Full levels are sorted and every other value moves up with twice the weight.
    Source: Karnin, Lang, Liberty 2016, "Optimal quantile approximation in streams", with levels of equal size.
    """

    SIZE = 32_768

    def __init__(self) -> None:
        """Nothing seen."""
        self.count = 0
        self._levels: list[list[NDArray[np.float64]]] = [[]]
        self._held = [0]
        self._turn = 0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take finite numbers."""
        self.count += len(values)
        self._put(0, values)

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values in order, and the number of values that each stands for."""
        values = [np.concatenate(level) if level else np.zeros(0) for level in self._levels]
        weights = [np.full(len(found), 2.0**at) for at, found in enumerate(values)]
        every, weight = np.concatenate(values), np.concatenate(weights)
        order = np.argsort(every, kind="stable")
        return every[order], weight[order]

    def at(self, shares: list[float]) -> list[float]:
        """The values below which these shares of all values lie, each in 0..1."""
        values, weights = self.points()
        if not len(values):
            return [math.nan for _ in shares]
        ranks = np.cumsum(weights) - weights / 2
        total = float(weights.sum())
        return [float(np.interp(share * total, ranks, values)) for share in shares]

    def _put(self, level: int, values: NDArray[np.float64]) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._held.append(0)
        self._levels[level].append(values)
        self._held[level] += len(values)
        if self._held[level] > self.SIZE:
            found = np.sort(np.concatenate(self._levels[level]))
            odd = found[-1:] if len(found) % 2 else found[:0]  # so that no weight is lost
            self._turn ^= 1
            self._levels[level], self._held[level] = [odd], len(odd)
            self._put(level + 1, found[: len(found) - len(odd)][self._turn :: 2])


class Distinct:
    """The number of distinct values: exact up to 10,000, then within about 1 % (standard error 0.8 %).

    Source: Flajolet, Fusy, Gandouet, Meunier 2007, "HyperLogLog", with 2^14 registers; the range in which it is
    biased is never reached, because there the count is exact.
    """

    MOST = 10_000
    BITS = 14

    def __init__(self) -> None:
        """Nothing seen."""
        self._exact: set[int] | None = set()
        self._registers = np.zeros(1 << self.BITS, np.uint8)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take the hashes of values."""
        hashes = np.unique(hashes)
        if self._exact is not None:
            self._exact.update(hashes.tolist())
            if len(self._exact) > self.MOST:
                self._exact = None
        place = (hashes >> np.uint64(64 - self.BITS)).astype(np.int64)
        rest = hashes << np.uint64(self.BITS)
        # The place of the first one: 64 minus the bits of the number, which float64 tells but for rounding up.
        safe = np.maximum(rest >> np.uint64(12), np.uint64(1)).astype(np.float64)
        rank = np.minimum(52 - np.floor(np.log2(safe)), 64 - self.BITS + 1).astype(np.uint8)
        np.maximum.at(self._registers, place, rank)

    @property
    def is_exact(self) -> bool:
        """Whether ``count`` is exact."""
        return self._exact is not None

    @property
    def count(self) -> int:
        """How many distinct values there are."""
        if self._exact is not None:
            return len(self._exact)
        size = 1 << self.BITS
        alpha = 0.7213 / (1 + 1.079 / size)
        return round(alpha * size * size / float(np.sum(2.0 ** -self._registers.astype(np.float64))))


class Frequent:
    """The most frequent values: exact while there are at most 20,000, then low by at most ``error``.

    Source: Manku, Motwani 2002, "Approximate frequency counts over data streams" (lossy counting).
    """

    MOST = 20_000

    def __init__(self) -> None:
        """Nothing seen."""
        self._counts: dict[Any, int] = {}
        self.error = 0

    def add(self, values: list[Any], counts: list[int]) -> None:
        """Take values with their numbers."""
        held = self._counts
        for value, number in zip(values, counts, strict=True):
            held[value] = held.get(value, 0) + number
        while len(held) > self.MOST:
            cut = int(np.partition(np.fromiter(held.values(), np.int64), len(held) // 2)[len(held) // 2])
            self.error += cut
            held = {value: number - cut for value, number in held.items() if number > cut}
        self._counts = held

    def top(self, count: int) -> list[tuple[Any, int]]:
        """The most frequent ones, the most frequent first."""
        return sorted(self._counts.items(), key=lambda pair: (-pair[1], str(pair[0])))[:count]


def number_hashes(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """A hash of each number."""
    bits = (values + 0.0).view(np.uint64)  # minus zero is zero
    return keys.mix(bits ^ np.uint64(0x9E3779B97F4A7C15))


def text_hashes(values: list[str]) -> NDArray[np.uint64]:
    """A hash of each text."""
    made = b"".join([hashlib.blake2b(value.encode(), digest_size=8).digest() for value in values])
    return np.frombuffer(made, np.uint64)
