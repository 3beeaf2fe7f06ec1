"""Values refuse what makes no sense, and come back from JSON as they were."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import ImageRule, LabelSchema, LineageNode, Problem, Score, Shape, TensorSpec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
EXAMPLES = [
    LabelSchema(classes=("cat", "dog"), is_multi=True),
    Shape(label="cat", source="model", author="litter-3"),
    TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),
    ImageRule(height=64, width=48, fit="pad"),
    Score(value=0.9, low=0.85, high=0.94, count=200),
]


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda v: type(v).__name__)
def test_a_value_comes_back_from_json_as_it_was(value: Any) -> None:
    assert type(value).from_json(value.to_json()) == value


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda v: type(v).__name__)
@given(data=st.data())
def test_changed_json_gives_the_value_or_one_clear_error(value: Any, data: st.DataObject) -> None:
    body = value.to_json()
    key = data.draw(st.sampled_from(sorted(body)))
    if data.draw(st.booleans()):
        del body[key]
    else:
        body[key] = data.draw(JSON)
    found: Any
    try:
        found = type(value).from_json(body)
    except LoopworksError as error:
        found = error
    assert isinstance(found, type(value) | Invalid)
    if isinstance(found, Invalid):
        assert found.exit_code == 2


@pytest.mark.parametrize(
    "classes", [("cat", "cat"), ("Cat", "cat"), ("straße", "STRASSE"), ("e\u0301", "\u00e9"), ("a", "b", "A")]
)
def test_classes_that_differ_in_case_or_spelling_only_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(Invalid, match="class names must be different in more than upper and lower case") as caught:
        LabelSchema(classes=classes)
    assert caught.value.hint == "rename one of them, or merge the two classes"


def test_equal_names_are_refused_even_as_one_object() -> None:
    name = "cat"
    with pytest.raises(Invalid):
        LabelSchema(classes=(name, name))


@pytest.mark.parametrize("name", ["", " ", " cat", "cat ", "cat\n"])
def test_a_class_name_with_blanks_around_it_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="class name must be text without blanks around it"):
        LabelSchema(classes=(name,))


def test_a_folder_name_that_is_no_unicode_is_refused_as_a_class() -> None:
    with pytest.raises(Invalid, match="class name must be Unicode text; got caf"):
        LabelSchema(classes=("caf\udce9",))


@pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0), (-1, 1), (8193, 1), (1, 8193)])
def test_a_rule_of_an_impossible_size_is_refused(height: int, width: int) -> None:
    with pytest.raises(Invalid, match="must be between 1 and 8192 pixels"):
        ImageRule(height=height, width=width)


def test_another_fit_is_refused() -> None:
    with pytest.raises(Invalid, match="image rule fit must be stretch, crop or pad; got letterbox"):
        ImageRule(height=1, width=1, fit="letterbox")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "BGR"}, "preprocessing.color must be RGB (the rule that this version knows); got BGR"),
        (
            {"resize": "opencv"},
            "preprocessing.resize must be pillow-bilinear-antialias (the rule that this version knows); got opencv",
        ),
        ({"mean": [0.5]}, "preprocessing.mean must be absent (the rule that this version knows); got [0.5]"),
        ({"height": "64"}, "preprocessing.height must be a whole number, 1 or more; got 64"),
        ({"height": True}, "preprocessing.height must be a whole number, 1 or more; got True"),
        ({"fit": None}, "preprocessing.fit must be one of stretch, crop, pad; got None"),
    ],
)
def test_a_rule_that_this_version_does_not_know_is_never_guessed_around(change: dict[str, Any], message: str) -> None:
    body = ImageRule(height=64, width=64).to_json() | change
    with pytest.raises(Invalid) as caught:
        ImageRule.from_json(body)
    assert caught.value.message == message


def test_a_rule_without_one_of_its_constants_is_refused() -> None:
    body = ImageRule(height=64, width=64).to_json()
    del body["alpha"]
    with pytest.raises(Invalid, match=r"preprocessing.alpha must be over-black .*; got nothing"):
        ImageRule.from_json(body)


def test_one_is_not_taken_for_true_in_a_rule() -> None:
    body = {**ImageRule(height=64, width=64).to_json(), "jpeg_draft": 1}
    with pytest.raises(Invalid, match=r"preprocessing.jpeg_draft must be True .*; got 1"):
        ImageRule.from_json(body)


def test_text_is_not_taken_for_a_list_of_classes() -> None:
    with pytest.raises(Invalid, match="label schema.classes must be a list of texts; got cat"):
        LabelSchema.from_json({"classes": "cat", "is_multi": False})


def test_shapes_sort_by_class() -> None:
    assert [s.label for s in sorted([Shape(label="b"), Shape(label="a", source="model")])] == ["a", "b"]


def test_reports_are_plain_json() -> None:
    assert Problem(where="a.jpg", error="invalid", message="m", hint="h").to_json() == {
        "where": "a.jpg",
        "error": "invalid",
        "message": "m",
        "hint": "h",
    }
    assert LineageNode(kind="run", id="r1", facts={"name": "x"}).to_json() == {"kind": "run", "id": "r1", "name": "x"}
