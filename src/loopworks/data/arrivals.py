"""Files at the door: read, hashed, checked and stored; the same here and on a node of a cluster."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import Problem
from loopworks.data import door
from loopworks.data.files import problem, unreadable
from loopworks.store.blobs import open_blobs

MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A file that passed the door."""

    key: str
    """SHA-256 of its bytes."""
    mime: str
    width: int
    height: int
    size_bytes: int


def receive(
    where: str,
    read: Callable[[str], bytes],
    store: Callable[[bytes, str], object] | None,
    max_pixels: int,
    *,
    data: bytes | None = None,
) -> Arrived | Problem:
    """Read, hash, check and store one image file.

    Args:
        where: path or URL.
        read: gives its bytes.
        store: takes the bytes and their SHA-256; ``None``: they stay where they are.
        max_pixels: the largest image that is let in.
        data: its bytes, where they are in memory already.
    Returns: what it is, or why it is left out.
    Raises: NoSpace, Denied, Unreachable: from storing.
    """
    try:
        if data is None and "://" not in where and (size := os.stat(where).st_size) > MAX_BYTES:
            raise Invalid(where, f"at most {MAX_BYTES} bytes", size)
        data = read(where) if data is None else data
    except OSError as error:
        return unreadable(where, error)
    except LoopworksError as error:
        return problem(where, error)
    key = hashlib.sha256(data).hexdigest()
    try:
        width, height, mime = door.look(data, where, max_pixels)
    except Invalid as error:
        return problem(where, error)
    if store:
        store(data, key)
    return Arrived(key=key, mime=mime, width=width, height=height, size_bytes=len(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """``receive`` for a batch of files on another machine, which reaches the same files and the same blobs."""

    blobs: str
    """URL of the blob store; empty: ``folder``."""
    folder: str
    max_pixels: int

    def __call__(self, batch: list[tuple[str, bool]]) -> list[Arrived | Problem]:
        """One answer for each path; the flag says whether its bytes are stored, and they are safe when it returns."""
        blobs = open_blobs(self.blobs, Path(self.folder))
        try:
            with blobs.writer() as writer:
                return [
                    receive(path, _read, writer.add if is_kept else None, self.max_pixels) for path, is_kept in batch
                ]
        finally:
            blobs.close()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
