"""Detectors that answer a fixed number of queries (RT-DETR and its kin): network, objective, a small one of ours."""
# ruff: noqa: TID253 - this file is imported inside functions only

import builtins
import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loopworks.tasks import detection as task
from loopworks.train.augment import Augment
from loopworks.train.detection.boxes import best_of
from loopworks.train.detection.dense import prepare

Raw = Mapping[str, Any]
"""What a network of transformers gives, by name: ``logits``, ``pred_boxes`` (centre x, y, width, height in 0..1) and
what its own loss wants beside them."""
LOSS_TAKES = {
    "outputs_class": "intermediate_logits",
    "outputs_coord": "intermediate_reference_points",
    "enc_topk_logits": "enc_topk_logits",
    "enc_topk_bboxes": "enc_topk_bboxes",
    "predicted_corners": "intermediate_predicted_corners",
    "initial_reference_points": "initial_reference_points",
}
"""Names that the losses of transformers use for the outputs of its networks."""


class QueryNet(nn.Module):
    """A detector of transformers as the training loop calls it."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap RT-DETR, RT-DETRv2 or D-FINE."""
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Raw:
        """Images ``(n, 3, height, width)`` in 0..1 to the outputs by name."""
        with any_batch(self.net):
            found = self.net(pixel_values=x)
        return {name: found.get(name) for name in ("logits", "pred_boxes", *LOSS_TAKES.values())}


@contextlib.contextmanager
def any_batch(net: nn.Module) -> Iterator[None]:
    """Let the exporter see a free batch.

    The networks of transformers 5 take their batch size by ``len``, whose result Python makes a plain number (so the
    exported graph would take batches of that size alone), and check shapes in a way that no graph can hold. Inside,
    ``len`` of their file is the tensor's own size, and the checks are left out.
    """
    if not torch.compiler.is_exporting():
        yield
        return
    module = sys.modules[type(net).__module__]

    def size(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) else builtins.len(value)

    def unchecked(*_args: Any, **_more: Any) -> None: ...

    with mock.patch.multiple(module, create=True, len=size, torch_compilable_check=unchecked):
        yield


class Queries:
    """Boxes and classes of queries, each thing learnt by the one query that fits it best."""

    def __init__(self, augment: Augment, net: Any) -> None:
        """Take the loss of ``net``, a detector of transformers."""
        self.augment = augment
        self.net = net
        self.power = 1.0
        """What scores are raised to in an answer, so that one half is the best place to cut."""

    def seed(self, seed: int) -> None:
        """Begin the random draws of an epoch."""
        self.augment.seed(seed)

    def prepare(self, images: Tensor, targets: Tensor, *, is_training: bool) -> tuple[Tensor, Any]:
        """Boxes are moved as their image is."""
        return prepare(self.augment, images, targets, is_training=is_training)

    def loss(self, raw: Raw, targets: Any) -> Tensor:
        """The network's own: Hungarian matching, varifocal loss, distance and generalized overlap, for every layer.

        Source: Zhao et al. 2024, "DETRs beat YOLOs on real-time object detection".
        """
        logits, boxes = raw["logits"], raw["pred_boxes"]
        more = {name: raw[given] for name, given in LOSS_TAKES.items()}
        loss, _, _ = self.net.loss_function(
            logits, things(targets), logits.device, boxes, self.net.config, denoising_meta_values=None, **more
        )
        found: Tensor = loss
        return found

    def answer(self, raw: Raw) -> dict[str, Tensor]:
        """The best pairs of query and class; a query answers for one thing, so nothing has to be suppressed."""
        chances = raw["logits"].sigmoid()
        flat = chances.flatten(1)
        best, place = flat.topk(min(task.MOST, flat.shape[1]), dim=1)
        label, query = place % chances.shape[2], place // chances.shape[2]
        box = raw["pred_boxes"].gather(1, query[..., None].expand(-1, -1, 4))
        half = box[..., 2:] / 2
        found = best_of(torch.cat((box[..., :2] - half, box[..., :2] + half), dim=-1), best, label)
        if self.power != 1.0:
            found[task.SCORES] = found[task.SCORES].pow(self.power)
        return found

    def settle(self, answers: Mapping[str, NDArray[Any]], targets: NDArray[Any]) -> None:
        """Set the scores so that one half is where boxes for these items are best cut."""
        self.power *= task.sharpening(answers, targets)


def things(targets: Tensor) -> list[dict[str, Tensor]]:
    """Rows of the task kind as labels of transformers, one entry per image; crowds are left out."""
    found = []
    for rows in targets:
        some = rows[(rows[:, task.LABEL] >= 0) & (rows[:, task.CROWD] == 0)]
        sides = some[:, task.WIDTH : task.HEIGHT + 1]
        centre = some[:, task.X : task.Y + 1] + sides / 2
        found.append({"class_labels": some[:, task.LABEL].long(), "boxes": torch.cat((centre, sides), dim=1)})
    return found
