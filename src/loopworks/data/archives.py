"""Unpacking zip and tar files that somebody else made: every name, size and promise in them is checked first."""

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.settings import Settings
from loopworks.core.units import bytes_text
from loopworks.core.values import Problem
from loopworks.data.cutzip import whole_members
from loopworks.store.blobs import write_error

ZIPS = (".zip",)
TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
OTHERS = (".7z", ".rar", ".gz", ".xz", ".bz2", ".zst", ".lz4")
"""Packed too, but nothing that we open."""
PIECE = 1 << 20
EARLY = 100 * 1000 * 1000  # bytes before which nothing is a bomb: an empty table may well shrink to a thousandth
XZ_MEMORY = 256 << 20  # four times what `xz -9` needs; a header may ask for 4 GB
JUNK = ("__MACOSX/", ".DS_Store")
_DRIVE = re.compile(r"[A-Za-z]:")
_FAULTS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
Told = Callable[[int, int, int, int], None]
"""Takes files done, all files (0: not known), bytes done, all bytes (0: not known)."""
Room = Callable[[int], None]


def is_archive(name: str) -> bool:
    """Whether a file's name says that it is a zip or tar file, which we open."""
    return name.lower().endswith((*ZIPS, *TARS))


def is_packed(name: str) -> bool:
    """Whether a file's name says that it is any kind of archive or packed file."""
    return name.lower().endswith((*ZIPS, *TARS, *OTHERS))


def unpack(
    archive: Path,
    folder: Path,
    settings: Settings,
    *,
    name: str = "",
    told: Told | None = None,
    room: Room | None = None,
) -> list[Problem]:
    """Unpack the files of a zip or tar archive below ``folder``; what may not be unpacked is a problem, the rest is.

    Checked are: names (no ``..``, no absolute path, no drive letter), kinds (no links, devices, pipes), sizes as
    declared and as found, the ratio of packed to unpacked, the number of files; encrypted members and archives inside
    the archive stay closed. Files that are there already with their full size are not written again, so an unpacking
    that was killed goes on where it was.

    Args:
        archive: the file.
        folder: where to; must exist.
        settings: its limits count.
        name: what to call the archive in messages.
        told: takes the progress.
        room: takes the bytes that a zip says it unpacks to, before any is written; may raise.
    Raises:
        Invalid: no archive that we read, or one that is larger than the limits (nothing of it should be used).
        NoSpace, Denied: from writing.
    """
    work = _Unpacking(str(folder), settings, name or str(archive), told, room)
    if archive.name.lower().endswith(ZIPS):
        _unzip(archive, work)
    else:
        _untar(archive, work)
    work.close()
    return work.problems


