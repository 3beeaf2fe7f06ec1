"""Sending blobs from one store to another: only those that are missing there, side by side, each checked by its key."""

import hashlib
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from loopworks.core.errors import Damaged, NotFound
from loopworks.store.blobs import BlobStore, LocalBlobs, Writer

THREADS = 8  # of network or disk: each reads, hashes and hands on one blob
BATCH = 256
"""Blobs that are made safe at once: a transfer that is killed has lost at most so many."""
LARGE = 32 << 20
"""A blob of more bytes than this is streamed by itself, so that memory stays small."""
_LISTED = 1000  # asking for so many keys one by one costs more than one listing of an object store


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What went over."""

    blobs: int
    known: int
    """Blobs that were there already."""
    size_bytes: int


Progress = Callable[[int, int, int], None]
"""Takes the number of blobs done and of all, and the bytes sent."""


def send(
    source: BlobStore, target: BlobStore, keys: Iterable[str], where: str, progress: Progress | None = None
) -> Sent:
    """Bring the blobs with these keys to ``target``; what is there already is left alone.

    Blobs are safe a batch at a time, so a transfer that was cut off goes on where it stopped.

    Args:
        source: where they are.
        target: where they are to be.
        keys: their SHA-256.
        where: what to call the source in an error.
        progress: see ``Progress``.
    Raises:
        Damaged: a blob is gone at the source, or its bytes are not those of its key; it is not written.
        NoSpace, Denied, Unreachable: as the stores say.
    """
    wanted = sorted(set(keys))
    there = known(target, wanted)
    missing = [key for key in wanted if key not in there]
    done, size = len(there), 0
    if progress:
        progress(done, len(wanted), size)
    rest = iter(missing)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(rest, BATCH)):
            with target.writer() as writer:
                jobs = [pool.submit(_one, source, target, writer, key, where) for key in batch]
                try:
                    size += sum(job.result() for job in jobs)
                except BaseException:
                    pool.shutdown(cancel_futures=True)  # none may write when the writer is thrown away
                    raise
            done += len(batch)
            if progress:
                progress(done, len(wanted), size)
    return Sent(blobs=len(missing), known=len(there), size_bytes=size)


def known(store: BlobStore, keys: Collection[str]) -> set[str]:
    """Those of the keys that are in the store; in a local one they count as written now, so that none is collected."""
    if not isinstance(store, LocalBlobs) and len(keys) > _LISTED:
        return set(keys) & set(store.keys())
    has = store.renew if isinstance(store, LocalBlobs) else store.has
    with ThreadPoolExecutor(THREADS) as pool:
        return {key for key, is_there in zip(keys, pool.map(has, keys), strict=True) if is_there}


def _one(source: BlobStore, target: BlobStore, writer: Writer, key: str, where: str) -> int:
    """Bring one blob over and give its size in bytes."""
    try:
        size = source.size(key)
        if size > LARGE:
            source.verify(key)
            with source.open(key) as file:
                actual = target.put(file)
        else:
            data = source.read(key)
            actual = hashlib.sha256(data).hexdigest()
            if actual == key:
                writer.add(data, key)
    except NotFound:
        raise Damaged(f"blob {key} must be in {where}; got nothing", "restore a backup there") from None
    if actual != key:
        raise Damaged(f"blob {key} of {where} must have that SHA-256; got {actual}", "restore a backup there")
    return size
