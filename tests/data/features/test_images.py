"""Descriptors of images: alike images get near rows, facts of quality have the right sign."""

import numpy as np
import pytest

from loopworks.data.features.images import FACTS, Look, Near, blur


def photo(seed: int, size: int = 224) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3)).astype(np.float32)
    return np.kron(small, np.ones((size // 8, size // 8, 1))).astype(np.uint8)


def test_a_thumbnail_is_brightness_and_two_colours() -> None:
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    (row,) = Near().describe(white)
    assert len(row) == Near().width
    assert (row[:1024] == 255).all()
    assert (row[1024:] == 128).all()


def test_an_alike_image_lies_nearer_than_another_one() -> None:
    noisy = np.clip(photo(0).astype(np.int64) + np.random.default_rng(1).integers(-5, 5, (224, 224, 3)), 0, 255)
    one, same, other = Look().describe(np.stack([photo(0), noisy.astype(np.uint8), photo(2)]))[:, len(FACTS) :]
    assert float(one @ same) > float(one @ other) + 0.1
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)


def test_the_facts_say_dark_bright_and_flat() -> None:
    batch = np.stack([np.zeros((224, 224, 3), np.uint8), np.full((224, 224, 3), 255, np.uint8), photo(0)])
    black, white, plain = (dict(zip(FACTS, row, strict=False)) for row in Look().describe(batch).tolist())
    assert (black["brightness"], black["contrast"], black["dark_share"]) == (0, 0, 1)
    assert (white["brightness"], white["bright_share"]) == pytest.approx((1, 1), abs=1e-5)
    assert plain["contrast"] > 0.2
    assert plain["blur"] < 0.5


def test_smoothing_an_image_raises_its_blur() -> None:
    sharp = np.random.default_rng(0).uniform(0, 255, (1, 64, 64)).astype(np.float32)
    smooth = np.stack([np.convolve(row, np.ones(9) / 9, "same") for row in sharp[0]])[None].astype(np.float32)
    assert blur(sharp)[0] < 0.2 < blur(smooth)[0]
    assert blur(np.zeros((1, 64, 64), np.float32))[0] == 1
