"""Rows of a descriptor for items: from the cache where they are, computed where they are not."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image
from loopworks.core.errors import LoopworksError
from loopworks.core.values import Problem
from loopworks.data import media
from loopworks.data.features.cache import Cache
from loopworks.data.features.contract import Batch, Descriptor, Rows
from loopworks.jobs.spread import is_spread, spread
from loopworks.store.blobs import BlobStore, open_blobs
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

    ids: list[str] = []
    done: list[NDArray[Any]] = []
    answers = _answers(home, descriptor, fresh)
    for count, (item, found) in enumerate(zip(fresh, answers, strict=True), 1):
        if isinstance(found, Problem):
            problems[item.id] = found
        else:
            ids.append(item.id)
            done.append(found)
        if progress and (count % CHUNK == 0 or count == len(fresh)):
            progress(count, len(fresh))
        if ids and (len(ids) >= KEEP or count == len(fresh)):
            cache.add(ids, np.stack(done))
            ids, done = [], []
    if ids:
        cache.add(ids, np.stack(done))
    kept = tuple(one for one in wanted if one not in problems)
    return Rows(kept, cache.read(kept), problems)


def _answers(home: Home, descriptor: Descriptor, items: Sequence[Readable]) -> Iterator[NDArray[Any] | Problem]:
    """A row or a problem for each item, in order; computed in threads here or on a cluster."""
    settings = home.settings
    if not is_spread(settings):
        chunks = (list(items[at : at + CHUNK]) for at in range(0, len(items), CHUNK))
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            while window := list(islice(chunks, KEEP // CHUNK)):
                for found in pool.map(
                    lambda chunk: _describe(home, descriptor, settings.max_image_pixels, chunk), window
                ):
                    yield from found
        return
    describer = Describer(
        descriptor=descriptor,
        blobs=settings.blobs,
        folder=str(home.folder / "blobs"),
        max_pixels=settings.max_image_pixels,
    )
    yield from spread(describer, [Asked(one.id, one.name, one.uri, one.text) for one in items], settings)


@dataclass(frozen=True, slots=True)
class Asked:
    """An item on its way to another machine."""

    id: str
    name: str
    uri: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Describer:
    """Rows for a batch of items on another machine, which reaches the same blobs."""

    descriptor: Descriptor
    blobs: str
    """URL of the blob store; empty: ``folder``."""
    folder: str
    max_pixels: int

    def __call__(self, batch: list[Asked]) -> list[NDArray[Any] | Problem]:
        """A row or a problem for each item."""
        shelf = _Shelf(open_blobs(self.blobs, Path(self.folder)))
        try:
            return _describe(shelf, self.descriptor, self.max_pixels, batch)
        finally:
            shelf.blobs.close()


@dataclass(frozen=True, slots=True)
class _Shelf:
    blobs: BlobStore


def _describe(
    home: media.Shelf, descriptor: Descriptor, max_pixels: int, chunk: Sequence[Readable]
) -> list[NDArray[Any] | Problem]:
    found: list[Any] = []
    contents = []
    for item in chunk:
        try:
            contents.append(_content(home, descriptor, item, max_pixels))
            found.append(None)
        except LoopworksError as error:
            found.append(Problem(where=item.id, error=error.code, message=error.message, hint=error.hint))
    values = iter(describe_batch(descriptor, contents))
    return [next(values) if one is None else one for one in found]


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


def _content(home: media.Shelf, descriptor: Descriptor, item: Readable, max_pixels: int) -> Any:
    if descriptor.rule is None:
        return item.text or media.read(home, item.id, item.uri, item.name).decode("utf-8", "replace")
    content = media.read(home, item.id, item.uri, item.name)
    return image.decode(content, descriptor.rule, item.name, max_pixels)
