"""Near duplicates: all pairs within reach are found by both searches, and only copies pass the second look."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loopworks.data.clean import near
from loopworks.data.features.images import Near


def photos(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    small = np.random.default_rng(seed).integers(0, 256, (count, 9, 9, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in small])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.lists(st.integers(0, 63), max_size=7), st.data()
)
def test_the_search_in_bands_finds_what_comparing_all_finds(
    codes: list[int], flips: list[int], data: st.DataObject
) -> None:
    copy = data.draw(st.sampled_from(codes))
    for bit in flips:
        copy ^= 1 << bit
    unique = np.unique(np.array([*codes, copy], np.uint64))
    found = [
        {(int(a), int(b)) for left, right in search(unique, near.REACH) for a, b in zip(left, right, strict=True)}
        for search in (near._exhaustive, near._banded)
    ]
    assert found[0] == found[1]


def test_equal_hashes_are_paired_with_the_first_of_them() -> None:
    left, right = near.candidates(np.array([5, 9 << 40, 5, 5], np.uint64), 0)
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 2), (0, 3)]


def test_a_copy_with_noise_and_another_exposure_is_found_and_others_are_not() -> None:
    base = photos(40)
    noise = np.random.default_rng(1).normal(0, 8, base[:5].shape)
    copies = np.clip(base[:5] * 0.9 + noise, 0, 255).astype(np.uint8)
    pairs = near.find(Near().describe(np.concatenate([base, copies])))
    assert sorted(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == [(n, 40 + n) for n in range(5)]


def test_another_colour_of_the_same_brightness_is_no_copy() -> None:
    flat = np.zeros((2, 32, 32, 3), np.uint8)
    flat[0, ..., 0], flat[1, ..., 1] = 150, 76
    assert len(near.find(Near().describe(flat)).left) == 0


def test_a_group_holds_only_what_is_alike_to_the_one_that_is_kept() -> None:
    chain = near.Pairs(np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.99, 0.98, 0.97], np.float32))
    groups = near.stars(chain, [0, 1, 2, 3])
    assert [(kept, [copy for copy, _ in copies]) for kept, copies in groups] == [(0, [1]), (2, [3])]
    assert near.stars(chain, [3, 0, 2, 1])[0][0] == 1


def test_no_images_give_no_pairs() -> None:
    assert len(near.find(np.zeros((0, Near().width), np.uint8)).left) == 0
