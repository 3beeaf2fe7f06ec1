"""JPEG files by simplejpeg have the pixels that Pillow has: training, server and edge see the same."""

import builtins
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from loopworks.core import image
from loopworks.core.errors import Invalid
from loopworks.core.values import ImageRule


def jpeg(width: int, height: int, seed: int = 0, **more: Any) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8))
    out = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", **more)
    return out.getvalue()


def by_pillow(data: bytes, rule: ImageRule, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(image, "_quickly", lambda data, opened: None)
        return image.decode(data, rule)


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from([8, 32, 64, 224]),
    st.sampled_from(["stretch", "crop", "pad"]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.sampled_from([30, 85, 100]),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_pixels_at_every_size_and_scale(
    width: int, height: int, side: int, fit: Any, subsampling: int, progressive: bool, quality: int, seed: int
) -> None:
    data = jpeg(width, height, seed, subsampling=subsampling, progressive=progressive, quality=quality)
    rule = ImageRule(height=side, width=side, fit=fit)
    with pytest.MonkeyPatch.context() as monkeypatch:
        np.testing.assert_array_equal(image.decode(data, rule), by_pillow(data, rule, monkeypatch))


def test_ordinary_files_go_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(640, 480)
    found = []
    quickly = image._quickly

    def watched(data: bytes, opened: Image.Image) -> Image.Image | None:
        found.append(quickly(data, opened))
        return found[-1]

    monkeypatch.setattr(image, "_quickly", watched)
    image.decode(data, ImageRule(height=224, width=224))
    assert found[0] is not None
    assert found[0].size == (320, 240)  # half, which is the smallest that is not below the target


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "L"},
        {"mode": "CMYK"},
        {"keep_rgb": True},
        {"exif": 6},
        {"comment": b"x" * 100},
        {"restart_marker_rows": 1},
        {"trailing": b"more than a picture"},
    ],
)
def test_odd_files_have_the_same_pixels_too(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    more = dict(change)
    mode, trailing = more.pop("mode", "RGB"), more.pop("trailing", b"")
    if turned := more.pop("exif", 0):
        exif = Image.Exif()
        exif[0x0112] = turned
        more["exif"] = exif
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg(300, 200))).convert(mode).save(out, "JPEG", **more)
    rule = ImageRule(height=64, width=96)
    data = out.getvalue() + trailing
    np.testing.assert_array_equal(image.decode(data, rule), by_pillow(data, rule, monkeypatch))


@pytest.mark.parametrize("cut", [30, 700, 3000])
def test_a_cut_file_is_refused_in_the_same_words(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(300, 200)[:-cut]
    rule = ImageRule(height=64, width=64)
    words = []
    for decode in (lambda: image.decode(data, rule), lambda: by_pillow(data, rule, monkeypatch)):
        with pytest.raises(Invalid) as caught:
            decode()
        words.append(caught.value.message)
    assert words[0] == words[1]


def test_without_the_package_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name == "simplejpeg":
            raise ImportError(name)
        return load(name, *given, **named)

    data, rule = jpeg(300, 200), ImageRule(height=64, width=64)
    expected = image.decode(data, rule)
    monkeypatch.setattr(builtins, "__import__", without)
    np.testing.assert_array_equal(image.decode(data, rule), expected)
