"""Any backbone of timm: fine-tuned from pretrained weights where they can be had, else from random ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, Missing, NotFound
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train import weights
from loopworks.train.contracts import Draw, Lesson, Made
from loopworks.train.images import ClassFit, Net, augmentation, channel_stats, learn, load_libraries

if TYPE_CHECKING:
    from torch import nn

NAME = "train.timm"
DEFAULT, DEFAULT_REPO = "resnet18", "timm/resnet18.a1_in1k"
SEARCHED = {
    "mobilenetv3_small_100": "timm/mobilenetv3_small_100.lamb_in1k",
    "resnet18": DEFAULT_REPO,
    "mobilenetv3_large_100": "timm/mobilenetv3_large_100.ra_in1k",
    "resnet50": "timm/resnet50.a1_in1k",
}
"""Backbones that a search tries, from small to large, and where their weights lie."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class Timm(ClassFit):
    """Any backbone of timm, pretrained where its weights are in reach: the strongest choice for photographs."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})

    backbone: str = DEFAULT
    """Name of a timm model, e.g. resnet18, mobilenetv3_large_100, vit_tiny_patch16_224."""
    weights: str = "auto"
    """auto: cached or downloaded if the hub can be reached, else random; random; or a .safetensors file."""
    rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Highest learning rate, no unit."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """Where pretrained weights are at hand; asks no network."""
        if has_weights():
            return 0.8, "pretrained weights are in the cache"
        return 0.3, "it would begin from random weights"

    @classmethod
    def space(cls, draw: Draw, source: Source) -> Mapping[str, Any]:
        """Backbone (those whose weights are here, else the small ones), size of the images, rate, augmentation."""
        here = tuple(name for name, repo in SEARCHED.items() if weights.cached(repo) is not None)
        return {
            "backbone": draw.choice("backbone", here or tuple(SEARCHED)[:2]),
            "image_size": draw.choice("image_size", (128, 160, 224)),
            "rate": draw.number("rate", 1e-4, 5e-3, log=True),
            "weight_decay": draw.number("weight_decay", 1e-3, 0.2, log=True),
            **augmentation(draw),
        }

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        config = backbone(self.backbone)
        size = self.image_size or int(config.input_size[-1])
        if config.fixed_input_size and self.image_size not in (0, config.input_size[-1]):
            raise Invalid(f"image_size of {self.backbone}", f"{config.input_size[-1]} (it is fixed)", self.image_size)

        def build(classes: int, images: NDArray[np.uint8], ctx: Context) -> Net:
            path, why = self._weights(config, ctx)
            network = create(self.backbone, classes, path)
            if path is None:
                mean, std = channel_stats(images)
                notes = (f"{self.backbone} began from random weights: {why}",)
            else:
                mean = np.asarray(config.mean, np.float32) * np.float32(255)
                std = np.asarray(config.std, np.float32) * np.float32(255)
                notes = (f"{self.backbone} began from pretrained weights ({path.name})",)
            return Net(network=network, mean=mean, std=std, head=_head(config, self.backbone), notes=notes)

        params = replace(self, image_size=size)
        return learn(source, ctx, params, NAME, build, params.objective)

    def _weights(self, config: Any, ctx: Context) -> tuple[Path | None, str]:
        if self.weights == "random":
            return None, "asked for"
        if self.weights == "auto":
            return weights.find(str(config.hf_hub_id or ""), ctx)
        return weights.local(Path(self.weights)), ""


def backbone(name: str) -> Any:
    """timm's facts of a backbone.

    Raises: NotFound: timm has no such model; the hint names the closest.
    """
    load_libraries()
    try:
        import timm
    except ImportError:
        raise Missing("timm", "train", "backbones") from None
    if not timm.is_model(name):
        import difflib

        close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
        raise NotFound("backbone", name, hint=f"close to it: {', '.join(close)}" if close else "see timm.list_models()")
    config = timm.get_pretrained_cfg(name)
    return config if config is not None else timm.models.PretrainedCfg()


def has_weights() -> bool:
    """Whether weights of the default backbone are on this machine already; asks no network, loads no torch."""
    return weights.cached(DEFAULT_REPO) is not None


def create(name: str, classes: int, path: Path | None) -> "nn.Module":
    """The backbone with a fresh last layer of ``classes`` outputs; other weights from ``path`` if there is one.

    Raises: Invalid: the file does not fit the backbone.
    """
    import timm
    import torch
    from safetensors import SafetensorError

    state = torch.get_rng_state()
    fresh = timm.create_model(name, pretrained=False, num_classes=classes)
    if path is None:
        return fresh
    torch.set_rng_state(state)
    try:
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, num_classes=classes
        )
    except (RuntimeError, KeyError, SafetensorError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(f"weights {path.name}", f"weights of {name}", first) from None
    # timm loads what fits and says nothing of the rest, and it may rename tensors: only the outcome can be compared,
    # with a network that began from the same random state.
    before = fresh.state_dict()
    same = [torch.equal(x, before[key]) for key, x in network.state_dict().items() if x.ndim > 1]
    if sum(same) > len(same) / 2:
        raise Invalid(f"weights {path.name}", f"weights of {name}", "a file of which hardly anything fits")
    return network


def _head(config: Any, name: str) -> str:
    """Name of the last layer; a backbone with several heads (distilled ones) takes no rows over in a warm start."""
    return config.classifier if isinstance(config.classifier, str) else f"{name}.no-single-head"
