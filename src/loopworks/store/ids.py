"""Ids and times of rows: made by us before the insert, so that a row can be named before it is written."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
BATCH = 500  # ids in one IN list: SQLite and PostgreSQL both take far more, but compiling it costs time
_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A new id, 32 hex digits that sort by time: microseconds (14 digits), then random ones.

    Within one process a later id always sorts after an earlier one.
    """
    global _last
    with _lock:
        _last = max(_last + 1, time.time_ns() // 1000)
        tick = _last
    return f"{tick:014x}{os.urandom(9).hex()}"


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def canonical(body: Any) -> bytes:
    """JSON with one spelling: sorted keys, no blanks, UTF-8; equal content gives equal bytes on every machine."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """SHA-256 in hex, 64 characters."""
    return hashlib.sha256(data).hexdigest()


def batches(values: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """The values in lists of at most ``size``."""
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch
