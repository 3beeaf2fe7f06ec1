"""Augmentation keeps what is in an image, and says the same on every run."""

from typing import Any

import numpy as np
import pytest
import torch

from loopworks.train.augment import Augment, Change

pytestmark = pytest.mark.train
ZEROS, ONES = torch.zeros(3), torch.ones(3)


def images(count: int = 4) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 8, 10, 3), dtype=np.uint8))


def augment(**change: float | str) -> Augment:
    made = Augment(Change(**change), ZEROS, ONES, torch.device("cpu"))  # type: ignore[arg-type]
    made.seed(1)
    return made


def test_no_change_is_normalization_alone() -> None:
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 4.0, 8.0])
    x = Augment(Change(), mean, std, torch.device("cpu"))(images())
    expected = (images().float() - mean) / std
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2))


def test_the_same_seed_gives_the_same_images() -> None:
    change: dict[str, Any] = {"shift": 0.1, "scale": 0.1, "rotate_deg": 10.0, "light": 0.1, "flip": "both"}
    one, two = augment(**change)(images()), augment(**change)(images())
    assert torch.equal(one, two)
    other = augment(**change)
    other.seed(2)
    assert not torch.equal(one, other(images()))


@pytest.mark.parametrize("rotate", [0.0, 1e-6])
def test_a_flip_mirrors_some_images_and_leaves_the_others(rotate: float) -> None:
    source = images(16)
    plain = source.permute(0, 3, 1, 2).float()
    flipped = augment(flip="horizontal", rotate_deg=rotate)(source)
    kinds = set()
    for before, after in zip(plain, flipped, strict=True):
        is_same = torch.allclose(before, after, atol=1e-2)
        assert is_same or torch.allclose(before.flip(2), after, atol=1e-2)
        kinds.add(is_same)
    assert kinds == {True, False}


def test_both_flips_turn_upside_down_too() -> None:
    source = images(32)
    plain = source.permute(0, 3, 1, 2).float()
    flipped = augment(flip="both")(source)
    forms = {
        name
        for before, after in zip(plain, flipped, strict=True)
        for name, form in {
            "none": before, "across": before.flip(2), "down": before.flip(1), "both": before.flip(1, 2)
        }.items()
        if torch.equal(form, after)
    }  # fmt: skip
    assert forms == {"none", "across", "down", "both"}


def test_a_shift_moves_by_at_most_its_share() -> None:
    source = torch.zeros((64, 20, 20, 3), dtype=torch.uint8)
    source[:, 10, 10] = 255
    moved = augment(shift=0.2)(source)[:, 0]
    places = [np.unravel_index(int(x.argmax()), (20, 20)) for x in moved]
    distance = max(max(abs(int(row) - 10), abs(int(column) - 10)) for row, column in places)
    assert 2 <= distance <= 4


def test_light_changes_brightness_within_its_range() -> None:
    flat = torch.full((64, 4, 4, 3), 100, dtype=torch.uint8)
    x = augment(light=0.2)(flat)
    assert x.std(dim=(1, 2, 3)).max() < 1e-3, "every pixel of an image changes alike"
    assert (x.amin() >= 100 * 0.8 - 0.2) and (x.amax() <= 100 * 1.2 + 0.2)  # noqa: PT018
    assert x.amax() - x.amin() > 10
