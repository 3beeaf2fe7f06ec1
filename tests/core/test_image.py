"""One rule from image bytes to pixels, and one clear error for everything that is no image."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from loopworks.core import image
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import ImageRule

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SMALL = ImageRule(height=2, width=2)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def quarters() -> Image.Image:
    """Red, green over blue, white: one pixel each."""
    return Image.fromarray(np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8))


def photo(height: int = 480, width: int = 640) -> Image.Image:
    """A smooth picture with detail, like a photo: slow waves and some fine ones, seeded."""
    y, x = np.mgrid[0:height, 0:width] / 40.0
    rng = np.random.default_rng(0)
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-1, 1, (9, 3)) * [3, 3, 6]]
    channels = [128 + 40 * (waves[i] + waves[i + 3]) + 8 * np.sin(9 * waves[i + 6]) for i in range(3)]
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG that claims to be of that size: 33 bytes, no pixels."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(body)) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    data = b"\x00\x00\x00\x00IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + chunk + data


# --- what the rule says -------------------------------------------------------------------------------------------


def test_pixels_of_the_right_size_are_kept_as_they_are() -> None:
    found = image.decode(encoded(quarters()), SMALL)
    assert found.tolist() == [[list(RED), list(GREEN)], [list(BLUE), list(WHITE)]]
    assert found.dtype == np.uint8
    assert found.flags.writeable


UPRIGHT = [["red", "green"], ["blue", "white"]]
NAMES = {RED: "red", GREEN: "green", BLUE: "blue", WHITE: "white"}


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, [["red", "green"], ["blue", "white"]]),
        (2, [["green", "red"], ["white", "blue"]]),
        (3, [["white", "blue"], ["green", "red"]]),
        (4, [["blue", "white"], ["red", "green"]]),
        (5, [["red", "blue"], ["green", "white"]]),
        (6, [["green", "white"], ["red", "blue"]]),
        (7, [["white", "green"], ["blue", "red"]]),
        (8, [["blue", "red"], ["white", "green"]]),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_all_eight_exif_orientations_come_out_upright(orientation: int, stored: list[list[str]], kind: str) -> None:
    """``stored`` is what the EXIF standard says lies in the file for a scene that looks like ``UPRIGHT``."""
    colors = {name: color for color, name in NAMES.items()}
    picture = Image.fromarray(np.array([[colors[c] for c in row] for row in stored], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    found = image.decode(encoded(picture, kind, exif=exif, **options), SMALL)
    assert [[NAMES[tuple(pixel)] for pixel in row] for row in found.tolist()] == UPRIGHT


def test_a_turned_jpeg_fits_by_its_upright_sides() -> None:
    """A phone's portrait photo lies in the file as landscape: fit must see it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = image.decode(encoded(photo(300, 600), "JPEG", exif=exif), ImageRule(height=60, width=30))
    plain = np.asarray(photo(300, 600).rotate(-90, expand=True).resize((30, 60), Image.Resampling.BILINEAR))
    assert np.abs(tall.astype(int) - plain.astype(int)).mean() < 3


def test_transparency_is_laid_over_black() -> None:
    half = Image.fromarray(
        np.array([[[200, 100, 50, 255], [200, 100, 50, 0]], [[200, 100, 50, 128], [0, 0, 0, 255]]], np.uint8)
    )
    found = image.decode(encoded(half), SMALL)
    assert found[0, 0].tolist() == [200, 100, 50]
    assert found[0, 1].tolist() == [0, 0, 0]
    assert np.abs(found[1, 0].astype(int) - [100, 50, 25]).max() <= 1


def test_a_transparent_palette_colour_is_black_too() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *GREEN])
    picture.putdata([0, 1])
    for kind, options in (
        ("PNG", {"transparency": 1}),
        ("PNG", {"transparency": b"\xff\x00"}),
        ("GIF", {"transparency": 1}),
    ):
        found = image.decode(encoded(picture, kind, **options), ImageRule(height=1, width=2))
        assert found.tolist() == [[list(RED), [0, 0, 0]]], (kind, options)


def test_a_transparent_rgb_colour_is_black_too() -> None:
    found = image.decode(encoded(quarters(), transparency=GREEN), SMALL)
    assert found.tolist() == [[list(RED), [0, 0, 0]], [list(BLUE), list(WHITE)]]


