"""Reading queries: what they mean, and what their errors say."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopworks.core.errors import Invalid
from loopworks.core.query import (
    ALWAYS,
    Among,
    And,
    Between,
    Compare,
    Count,
    Field,
    Match,
    Missing,
    Node,
    Not,
    Or,
    Sort,
    models,
)
from loopworks.data.query.parser import MAX_DEPTH, MAX_PARTS, parse, parse_sort

LABEL, WIDTH, SPLIT = Field("label"), Field("width"), Field("split")


@pytest.mark.parametrize(
    ("query", "node"),
    [
        ("", ALWAYS),
        ("label = 'car'", Compare(LABEL, "=", "car")),
        ('label == "car"', Compare(LABEL, "=", "car")),
        ("label = 'it''s'", Compare(LABEL, "=", "it's")),
        ("WIDTH > 640", Compare(WIDTH, ">", 640)),
        ("640 < width", Compare(WIDTH, ">", 640)),
        ("width > -1.5e2", Compare(WIDTH, ">", -150.0)),
        ("size >= 1_000", Compare(Field("size_bytes"), ">=", 1000)),
        ("label != 'car'", And((Not(Compare(LABEL, "=", "car")), Not(Missing(LABEL))))),
        ("split in ('train', 'val')", Among(SPLIT, ("train", "val"))),
        ("split in ['train']", Among(SPLIT, ("train",))),
        ("split not in ('train')", And((Not(Among(SPLIT, ("train",))), Not(Missing(SPLIT))))),
        ("split is missing", Missing(SPLIT)),
        ("split = ''", Missing(SPLIT)),
        ("split == null", Missing(SPLIT)),
        ("split is not null", Not(Missing(SPLIT))),
        ("width between 1 and 2 and height = 3", And((Between(WIDTH, 1, 2), Compare(Field("height"), "=", 3)))),
        ("name ~ 'a/%'", Compare(Field("name"), "like", "a/%")),
        ("text like '%x%'", Compare(Field("text"), "like", "%x%")),
        ("not width = 1", Not(Compare(WIDTH, "=", 1))),
        ("!(width = 1)", Not(Compare(WIDTH, "=", 1))),
        ("width=1 | width=2 & height=3",
         Or((Compare(WIDTH, "=", 1), And((Compare(WIDTH, "=", 2), Compare(Field("height"), "=", 3)))))),
        ("width=1 || width=2 && width=3",
         Or((Compare(WIDTH, "=", 1), And((Compare(WIDTH, "=", 2), Compare(WIDTH, "=", 3)))))),
        ("attributes.camera = 'A3'", Compare(Field("attributes", ("camera",)), "=", "A3")),
        ("attributes.相机 = true", Compare(Field("attributes", ("相机",)), "=", True)),
        ("attributes.gps.lat > 1", Compare(Field("attributes", ("gps", "lat")), ">", 1)),
        ("attributes.`a b.c` = 1", Compare(Field("attributes", ("a b.c",)), "=", 1)),
        ("count(car) >= 2", Count(Compare(LABEL, "=", "car"), ">=", 2)),
        ("count('big car') != 2", Not(Count(Compare(LABEL, "=", "big car"), "=", 2))),
        ("count(*) = 0", Count(None, "=", 0)),
        ("count() = 0", Count(None, "=", 0)),
        ("any(label = 'car' and box.area < 9)",
         Count(And((Compare(LABEL, "=", "car"), Compare(Field("box.area"), "<", 9))), ">=", 1)),
        ("match('main street')", Match("main street")),
        ("prediction.label = label", Compare(Field("prediction.label"), "=", LABEL)),
        ("width > height", Compare(WIDTH, ">", Field("height"))),
        ("true", ALWAYS),
    ],
)  # fmt: skip
def test_a_query_means(query: str, node: Node) -> None:
    assert parse(query) == node


def test_a_date_is_its_whole_day() -> None:
    at, day, after = Field("added_at"), datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    assert parse("added_at >= '2026-01-31'") == Compare(at, ">=", day)
    assert parse("added_at <= '2026-01-31'") == Compare(at, "<", after)
    assert parse("added_at > '2026-01-31'") == Compare(at, ">=", after)
    assert parse("added_at = '2026-01-31'") == And((Compare(at, ">=", day), Compare(at, "<", after)))
    noon = datetime(2026, 1, 31, 11, tzinfo=UTC)
    assert parse("added_at < '2026-01-31T12:00:00+01:00'") == Compare(at, "<", noon)


@pytest.mark.parametrize(
    ("query", "at", "says"),
    [
        ("width >> 3", 8, "a value"),
        ("width > 'a'", 9, "a number, because width is one"),
        ("label = 3", 9, "text in quotes"),
        ("label = car", 9, "a field that exists"),
        ("camera = 'A3'", 1, "a field that exists"),
        ("label = 'car", 9, "closing '"),
        ("(width = 1", 11, "')'"),
        ("width = 1 height = 2", 11, "and, or, or the end"),
        ("width", 6, "a comparison"),
        ("width in 3", 10, "a list"),
        ("width between 1 or 2", 17, "and"),
        ("any(width > 3)", 5, "a field of a shape"),
        ("count(car) > 'x'", 14, "a number"),
        ("match('!!')", 7, "at least one word"),
        ("added_at > 'yesterday'", 12, "a date"),
        ("width like 'a%'", 12, "text"),
        ("width = 1 $ 2", 11, "a field, a value"),
        ("width = 3px", 10, "the end of a number"),
        ("attributes = 1", 1, "attributes.NAME"),
        ("width = label", 9, "a field of number"),
        ("name like 'a\\'", 11, "a pattern"),
    ],
)
def test_an_error_says_where_and_what_was_expected(query: str, at: int, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(query)
    assert f"query at character {at} must be" in caught.value.message
    assert says in caught.value.message
    shown, caret = caught.value.hint.splitlines()[-2:]
    assert shown == query
    assert caret == " " * (at - 1) + "^"


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(Invalid) as caught:
        parse("widht > 3")
    assert "did you mean width" in caught.value.hint


def test_the_caret_stands_under_wide_characters_too() -> None:
    with pytest.raises(Invalid) as caught:
        parse("attributes.相机 = 相")
    assert caught.value.hint.splitlines()[-1] == " " * len("attributes.相机 = ") + "  " + "^"


def test_queries_have_limits() -> None:
    for query in ("(" * (MAX_DEPTH + 1), "not " * 5000, " or ".join(["width = 1"] * (MAX_PARTS + 1)), "x" * 30_000):
        with pytest.raises(Invalid):
            parse(query)
    assert parse(" or ".join(["width = 1"] * MAX_PARTS))


def test_named_models_are_the_scope() -> None:
    assert models(parse("prediction.score < 0.5")) is None
    assert models(parse("prediction.model = 'm:2' and prediction.score < 0.5")) == ("m:2",)
    assert models(parse("prediction.model in ('m:1', 'm:2')")) == ("m:1", "m:2")
    assert models(parse("prediction.model like 'm%'")) == ()


def test_sorts_are_read() -> None:
    assert parse_sort("") == Sort(Field("name"))
    assert parse_sort("-size") == Sort(Field("size_bytes"), True)
    assert parse_sort("count") == Sort(None)
    assert parse_sort("-attributes.a.b") == Sort(Field("attributes", ("a", "b")), True)
    with pytest.raises(Invalid, match="sort must be one of"):
        parse_sort("label")


PIECES = ("label", "width", "attributes.a", "=", "!=", "<", "(", ")", "and", "or", "not", "in", "'x'", "3", ",", "[",
          "count", "any", "match", "*", "is", "missing", "between", "like", "prediction.score", "true", "`",
          "-", "é", "相", "\x00", "'")  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_any_text_is_read_or_refused(pieces: list[str]) -> None:
    """No other error than ``Invalid`` ever comes out."""
    node: object = ALWAYS
    with contextlib.suppress(Invalid):
        node = parse(" ".join(pieces))
    assert isinstance(node, Node)
