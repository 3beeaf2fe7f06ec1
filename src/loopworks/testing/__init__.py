"""Contract tests that plug-in authors inherit: one class per contract, each names what it proves.

from loopworks.testing import SamplerContract

class TestMine(SamplerContract):
    plugin = MySampler

A contract needs pytest alone (``BlobsContract`` hypothesis too: ``pip install 'loopworks[testing]'``).
"""

from loopworks.testing.blobs import BlobsContract
from loopworks.testing.context import Recorder, context
from loopworks.testing.predictor import PredictorContract
from loopworks.testing.runtime import RuntimeContract
from loopworks.testing.sampler import SamplerContract
from loopworks.testing.snapshot import difference, snapshot
from loopworks.testing.step import PluginContract, StepContract
from loopworks.testing.task import TaskContract

__all__ = [
    "BlobsContract",
    "PluginContract",
    "PredictorContract",
    "Recorder",
    "RuntimeContract",
    "SamplerContract",
    "StepContract",
    "TaskContract",
    "context",
    "difference",
    "snapshot",
]
