"""The check that every image passes on its way in."""

from loopworks.core import image
from loopworks.core.errors import Invalid

_CUT = "copy the file again"


def look(data: bytes, name: str, max_pixels: int) -> tuple[int, int, str]:
    """Width, height and MIME type of an image that is whole as far as its container tells.

    The header is read, and the size refused before anything is decoded; then the end of the file is looked for: the
    end marker of a JPEG, the chunks of a PNG up to IEND, the length in a WEBP. Other formats are decoded whole.
    Decoding everything would find damage in the middle too, but takes many times as long (benchmarks/ingest.py prints
    both), so that kind of damage is found when the pixels are first needed (training reports the file by name).

    Args:
        data: the whole file.
        name: what to call it in an error.
        max_pixels: the largest width x height that is let in.
    Raises: Invalid: no image, too large, or cut off.
    """
    width, height, mime = image.probe(data, name, max_pixels)
    if mime == "image/jpeg":
        whole = _jpeg_ends(data)
    elif mime == "image/png":
        whole = _png_ends(data)
    elif mime == "image/webp":
        whole = len(data) >= int.from_bytes(data[4:8], "little") + 8
    else:
        return image.check(data, name, max_pixels)
    if not whole:
        raise Invalid(name, "a whole image", f"{len(data)} bytes that stop before the end of the image", _CUT)
    return width, height, mime


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end marker follows the start of the scan; one before it belongs to a thumbnail in the header.

    Within a scan every 0xFF of the picture is followed by a zero, so the marker cannot occur there by chance.
    Source: ITU-T T.81 (1992), B.1.1.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xDA:
            return data.rfind(b"\xff\xd9", at) >= 0
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    # Some cameras write bytes between segments; Pillow skips them, so they are no reason to refuse.
    return data.rfind(b"\xff\xd9", max(0, at)) >= 0


def _png_ends(data: bytes) -> bool:
    """Whether the chunks lead up to IEND. Source: PNG specification, second edition, section 5."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at <= len(data)
    return False
