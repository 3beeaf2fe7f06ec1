"""Torchvision's one-stage detectors as networks that guess at every anchor; see ``dense.Raw``."""
# ruff: noqa: TID253 - this file is imported inside functions only

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection import _utils
from torchvision.models.detection.image_list import ImageList

from loopworks.core.errors import Invalid
from loopworks.train.detection.nets import RARE

CLASS_LAYERS = {
    "fcos_resnet50_fpn": "detector.head.classification_head.cls_logits",
    "retinanet_resnet50_fpn": "detector.head.classification_head.cls_logits",
    "ssdlite320_mobilenet_v3_large": "detector.head.classification_head",
}
"""Detector -> the layers in which classes lie."""


class Heads(nn.Module):
    """Backbone and heads alone: anchors are constants for one size, and boxes are decoded in the graph."""

    def __init__(self, detector: Any, height: int, width: int) -> None:
        """Take ``detector`` apart for normalized images of one size."""
        super().__init__()
        self.detector: Any = nn.Module()
        self.detector.backbone, self.detector.head = detector.backbone, detector.head
        self.is_linear = isinstance(detector.box_coder, _utils.BoxLinearCoder)
        weights = (1.0,) * 4 if self.is_linear else detector.box_coder.weights
        image = torch.zeros((1, 3, height, width))
        was_training = detector.training
        detector.eval()
        with torch.no_grad():
            levels = list(detector.backbone(image).values())
            (anchors,) = detector.anchor_generator(ImageList(image, [(height, width)]), levels)
        detector.train(was_training)
        anchors = anchors / torch.tensor([width, height, width, height])
        self.register_buffer("places", (anchors[:, :2] + anchors[:, 2:]) / 2, persistent=False)
        self.register_buffer("sides", anchors[:, 2:] - anchors[:, :2], persistent=False)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(n, 3, height, width)`` to logits ``(n, anchors, classes)`` and boxes ``(n, anchors, 4)``."""
        said = self.detector.head(list(self.detector.backbone(x).values()))
        return said["cls_logits"], self._boxes(said["bbox_regression"])

    def _boxes(self, raw: Tensor) -> Tensor:
        places, sides = self.get_buffer("places"), self.get_buffer("sides")
        if self.is_linear:  # distances to the four sides
            return torch.cat((places - raw[..., :2] * sides, places + raw[..., 2:] * sides), dim=-1)
        moves = raw / self.get_buffer("weights")
        middle = places + moves[..., :2] * sides
        half = moves[..., 2:].clamp(max=math.log(1000 / 16)).exp() * sides / 2
        return torch.cat((middle - half, middle + half), dim=-1)


def create(name: str, classes: int, path: Path | None) -> Any:
    """The detector with fresh layers for ``classes``; the rest from ``path`` where there is one.

    Raises: Invalid: the file does not fit the detector.
    """
    network: Any = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    for part, layer in network.head.classification_head.named_modules():
        is_last = part == "cls_logits" or (part.startswith("module_list.") and part.count(".") == 2)
        if is_last and isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.constant_(layer.bias, -math.log((1 - RARE) / RARE))
    if name.startswith("fcos"):  # its distances are cut at zero, where a fresh layer would learn nothing
        nn.init.constant_(network.head.regression_head.bbox_reg.bias, 1.0)
    if path is not None:
        _load(network, name, path)
    return network


def cached(name: str) -> Path:
    """Where torch keeps the published weights once they are downloaded."""
    url = str(get_model_weights(name).DEFAULT.url)
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def published(name: str) -> str:
    """Address of the published weights."""
    return str(get_model_weights(name).DEFAULT.url)


def _load(network: nn.Module, name: str, path: Path) -> None:
    """Copy the tensors that fit; class layers of other classes do not."""
    try:
        if path.suffix == ".safetensors":
            old = load_file(path)
        else:
            old = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise Invalid(f"weights {path.name}", f"weights of {name}", str(error).splitlines()[0]) from None
    old = {key.removeprefix("detector."): tensor for key, tensor in old.items()}
    new = network.state_dict()
    fits = {key: tensor for key, tensor in old.items() if key in new and new[key].shape == tensor.shape}
    if len(fits) < len(new) / 2:
        raise Invalid(f"weights {path.name}", f"weights of {name}", f"{len(fits)} of {len(new)} tensors that fit")
    network.load_state_dict(fits, strict=False)
