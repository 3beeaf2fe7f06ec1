"""Texts as hashed pieces of words."""

import numpy as np

from loopworks.data.features.texts import Words


def test_texts_about_the_same_lie_nearer_in_any_script() -> None:
    rows = Words().describe([
        "my card was stolen",
        "Stolen CARD!",
        "weather is fine today",
        "我的银行卡被盗了",
        "银行卡被盗",
    ])
    alike = rows @ rows.T
    assert alike[0, 1] > alike[0, 2] + 0.3
    assert alike[3, 4] > max(alike[3, :3])


def test_an_empty_text_is_a_row_of_zeros() -> None:
    assert not np.asarray(Words().describe([""])).any()
