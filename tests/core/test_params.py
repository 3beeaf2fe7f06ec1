"""Parameters from outside are checked before a plug-in is built."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import ConfigDict, Field

from loopworks.core import params
from loopworks.core.errors import Invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """A plug-in with parameters of each kind."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True)

    epochs: Annotated[int, Field(ge=1, le=100)]
    """Passes over the data, in 1..100."""
    rate: Annotated[float, Field(gt=0)] = 0.1
    """Step size."""
    size: Literal["small", "large"] = "small"
    """Which net."""


@dataclass(frozen=True, slots=True)
class Bare:
    """A plug-in without parameters."""


def test_text_from_a_command_line_becomes_what_the_field_is() -> None:
    assert params.build(Trainer, {"epochs": "5", "rate": "0.5"}) == Trainer(epochs=5, rate=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "train.mine.epochs must be greater than or equal to 1; got 0"),
        ({"epochs": 101}, "train.mine.epochs must be less than or equal to 100; got 101"),
        ({"epochs": 1.5}, "train.mine.epochs must be a valid integer, got a number with a fractional part; got 1.5"),
        ({"epochs": 1, "rate": float("nan")}, "train.mine.rate must be greater than 0; got nan"),
        ({"epochs": 1, "size": "huge"}, "train.mine.size must be 'small' or 'large'; got huge"),
        ({"epochs": 1, "speed": 9}, "train.mine.speed must be a known parameter; got speed"),
        ({}, "train.mine.epochs must be given; got nothing"),
    ],
)
def test_a_wrong_parameter_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        params.build(Trainer, given, "train.mine")
    assert caught.value.message == message


def test_an_unknown_parameter_lists_the_known_ones() -> None:
    with pytest.raises(Invalid) as caught:
        params.build(Trainer, {"epochs": 1, "speed": 9})
    assert caught.value.hint == "known: epochs, rate, size"
    with pytest.raises(Invalid) as caught:
        params.build(Bare, {"speed": 9}, "label.bare")
    assert caught.value.hint == "label.bare has no parameters"


def test_the_form_says_range_default_and_meaning() -> None:
    field = params.schema(Trainer)["properties"]["epochs"]
    assert (field["minimum"], field["maximum"], field["description"]) == (1, 100, "Passes over the data, in 1..100.")
    assert params.schema(Trainer)["properties"]["rate"]["default"] == 0.1
    assert params.schema(Trainer)["required"] == ["epochs"]


def test_inherited_parameters_keep_their_text() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Finer(Trainer):
        __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

        steps: int = 1
        """Steps per epoch."""

    found = params.schema(Finer)["properties"]
    assert found["steps"]["description"] == "Steps per epoch."
    assert found["epochs"]["description"] == params.schema(Trainer)["properties"]["epochs"]["description"]