def safe_name(name: str) -> str:
    """A member's path with slashes, relative and without steps up.

    Raises: Invalid: it leads elsewhere, or is no path at all.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or _DRIVE.match(plain):
        raise Invalid("its name", "a relative path", repr(name))
    if not parts or ".." in parts or "\0" in name:
        raise Invalid("its name", "a path inside the archive", repr(name))
    return "/".join(parts)


_Readable = gzip.GzipFile | bz2.BZ2File | io.BufferedReader


@dataclass(slots=True)
class _Unpacking:
    """One archive under way: what was written, and what was left out."""

    folder: str
    settings: Settings
    name: str
    told: Told | None
    room: Room | None
    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    size: int = 0
    total: int = 0
    total_size: int = 0
    encrypted: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)

    def refuse(self, member: str, expected: str, got: str, hint: str = "") -> None:
        where = f"{self.name}/{member}"
        error = Invalid(where, expected, got, hint)
        self.problems.append(Problem(where=where, error=error.code, message=error.message, hint=error.hint))

    def check(self, files: int, size: int, packed: int) -> None:
        """Refuse the whole archive where it is more than anybody wants to unpack."""
        limits = self.settings
        if files > limits.max_unpacked_files:
            hint = "raise max_unpacked_files if it is wanted"
            raise Invalid(self.name, f"an archive of at most {limits.max_unpacked_files} files", f"{files}", hint)
        if size > limits.max_unpacked_bytes:
            hint = "raise max_unpacked_bytes if it is wanted"
            most = bytes_text(limits.max_unpacked_bytes)
            raise Invalid(self.name, f"an archive of at most {most} unpacked", bytes_text(size), hint)
        if size > EARLY and size > limits.max_unpack_ratio * max(packed, 1):
            hint = "this is how archives are made that fill a disk; raise max_unpack_ratio if it is wanted"
            most = f"an archive that unpacks to at most {limits.max_unpack_ratio} times its size"
            raise Invalid(self.name, most, f"{bytes_text(size)} in {bytes_text(packed)}", hint)

    def admit(self, member: str) -> str:
        """The path of a member below the folder; empty where it is left out."""
        try:
            path = safe_name(member)
        except Invalid as error:
            self.refuse(_shown(member), "safe to unpack", error.message)
            return ""
        if path.startswith(JUNK[0]) or path.endswith(JUNK[1]):
            return ""
        if is_packed(path):
            hint = "unpack the outer archive, and add this one by itself"
            self.refuse(_shown(path), "no archive itself", "an archive inside the archive; it was not opened", hint)
            return ""
        if path in self.seen:
            self.refuse(_shown(path), "once in the archive", "the same name again; the first one was kept")
            return ""
        self.seen.add(path)
        return path

    def take(self, path: str, size: int, source: IO[bytes], packed: Callable[[], int]) -> None:
        """Write one member; a damaged one is taken back and listed.

        Args:
            path: from ``admit``.
            size: as declared.
            source: its bytes.
            packed: how many bytes of the archive were read so far; 0: not known.
        """
        target = f"{self.folder}/{path}"
        try:
            if not _is_whole(target, size):
                self._write(target, size, source, packed)
            self.files += 1
            self.size += size
        except LoopworksError:
            _remove(target)
            raise
        except _FAULTS as error:
            _remove(target)
            self.refuse(_shown(path), "whole", _reason(error), "copy the archive again")
        except OSError as error:
            _remove(target)
            reason = error.strerror or str(error)
            if error.errno in (20, 21, 17, 36):  # a file and a folder of one name, or a name that is too long
                self.refuse(_shown(path), "a name that the disk takes", reason)
            elif error.errno is None:  # gzip's and bz2's own complaints are OSErrors without a number
                self.refuse(_shown(path), "whole", reason, "copy the archive again")
            else:
                raise write_error(Path(self.folder), error) from None
        if self.told:
            self.told(self.files, self.total, self.size, self.total_size)

    def _write(self, target: str, size: int, source: IO[bytes], packed: Callable[[], int]) -> None:
        parent = os.path.dirname(target)
        if parent not in self.made:
            os.makedirs(parent, exist_ok=True)
            self.made.add(parent)
        written = 0
        with open(target, "wb") as file:
            while piece := source.read(PIECE):
                written += len(piece)
                if written > size:
                    raise zipfile.BadZipFile(f"more than the {size} bytes that it declares")
                if read := packed():
                    self.check(self.files + 1, self.size + written, read)
                file.write(piece)
        if written != size:
            raise EOFError(f"{written} of {size} bytes")

    def close(self) -> None:
        """Say once what holds for many members."""
        if self.encrypted:
            got = f"{len(self.encrypted)} encrypted files such as {_shown(self.encrypted[0])}"
            error = Invalid(self.name, "without a password", got, "unpack it yourself and add the folder")
            self.problems.append(Problem(where=self.name, error=error.code, message=error.message, hint=error.hint))


def _unzip(archive: Path, work: _Unpacking) -> None:
    packed = archive.stat().st_size
    try:
        file = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        _salvage(archive, work, str(error))
        return
    with file:
        members = [member for member in file.infolist() if not member.is_dir()]
        work.total, work.total_size = len(members), sum(member.file_size for member in members)
        work.check(work.total, work.total_size, packed)
        if work.room:
            work.room(work.total_size)
        for member in members:
            _unzip_one(file, member, work)


def _unzip_one(file: zipfile.ZipFile, member: zipfile.ZipInfo, work: _Unpacking) -> None:
    name = _zip_name(member)
    kind = member.external_attr >> 28  # upper half: Unix mode; 0: made elsewhere; 8: file
    if kind not in (0, 8):
        work.refuse(_shown(name), "a file", "a link or device")
        return
    if member.flag_bits & 1:
        work.encrypted.append(name)
        return
    if not (path := work.admit(name)):
        return
    try:
        source = file.open(member)
    except _FAULTS as error:
        work.refuse(_shown(path), "whole", _reason(error), "copy the archive again")
        return
    with source:
        work.take(path, member.file_size, source, lambda: 0)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name as its maker meant it: many write UTF-8 without setting the bit that says so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _salvage(archive: Path, work: _Unpacking, reason: str) -> None:
    """The whole members of a zip without its list of contents, which lies at the end and is the first to be cut off."""
    with archive.open("rb") as file:
        start = file.read(4)
        if start != b"PK\x03\x04":
            got = f"{archive.stat().st_size} bytes that start with {start!r} ({reason})"
            raise Invalid(work.name, "a zip file", got)
        file.seek(0)
        at, got = 0, "nothing more"
        members = whole_members(file)
        for member in members:
            if member.fault:
                got = member.fault
                break
            at = member.end
            path = "" if member.is_folder else work.admit(member.name)
            if path:
                work.check(work.files + 1, work.size + member.size, member.end)
                work.take(path, member.size, io.BytesIO(member.data), lambda: 0)
    error = Invalid(work.name, "whole", f"a zip that is cut off after byte {at}: {got}", "copy the archive again")
    work.problems.append(Problem(where=work.name, error=error.code, message=error.message, hint=error.hint))


def _untar(archive: Path, work: _Unpacking) -> None:
    work.total_size = 0
    with archive.open("rb") as raw:
        stream = _Counted(_decompressed(raw, work.name), raw, work)
        try:
            _untar_stream(stream, work)
            end = stream.drain()
        except _FAULTS as error:
            end = _reason(error)
    end = stream.fault or end
    if not end:
        return
    if not work.seen and not work.problems:
        raise Invalid(work.name, "a tar file", end)
    got = f"{end}, after {work.files} files and {stream.count} unpacked bytes"
    cut = Invalid(work.name, "whole", got, "copy the archive again")
    work.problems.append(Problem(where=work.name, error=cut.code, message=cut.message, hint=cut.hint))


def _untar_stream(stream: "_Counted", work: _Unpacking) -> None:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as tar:  # type: ignore[call-overload]
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                work.refuse(_shown(member.name), "a file", "a link, device or pipe")
                continue
            if not (path := work.admit(member.name)):
                continue
            work.check(work.files + 1, work.size + member.size, 1 << 62)
            source = tar.extractfile(member)
            assert source is not None  # it is a regular file
            before = work.files
            work.take(path, member.size, source, stream.raw.tell)
            if work.files == before and stream.ended:
                work.problems.pop()  # the archive is cut off here: that is said once, with the position
                raise EOFError(f"it ends within {_shown(path)}")
            tar.members = []  # a tar of millions of files must not fill the memory


def _decompressed(raw: io.BufferedReader, name: str) -> _Readable:
    start = raw.read(6)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if start == b"\xfd7zXZ\x00":
        return io.BufferedReader(_Xz(raw), PIECE)
    if not start:
        raise Invalid(name, "a tar file", "an empty file")
    return raw


class _Xz(io.RawIOBase):
    """An xz stream that may not ask for gigabytes of memory, as ``lzma.LZMAFile`` lets it."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while True:
            if self._unpacker.eof:
                rest = self._unpacker.unused_data.lstrip(b"\0") or self._raw.read(PIECE).lstrip(b"\0")
                if not rest:
                    return 0
                self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
            else:
                rest = self._raw.read(PIECE) if self._unpacker.needs_input else b""
                if not rest and self._unpacker.needs_input:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            piece = self._unpacker.decompress(rest, len(view))
            if piece:
                view[: len(piece)] = piece
                return len(piece)


