"""Image classifiers in folders as the Hugging Face hub has them: timm's own, and those of transformers."""
# ruff: noqa: TID253 - this file is imported inside functions only

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loopworks.core.errors import Invalid, Missing
from loopworks.core.values import Fit, ImageRule

OUTPUT = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network with what its folder says of it."""

    network: nn.Module
    """Takes normalized float images ``(n, 3, height, width)``, gives logits ``(n, classes)``."""
    classes: tuple[str, ...]
    """Empty where the folder does not name them."""
    size: int
    fit: Fit
    mean: tuple[float, ...]
    """Per channel, in 0..255."""
    std: tuple[float, ...]


def of_timm(path: Path, config: Mapping[str, Any]) -> Network:
    """A folder that timm wrote: ``architecture``, ``num_classes``, ``pretrained_cfg``."""
    try:
        import timm
    except ImportError:
        raise Missing("timm", "train", "a timm model") from None
    from safetensors.torch import load_file

    name = config["architecture"]
    if not isinstance(name, str) or not timm.is_model(name):
        raise Invalid(f"architecture in {path.name}", "a model of timm", name)
    told = config.get("pretrained_cfg", {})
    more = config.get("model_args", {})
    network = timm.create_model(name, pretrained=False, num_classes=int(config["num_classes"]), **more)
    network.load_state_dict(load_file(path / "model.safetensors"))
    return Network(
        network=network.eval(),
        classes=_names(config.get("label_names", told.get("label_names", ()))),
        size=int((told.get("input_size") or (3, 224, 224))[-1]),
        fit="crop" if told.get("crop_mode", "center") == "center" else "stretch",
        mean=tuple(255 * float(x) for x in told.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(255 * float(x) for x in told.get("std", (0.229, 0.224, 0.225))),
    )


def of_transformers(path: Path, config: Mapping[str, Any]) -> Network:
    """A folder that transformers wrote: ``architectures``, ``id2label``, and ``preprocessor_config.json``."""
    names = config.get("architectures") or []
    if not any("ImageClassification" in str(name) for name in names):
        raise Invalid(f"architectures in {path.name}", "one for image classification", names or "none")
    try:
        from transformers import AutoModelForImageClassification
    except ImportError:
        raise Missing("transformers", "train", "a model of transformers") from None
    network = AutoModelForImageClassification.from_pretrained(
        str(path), local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    told: Mapping[str, Any] = {}
    if (path / "preprocessor_config.json").is_file():
        told = json.loads((path / "preprocessor_config.json").read_text(encoding="utf-8"))
    label = config.get("id2label", {})
    size = told.get("size", config.get("image_size", 224))
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge", 224))
    return Network(
        network=_Logits(network.eval()),
        classes=_names([label[key] for key in sorted(label, key=int)]),
        size=int(size),
        fit="crop" if told.get("do_center_crop") else "stretch",
        mean=tuple(255 * float(x) for x in told.get("image_mean", (0.5, 0.5, 0.5))),
        std=tuple(255 * float(x) for x in told.get("image_std", (0.5, 0.5, 0.5))),
    )


def write(found: Network, size: int, path: Path) -> None:
    """Export as a file that takes uint8 pixels and gives logits."""
    from loopworks.train.export import Served, export

    served = Served(found.network, torch.tensor(found.mean), torch.tensor(found.std), _answer, [OUTPUT]).eval()
    export(served, ImageRule(height=size, width=size, fit=found.fit), path)


def _answer(raw: Tensor) -> dict[str, Tensor]:
    return {OUTPUT: raw}


class _Logits(nn.Module):
    """The logits alone of a model of transformers, which gives an object."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(pixel_values=images).logits
        return found


def _names(found: Any) -> tuple[str, ...]:
    """Class names, without blanks around them."""
    return tuple(str(one).strip() for one in found) if isinstance(found, list | tuple) else ()
