"""Files of others in object stores: listed, fetched, and read by reference. What lies there is never changed."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopworks.core.errors import Damaged, Invalid, Missing, NotFound
from loopworks.store.blobs import CHUNK, write_error
from loopworks.store.objects import RETRY, told

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]+)/?(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object as the store lists it."""

    name: str
    """Path below the folder that was asked for."""
    uri: str
    size: int
    """In bytes."""
    etag: str
    """What the store calls this content; empty where it says nothing."""

    @property
    def stamp(self) -> str:
        """What is kept with an item by reference, to see that the object is still the same."""
        return f"{self.size}:{self.etag}"


def is_url(text: str) -> bool:
    """Whether a source is the URL of an object store."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def entries(url: str) -> list[Entry]:
    """The object at ``url``, or all objects below it, or those that fit it as a pattern (``*``, ``?``, ``**``).

    Raises:
        NotFound: nothing there, or no such bucket.
        Invalid: not such a URL.
        Missing: obstore is not installed.
        Denied, Unreachable: as the store says.
    """
    bucket, path = _parts(url)
    if magic := re.search(r"[*?]", path):
        base = path[: path.rfind("/", 0, magic.start()) + 1]
        fits = re.compile(_pattern(path[len(base) :]))
        found = [entry for entry in _below(bucket, base) if fits.fullmatch(entry.name)]
    else:
        found = [] if path.endswith("/") or not path else _object(bucket, path)
        found = found or list(_below(bucket, f"{path.rstrip('/')}/" if path.rstrip("/") else ""))
    if not found:
        raise NotFound("path", url, hint="no object is there; a folder's objects are those whose names begin with it")
    return found


def fetch(entry: Entry, target: Path) -> None:
    """Write an object to ``target``, which appears when it is whole.

    Raises:
        Damaged: it was changed or removed since it was listed.
        NoSpace, Denied, Unreachable: as the disk or the store says.
    """
    temp = target.with_name(f"{target.name}.part")
    with _get(entry.uri, entry.stamp) as result:
        try:
            with temp.open("wb") as file:
                for piece in result.stream(min_chunk_size=CHUNK):
                    file.write(piece)
            os.replace(temp, target)
        except OSError as error:
            if error.errno is None:
                raise  # the network's, in the words of obstore
            raise write_error(target, error) from None


def read(uri: str, stamp: str = "") -> bytes:
    """All bytes of an object that is kept by reference.

    Args:
        uri: where it lies.
        stamp: size and etag as first seen; empty: not compared.
    Raises: Damaged: it is gone, or not what it was.
    """
    with _get(uri, stamp) as result:
        return bytes(result.bytes())


@contextlib.contextmanager
def _get(uri: str, stamp: str) -> Iterator[Any]:
    bucket, path = _parts(uri)
    gone = Damaged(f"{uri} must still be there; got nothing", "it was added by reference: bring it back")
    api, store = _client(bucket)
    with told(uri, gone):
        result = api.get(store, path)
        seen = _stamp(result.meta)
        if stamp and seen != stamp:
            size, _, etag = stamp.partition(":")
            expected = f"{size} bytes with etag {etag or 'none'}"
            now = seen.partition(":")
            message = f"{uri} must be as it was ({expected}); got {now[0]} bytes with etag {now[2] or 'none'}"
            raise Damaged(message, "it was changed after it was listed or added by reference")
        yield result


def _object(bucket: str, path: str) -> list[Entry]:
    api, store = _client(bucket)
    missing = NotFound("path", f"{bucket}/{path}")
    try:
        with told(bucket, missing):
            meta = api.head(store, path)
    except NotFound as error:
        if error is missing:
            return []
        raise
    return [_entry(bucket, path.rpartition("/")[0], meta)]


def _below(bucket: str, base: str) -> Iterator[Entry]:
    api, store = _client(bucket)
    with told(bucket, NotFound("bucket", bucket)):
        for page in api.list(store, base.rstrip("/") or None):
            for meta in page:
                if not str(meta["path"]).endswith("/"):
                    yield _entry(bucket, base.rstrip("/"), meta)


def _entry(bucket: str, base: str, meta: Any) -> Entry:
    path = str(meta["path"])
    name = path.removeprefix(f"{base}/") if base else path
    size, _, etag = _stamp(meta).partition(":")
    return Entry(name=name, uri=f"{bucket}/{path}", size=int(size), etag=etag)


def _stamp(meta: Any) -> str:
    return f"{meta['size']}:{meta.get('e_tag') or ''}"


def _parts(url: str) -> tuple[str, str]:
    """Bucket as a URL, and the path in it."""
    match = _URL.fullmatch(url)
    if match is None or match[1].lower() not in SCHEMES:
        raise Invalid("URL", "s3://bucket/path, gs://bucket/path or az://container/path", url)
    return f"{match[1].lower()}://{match[2]}", match[3]


@functools.lru_cache(maxsize=16)
def _client(bucket: str) -> tuple[Any, Any]:
    """The library and one client for each bucket, so that connections are used again."""
    try:
        import obstore
        from obstore import exceptions
        from obstore import store as stores
    except ImportError:
        raise Missing("obstore", "s3", f"files at {bucket}") from None
    try:
        open_store: Any = stores.from_url
        return obstore, open_store(bucket, retry_config=RETRY)
    except (exceptions.BaseError, ValueError) as error:
        raise Invalid("URL", "s3://bucket/path, gs:// or az://", str(error)) from None


def _pattern(path: str) -> str:
    """A regular expression for a pattern in which ``*`` and ``?`` stop at slashes and ``**`` does not."""
    parts = path.split("/")
    text = "".join("(?:[^/]+/)*" if part == "**" else "".join(map(_piece, part)) + "/" for part in parts[:-1])
    return text + (".*" if parts[-1] == "**" else "".join(map(_piece, parts[-1])))


def _piece(letter: str) -> str:
    return {"*": "[^/]*", "?": "[^/]"}.get(letter) or re.escape(letter)
