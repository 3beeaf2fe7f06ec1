"""Which recipe learns what: recipes say it themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.train.marked import marked
from tests.train.source import squares

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train import recipes
from loopworks.train.contracts import Draw, Fit, Lesson, Made, Tunable
from loopworks.train.small_cnn import size_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """Counts classes."""

    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})
    share: float = 0.5

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        return (1.0, "it counts fast") if budget_s == 7 else (0.0, "too slow")

    @classmethod
    def space(cls, draw: Draw, source: Source) -> Mapping[str, Any]:
        return {"share": draw.number("share", 0, 1)}

    def run(self, source: Lesson, ctx: Context) -> Made:
        raise NotImplementedError


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.names()
    monkeypatch.setitem(plugins._found, "train.counting", Counting)


@pytest.mark.parametrize(
    ("has_weights", "size", "budget_s", "expected"),
    [
        (True, 64, None, "train.timm"),
        (False, 64, None, "train.small-cnn"),
        (True, 64, 20.0, "train.small-cnn"),
        (True, 32, None, "train.small-cnn"),
        (False, 32, 600.0, "train.small-cnn"),
    ],
)
def test_recipes_say_themselves_which_of_them_suits_images(
    monkeypatch: pytest.MonkeyPatch, has_weights: bool, size: int, budget_s: float | None, expected: str
) -> None:
    monkeypatch.setattr("loopworks.train.timm.has_weights", lambda: has_weights)
    name, why = recipes.choose(marked(size=size), budget_s)
    assert name == expected
    assert why


@pytest.mark.usefixtures("counting")
def test_a_recipe_from_outside_is_chosen_by_its_own_word() -> None:
    assert recipes.choose(marked(), 7.0) == ("train.counting", "it counts fast")
    assert recipes.choose(marked(), 8.0)[0] == "train.small-cnn"
    assert isinstance(Counting, Fit)
    assert isinstance(Counting, Tunable)


@pytest.mark.usefixtures("counting")
def test_auto_takes_a_recipe_that_takes_the_parameters() -> None:
    assert recipes.choose(marked(), None, {"width": 8})[0] == "train.small-cnn"
    assert recipes.choose(marked(), None, {"backbone": "resnet18"})[0] == "train.timm"
    with pytest.raises(Invalid, match="recipe for image-classification must be usable here; got too slow"):
        recipes.choose(marked(), None, {"share": 0.1})


@pytest.mark.usefixtures("counting")
def test_a_recipe_of_another_task_kind_is_refused_with_those_that_fit() -> None:
    with pytest.raises(Invalid, match="recipe must be one that learns text-translation; got counting") as caught:
        recipes.check("counting", {}, "text-translation")
    assert "recipes that do: none yet" in caught.value.hint
    with pytest.raises(Invalid, match="task kind must be one that a recipe learns") as caught:
        recipes.check("auto", {}, "text-translation")
    assert "docs/plugins.md" in caught.value.hint
    recipes.check("counting", {"share": 0.1}, "image-classification")
    with pytest.raises(NotFound, match=r"parameter of train\.counting 'speed'"):
        recipes.check("counting", {"speed": 1}, "image-classification")


@pytest.mark.usefixtures("counting")
def test_the_list_says_what_each_recipe_learns() -> None:
    found = {one["name"]: one for one in recipes.recipes("image-classification")}
    assert {"counting", "small-cnn", "timm"} <= set(found)
    assert found["counting"]["tasks"] == ["image-classification"]
    assert found["counting"]["is_tunable"]
    assert found["small-cnn"]["schema"]["properties"]["width"]["description"]
    assert "counting" not in {one["name"] for one in recipes.recipes("tabular-regression")}
    for name, one in found.items():
        if name != "counting":
            for field, facts in one["schema"]["properties"].items():
                assert facts.get("description"), f"{name}.{field} has no text"


@pytest.mark.parametrize(
    ("size", "budget_s", "items", "side"),
    [(32, 600.0, 600, 32), (512, None, 600, 96), (512, 60.0, 600, 96), (512, 300.0, 600, 160), (512, 600.0, 600, 224),
     (512, 600.0, 60_000, 96), (130, 600.0, 60, 128)],
)  # fmt: skip
def test_a_long_budget_takes_larger_images(size: int, budget_s: float | None, items: int, side: int) -> None:
    images = {"train": np.broadcast_to(np.zeros((), np.uint8), (items, size, size, 3))}
    source = replace(squares(), images=images)
    assert size_for(source, budget_s) == side