def test_palettes_and_single_bits_become_rgb() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*BLUE, *WHITE])
    palette.putdata([0, 1])
    row = ImageRule(height=1, width=2)
    assert image.decode(encoded(palette), row).tolist() == [[list(BLUE), list(WHITE)]]
    bits = Image.fromarray(np.array([[False, True]]))
    assert image.decode(encoded(bits), row).tolist() == [[[0, 0, 0], list(WHITE)]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("top", [65535, 200], ids=["bright", "dark"])
def test_16_bit_grey_keeps_its_upper_8_bits_however_dark_it_is(kind: str, top: int) -> None:
    """A dark picture must not be stretched: the rule looks at the format, never at the other pixels."""
    deep = np.array([[0, top // 4], [top // 2, top]], np.uint16)
    found = image.decode(encoded(Image.fromarray(deep), kind), SMALL)
    assert found[..., 0].tolist() == (deep >> 8).tolist()
    assert (found == found[..., :1]).all()


def test_floats_and_32_bit_integers_are_clipped() -> None:
    floats = Image.fromarray(np.array([[-5.0, 100.4], [np.nan, 1e9]], np.float32))
    assert image.decode(encoded(floats, "TIFF"), SMALL)[..., 0].tolist() == [[0, 100], [0, 255]]
    wholes = Image.fromarray(np.array([[-5, 100], [255, 70000]], np.int32))
    assert image.decode(encoded(wholes, "TIFF"), SMALL)[..., 0].tolist() == [[0, 100], [255, 255]]


def test_cmyk_becomes_rgb() -> None:
    cmyk = quarters().resize((32, 32), Image.Resampling.NEAREST).convert("CMYK")
    for kind, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        found = image.decode(encoded(cmyk, kind, **options), ImageRule(height=32, width=32))
        assert np.abs(found[4, 4].astype(int) - RED).max() < 12, kind
        assert np.abs(found[28, 4].astype(int) - BLUE).max() < 12, kind


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN)]
    for kind in ("GIF", "WEBP", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(image.decode(data, SMALL)[0, 0].astype(int) - RED).max() < 4, kind


def test_a_phones_multi_picture_jpeg_is_a_jpeg() -> None:
    data = encoded(photo(64, 96), "MPO", save_all=True, append_images=[photo(64, 96)])
    assert image.probe(data) == (96, 64, "image/jpeg")
    plain = image.decode(encoded(photo(64, 96), "JPEG"), ImageRule(height=16, width=16))
    assert (image.decode(data, ImageRule(height=16, width=16)) == plain).all()


# --- fit ----------------------------------------------------------------------------------------------------------


def stripes() -> bytes:
    """Four columns of two pixels: red, green, blue, white."""
    return encoded(Image.fromarray(np.array([[RED, GREEN, BLUE, WHITE]] * 2, np.uint8)))


def test_stretch_uses_the_whole_picture() -> None:
    """4 x 2 to 2 x 2 halves the width; by hand, the antialiased triangle reaches 2 source pixels to each side.

    Weights of columns 0..3 for the first target column (centre 1.0): 3/4, 3/4, 1/4, 0, over their sum 7/4.
    """
    found = image.decode(stripes(), SMALL)
    expected = (3 * np.array(RED) + 3 * np.array(GREEN) + 1 * np.array(BLUE)) / 7
    assert np.abs(found[0, 0] - expected).max() <= 1


def test_crop_keeps_the_centre_square() -> None:
    assert image.decode(stripes(), ImageRule(height=2, width=2, fit="crop")).tolist() == [[list(GREEN), list(BLUE)]] * 2


def test_crop_of_a_tall_picture_keeps_the_middle() -> None:
    rows = encoded(Image.fromarray(np.array([[RED] * 2, [GREEN] * 2, [BLUE] * 2, [WHITE] * 2], np.uint8)))
    found = image.decode(rows, ImageRule(height=2, width=2, fit="crop"))
    assert found.tolist() == [[list(GREEN)] * 2, [list(BLUE)] * 2]


def test_pad_puts_black_bars_around_the_whole_picture() -> None:
    found = image.decode(stripes(), ImageRule(height=4, width=4, fit="pad"))
    black = [[0, 0, 0]] * 4
    row = [list(RED), list(GREEN), list(BLUE), list(WHITE)]
    assert found.tolist() == [black, row, row, black]


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fit=st.sampled_from(["stretch", "crop", "pad"]),
)
def test_every_fit_gives_the_target_size_and_keeps_a_plain_colour(
    size: tuple[int, int], target: tuple[int, int], fit: Any
) -> None:
    rule = ImageRule(height=target[0], width=target[1], fit=fit)
    found = image.decode(encoded(Image.new("RGB", size, (10, 200, 30))), rule)
    assert found.shape == (*target, 3)
    colors = {tuple(c) for c in found.reshape(-1, 3).tolist()}
    assert colors <= ({(10, 200, 30), (0, 0, 0)} if fit == "pad" else {(10, 200, 30)})
    assert (10, 200, 30) in colors


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("side", [224, 96, 32])
def test_the_quick_jpeg_decode_stays_close_to_the_full_one(fit: Any, side: int) -> None:
    rule = ImageRule(height=side, width=side, fit=fit)
    data = encoded(photo(), "JPEG", quality=90)
    quick = image.decode(data, rule).astype(int)
    full = image.decode(encoded(Image.open(io.BytesIO(data)).convert("RGB")), rule).astype(int)
    gap = np.abs(quick - full)
    assert gap.mean() < 1.5, gap.mean()
    assert gap.max() < 40, gap.max()


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    real = image._draft_size

    def note(picture: Image.Image, rule: ImageRule) -> tuple[int, int]:
        size: tuple[int, int] = real(picture, rule)
        asked.append(size)
        return size

    monkeypatch.setattr(image, "_draft_size", note)
    image.decode(encoded(photo(), "JPEG"), ImageRule(height=32, width=32))
    assert asked == [(32, 32)]


# --- what is refused ----------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[bytes], Any]] = {
    "probe": lambda data: image.probe(data, "a.jpg"),
    "check": lambda data: image.check(data, "a.jpg"),
    "decode": lambda data: image.decode(data, SMALL, "a.jpg"),
}


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_text_file_called_jpg_is_refused_with_what_it_starts_with(call: Callable[[bytes], Any]) -> None:
    with pytest.raises(Invalid) as caught:
        call(b"hello, this is text")
    assert caught.value.message == (
        "a.jpg must be an image (JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM); got 19 bytes that start with b'hello, this '"
    )


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_empty_file_is_refused(call: Callable[[bytes], Any]) -> None:
    with pytest.raises(Invalid, match=r"got an empty file$"):
        call(b"")


@pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_pixel_bomb_is_refused_from_its_header(call: Callable[[bytes], Any]) -> None:
    with pytest.raises(Invalid) as caught:
        call(png_header(60_000, 60_000))
    assert caught.value.message == "a.jpg must be at most 100000000 pixels; got 60000 x 60000 = 3600000000"
    assert caught.value.hint == "raise max_image_pixels if it is wanted"


def test_the_limit_is_ours_not_pillows() -> None:
    """Pillow warns from 89 million pixels on and refuses from 179 million: our setting must reach further."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image.probe(png_header(20_000, 20_000), max_pixels=400_000_000) == (20_000, 20_000, "image/png")
        assert image.probe(png_header(9_600, 10_000)) == (9_600, 10_000, "image/png")
    assert Image.MAX_IMAGE_PIXELS is not None, "other users of Pillow keep their own limit"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_file_cut_off_in_the_middle_passes_no_check(kind: str) -> None:
    data = encoded(photo(60, 80), kind)
    with pytest.raises(Invalid, match=r"^a.jpg must be "):
        image.check(data[: len(data) // 2], "a.jpg")
    with pytest.raises(Invalid, match=r"^a.jpg must be "):
        image.decode(data[: len(data) // 2], SMALL, "a.jpg")


def test_a_format_that_can_run_programs_is_not_read() -> None:
    with pytest.raises(Invalid, match="must be an image"):
        image.probe(encoded(quarters(), "EPS"))


@pytest.mark.parametrize("exif", [b"Exif\x00\x00XXXXXXXXXXXXXX", b"Exif\x00\x00II*\x00"], ids=["no header", "cut off"])
def test_damaged_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert image.decode(encoded(quarters(), "PNG", exif=exif), SMALL)[0, 0].tolist() == list(RED)


SEEDS = [
    encoded(photo(17, 23), "JPEG"),
    encoded(photo(17, 23), "PNG"),
    encoded(photo(17, 23), "WEBP"),
    encoded(photo(17, 23).quantize(8), "GIF"),
    encoded(photo(17, 23), "TIFF"),
    encoded(photo(17, 23), "BMP"),
    encoded(photo(17, 23), "PPM"),
    encoded(photo(17, 23).convert("CMYK"), "JPEG"),
]


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(0, min(len(data), 400) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))]) if draw(st.booleans()) else bytes(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=200) | broken())
def test_any_bytes_give_pixels_or_one_clear_error(data: bytes) -> None:
    found: NDArray[np.uint8] | LoopworksError
    try:
        found = image.decode(data, SMALL, "a.jpg", max_pixels=10**6)
    except LoopworksError as error:
        found = error
    if isinstance(found, LoopworksError):
        assert found.message.startswith("a.jpg must be ")
    else:
        assert found.shape == (2, 2, 3)


def test_threads_decode_the_same_pixels() -> None:
    """The server decodes in several threads at once; nothing of Pillow's global state may leak between them."""
    data, rule = encoded(photo(), "JPEG"), ImageRule(height=64, width=64)
    wanted = image.decode(data, rule)
    limit = Image.MAX_IMAGE_PIXELS
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(10) if not (image.decode(data, rule) == wanted).all())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert limit == Image.MAX_IMAGE_PIXELS


# --- the rest -----------------------------------------------------------------------------------------------------


def test_probe_and_check_say_size_and_type() -> None:
    for kind, mime in (("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("BMP", "image/bmp")):
        data = encoded(photo(30, 50), kind)
        assert image.probe(data) == image.check(data) == (50, 30, mime)


def test_pixels_come_back_from_png_as_they_were() -> None:
    pixels = np.asarray(photo(20, 30))
    assert (image.decode(image.encode_png(pixels), ImageRule(height=20, width=30)) == pixels).all()


def test_a_file_is_read_and_named(tmp_path: Path) -> None:
    (path := tmp_path / "x.png").write_bytes(encoded(quarters()))
    assert image.read(path, SMALL)[0, 0].tolist() == list(RED)
    path.write_bytes(b"no image")
    with pytest.raises(Invalid, match=r"x\.png must be an image"):
        image.read(path, SMALL)
