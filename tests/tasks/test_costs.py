"""What it costs to miss an item decides which class is chosen."""

import numpy as np
import pytest

from loopworks.core.contracts import Learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema


def test_costs_of_classes_are_a_threshold() -> None:
    task: Learnable = plugins.get("task.tabular-classification")
    plain = LabelSchema(classes=("no", "yes"))
    costly = LabelSchema(classes=("no", "yes"), costs=(1, 4))
    assert LabelSchema.from_json(costly.to_json()) == costly
    assert "costs" not in plain.to_json()
    outputs = {"scores": np.asarray([[0.81, 0.19], [0.79, 0.21], [0.1, 0.9]], np.float32)}
    assert [found["chosen"] for found in task.decode(outputs, costly)] == [["no"], ["yes"], ["yes"]]
    assert [[shape.label for shape, _ in found] for found in task.labels(outputs, costly, "m")] == [
        ["no"],
        ["yes"],
        ["yes"],
    ]
    assert [found["chosen"] for found in task.decode(outputs, plain)] == [["no"], ["no"], ["yes"]]
    for costs in ((1.0,), (1.0, 0.0), (1.0, float("inf"))):
        with pytest.raises(Invalid, match="costs of classes must be 2 finite numbers above 0"):
            LabelSchema(classes=("no", "yes"), costs=costs)
    with pytest.raises(Invalid, match="costs of classes must be empty where an item may carry several"):
        LabelSchema(classes=("no", "yes"), costs=(1.0, 2.0), is_multi=True)
    with pytest.raises(Invalid, match=r"costs\[0\].cost must be a finite number"):
        LabelSchema.from_json({**costly.to_json(), "costs": ["1", 2]})
