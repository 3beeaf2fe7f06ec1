"""The whole members of a zip file that was cut off, read from the front.

Source of the layout: PKWARE, ".ZIP File Format Specification" 6.3.10, sections 4.3.7 (local file header), 4.3.9 (data
descriptor), 4.5.3 (zip64 extra field).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_HEADER = struct.Struct("<4s5H3I2H")
_LOCAL = b"PK\x03\x04"
_DEFLATED, _STORED = 8, 0
_FULL = 0xFFFFFFFF
MOST = 1 << 28  # bytes of one member that are held in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member, or why there is no more of them."""

    name: str = ""
    data: bytes = b""
    end: int = 0
    """Byte of the archive after it."""
    fault: str = ""

    @property
    def size(self) -> int:
        """Unpacked, in bytes."""
        return len(self.data)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder's own entry."""
        return self.name.endswith("/")


def whole_members(file: IO[bytes]) -> Iterator[Member]:
    """Members from the front of ``file`` as far as they are whole and their checksum holds; the last has a fault."""
    while True:
        start = file.tell()
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_LOCAL):
            listed = head.startswith((b"PK\x01\x02", b"PK\x06\x06", b"PK\x05\x06"))
            yield Member(fault="its list of contents is not whole" if listed else f"no member starts at byte {start}")
            return
        _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _HEADER.unpack(head)
        raw = file.read(name_length)
        extra = file.read(extra_length)
        name = raw.decode("utf-8", "backslashreplace")
        if flags & 1 or method not in (_STORED, _DEFLATED):
            yield Member(fault=f"{name} is encrypted or packed in a way that needs the list of contents")
            return
        if packed == _FULL or size == _FULL:
            size, packed = _zip64(extra, size, packed)
        try:
            is_open = flags & 8 and not packed
            data = _unknown(file, method) if is_open else _known(file, method, packed, size)
            if flags & 8:
                crc = _described(file)
            if zlib.crc32(data) != crc:
                raise ValueError("its checksum does not hold")
        except (ValueError, zlib.error, struct.error) as error:
            yield Member(fault=f"{name} at byte {start}: {error}")
            return
        yield Member(name=name, data=data, end=file.tell())


def _known(file: IO[bytes], method: int, packed: int, size: int) -> bytes:
    if packed > MOST or size > MOST:
        raise ValueError(f"it is larger than {MOST} bytes")
    data = file.read(packed)
    if len(data) < packed:
        raise ValueError(f"{len(data)} of its {packed} bytes are there")
    if method == _STORED:
        return data
    unpacker = zlib.decompressobj(-15)
    found = unpacker.decompress(data, size + 1)
    if len(found) != size:
        raise ValueError(f"it unpacks to {len(found)} bytes or more, and declares {size}")
    return found


def _unknown(file: IO[bytes], method: int) -> bytes:
    """A deflated member whose size comes after it: the stream itself says where it ends."""
    if method == _STORED:
        raise ValueError("its size is not said before it")
    unpacker = zlib.decompressobj(-15)
    found = bytearray()
    while not unpacker.eof:
        piece = file.read(1 << 16)
        if not piece:
            raise ValueError("it ends too early")
        found += unpacker.decompress(piece, MOST - len(found) + 1)
        if len(found) > MOST:
            raise ValueError(f"it is larger than {MOST} bytes")
    file.seek(-len(unpacker.unused_data), 1)
    return bytes(found)


def _described(file: IO[bytes]) -> int:
    """The checksum in the data descriptor after a member; its mark is optional."""
    start = file.tell()
    block = file.read(26)
    marked = block.startswith(b"PK\x07\x08")
    for length in (16, 24) if marked else (12, 20):  # sizes of 4 or of 8 bytes
        if block[length : length + 2] == b"PK" or len(block) == length:
            file.seek(start + length)
            return int(struct.unpack_from("<I", block, 4 if marked else 0)[0])
    raise ValueError("what follows it is no zip")


def _zip64(extra: bytes, size: int, packed: int) -> tuple[int, int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 16:
            return struct.unpack_from("<2Q", extra, at + 4)
        at += 4 + length
    return size, packed
