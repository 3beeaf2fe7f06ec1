"""Bundles in the blob store: every file under its SHA-256, the bundle's key is that of its ``bundle.json``."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged


def save(blobs: Blobs, folder: Path) -> str:
    """Store the bundle in ``folder`` and return its key; files that are stored already are not written again."""
    bundle = bundles.read(folder)
    for relative, expected in bundle.sha256.items():
        with (folder / relative).open("rb") as file:
            actual = blobs.put(file)
        if actual != expected:
            raise Damaged(f"bundle file {relative} must have SHA-256 {expected}; got {actual}")
    return blobs.put_bytes((folder / bundles.FILE).read_bytes())


def load(blobs: Blobs, key: str, cache: Path) -> Bundle:
    """The bundle ``key`` as a folder below ``cache``, made on first use and complete or absent."""
    folder = cache / "bundles" / key
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=folder.parent))
        try:
            _copy(blobs, key, partial)
            os.replace(partial, folder)
        except OSError:
            if not folder.is_dir():  # unless another process was faster, which is as good
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return bundles.read(folder, verify=False)


def _copy(blobs: Blobs, key: str, folder: Path) -> None:
    text = blobs.read(key)
    (folder / bundles.FILE).write_bytes(text)
    for relative, blob in bundles.parse(json.loads(text), key).sha256.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with blobs.open(blob) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    bundles.check_files(bundles.read(folder, verify=False))
