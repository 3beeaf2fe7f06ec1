"""Which words speak for a label: weights that add up, and places in the text as it was given."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.texts.source import complaints
from tests.train.texts.test_ngrams import ask, train

from loopworks.core.bundle import Bundle
from loopworks.core.errors import NotFound
from loopworks.train.texts.explain import attributions, evidence, words

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train(tmp_path_factory.mktemp("explain"))


def test_the_word_that_makes_the_class_has_the_most_weight(bundle: Bundle) -> None:
    text = "Since Monday there is a big POTHOLE in front of my house"
    found = attributions(bundle, text)
    assert [text[start:end] for start, end, _ in found] == text.split()
    start, end, weight = max(found, key=lambda span: span[2])
    assert text[start:end] == "POTHOLE"
    assert weight > 0
    against = {text[a:b]: value for a, b, value in attributions(bundle, text, "light")}
    assert against["POTHOLE"] < weight
    with pytest.raises(NotFound, match="class 'nope' does not exist"):
        attributions(bundle, text, "nope")


@pytest.mark.parametrize(
    "text", ["a lamp, THE lamp", "垃圾桶有异味", "ﬁne caf\u0065\u0301 Straße pothole", "", "?!", "xyzzy"]
)
def test_the_weights_add_up_to_the_answer(bundle: Bundle, text: str) -> None:
    scores = ask(bundle, text)[0].astype(np.float64)
    logits = np.log(scores) - np.log(scores).mean()
    for label, logit in zip(bundle.schema.classes, logits, strict=True):
        found = evidence(bundle, text, label)
        assert found.total == pytest.approx(logit, abs=1e-3)
        assert found.base + sum(weight for _, _, weight in found.spans) == pytest.approx(found.total, abs=1e-3)


def test_the_weights_add_up_without_a_hidden_layer_and_with_several_labels(tmp_path: Path) -> None:
    params = {"hidden": 0, "rate": 0.1, "epochs": 10}
    made = train(tmp_path, complaints(60, is_multi=True), params=params)
    (score,) = ask(made, "a lamp and a pothole")
    for place, label in enumerate(made.schema.classes):
        found = evidence(made, "a lamp and a pothole", label)
        assert found.total == pytest.approx(float(np.log(score[place] / (1 - score[place]))), abs=1e-3)
        assert found.base + sum(weight for _, _, weight in found.spans) == pytest.approx(found.total, abs=1e-3)


@given(
    st.text(max_size=30)
    | st.sampled_from(["ﬁ e\u0301x", "각 한글", "\u1100\u1161\u11a8", "Å\u0301", "İstanbul", "ﷺ x"])
)
def test_words_lie_in_the_text_in_their_order(text: str) -> None:
    found = words(text)
    for start, end in found:
        assert 0 <= start < end <= len(text)
    assert [start for start, _ in found] == sorted(start for start, _ in found)
