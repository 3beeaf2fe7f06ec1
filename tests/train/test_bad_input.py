"""Data and budgets that no good model can come of: a clear error, or a result whose notes warn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train import means
from tests.train.marked import Marked, marked

import loopworks as lw
from loopworks.core.bundle import Bundle
from loopworks.core.errors import Failed, Invalid
from loopworks.data.learning import source_of
from loopworks.testing import context
from loopworks.train import stage

pytestmark = pytest.mark.train


def train(folder: Path, source: Any, **more: Any) -> Bundle:
    means.load()
    given: dict[str, Any] = {"recipe": "means", "threads": 1, **more}
    return stage.train(source, folder=folder / "bundle", ctx=context(folder / "scratch"), **given)


def warnings(bundle: Bundle) -> list[str]:
    return [note for note in bundle.notes if note.startswith(stage.WARNING)]


def cut(source: Marked, **counts: int) -> Marked:
    """The first items of each split."""
    kept = {split: count for split, count in counts.items() if count}
    return replace(
        source,
        images={split: source.images[split][:count] for split, count in kept.items()},
        labels={split: source.labels[split][:count] for split, count in kept.items()},
        known={split: source.known[split][:count] for split, count in kept.items()},
    )


def test_enough_of_everything_gives_no_warning(tmp_path: Path) -> None:
    assert warnings(train(tmp_path, marked())) == []


def test_one_class_cannot_be_learnt(tmp_path: Path) -> None:
    source = marked()
    only = {split: np.tile(rows[:1], (len(rows), 1)) for split, rows in source.labels.items()}
    with pytest.raises(Invalid, match="at least two classes; got only place 0"):
        train(tmp_path, replace(source, labels=only))
    assert not (tmp_path / "bundle").exists()


def test_a_test_split_of_one_class_is_warned_of(tmp_path: Path) -> None:
    source = marked()
    labels = {**source.labels, "test": np.tile(source.labels["test"][:1], (48, 1))}
    images = {**source.images, "test": np.tile(source.images["test"][:1], (48, 1, 1, 1))}
    made = train(tmp_path, replace(source, labels=labels, images=images))
    assert warnings(made) == ["warning: the test split holds place 0 alone: the scores say nothing of the others"]


def test_without_a_test_split_the_model_is_made_and_marked(tmp_path: Path) -> None:
    made = train(tmp_path, cut(marked(), train=24, val=24))
    assert set(made.metrics) == {"val"}
    assert warnings(made) == ["warning: there is no test split: how good the model is on new items is not known"]
    assert "flatter the model" in made.path("card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", ["means", "small-cnn"])
def test_three_images_make_a_model_that_warns(tmp_path: Path, recipe: str) -> None:
    params = {"epochs": 2, "width": 4, "image_size": 16} if recipe == "small-cnn" else {}
    made = train(tmp_path, cut(marked(), train=3), recipe=recipe, params=params)
    assert dict(made.metrics) == {}
    assert [note.partition(":")[2].split(":")[0] for note in warnings(made)] == [
        " the train split holds 3 items",
        " there is no val split",
        " there is no test split",
    ]


def test_one_image_is_one_class(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="at least two classes; got only place 0"):
        train(tmp_path, cut(marked(), train=1))
    with pytest.raises(Invalid, match="train split must be at least one labeled item"):
        train(tmp_path, cut(marked(), val=3))


def test_a_huge_image_is_named_before_anything_is_learnt(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    with lw.open(tmp_path / "space") as ws:
        photos = ws.dataset("photos", task="image-classification")
        photos.add(pictures(tmp_path / "small", {"a": 4, "b": 4}))
        photos.add(pictures(tmp_path / "huge", {"a": 1}, size=400, seed=3))
        photos.split(test=0, val=0)
        version = photos.freeze("mixed")
    with lw.open(tmp_path / "space", max_image_pixels=100_000) as ws:
        with pytest.raises(Invalid, match=r"a/000.*png.* must be at most 100,?000 pixels") as caught:
            train(tmp_path, source_of(ws.version(version.id)))
        assert "160" in caught.value.message.replace(",", "")


@pytest.mark.slow
def test_a_budget_of_a_second_makes_a_model_that_warns(tmp_path: Path) -> None:
    from loopworks.train.images import load_libraries

    load_libraries()
    made = train(tmp_path, marked(), recipe="small-cnn", budget_s=1.0, params={"width": 4})
    assert "warning: a budget of 1 s is less than a training needs to learn anything" in made.notes
    assert any("time budget ended training" in note for note in made.notes)
    assert set(made.metrics) == {"val", "test"}


def test_a_loss_that_is_no_number_ends_with_an_error_and_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loopworks.train import objectives

    loss = objectives.Classes.loss
    monkeypatch.setattr(objectives.Classes, "loss", lambda self, raw, targets: loss(self, raw, targets) * float("nan"))
    params = {"epochs": 2, "width": 4, "image_size": 16}
    with pytest.raises(Failed, match="training loss must be finite; got nan in epoch 1") as caught:
        train(tmp_path, marked(), recipe="small-cnn", params=params)
    assert "lower the learning rate" in caught.value.hint
    assert not (tmp_path / "bundle").exists()
