"""A workspace, and files that are wrong in every way we know."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loopworks.data.stage import Dataset, create_dataset
from loopworks.store.home import Home, create_home


@pytest.fixture
def catalog() -> str:
    """URL of the workspace's catalog; empty is SQLite in its folder. Modules that run on PostgreSQL too override it."""
    return ""


@pytest.fixture
def home(tmp_path: Path, catalog: str) -> Iterator[Home]:
    with create_home(tmp_path / "workspace", {"catalog": catalog} if catalog else None) as made:
        yield made


@pytest.fixture
def dataset(home: Home) -> Dataset:
    return create_dataset(home, "pets", "image-classification")


@pytest.fixture
def labeled(dataset: Dataset, pictures: Callable[..., Path], tmp_path: Path) -> Dataset:
    """12 cats and 8 dogs, imported from folders."""
    dataset.add(pictures(tmp_path / "labeled", {"cat": 12, "dog": 8}, size=8), author="ann")
    return dataset


def encoded(kind: str, seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """A whole image file with noise in it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.fixture
def image_file() -> Callable[..., bytes]:
    """``image_file("JPEG", seed=1, size=(40, 30))``."""
    return encoded


@pytest.fixture
def huge_png() -> bytes:
    """60,000 x 60,000 pixels in a few bytes: a header, and data that nobody should ever unpack."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
