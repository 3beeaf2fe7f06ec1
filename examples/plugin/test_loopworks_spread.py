"""The contract that every sampler keeps, and what this one does beyond it."""

import numpy as np
from loopworks_spread import SpreadSampler

from loopworks.testing import SamplerContract


class TestSpread(SamplerContract):
    plugin = SpreadSampler
    params = {"sure": 0.4}
    refused = {"sure": 1.5}
    name = "label.spread"


def test_a_share_comes_from_the_whole_range() -> None:
    uncertainty = np.arange(10) / 10
    features = np.zeros((10, 1), np.float32)
    assert SpreadSampler(sure=0.5).pick(uncertainty, features, 4, seed=0).tolist() == [9, 8, 7, 0]
    assert SpreadSampler(sure=0.0).pick(uncertainty, features, 4, seed=0).tolist() == [9, 8, 7, 6]
