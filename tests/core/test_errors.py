"""One tree, one sentence, one JSON shape, one exit code per class."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core import errors
from loopworks.core.errors import (
    Busy,
    Cancelled,
    Conflict,
    Failed,
    Invalid,
    LoopworksError,
    Missing,
    NotFound,
    error_classes,
    from_json,
)

ONE_OF_EACH = [
    Invalid("port", "between 0 and 65535", 70000, "0 takes a free one"),
    NotFound("plug-in", "train.nope", ["train.mean"]),
    Missing("openvino", "optimize", "this variant runs on OpenVINO"),
    Cancelled(),
    *(kind("a message", "a hint") for kind in error_classes().values() if kind.__init__ is LoopworksError.__init__),
]


def test_the_examples_cover_every_class() -> None:
    assert {type(error) for error in ONE_OF_EACH} == set(error_classes().values())


def test_invalid_says_what_must_be_what_and_what_was_got() -> None:
    error = Invalid("train.mean.shrink", "less than or equal to 1", 3)
    assert error.message == "train.mean.shrink must be less than or equal to 1; got 3"
    assert str(error) == error.message
    assert error.hint == ""


def test_not_found_lists_what_exists() -> None:
    error = NotFound("plug-in", "train.nope", ["train.mean", "train.lightgbm"])
    assert error.message == "plug-in 'train.nope' does not exist"
    assert error.hint == "known: train.mean, train.lightgbm"


def test_not_found_lists_at_most_twelve_names() -> None:
    hint = NotFound("item", "x", [f"i{n}" for n in range(15)]).hint
    assert hint == "known: " + ", ".join(f"i{n}" for n in range(12)) + ", and 3 more"


def test_not_found_says_so_where_nothing_exists_yet() -> None:
    assert NotFound("dataset", "litter").hint == "there is no dataset yet"


def test_missing_gives_the_line_that_installs_it() -> None:
    error = Missing("openvino", "optimize", "this variant runs on OpenVINO")
    assert error.message == "package 'openvino' must be installed (this variant runs on OpenVINO); got no such package"
    assert error.hint == "pip install 'loopworks[optimize]'"


@pytest.mark.parametrize("value", ["x" * 5000, ["x"] * 5000, {"k": "x" * 5000}], ids=["text", "list", "dict"])
def test_a_long_value_is_cut(value: object) -> None:
    assert len(Invalid("field", "short", value).message) < 250
    assert len(NotFound("thing", value).message) < 250


def test_control_characters_of_hostile_input_never_reach_a_terminal() -> None:
    error = Invalid("file \x1b[31mred\x07", "an image", "a\nb\x00", "see \x1b]0;title\x07")
    assert error.message == "file \\x1b[31mred\\x07 must be an image; got a b\\x00"
    assert "\x1b" not in error.hint


def test_text_of_any_script_stays_readable() -> None:
    assert Invalid("类别", "已知", "猫").message == "类别 must be 已知; got 猫"


def test_names_that_are_no_unicode_can_still_be_written() -> None:
    Invalid("file bad\udcff.jpg", "an image", "x").message.encode()


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda e: type(e).__name__)
def test_json_has_one_shape_and_comes_back_as_the_same_class(error: LoopworksError) -> None:
    body = error.to_json()
    assert body == {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    back = from_json(body)
    assert type(back) is type(error)
    assert (back.message, back.hint, back.to_json()) == (error.message, error.hint, body)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda e: type(e).__name__)
def test_errors_cross_process_borders_unchanged(error: LoopworksError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), back.message, back.hint) == (str(error), error.message, error.hint)


def test_every_class_has_its_own_code_and_a_status_and_exit_code_that_faces_can_use() -> None:
    classes = error_classes()
    assert len(classes) == len({kind.__name__ for kind in classes.values()})
    for code, kind in classes.items():
        assert kind.code == code
        assert 400 <= kind.status <= 599, kind
        assert kind.exit_code in (1, 2, 130), kind


@pytest.mark.parametrize(
    ("kind", "exit_code"), [(Invalid, 2), (NotFound, 2), (Conflict, 2), (Busy, 1), (Failed, 1), (Cancelled, 130)]
)
def test_exit_code_is_2_for_what_the_user_gave_and_1_for_what_went_wrong(
    kind: type[LoopworksError], exit_code: int
) -> None:
    assert kind.exit_code == exit_code


@pytest.mark.parametrize(
    "body", [{}, [], None, "text", 7, {"error": None}, {"error": "model not found"}, {"error": {"code": "new_in_2"}}]
)
def test_an_error_of_another_shape_becomes_a_failure(body: object) -> None:
    assert type(from_json(body)) is Failed


def test_what_another_server_said_is_kept() -> None:
    assert from_json({"error": "model not found"}).message == "model not found"


def test_a_subclass_without_a_code_of_its_own_never_stands_in_for_its_parent() -> None:
    class Narrower(Invalid):
        pass

    try:
        assert error_classes()["invalid"] is Invalid
        assert type(from_json(Invalid("a", "b", 1).to_json())) is Invalid
        assert error_classes()["invalid"] is not Narrower
    finally:
        del Narrower


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["error", "code", "message", "hint", "x"]), x),
    )
)
def test_from_json_takes_anything(body: object) -> None:
    back = from_json(body)
    assert from_json(back.to_json()).to_json() == back.to_json()


def test_every_error_has_a_docstring_for_the_reference_page() -> None:
    assert all(kind.__doc__ and kind.__doc__ != LoopworksError.__doc__ for kind in error_classes().values())
    assert errors.__doc__
