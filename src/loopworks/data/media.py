"""The bytes of an item, wherever they are kept."""

import hashlib
import os
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from loopworks.core.errors import Damaged, Invalid, NotFound
from loopworks.store import remote
from loopworks.store.blobs import BlobStore, LocalBlobs
from loopworks.store.home import Home


def content_of(item: str) -> str:
    """The SHA-256 of an item's bytes: its id, without the number that tells items of equal bytes apart."""
    return item[:64]


class Shelf(Protocol):
    """Whatever has blobs: a workspace's home, or what a node of a cluster opened of it."""

    @property
    def blobs(self) -> BlobStore:
        """Bytes by their SHA-256."""


def read(home: Shelf, item: str, uri: str, name: str) -> bytes:
    """All bytes of an item.

    Args:
        home: the workspace.
        item: id, which begins with the SHA-256 of the bytes.
        uri: where they lie; empty: in the workspace's blobs.
        name: what to call the item in an error.
    Raises: Damaged: the bytes are gone, or a file by reference is not what it was.
    """
    item = content_of(item)
    if not uri:
        try:
            return home.blobs.read(item)
        except NotFound:
            raise Damaged(f"image {name} must be in the blobs; got nothing under {item}", "restore a backup") from None
    data = _referenced(uri)
    if (actual := hashlib.sha256(data).hexdigest()) != item:
        where = uri if remote.is_url(uri) else _path(uri)
        raise Damaged(
            f"{where} must have SHA-256 {item}; got {actual}", "it was changed after it was added by reference"
        )
    return data


def _referenced(uri: str) -> bytes:
    if remote.is_url(uri):
        return remote.read(uri)
    path = _path(uri)
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Damaged(
            f"{path} must still be there; got: {reason}", "it was added by reference: bring it back"
        ) from None


def link(home: Home, item: str, uri: str, target: Path) -> bool:
    """Hard-link an item's file to ``target``; ``False`` where the bytes are in no file here, or on another disk."""
    if uri or not isinstance(home.blobs, LocalBlobs):
        return False
    try:
        os.link(home.blobs.path(content_of(item)), target)
    except OSError:
        return False
    return True


def _path(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme != "file":
        raise Invalid("item's uri", "a file URI", uri)
    return Path(unquote(parts.path))
