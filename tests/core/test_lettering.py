"""Names in pictures: letters that a font has, tags that are not cut, tiny pictures."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import loopworks as lw
from loopworks.core import lettering
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape


def make_font(path: Path, letters: str) -> Path:
    """A font whose letters are bars of different heights, and a square for all that it lacks."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def bar(width: int, height: int) -> object:
        pen = TTGlyphPen(None)
        pen.moveTo((50, 0))
        for at in ((50, height), (width, height), (width, 0)):
            pen.lineTo(at)
        pen.closePath()
        return pen.glyph()

    names = {ord(one): f"letter{i}" for i, one in enumerate(letters)}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {".notdef": bar(500, 500), **{name: bar(900, 600 + 50 * i) for i, name in enumerate(names.values())}}
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics({name: (1000, 50) for name in glyphs})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a machine's fonts, empty."""

    def forget() -> None:
        for one in (lettering._file, lettering._found, lettering._tell, lettering._opened):
            one.cache_clear()

    (tmp_path / "fonts").mkdir()
    monkeypatch.setattr(lettering, "FOLDERS", (str(tmp_path / "fonts"),))
    monkeypatch.setattr(lettering, "_preferred", [])
    forget()
    yield tmp_path / "fonts"
    forget()


@pytest.mark.train  # fontTools comes with it
def test_a_font_is_found_that_has_the_letters(fonts: Path) -> None:
    make_font(fonts / "A-Latin.ttf", "abc")
    (fonts / "below").mkdir()
    wanted = make_font(fonts / "below" / "Z-Han.ttf", "红绿灯")
    (fonts / "broken.ttf").write_bytes(b"no font")
    assert lettering.font("红灯 绿", 20).path == str(wanted)
    assert lettering.font("红狗", 20) is None
    assert lettering.legible("红绿灯", ["红绿灯"]) == "红绿灯"


@pytest.mark.train
def test_plain_fonts_go_before_bold_ones_and_those_of_last_resort_do_not_count(fonts: Path) -> None:
    for name in ("AAA-BoldItalic.ttf", "BBB-Serif.ttf", "CCC-Sans.ttf"):
        make_font(fonts / name, "红")
    make_font(fonts / "LastResort.ttf", "狗")
    assert lettering.font("红", 20).path == str(fonts / "CCC-Sans.ttf")
    assert lettering.font("狗", 20) is None


def test_without_one_the_number_of_the_class_is_drawn_and_the_log_says_so_once(
    fonts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del fonts
    classes = ("plain", "红绿灯", "狗")
    with caplog.at_level(logging.WARNING):
        shown = lettering.renamed([Shape(label=name) for name in classes], classes)
    assert [shape.label for shape in shown] == ["plain", "class 1", "class 2"]
    assert [record.getMessage()[:40] for record in caplog.records] == ["no font of this machine has the letters "]


@pytest.mark.train
def test_the_setting_names_a_font(fonts: Path, tmp_path: Path) -> None:
    own = make_font(tmp_path / "own.ttf", "红a")
    make_font(fonts / "A-Sans.ttf", "红")
    with lw.open(tmp_path / "space", font=str(own)):
        assert lettering.font("红", 20).path == str(own)
        assert lettering.font("a", 20).path == str(own)
        assert lettering.font("b", 20) is not None  # Pillow's own
    with pytest.raises(Invalid, match=r"^font must be a font file .* that can be read; got .*none\.ttf$"):
        lw.open(tmp_path / "space", font=str(tmp_path / "none.ttf"))


@pytest.mark.parametrize("at", [(0.0, 0.0), (95.0, 50.0), (50.0, 3.0), (-20.0, 45.0), (99.0, 49.0)])
def test_a_tag_stays_inside_the_picture(at: tuple[float, float]) -> None:
    """Drawn into the same picture with a wide margin, nothing is in the margin."""
    picture = Image.new("RGB", (100, 50))
    pen = ImageDraw.Draw(picture)
    drawn: list[tuple[float, ...]] = []
    pen.rectangle = lambda box, **_: drawn.append(tuple(box))  # type: ignore[method-assign]
    lettering.tag(pen, at, "traffic light", (230, 57, 70), 12)
    ((left, top, right, bottom),) = drawn
    assert 0 <= left < right <= 100
    assert 0 <= top < bottom <= 50
    assert right - left > 60


def test_a_name_that_is_too_long_gets_smaller_then_shorter() -> None:
    assert lettering.fitted("cat", 100, 20)[0] == "cat"
    text, font = lettering.fitted("traffic light", 80, 20)
    assert text == "traffic light"
    assert font.size < 20
    text, font = lettering.fitted("a traffic light with a long name", 60, 20)
    assert text.startswith("a tr")
    assert text.endswith("...")
    assert font.getlength(text) <= 60


@pytest.mark.parametrize(("size", "times"), [((8, 8), 40), ((16, 10), 20), ((159, 20), 3), ((160, 20), 1)])
def test_tiny_pictures_are_drawn_larger(size: tuple[int, int], times: int) -> None:
    assert lettering.enlargement(*size) == times


def test_letters_and_lines_grow_with_the_picture() -> None:
    sizes = [(320, 240), (640, 480), (1920, 1080), (4000, 3000)]
    assert [lettering.letter_size(*size) for size in sizes] == [12, 12, 32, 67]
    assert [lettering.pen_width(*size) for size in sizes] == [2, 2, 4, 8]
    assert np.all(np.diff([lettering.letter_size(n, n) for n in range(1, 4000, 7)]) >= 0)
