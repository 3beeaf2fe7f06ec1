"""From image bytes to pixels: the one function that import, training, server and edge bundle share.

The rule (``ImageRule``): decode with Pillow (JPEGs at the smallest DCT scale that is not below the target), turn by
the EXIF orientation, lay transparency over black, convert to RGB, fit, resize with Pillow's antialiased bilinear
filter, uint8 ``(height, width, 3)``.
"""

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.turning import UPRIGHT, shown_size
from loopworks.core.values import ImageRule

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112
"""EXIF tag."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pnm",
})


def probe(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[int, int, str]:
    """Width, height (as stored, before EXIF turning) and MIME type from the header alone.

    Raises: Invalid: not an image that we read, or more than ``max_pixels``.
    """
    with _opened(data, name, max_pixels) as image:
        return image.width, image.height, _mime(image.format)


def displayed_size(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height as the image is shown, turned as its EXIF data says; from the header alone.

    Raises: Invalid: not an image, or too large.
    """
    with _opened(data, name, max_pixels) as image:
        return shown_size((image.width, image.height), _orientation(image))


def orientation(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> int:
    """How the stored image is turned and mirrored to be shown, 1 to 8 as EXIF has it; from the header alone."""
    with _opened(data, name, max_pixels) as image:
        return _orientation(image)


def _orientation(image: "Image.Image") -> int:
    """1 where nothing else is said, or the EXIF block is damaged: then ``decode`` turns nothing either."""
    try:
        found = image.getexif().get(_ORIENTATION, UPRIGHT)
    except Exception:  # Pillow raises whatever a damaged block leads its parser to; the pixels are whole
        log.info("exif unreadable, orientation ignored size=%sx%s", image.width, image.height)
        return UPRIGHT
    return found if found in range(1, 9) else UPRIGHT


def check(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[int, int, str]:
    """Like ``probe``, and decode all pixels, so that a truncated file is found at the door."""
    with _opened(data, name, max_pixels) as image, _refusing(name, "a whole image", "copy the file again"):
        facts = image.width, image.height, _mime(image.format)
        _rgb(image)
        return facts


def decode(data: bytes, rule: ImageRule, name: str = "image", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Pixels by the rule, shape ``(rule.height, rule.width, 3)``.

    Args:
        data: a whole image file.
        rule: target size and fit.
        name: what to call the image in an error.
        max_pixels: the largest width x height that is decoded.
    Raises: Invalid: not an image, too large, or cut off.
    """
    with _opened(data, name, max_pixels) as image, _refusing(name, "a whole image", "copy the file again"):
        if _is_jpeg(image.format):
            image.draft("RGB", _draft_size(image, rule))
        return _fitted(_rgb(image), rule)


def whole(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """All pixels as the image is shown, RGB, shape ``(height, width, 3)``; ``Invalid`` as for ``decode``."""
    with _opened(data, name, max_pixels) as image, _refusing(name, "a whole image", "copy the file again"):
        return np.asarray(_rgb(image))


def fitted(pixels: NDArray[np.uint8], rule: ImageRule) -> NDArray[np.uint8]:
    """Decoded pixels (or a part of them) by the rule: what ``decode`` makes of a PNG file of just these."""
    from PIL import Image

    return _fitted(Image.fromarray(pixels), rule)


def _fitted(rgb: "Image.Image", rule: ImageRule) -> NDArray[np.uint8]:
    from PIL import Image

    box, size, corner = _geometry(rgb.width, rgb.height, rule)
    scaled = rgb.resize(size, Image.Resampling.BILINEAR, box=box)
    if corner is None:
        return np.array(scaled)
    canvas = Image.new("RGB", (rule.width, rule.height))
    canvas.paste(scaled, corner)
    return np.array(canvas)


@contextmanager
def _opened(data: bytes, name: str, max_pixels: int) -> "Iterator[Image.Image]":
    from PIL import Image

    if not data:
        raise Invalid(name, _EXPECTED, "an empty file")
    got = f"{len(data)} bytes that start with {data[:12]!r}"
    with _refusing(name, _EXPECTED, got=got), _unlimited():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    with image:
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} = {image.width * image.height}"
            raise Invalid(name, f"at most {max_pixels} pixels", size, "raise max_image_pixels if it is wanted")
        yield image


_EXPECTED = f"an image ({', '.join(FORMATS)})"
_limit = threading.Lock()


@contextmanager
def _unlimited() -> Iterator[None]:
    """Read a header whatever size it claims: our own limit comes next, and can be set higher than Pillow's."""
    from PIL import Image

    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _refusing(name: str, expected: str, hint: str = "", got: str = "") -> Iterator[None]:
    """Whatever Pillow raises on hostile bytes (a dozen classes so far) means that they are not ``expected``."""
    try:
        yield
    except LoopworksError:
        raise
    except Exception as error:
        raise Invalid(name, expected, got or str(error) or type(error).__name__, hint) from None


def _is_jpeg(kind: str | None) -> bool:
    """Also the multi-picture JPEG that many phones write: its first picture is the photo."""
    return kind in ("JPEG", "MPO")


def _mime(kind: str | None) -> str:
    from PIL import Image

    return "image/jpeg" if _is_jpeg(kind) else Image.MIME.get(kind or "", "application/octet-stream")


def _draft_size(image: "Image.Image", rule: ImageRule) -> tuple[int, int]:
    """What Pillow's draft must not go below, in stored orientation: a turned image swaps its sides."""
    side = max(rule.width, rule.height)
    return (min(side, image.width), min(side, image.height))


def _rgb(image: "Image.Image") -> "Image.Image":
    """All pixels, turned as EXIF says, over black, as RGB."""
    from PIL import Image, ImageOps

    image.load()
    is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image = _turned(image, ImageOps.exif_transpose)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_deep or image.mode in ("I", "F"):
        return _from_deep(image, 256 if is_deep else 1).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return image.convert("RGB")


def _turned(image: "Image.Image", turn: "Callable[[Image.Image], Image.Image]") -> "Image.Image":
    """The picture upright; one whose EXIF block is damaged is taken as it lies, because its pixels are whole."""
    try:
        return turn(image)
    except Exception:
        log.info("exif unreadable, orientation ignored size=%sx%s", image.width, image.height)
        return image


def _from_deep(image: "Image.Image", divisor: int) -> "Image.Image":
    """16-bit grey as its upper 8 bits; floats and 32-bit integers clipped to 0..255, as Pillow does."""
    from PIL import Image

    pixels: NDArray[Any] = np.nan_to_num(np.asarray(image)) // divisor
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _geometry(
    width: int, height: int, rule: ImageRule
) -> tuple[tuple[float, float, float, float], tuple[int, int], tuple[int, int] | None]:
    """Source box, size after resizing, and where to paste it (``None`` where it fills the target)."""
    whole = (0.0, 0.0, float(width), float(height))
    if rule.fit == "stretch":
        return whole, (rule.width, rule.height), None
    if rule.fit == "crop":
        scale = max(rule.width / width, rule.height / height)
        w, h = min(rule.width / scale, width), min(rule.height / scale, height)
        left, top = (width - w) / 2, (height - h) / 2
        return (left, top, left + w, top + h), (rule.width, rule.height), None
    scale = min(rule.width / width, rule.height / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return whole, size, ((rule.width - size[0]) // 2, (rule.height - size[1]) // 2)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels ``(height, width, 3)`` as a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def read(path: Path, rule: ImageRule, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """``decode`` of a file on disk."""
    return decode(path.read_bytes(), rule, str(path), max_pixels)
