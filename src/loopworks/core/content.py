"""The bytes of an item: reading them from disk, and the id that they give it."""

import hashlib
from pathlib import Path

from loopworks.core.errors import Invalid, NotFound


def content_id(content: bytes) -> str:
    """The id of the item with these bytes: their SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


def read_file(path: Path) -> bytes:
    """A file's bytes; ``NotFound`` where there is none, ``Invalid`` where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound("file", str(path), hint="check the path") from None
    except OSError as error:
        raise Invalid(str(path), "a file that can be read", error.strerror or str(error)) from None
