"""The proof that an ONNX file answers as its network: ties may be broken either way, wrong answers are found."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from loopworks.core.errors import Failed  # noqa: E402
from loopworks.core.values import ImageRule  # noqa: E402
from loopworks.train import export as exports  # noqa: E402

pytestmark = pytest.mark.train
RULE = ImageRule(height=8, width=8)


class Grid(nn.Module):
    """A value of its own for each of 64 places, whose scores are all the same where ``slope`` is zero."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.weight = nn.Parameter(torch.linspace(1, 2, 64).reshape(1, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.mean(1).flatten(1)
        return self.slope * flat + 0.5, flat.mean(1, keepdim=True) * self.weight


def answer(raw: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    best, place = torch.topk(raw[0], 5, dim=1)
    return {"scores": best, "values": raw[1].gather(1, place)}


def served(slope: float) -> exports.Served:
    mean, std = torch.zeros(3), torch.full((3,), 255.0)
    return exports.Served(Grid(slope), mean, std, answer, ("scores", "values")).eval()


def change(path: Path, name: str, times: float) -> None:
    model = onnx.load(path)
    (one,) = [one for one in model.graph.initializer if one.name.endswith(name)]
    one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(times), one.name))
    onnx.save(model, path)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_equals_may_be_picked_either_way(slope: float, tmp_path: Path) -> None:
    exports.export(served(slope), RULE, tmp_path / "model.onnx")


def test_torch_goes_on_from_what_was_picked_as_long_as_it_is_as_good() -> None:
    values = torch.tensor([[3.0, 1.0, 3.0, 2.0]])
    with exports.Picks([np.asarray([[2, 0]])]):
        assert values.topk(2, dim=1).indices.tolist() == [[2, 0]]
    for worse in ([[2, 3]], [[2, 2]], [[0, 2, 3]]):  # not the best, one of them twice, too many
        with exports.Picks([np.asarray(worse)]):
            assert sorted(torch.topk(values, 2).indices[0].tolist()) == [0, 2]
    with exports.Picks([]):
        assert sorted(values.topk(2).indices[0].tolist()) == [0, 2]


def test_a_file_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for slope, times in ((1.0, 1.01), (0.0, 1.01), (1.0, -1.0)):
        exports.export(served(slope), RULE, path)
        change(path, "weight", times)
        with pytest.raises(Failed, match=r"within 0\.0001 of torch's"):
            exports.check(served(slope), RULE, path)
    exports.export(served(1.0), RULE, path)
    exports.check(served(1.0), RULE, path)
    with pytest.raises(Failed, match="apart at batch 1"):
        exports.check(served(-1.0), RULE, path)  # picks the worst instead of the best


def test_a_file_that_does_not_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(Failed, match="must run"):
        exports.check(served(1.0), RULE, tmp_path / "model.onnx")
