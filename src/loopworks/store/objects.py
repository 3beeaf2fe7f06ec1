"""Blobs in an object store (S3, GCS, Azure) through ``obstore``."""

import contextlib
import hashlib
import io
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from loopworks.core.errors import Damaged, Denied, Invalid, LoopworksError, Missing, NoSpace, NotFound, Unreachable
from loopworks.store.blobs import CHUNK, check_key

THREADS = 8  # requests under way at once; each waits for the network, not for a core
RETRY = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}  # obstore's own 3 minutes look like a hang
MEMORY = 64 << 20  # a blob larger than this is spooled to disk while its hash is taken


class ObjectBlobs:
    """Objects ``prefix/ab/abcdef...`` in a bucket. A put is whole or not there: the stores guarantee it."""

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
        retry: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the bucket at ``url`` (s3://bucket/prefix, gs://bucket/prefix, az://container/prefix).

        Args:
            url: bucket and prefix.
            options: endpoint, region, keys, as obstore names them; what is not given here, obstore takes from the
                provider's own environment variables (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` ...).
            client_options: HTTP settings, as obstore names them.
            retry: how often and how long to try again, as obstore names it; 30 s at most by default.
        Raises:
            Missing: obstore is not installed.
            Invalid: not such a URL, or an option that the provider does not know.
        """
        try:
            import obstore
            from obstore import exceptions, store
        except ImportError:
            raise Missing("obstore", "s3", f"blobs at {url}") from None
        self._api: Any = obstore
        self.url = url
        extra: dict[str, Any] = {"retry_config": dict(retry or RETRY)}
        if client_options:
            extra["client_options"] = dict(client_options)
        if options:
            extra["config"] = dict(options)
        try:
            self._store: Any = store.from_url(url, **extra)
        except (exceptions.BaseError, ValueError) as error:
            raise Invalid("blobs URL", "s3://bucket/prefix, gs:// or az://", _first(error)) from None

    def put(self, data: BinaryIO) -> str:
        """Store the rest of ``data``; large streams are spooled to a temporary file first, to learn the key."""
        sha = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(MEMORY) as spool:
            while chunk := data.read(CHUNK):
                sha.update(chunk)
                spool.write(chunk)
            key = sha.hexdigest()
            if not self.has(key):
                spool.seek(0)
                with self._told(key):
                    self._api.put(self._store, _path(key), cast(BinaryIO, spool))
        return key

    def put_bytes(self, data: bytes) -> str:
        """Store bytes that are in memory already."""
        return self._put(data, hashlib.sha256(data).hexdigest())

    def writer(self) -> "ObjectWriter":
        """For many blobs at once; see ``blobs.Writer``."""
        return ObjectWriter(self)

    def open(self, key: str) -> BinaryIO:
        """Read a blob; ``NotFound`` where there is none."""
        return io.BytesIO(self.read(key))

    def read(self, key: str) -> bytes:
        """All bytes of a blob."""
        with self._told(key):
            return bytes(self._api.get(self._store, _path(key)).bytes())

    def has(self, key: str) -> bool:
        """Whether the blob is here."""
        try:
            self.size(key)
        except NotFound:
            return False
        return True

    def size(self, key: str) -> int:
        """Length of a blob in bytes."""
        with self._told(key):
            return int(self._api.head(self._store, _path(key))["size"])

    def delete(self, key: str) -> None:
        """Remove a blob; no error where it is gone already."""
        with contextlib.suppress(NotFound), self._told(key):
            self._api.delete(self._store, _path(key))

    def keys(self) -> Iterator[str]:
        """All keys, in no order."""
        with self._told(""):
            for page in self._api.list(self._store):
                for entry in page:
                    name = str(entry["path"]).rpartition("/")[2]
                    if len(name) == 64:
                        yield name

    def listing(self) -> Iterator[tuple[str, int, datetime]]:
        """Key, length in bytes and time of writing of every blob, in no order."""
        with self._told(""):
            for page in self._api.list(self._store):
                for entry in page:
                    name = str(entry["path"]).rpartition("/")[2]
                    if len(name) == 64:
                        yield name, int(entry["size"]), entry["last_modified"]

    def verify(self, key: str) -> None:
        """Read the blob again; ``Damaged`` where its bytes are not those of its key."""
        actual = hashlib.sha256(self.read(key)).hexdigest()
        if actual != key:
            raise Damaged(f"blob {key} must have that SHA-256; got {actual}", f"restore it in {self.url}")

    def close(self) -> None:
        """Nothing to free: the connections go with the object."""

    def _put(self, data: bytes, key: str) -> str:
        if not self.has(key):
            with self._told(key):
                self._api.put(self._store, _path(key), data)
        return key

    def _told(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Turn obstore's faults into our errors."""
        return told(self.url, NotFound("blob", key, hint=f"it is not in {self.url}"))


@contextlib.contextmanager
def told(url: str, missing: LoopworksError) -> Iterator[None]:
    """Turn obstore's faults into our errors.

    Args:
        url: the store's, for messages.
        missing: what to raise where there is no such object.
    """
    try:
        from obstore import exceptions as faults
    except ImportError:
        raise Missing("obstore", "s3", url) from None
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise NotFound("bucket", url, hint="make the bucket first") from None
        raise missing from None
    except (faults.PermissionDeniedError, faults.UnauthenticatedError, PermissionError) as error:
        raise Denied(f"{url} must let us in; got: {_first(error)}", "check the credentials") from None
    except (OSError, faults.BaseError) as error:
        text = str(error)
        if "<Code>NoSuchBucket<" in text:  # how a listing says it
            raise NotFound("bucket", url, hint="make the bucket first") from None
        if "QuotaExceeded" in text or "XMinioStorageFull" in text:
            raise NoSpace(f"{url} must have room for more; got: {_first(error)}", "free some space there") from None
        raise Unreachable(f"{url} must answer; got: {_first(error)}", "check the address and the network") from None


class ObjectWriter:
    """Sends blobs side by side; each is safe as soon as its request was answered."""

    def __init__(self, store: ObjectBlobs) -> None:
        """Write to ``store``."""
        self._store = store
        self._pool = ThreadPoolExecutor(THREADS)
        self._keys: set[str] = set()
        self._sent: list[Future[str]] = []
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(4 * THREADS)  # bytes that wait to be sent are held in memory

    def add(self, data: bytes, key: str = "") -> str:
        """Begin to send a blob."""
        key = key or hashlib.sha256(data).hexdigest()
        check_key(key)
        with self._lock:
            if key in self._keys:
                return key
            self._keys.add(key)
        self._room.acquire()
        sent = self._pool.submit(self._store._put, data, key)
        sent.add_done_callback(lambda _: self._room.release())
        with self._lock:
            self._sent.append(sent)
        return key

    def finish(self) -> None:
        """Wait for all answers and end the threads; the first fault is raised."""
        with self._lock:
            sent, self._sent = self._sent, []
        try:
            for future in sent:
                future.result()
        finally:
            self.abort()

    def abort(self) -> None:
        """End the threads; requests that have not begun are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        """Leaving the block finishes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, or drop what is not sent."""
        if kind is None:
            self.finish()
        else:
            self.abort()


def _path(key: str) -> str:
    check_key(key)
    return f"{key[:2]}/{key}"


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
