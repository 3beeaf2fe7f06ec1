"""Why a model answers as it does: the map of an image is highest where the answer lies."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.train import means
from tests.train.marked import marked

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid, NotFound
from loopworks.testing import context
from loopworks.train import stage
from loopworks.train.explain import _drawn, explain


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model of patches whose place is the class."""
    means.load()
    folder = tmp_path_factory.mktemp("explain")
    return stage.train(marked(), recipe="means", params={"size": 24}, folder=folder / "b", ctx=context(folder / "s"))


def png(pixels: Any) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_map_is_highest_on_the_patch_whose_place_is_the_class(squares: Bundle, place: int) -> None:
    source = marked(size=24)
    pixels = source.images["test"][place]
    found = explain(squares, png(pixels))
    assert found.label == f"place {place}"
    heat = np.asarray(found.map)
    assert heat.shape == (24, 24)
    assert (heat.min(), heat.max()) == (0, 1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert place * 8 <= row < place * 8 + 8
    assert 2 <= column < 22
    on_patch = heat[place * 8 : place * 8 + 8, 2:-2].mean()
    elsewhere = np.delete(heat, np.s_[place * 8 : place * 8 + 8], axis=0).mean()
    assert on_patch > 2 * elsewhere
    picture = np.asarray(Image.open(io.BytesIO(found.picture)))
    assert picture.shape == (312, 312, 3)
    red = picture[..., 0].astype(int) - picture[..., 2]
    assert abs(red.mean(axis=1).argmax() - (place * 8 + 4) * 13) <= 4 * 13


def test_another_label_can_be_asked_about(squares: Bundle) -> None:
    pixels = marked(size=24).images["test"][0]
    assert explain(squares, png(pixels), "place 2").score < explain(squares, png(pixels)).score
    with pytest.raises(NotFound, match="class 'place 9'"):
        explain(squares, png(pixels), "place 9")


def test_an_image_of_one_colour_has_no_place_that_matters(squares: Bundle) -> None:
    found = explain(squares, png(np.full((24, 24, 3), 128, np.uint8)))
    assert np.asarray(found.map).max() == 0


def test_what_is_no_image_is_refused(squares: Bundle) -> None:
    with pytest.raises(Invalid):
        explain(squares, b"no image")


@dataclass(frozen=True)
class Other:
    """A rule of another medium."""

    media: str


def test_texts_and_rows_are_explained_by_their_own_recipes(squares: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def evidence(bundle: Any, text: str, label: str) -> Any:
        return SimpleNamespace(label=label or "place 1", spans=((0, 4, 0.5), (5, 8, -0.25)), base=0.1, total=0.35)

    def contributions(bundle: Any, rows: Any, label: str) -> Any:
        return [SimpleNamespace(label=label or "place 1", score=1.5, base=0.5, columns={"age": 1.0})]

    monkeypatch.setitem(sys.modules, "loopworks.train.texts.explain", SimpleNamespace(evidence=evidence))
    monkeypatch.setitem(sys.modules, "loopworks.train.tables.explain", SimpleNamespace(contributions=contributions))
    text = replace(squares, rule=Other("text"))  # type: ignore[arg-type]
    found = explain(text, "good day")
    assert [(part["text"], part["weight"]) for part in found.parts] == [("good", 0.5), ("day", -0.25)]
    assert found.base is not None
    assert found.base + sum(part["weight"] for part in found.parts) == pytest.approx(found.score)
    row = replace(squares, rule=Other("row"))  # type: ignore[arg-type]
    assert explain(row, {"age": 3}).parts == ({"column": "age", "weight": 1.0},)
    assert explain(row, {"age": 3}, "place 2").label == "place 2"


def test_the_picture_can_be_looked_at(squares: Bundle, tmp_path: Path) -> None:
    found = explain(squares, png(marked(size=24).images["test"][1]))
    (tmp_path / "map.png").write_bytes(found.picture)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.format == "PNG"


def test_a_photo_keeps_its_form_and_is_not_larger_than_it_was() -> None:
    """What the model sees squeezed into a square is shown as people know it."""
    heat = np.zeros((8, 8))
    heat[:, 6:] = 1.0
    for size, shown in (((300, 500), (300, 500)), ((900, 1800), (320, 640)), ((4, 8), (160, 320))):
        with Image.open(io.BytesIO(_drawn(np.full((*size, 3), 90, np.uint8), heat))) as picture:
            found = np.asarray(picture).astype(int)
        assert found.shape == (*shown, 3)
        red = found[..., 0] - found[..., 2]
        assert red[:, : shown[1] // 2].max() < 10 < 100 < red[:, -shown[1] // 8 :].min()
