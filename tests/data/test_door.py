"""The check at the door lets whole images in and stops the rest before they are decoded."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from loopworks.core.errors import Invalid
from loopworks.data.door import look

MOST = 100_000_000
KINDS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_image_passes(kind: str, image_file: Callable[..., bytes]) -> None:
    width, height, mime = look(image_file(kind), "x", MOST)
    assert (width, height) == (40, 30)
    assert mime.startswith("image/")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_an_image_that_was_cut_off_is_stopped(kind: str, share: float, image_file: Callable[..., bytes]) -> None:
    data = image_file(kind)
    with pytest.raises(Invalid, match=r"photo\.x must be"):
        look(data[: int(len(data) * share)], "photo.x", MOST)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photo(image_file: Callable[..., bytes]) -> None:
    thumbnail = image_file("JPEG", size=(16, 12))
    exif = b"Exif\x00\x00" + thumbnail
    whole = image_file("JPEG")
    data = whole[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + whole[2:]
    assert look(data, "x", MOST)[:2] == (40, 30)
    with pytest.raises(Invalid, match="a whole image"):
        look(data[:-100], "x", MOST)


def test_bytes_after_the_end_are_no_fault(image_file: Callable[..., bytes]) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        assert look(image_file(kind) + b"appended by a phone", "x", MOST)[:2] == (40, 30)


def test_a_progressive_jpeg_passes() -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(out, "JPEG", progressive=True)
    assert look(out.getvalue(), "x", MOST)[:2] == (40, 30)


@pytest.mark.parametrize("data", [b"", b"hello, I am text", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"])
def test_what_is_no_image_is_stopped(data: bytes) -> None:
    with pytest.raises(Invalid, match="notes.jpg must be"):
        look(data, "notes.jpg", MOST)


def test_a_huge_image_is_stopped_by_its_header(huge_png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(Invalid, match="at most 100000000 pixels"):
        look(huge_png, "x", MOST)


def test_the_limit_is_the_workspaces(image_file: Callable[..., bytes]) -> None:
    look(image_file("PNG"), "x", 1200)
    with pytest.raises(Invalid, match="at most 1199 pixels; got 40 x 30 = 1200"):
        look(image_file("PNG"), "x", 1199)
