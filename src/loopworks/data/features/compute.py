"""Rows of a descriptor for items: from the cache where they are, computed where they are not."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image
from loopworks.core.errors import LoopworksError
from loopworks.core.values import Problem
from loopworks.data import media
from loopworks.data.features.cache import Cache
from loopworks.data.features.contract import Batch, Descriptor, Rows
from loopworks.store.home import Home

CHUNK = 16
"""Items that one thread takes at a time: pictures of 224 x 224 for 16 items take 2.4 MB."""
KEEP = 2048
"""Rows after which a segment is written, so that a killed computation goes on from there."""
Progress = Callable[[int, int], None]


class Readable(Protocol):
    """What must be known of an item to describe it."""

    @property
    def id(self) -> str:
        """Content id."""

    @property
    def name(self) -> str:
        """What to call it in an error."""

    @property
    def uri(self) -> str:
        """Where the bytes of an item by reference lie."""

    @property
    def text(self) -> str:
        """The item itself, where it is a text."""


def rows(home: Home, descriptor: Descriptor, items: Iterable[Readable], progress: Progress | None = None) -> Rows:
    """The rows of ``items``; only those that the cache does not hold are computed, and kept in it.

    Args:
        home: the workspace.
        descriptor: what describes them.
        items: images or texts, as the descriptor wants them; those that cannot be read are listed as problems.
        progress: takes the number of items done and of all that had to be computed.
    Raises: NoSpace, Denied: the cache cannot be written.
    """
    wanted = {item.id: item for item in items}
    cache = Cache(home.cache / "features", descriptor.key, descriptor.width, descriptor.dtype)
    fresh = [wanted[one] for one in cache.missing(wanted)]
    problems: dict[str, Problem] = {}

    def describe(chunk: list[Readable]) -> tuple[list[str], NDArray[Any], list[Problem]]:
        good, found, bad = [], [], []
        for item in chunk:
            try:
                found.append(_content(home, descriptor, item))
                good.append(item.id)
            except LoopworksError as error:
                bad.append(Problem(where=item.id, error=error.code, message=error.message, hint=error.hint))
        return good, describe_batch(descriptor, found), bad

    ids: list[str] = []
    done: list[NDArray[Any]] = []
    count = 0
    chunks = (fresh[at : at + CHUNK] for at in range(0, len(fresh), CHUNK))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        while window := list(islice(chunks, KEEP // CHUNK)):
            for good, values, bad in pool.map(describe, window):
                ids += good
                done.append(values)
                problems |= {problem.where: problem for problem in bad}
                count += len(good) + len(bad)
                if progress:
                    progress(count, len(fresh))
            if ids:
                cache.add(ids, np.concatenate(done))
                ids, done = [], []
    kept = tuple(one for one in wanted if one not in problems)
    return Rows(kept, cache.read(kept), problems)


def describe_batch(descriptor: Descriptor, contents: Sequence[Any]) -> NDArray[Any]:
    """Rows of decoded images (see ``decode``) or texts; none give an empty array of the right width."""
    if not contents:
        return np.zeros((0, descriptor.width), descriptor.dtype)
    batch: Batch = np.stack(contents) if descriptor.rule else list(contents)
    return descriptor.describe(batch)


def forget(home: Home, ids: Iterable[str]) -> int:
    """Remove all rows of items from the caches of all descriptors, for an erasure; gives how many there were."""
    gone, wanted = 0, list(ids)
    folder = home.cache / "features"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        first = next(iter(sorted(path.glob("*.npy"))), None)
        if first is not None:
            kind = np.load(first, mmap_mode="r", allow_pickle=False).dtype["row"]
            gone += Cache(folder, path.name, kind.shape[0], kind.base.str).forget(wanted)
    return gone


def _content(home: Home, descriptor: Descriptor, item: Readable) -> Any:
    if descriptor.rule is None:
        return item.text or media.read(home, item.id, item.uri, item.name).decode("utf-8", "replace")
    content = media.read(home, item.id, item.uri, item.name)
    return image.decode(content, descriptor.rule, item.name, home.settings.max_image_pixels)
