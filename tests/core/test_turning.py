"""Shapes of images that are stored lying: they stay on what they are about, however the image is turned."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from loopworks.core import image, mask, turning
from loopworks.core.values import ImageRule, Shape

SIZE = (40, 30)  # as stored
TURNS = range(1, 9)


def stored_image(orientation: int) -> tuple[bytes, NDArray[np.bool_]]:
    """A JPEG with a red block, and the block's pixels as stored."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[4:16, 8:24] = (255, 0, 0)
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(out, "JPEG", quality=100, subsampling=0, exif=exif)
    return out.getvalue(), pixels[..., 0] > 0


@pytest.mark.parametrize("orientation", TURNS)
def test_a_box_lies_on_what_it_is_about_in_the_image_as_models_see_it(orientation: int) -> None:
    data, _ = stored_image(orientation)
    assert image.orientation(data) == orientation
    width, height = image.displayed_size(data)
    assert (width, height) == turning.shown_size(SIZE, orientation)
    seen = image.decode(data, ImageRule(height=height, width=width))
    box = turning.shown(Shape(label="red", kind="box", points=((8, 4, 16, 12),)), SIZE, orientation)
    x, y, w, h = (int(side) for side in box.points[0])
    red = seen[..., 0] > 128
    assert red[y : y + h, x : x + w].all()
    assert red.sum() == w * h


@pytest.mark.parametrize("orientation", TURNS)
def test_every_kind_of_shape_turns_like_its_pixels_and_back(orientation: int) -> None:
    _, pixels = stored_image(orientation)
    upright = np.asarray(ImageOps.exif_transpose(_tagged(pixels, orientation)))
    corners = (8, 4, 24, 4, 24, 16, 8, 16)
    shapes = [
        Shape(label="a", kind="mask", points=((30, 40),), mask=mask.encode(pixels)),
        Shape(label="a", kind="polygon", points=((*corners,), (0, 0, 1, 0, 0, 1))),
        Shape(label="a", kind="obb", points=(corners,)),
        Shape(label="a", kind="ellipse", points=((16, 10, 8, 6, 30),)),
        Shape(label="a", kind="points", points=((8, 4),)),
        Shape(label="a"),
    ]
    found = [turning.shown(shape, SIZE, orientation) for shape in shapes]
    assert (mask.decode(found[0].mask, *upright.shape) == (upright > 0)).all()
    assert (mask.draw(found[1].points[:1], *upright.shape) == (upright > 0)).all()
    assert _clockwise(found[2].points[0]) > 0
    for shape, turned in zip(shapes, found, strict=True):
        back = turning.stored(turned, SIZE, orientation)
        assert back.kind == shape.kind
        assert back.mask == shape.mask
        if shape.points:
            np.testing.assert_allclose(np.concatenate(back.points), np.concatenate(shape.points))


@pytest.mark.parametrize("orientation", TURNS)
def test_an_ellipse_turns_about_its_middle(orientation: int) -> None:
    ellipse = Shape(label="a", kind="ellipse", points=((16, 12, 8, 3, 30),))
    around = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    cx, cy, rx, ry, angle = ellipse.points[0]
    turn = np.radians(angle)
    x = cx + rx * np.cos(around) * np.cos(turn) - ry * np.sin(around) * np.sin(turn)
    y = cy + rx * np.cos(around) * np.sin(turn) + ry * np.sin(around) * np.cos(turn)
    line = Shape(label="a", kind="polygon", points=(tuple(np.stack([x, y], axis=1).ravel().tolist()),))
    found, wanted = (turning.shown(shape, SIZE, orientation).bounds for shape in (ellipse, line))
    assert found is not None
    assert found == pytest.approx(wanted, abs=0.05)


def test_an_image_that_says_nothing_or_nonsense_is_upright() -> None:
    assert image.orientation(image.encode_png(np.zeros((3, 4, 3), np.uint8))) == 1
    data, _ = stored_image(9)
    assert image.orientation(data) == 1
    assert image.displayed_size(data) == SIZE


def _tagged(pixels: NDArray[np.bool_], orientation: int) -> Image.Image:
    picture = Image.fromarray(pixels.astype(np.uint8) * 255)
    picture.getexif()[0x0112] = orientation
    return picture


def _clockwise(row: tuple[float, ...]) -> float:
    x, y = np.asarray(row[::2]), np.asarray(row[1::2])
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
