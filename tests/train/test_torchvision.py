"""Detectors of torchvision as recipes: anchors, boxes and weights, on small inputs and random networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.pictures import things
from tests.train.test_detection import context

from loopworks.core.errors import Invalid
from loopworks.train import stage

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from loopworks.train.detection.heads import CLASS_LAYERS, Heads, create  # noqa: E402

pytestmark = [pytest.mark.train, pytest.mark.slow]


@pytest.mark.parametrize("name", sorted(CLASS_LAYERS))
def test_boxes_are_those_that_torchvision_decodes(name: str) -> None:
    detector = create(name, 3, None).eval()
    heads = Heads(detector, 64, 96).eval()
    x = torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, boxes = heads(x)
        levels = list(detector.backbone(x).values())
        raw = detector.head(levels)
        from torchvision.models.detection.image_list import ImageList

        anchors = detector.anchor_generator(ImageList(x, [(64, 96)] * 2), levels)
        if heads.is_linear:
            wanted = detector.box_coder.decode(raw["bbox_regression"], torch.stack(anchors))
        else:
            wanted = torch.stack([
                detector.box_coder.decode_single(one, its)
                for one, its in zip(raw["bbox_regression"], anchors, strict=True)
            ])
    assert logits.shape == (2, len(anchors[0]), 3)
    np.testing.assert_allclose(boxes * torch.tensor([96.0, 64, 96, 64]), wanted, atol=1e-3)
    assert float(logits.sigmoid().mean()) < 0.05, "a fresh network finds things nearly nowhere"


def train(folder: Path, **params: Any) -> Any:
    return stage.train(
        things(8, 4, 0),
        recipe="torchvision-detector",
        params={"epochs": 1, "batch": 4, "weights": "random", **params},
        folder=folder / "bundle",
        ctx=context(folder / "scratch"),
        threads=1,
    )


def test_ssdlite_becomes_a_bundle_and_is_begun_from_again(tmp_path: Path) -> None:
    made = train(tmp_path, image_size=96)
    assert (made.rule.height, made.rule.width) == (64, 96)
    assert made.notes[0] == "ssdlite320_mobilenet_v3_large began from random weights: asked for"
    assert {"map", "map50"} <= set(made.metrics["val"])
    file = made.path("model.safetensors")
    again = train(tmp_path / "again", image_size=96, weights=str(file), rate=1e-9)
    assert again.notes[0] == "ssdlite320_mobilenet_v3_large began from weights of model.safetensors"
    old, new = (safetensors.load_file(path) for path in (file, again.path("model.safetensors")))
    name = next(key for key, x in old.items() if "backbone" in key and x.ndim == 4)
    np.testing.assert_allclose(new[name], old[name], atol=1e-5)


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_detectors_on_resnet_are_exported_too(tmp_path: Path, name: str) -> None:
    made = train(tmp_path, detector=name, image_size=96)
    assert made.recipe == "train.torchvision-detector"
    assert made.variants[0].size_bytes > 50_000_000


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    safetensors.save_file({"a": torch.zeros(3)}, file)
    with pytest.raises(Invalid, match="0 of .* tensors that fit"):
        train(tmp_path, weights=str(file), image_size=96)
    with pytest.raises(Invalid, match=r"\.safetensors file"):
        train(tmp_path, weights=str(tmp_path / "none.pth"), image_size=96)
