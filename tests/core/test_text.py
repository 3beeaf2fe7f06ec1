"""Texts as pieces and as tokens: what is a piece, that rows do not touch each other, that no text breaks a rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core import rules
from loopworks.core.errors import Invalid
from loopworks.core.predictor import opened
from loopworks.core.text import TextRule, TokenRule, plain

RULE = TextRule()
WORDS = TextRule(words=(1, 2), chars=(0, 0))
CHARS = TextRule(words=(0, 0), chars=(2, 3))


def spans(rule: TextRule, text: str) -> list[str]:
    found = rule.pieces([text])
    form = plain(text)
    return [form[start:end] for start, end in zip(found.start, found.end, strict=True)]


def encoded(rule: TextRule, *texts: str) -> list[dict[int, float]]:
    """Piece -> count, for each text."""
    found = rule.encode(rule.pack(texts))
    assert found["pieces"].dtype == np.int32
    assert found["counts"].dtype == np.float32
    assert found["pieces"].shape == found["counts"].shape
    return [
        {int(piece): float(count) for piece, count in zip(*row, strict=True) if count}
        for row in zip(found["pieces"], found["counts"], strict=True)
    ]


def test_pieces_are_runs_of_words_and_of_characters() -> None:
    assert spans(WORDS, "Where IS my card?") == ["where", "is", "my", "card", "where is", "is my", "my card"]
    # Before "ab" stands the break of the text's start, after it that of its end: neither is a character of the text.
    assert spans(CHARS, "ab c") == ["a", "ab", "b ", " c", "c", "ab", "ab ", "b c", " c"]
    assert spans(TextRule(words=(0, 0), chars=(1, 1)), "a-b") == ["a", "b"]


def test_scripts_without_blanks_are_cut_by_character() -> None:
    assert spans(WORDS, "我的iPhone坏了") == ["我", "的", "iphone", "坏", "了", "我的", "的iphone", "iphone坏", "坏了"]
    assert spans(TextRule(words=(1, 1), chars=(0, 0)), "ひらカナ ไทย") == list("ひらカナไทย")
    # Marks belong to their letter: the vowel signs of Devanagari do not cut a word.
    assert spans(TextRule(words=(1, 1), chars=(0, 0)), "हिन्दी भाषा") == ["हिन्दी", "भाषा"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Straße", "STRASSE"),
        ("é", "e\u0301"),
        ("ﬁne", "fine"),
        ("ＡＢＣ１", "abc1"),
        ("a,  b\n\tc!", "a b c"),
        ("\ufeffhello", "hello"),
    ],
)
def test_texts_that_look_alike_are_the_same(left: str, right: str) -> None:
    assert encoded(RULE, left) == encoded(RULE, right)


def test_pieces_are_counted() -> None:
    one = TextRule(words=(1, 1), chars=(0, 0))
    (found,) = encoded(one, "no no no yes")
    assert sorted(found.values()) == [1, 3]
    assert encoded(one, "yes") == [{piece: 1 for piece, count in found.items() if count == 1}]


def test_a_piece_keeps_its_number_in_every_release() -> None:
    # Worked out by hand with Python's whole numbers: models in use depend on these.
    prime, full = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def mixed(x: int, kind: int) -> int:
        x = (x + kind * 0xD1B54A32D192ED03) & full
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x = ((x ^ (x >> 33)) * factor) & full
        return x ^ (x >> 33)

    hashed = sum((ord(c) + 1) * prime**place for place, c in enumerate("card")) & full
    assert set(encoded(TextRule(words=(1, 1), chars=(0, 0)), "my card")[0]) >= {mixed(hashed, 17) >> 44}
    assert mixed(hashed, 4) >> 44 in encoded(TextRule(words=(0, 0), chars=(4, 4)), "my card")[0]


def test_an_empty_text_has_no_pieces_and_still_a_shape() -> None:
    found = RULE.encode(RULE.pack(["", " \n", "?!"]))
    assert found["pieces"].shape == (3, 1)
    assert not found["counts"].any()
    assert RULE.encode(RULE.pack([]))["pieces"].shape == (0, 1)


TEXTS = st.lists(st.text(max_size=40) | st.sampled_from(["", " ", "a", "ab", "。", "我", "e\u0301", "🇨🇳"]), max_size=6)


@given(TEXTS)
def test_a_text_alone_is_what_it_is_in_a_batch(texts: list[str]) -> None:
    assert encoded(RULE, *texts) == [encoded(RULE, text)[0] for text in texts]


@given(st.text(max_size=60))
def test_counts_are_those_of_the_pieces(text: str) -> None:
    found = RULE.pieces([text])
    assert (found.start >= 0).all()
    assert (found.end <= len(plain(text))).all()
    assert (found.start < found.end).all()
    assert (found.bucket >= 0).all()
    assert (found.bucket < RULE.buckets).all()
    buckets, counts = np.unique(found.bucket, return_counts=True)
    assert encoded(RULE, text) == [dict(zip(buckets.tolist(), counts.astype(float).tolist(), strict=True))]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_are_refused_and_nothing_else(data: bytes) -> None:
    batch: Any = {"text": np.array([data], object)}
    try:
        data.decode()
    except UnicodeDecodeError:
        with pytest.raises(Invalid, match="text 1 must be UTF-8"):
            RULE.encode(batch)
    else:
        assert len(RULE.encode(batch)["pieces"]) == 1


def test_a_huge_text_is_cut_wherever_a_character_ends() -> None:
    rule = TextRule(most_chars=7)
    assert encoded(rule, "我" * 4_000_000 + "x") == encoded(rule, "我" * 7)
    assert encoded(rule, "é我a" * 10) == encoded(rule, "é我aé我aé")


def test_many_texts_go_in_chunks() -> None:
    texts = [f"number {i} of many" for i in range(50)]
    whole = RULE.counts(texts)
    from loopworks.core import text

    before, text._CHUNK = text._CHUNK, 64
    try:
        parts = RULE.counts(texts)
    finally:
        text._CHUNK = before
    assert all(np.array_equal(whole[at], parts[at]) for at in range(3))


@pytest.mark.parametrize(
    ("content", "words"), [(b"bytes", "a text; got bytes"), ("\ud800", "Unicode text"), (3, "int")]
)
def test_what_is_no_text_is_refused_by_name(content: Any, words: str) -> None:
    for rule in (RULE, TokenRule()):
        with pytest.raises(Invalid, match=f"note.txt must be .*{words}"):
            rule.pack(["fine", content], names=["good.txt", "note.txt"])


# --- as JSON -----------------------------------------------------------------------------------------------------


def pairs(most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, most), st.integers(1, most)).map(lambda x: (min(x), max(x)))


TEXT_RULES = st.builds(
    TextRule,
    words=pairs(4),
    chars=pairs(8) | st.just((0, 0)),
    buckets=st.integers(1, 24).map(lambda bits: 1 << bits),
    most_chars=st.integers(1, 1 << 20),
)
TOKEN_RULES = st.builds(
    TokenRule,
    file=st.sampled_from(["tokenizer.json", "words/tokenizer.json"]),
    pad=st.integers(0, 1000),
    most_tokens=st.integers(1, 512),
    most_chars=st.integers(1, 1 << 20),
)


@given(TEXT_RULES | TOKEN_RULES)
def test_a_rule_comes_back_from_json(rule: TextRule | TokenRule) -> None:
    assert rules.read(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize(
    ("rule", "change", "words"),
    [
        (RULE, {"kind": "words"}, "preprocessing.kind must be image"),
        (RULE, {"form": "NFC"}, "preprocessing.form must be NFKC, casefold, NFKC"),
        (RULE, {"hash": "crc32"}, "preprocessing.hash must be"),
        (RULE, {"words": [1]}, "preprocessing.words must be two whole numbers"),
        (RULE, {"words": [2, 1]}, "text rule words must be two numbers that rise within 1..4"),
        (RULE, {"chars": [0, 3]}, "text rule chars must be"),
        (RULE, {"words": [0, 0], "chars": [0, 0]}, "text rule must be one that takes words or characters"),
        (RULE, {"buckets": 1000}, "text rule buckets must be a power of two"),
        (RULE, {"buckets": True}, "preprocessing.buckets must be a whole number"),
        (RULE, {"most_chars": 0}, "preprocessing.most_chars must be a whole number, 1 or more"),
        (RULE, {"more": 1}, "preprocessing.more must be absent"),
        (TokenRule(), {"file": "../tokenizer.json"}, "preprocessing.file must be a relative path"),
        (TokenRule(), {"file": "/etc/passwd"}, "preprocessing.file must be a relative path"),
        (TokenRule(), {"file": ""}, "preprocessing.file must be a relative path"),
        (TokenRule(), {"pad": -1}, "preprocessing.pad must be a whole number, 0 or more"),
        (TokenRule(), {"most_tokens": 1 << 20}, "token rule most_tokens must be"),
        (TokenRule(), {"encoding": "utf-16"}, "preprocessing.encoding must be utf-8"),
    ],
)
def test_another_rule_is_refused_and_never_guessed_around(rule: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words.replace("(", r"\(")):
        rules.read({**rule.to_json(), **change})


# --- tokens ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle's folder with a tokenizer of whole words."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the [text] extra")
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "my": 3, "card": 4, "is": 5, "lost": 6}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_tokens_are_filled_up_and_cut(folder: Path) -> None:
    rule = opened(TokenRule(most_tokens=4), folder)
    found = rule.encode(rule.pack(["my card", "", "my card is lost"]))["tokens"]
    assert found.tolist() == [[2, 3, 4, 0], [2, 0, 0, 0], [2, 3, 4, 5]]
    assert found.dtype == np.int64
    assert rule.encode(rule.pack(["my card"]))["tokens"].tolist() == [[2, 3, 4]]


def test_a_rule_without_its_folder_or_tokenizer_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="token rule must be opened"):
        TokenRule().encode(TokenRule().pack(["a"]))
    gone = TokenRule(file="other.json").opened(folder)
    with pytest.raises(Invalid, match=r"other.json must be a file"):
        gone.encode(gone.pack(["a"]))
    (folder / "other.json").write_text("{}")
    with pytest.raises(Invalid, match=r"other.json must be a tokenizer.json"):
        gone.encode(gone.pack(["a"]))


def test_the_folder_is_no_part_of_the_rule(folder: Path) -> None:
    assert TokenRule().opened(folder) == TokenRule()
    assert "folder" not in json.dumps(TokenRule().opened(folder).to_json())
