"""The samplers that ship with Loopworks keep the contract that outside ones must keep."""

from loopworks.label.samplers import DiverseSampler, RandomSampler, UncertainSampler
from loopworks.testing import SamplerContract


class TestRandom(SamplerContract):
    plugin = RandomSampler


class TestUncertain(SamplerContract):
    plugin = UncertainSampler


class TestDiverse(SamplerContract):
    plugin = DiverseSampler
    refused = {"width": 0}


class TestDiverseWithAShortListOfOne(SamplerContract):
    plugin = DiverseSampler
    params = {"width": 1}
