"""The contract that every step keeps, and what this recipe does beyond it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from loopworks_means import Means

from loopworks.core.contracts import Learnable
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema
from loopworks.testing import StepContract, context
from loopworks.train.contracts import Lesson, Made, Packed

CLASSES = ("dark", "bright")


@dataclass(frozen=True)
class Shades:
    """Dark and bright images."""

    id: str = "0" * 64
    schema: LabelSchema = LabelSchema(classes=CLASSES)

    @property
    def task(self) -> Learnable:
        found: Learnable = plugins.get("task.image-classification")
        return found

    @property
    def counts(self) -> Mapping[str, int]:
        return {"train": 20, "val": 10}

    def inputs(self, rule: Any, split: str, progress: Any = None) -> dict[str, Any]:
        rng = np.random.default_rng(len(split))
        count = self.counts[split]
        pixels = rng.integers(0, 100, (count, rule.height, rule.width, 3))
        pixels[1::2] += 90
        return {"image": pixels.astype(np.uint8)}

    def targets(self, split: str) -> Any:
        return np.eye(2, dtype=np.float32)[np.arange(self.counts[split]) % 2]

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": str(i)} for i in range(self.counts[split])]


def lesson(folder: Path) -> Lesson:
    (folder / "out").mkdir()
    return Lesson(source=Shades(), inputs=Packed(Shades()), folder=folder / "out")


class TestMeans(StepContract):
    plugin = Means
    params = {"size": 4}
    refused = {"shrink": 2}
    name = "train.means"

    def source(self, folder: Path) -> Any:
        return lesson(folder)

    def run(self, source: Lesson, ctx: Any) -> Any:
        # The files that it writes are its result; the lesson itself must stay as it was.
        made: Made = super().run(replace(source, inputs=Packed(Shades()), folder=ctx.scratch), ctx)
        return made, (ctx.scratch / made.variant.file).read_bytes()


def test_the_file_tells_dark_from_bright(tmp_path: Path) -> None:
    task = lesson(tmp_path)
    made = Means().run(task, context(tmp_path))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(task.folder / made.variant.file), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, dict(Shades().inputs(made.rule, "val")))
    assert (scores.argmax(axis=1) == Shades().targets("val").argmax(axis=1)).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
