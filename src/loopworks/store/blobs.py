"""Bytes under the SHA-256 of their content: a local folder here, object stores in ``objects.py``."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, Denied, Invalid, LoopworksError, NoSpace, NotFound

CHUNK = 1 << 20
SYNC_THREADS = 4  # measured: more gain nothing, one thread waits twice as long for the disk
_KEY = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FICLONE = 0x40049409  # from linux/fs.h


class Writer(Protocol):
    """Adds many blobs at once: what ``add`` took is safe on disk, and readable, when ``finish`` returns."""

    def add(self, data: bytes, key: str = "", /) -> str:
        """Take a blob and give its key; may be called from several threads.

        Args:
            data: the bytes.
            key: their SHA-256 where the caller knows it already.
        """

    def finish(self) -> None:
        """Make all of it safe and visible."""

    def abort(self) -> None:
        """Throw away what is not finished; harmless after ``finish``."""

    def __enter__(self) -> Self:
        """Leaving the block finishes; leaving it by an error keeps nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, or throw away what is not finished."""


class BlobStore(Blobs, Protocol):
    """What both our stores can do beyond the contract of ``core``."""

    def writer(self) -> Writer:
        """For many blobs at once."""

    def verify(self, key: str) -> None:
        """Read the blob again; ``Damaged`` where its bytes are not those of its key."""

    def size(self, key: str) -> int:
        """Length of a blob in bytes; ``NotFound`` where there is none."""

    def listing(self) -> Iterator[tuple[str, int, datetime]]:
        """Key, length in bytes and time of (the last) writing of every blob, in no order."""

    def close(self) -> None:
        """Free what the store holds."""


def open_blobs(url: str, folder: Path) -> BlobStore:
    """The store at ``url`` (s3://bucket/prefix, gs://, az://), or the local ``folder`` where it is empty."""
    if not url:
        return LocalBlobs(folder)
    from loopworks.store.objects import ObjectBlobs

    return ObjectBlobs(url)


class LocalBlobs:
    """A folder ``ab/abcdef...``: 256 folders keep even millions of blobs quick to find.

    A second level of folders (65,536) was tried: it makes one folder per blob until there are hundreds of thousands,
    and each folder must be made and synced, which doubled the time of an import.
    """

    def __init__(self, folder: Path) -> None:
        """Use ``folder``; it is made by the first write."""
        self.folder = folder
        # Text, not Path, where it is done per blob: building paths took a fifth of an import's time.
        self._root = str(folder)
        self._made: set[str] = set()
        self._lock = threading.Lock()

    def put(self, data: BinaryIO) -> str:
        """Store the rest of ``data`` in constant memory; when it returns, the bytes are on disk."""
        sha = hashlib.sha256()
        with _told(self.folder):
            temp = self._temp()
            try:
                with open(temp, "xb") as file:
                    while chunk := data.read(CHUNK):
                        sha.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fchmod(file.fileno(), 0o444)
                    os.fsync(file.fileno())
                key = sha.hexdigest()
                if not self.renew(key):
                    _sync(self._publish(temp, key))
            finally:
                _remove([temp])
        return key

    def put_bytes(self, data: bytes) -> str:
        """Store bytes that are in memory already."""
        with self.writer() as writer:
            return writer.add(data)

    def writer(self) -> "LocalWriter":
        """For many blobs at once; see ``Writer``."""
        return LocalWriter(self)

    def open(self, key: str) -> BinaryIO:
        """Read a blob; ``NotFound`` where there is none."""
        try:
            return self.path(key).open("rb")
        except FileNotFoundError:
            raise NotFound("blob", key, hint=f"it is not in {self.folder}") from None

    def read(self, key: str) -> bytes:
        """All bytes of a blob."""
        with self.open(key) as file:
            return file.read()

    def has(self, key: str) -> bool:
        """Whether the blob is here."""
        return os.path.exists(self._at(key))

    def size(self, key: str) -> int:
        """Length of a blob in bytes."""
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            raise NotFound("blob", key, hint=f"it is not in {self.folder}") from None

    def delete(self, key: str) -> None:
        """Remove a blob; no error where it is gone already."""
        self.path(key).unlink(missing_ok=True)

    def keys(self) -> Iterator[str]:
        """All keys, in no order."""
        if not self.folder.is_dir():
            return
        for entry in os.scandir(self.folder):
            if len(entry.name) == 2 and entry.is_dir():
                yield from (file.name for file in os.scandir(entry.path) if _KEY.fullmatch(file.name))

    def listing(self) -> Iterator[tuple[str, int, datetime]]:
        """Key, length in bytes and time of (the last) writing of every blob, in no order."""
        for key in self.keys():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                facts = os.stat(self._at(key))
                yield key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC)

    def renew(self, key: str) -> bool:
        """Whether the blob is here; if so it is as good as written now, so that no collection takes it away."""
        try:
            os.utime(self._at(key))
        except FileNotFoundError:
            return False
        return True

    def verify(self, key: str) -> None:
        """Read the blob again; ``Damaged`` where its bytes are not those of its key."""
        with self.open(key):  # says NotFound in our words
            pass
        with self.path(key).open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != key:
            raise Damaged(f"blob {key} must have that SHA-256; got {actual}", f"restore {self.path(key)} from a backup")

    def close(self) -> None:
        """Nothing to free."""

    def link(self, source: Path, key: str) -> bool:
        """Take a file whose SHA-256 is ``key`` without copying it; ``False`` where the disk cannot (other device).

        Where the file system can share the bytes of two files (``FICLONE`` on XFS and Btrfs), later edits of the
        file do no harm. Elsewhere it is a hard link, and an edit in place would damage the blob; ``verify`` finds that.
        """
        if self.renew(key):
            return True
        temp = self._temp()
        if not _clone(source, temp):
            try:
                os.link(source, temp)
            except OSError:
                return False
        with _told(self.folder):
            try:
                _sync(temp)
                _sync(self._publish(temp, key))
            finally:
                _remove([temp])
        return True

    def sweep(self, age_s: float = 86_400.0) -> int:
        """Remove temporary files that a killed process left more than ``age_s`` seconds ago; gives their number."""
        count = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder / "tmp"):
                if time.time() - entry.stat().st_mtime > age_s:
                    Path(entry.path).unlink(missing_ok=True)
                    count += 1
        return count

    def path(self, key: str) -> Path:
        """Where a blob lies; whether it is there or not."""
        return Path(self._at(key))

    def _at(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{key[:2]}/{key}"

    def _temp(self) -> str:
        self._make(f"{self._root}/tmp")
        return f"{self._root}/tmp/{os.getpid()}-{secrets.token_hex(8)}"

    def _make(self, folder: str) -> None:
        if folder in self._made:
            return
        with self._lock:
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
                _sync(os.path.dirname(folder))
            self._made.add(folder)

    def _publish(self, temp: str, key: str) -> str:
        """Move a synced file to its place and give the folder, which is not synced yet."""
        target = self._at(key)
        folder = target[:-65]
        self._make(folder)
        os.replace(temp, target)
        return folder


class LocalWriter:
    """Each file is synced by itself where it is added (so call ``add`` from a few threads), the folders at the end."""

    def __init__(self, store: LocalBlobs) -> None:
        """Write to ``store``."""
        self._store = store
        self._waiting: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, data: bytes, key: str = "") -> str:
        """Write and sync a temporary file, unless the bytes are here already."""
        key = key or hashlib.sha256(data).hexdigest()
        with self._lock:
            if key in self._waiting:
                return key
        if self._store.renew(key):
            return key
        with _told(self._store.folder):
            temp = self._store._temp()
            try:
                _write_synced(temp, data)
            except BaseException:
                _remove([temp])
                raise
        with self._lock:
            other = self._waiting.setdefault(key, temp)
        if other is not temp:
            _remove([temp])
        return key

    def finish(self) -> None:
        """Move the files to their places and sync each folder once."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        with _told(self._store.folder):
            try:
                folders = {self._store._publish(temp, key) for key, temp in waiting.items()}
            finally:
                _remove(waiting.values())
            if len(folders) < SYNC_THREADS:
                for folder in folders:
                    _sync(folder)
            else:
                with ThreadPoolExecutor(SYNC_THREADS) as pool:
                    list(pool.map(_sync, folders))

    def abort(self) -> None:
        """Remove the temporary files."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        _remove(waiting.values())

    def __enter__(self) -> Self:
        """Leaving the block finishes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, or remove the temporary files."""
        if kind is None:
            self.finish()
        else:
            self.abort()


def _clone(source: Path, target: str) -> bool:
    """A new file that shares the bytes of ``source`` until one of them is written to; ``False`` where none can be."""
    try:
        with open(source, "rb") as old, open(target, "xb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            os.fchmod(new.fileno(), 0o444)
    except OSError:
        _remove([target])
        return False
    return True


def _remove(temps: Iterable[str]) -> None:
    for temp in temps:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)


def _write_synced(path: str, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(path: str) -> None:
    """Make a file's bytes or a folder's entries safe on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_key(key: str) -> None:
    """Refuse what is no key, so that no text from outside becomes a path."""
    if not _KEY.fullmatch(key):
        raise Invalid("blob key", "64 hex digits", key)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say what a failed write means."""
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from None


def write_error(where: Path, error: OSError) -> LoopworksError:
    """A failed write in our words: the disk is full, or we may not, or what else the system says."""
    if error.errno in _FULL:
        return NoSpace(f"{where} must have room for more; got a full disk", "free some space and run it again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(f"{where} must be writable; got: {error.strerror}", "check its owner and rights")
    return Invalid(str(where), "a folder that can be written", error.strerror or str(error))
