"""From image bytes to pixels: the one function that import, training, server and edge bundle share.

The rule (``ImageRule``): decode with Pillow (JPEGs at the smallest DCT scale that is not below the target), turn by
the EXIF orientation, lay transparency over black, convert to RGB, fit, resize with Pillow's antialiased bilinear
filter, uint8 ``(height, width, 3)``.
"""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import ImageRule

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
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


def check(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[int, int, str]:
    """Like ``probe``, and decode all pixels, so that a truncated file is found at the door."""
    with _opened(data, name, max_pixels) as image:
        _load(image, name)
        return image.width, image.height, _mime(image.format)


def decode(data: bytes, rule: ImageRule, name: str = "image", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Pixels by the rule, shape ``(rule.height, rule.width, 3)``.

    Args:
        data: a whole image file.
        rule: target size and fit.
        name: what to call the image in an error.
        max_pixels: the largest width x height that is decoded.
    Raises: Invalid: not an image, too large, or cut off.
    """
    from PIL import Image, ImageOps

    with _opened(data, name, max_pixels) as image:
        if image.format == "JPEG":
            image.draft("RGB", _draft_size(image, rule))
        _load(image, name)
        turned = ImageOps.exif_transpose(image)
        rgb = _rgb(turned)
        box, size, corner = _geometry(rgb.width, rgb.height, rule)
        scaled = rgb.resize(size, Image.Resampling.BILINEAR, box=box)
        if corner is None:
            return np.asarray(scaled)
        canvas = Image.new("RGB", (rule.width, rule.height))
        canvas.paste(scaled, corner)
        return np.asarray(canvas)


def _opened(data: bytes, name: str, max_pixels: int) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # The size check below replaces Pillow's own warning about large images.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        got = "an empty file" if not data else f"{len(data)} bytes that start with {data[:12]!r}"
        raise Invalid(name, f"an image ({', '.join(FORMATS)})", got) from None
    except Image.DecompressionBombError:
        raise Invalid(name, f"at most {max_pixels} pixels", "a far larger image") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Invalid(name, "a readable image", str(error)) from None
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} = {image.width * image.height}"
        image.close()
        raise Invalid(name, f"at most {max_pixels} pixels", size, "raise max_image_pixels if it is wanted")
    return image


def _load(image: "Image.Image", name: str) -> None:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise _broken(name, error) from None


def _broken(name: str, error: BaseException) -> LoopworksError:
    return Invalid(name, "a whole image", str(error) or type(error).__name__, "copy the file again")


def _mime(kind: str | None) -> str:
    from PIL import Image

    return Image.MIME.get(kind or "", "application/octet-stream")


def _draft_size(image: "Image.Image", rule: ImageRule) -> tuple[int, int]:
    """What Pillow's draft must not go below, in stored orientation: a turned image swaps its sides."""
    side = max(rule.width, rule.height)
    return (min(side, image.width), min(side, image.height))


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep(image).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: "Image.Image") -> "Image.Image":
    """16-bit grey as its upper 8 bits; floats and 32-bit integers clipped to 0..255, as Pillow does."""
    from PIL import Image

    pixels: NDArray[Any] = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and pixels.max(initial=0) > 255):
        pixels = pixels.astype(np.int64) >> 8
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