class _Counted:
    """The unpacked stream of a tar, which stops where it grows beyond all measure."""

    def __init__(self, stream: _Readable, raw: IO[bytes], work: _Unpacking) -> None:
        self._stream = stream
        self.raw = raw
        self._work = work
        self._tail = b""
        self.count = 0
        self.ended = False
        self.fault = ""
        """What is wrong with the packed stream; for ``tarfile`` it ends there, so that no whole file is lost."""

    def read(self, size: int) -> bytes:
        """The next bytes, perhaps fewer than ``size``; ``tarfile`` asks for blocks."""
        found = b""
        if not self.fault:
            try:
                found = self._stream.read1(min(size, PIECE))
            except (*_FAULTS, OSError) as error:
                self.fault = _reason(error)
        self.ended = self.ended or not found
        if found:
            self.count += len(found)
            self._tail = (self._tail + found[-512:])[-512:]
            self._work.check(0, self.count, self.raw.tell())
        return found

    def drain(self) -> str:
        """Read to the end, so that its checksum is compared; what is wrong with it, or nothing."""
        start = self.count
        has_more = False
        while found := self.read(PIECE):
            has_more = has_more or found.strip(b"\0") != b""
        if has_more:
            return f"bytes that are no tar from byte {start} on"
        return "" if self._tail == bytes(512) else "no mark of the end"


def _is_whole(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _shown(name: str) -> str:
    """A member's name as text that every terminal and database takes."""
    return name.encode("utf-8", "backslashreplace").decode()
