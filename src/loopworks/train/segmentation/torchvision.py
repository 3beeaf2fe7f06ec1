"""Segmentation networks of torchvision: fine-tuned from pretrained weights where they can be had, else random ones."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train import weights
from loopworks.train.contracts import Lesson, Made
from loopworks.train.images import Net, channel_stats, learn, load_libraries
from loopworks.train.segmentation.fit import SegmentFit, notes

if TYPE_CHECKING:
    from torch import nn

NAME = "train.torchvision-segmenter"
DEFAULT: Final = "deeplabv3_mobilenet_v3_large"
HEADS = {"lraspp": "classifier.high_classifier", "deeplabv3": "classifier.4", "fcn": "classifier.4"}
"""Last layer of each family; lraspp has two of them whose outputs are summed."""
FILES = {
    "lraspp_mobilenet_v3_large": "lraspp_mobilenet_v3_large-d234d4ea.pth",
    "deeplabv3_mobilenet_v3_large": "deeplabv3_mobilenet_v3_large-fc3c493d.pth",
    "deeplabv3_resnet50": "deeplabv3_resnet50_coco-cd0a2569.pth",
    "deeplabv3_resnet101": "deeplabv3_resnet101_coco-586e9e4e.pth",
    "fcn_resnet50": "fcn_resnet50_coco-1167a1af.pth",
    "fcn_resnet101": "fcn_resnet101_coco-7ecb50ca.pth",
}
"""Published weights, as torchvision names them in its cache."""
PLACE = "https://download.pytorch.org/models/"
LEAST_TAKEN = 0.5


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class TorchvisionSegmenter(SegmentFit):
    """DeepLabV3, FCN or LR-ASPP of torchvision, pretrained where weights are in reach: strong for photographs."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    network: Literal[
        "lraspp_mobilenet_v3_large",
        "deeplabv3_mobilenet_v3_large",
        "deeplabv3_resnet50",
        "deeplabv3_resnet101",
        "fcn_resnet50",
        "fcn_resnet101",
    ] = DEFAULT
    """Which network; MobileNet is quick, ResNet is strong."""
    weights: str = "auto"
    """auto: torchvision's, cached or downloaded where its server can be reached, else random; random; or a
    .safetensors file of such a network."""
    rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    """Highest learning rate, no unit."""

    @classmethod
    def fitness(cls, _source: Source, _budget_s: float | None) -> tuple[float, str]:
        """Worth its time where pretrained weights are at hand."""
        if cached(DEFAULT) is None:
            return 0.2, "no pretrained weights in the cache"
        return 0.8, "pretrained weights are in the cache"

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        load_libraries()
        _torchvision()
        params = self.sized(source)

        def build(_classes: int, images: NDArray[np.uint8], ctx: Context) -> Net:
            from loopworks.train.segmentation.nets import TorchvisionLogits
            from loopworks.train.segmentation.objective import channel_count

            path, why = self._weights(ctx)
            network = create(self.network, channel_count(source.source.schema))
            mean, std = channel_stats(images)
            said = f"{self.network} began from random weights: {why}"
            if path is not None:
                taken, all_ = take(network, state_of(path), path.name, self.network)
                mean, std = IMAGENET
                said = f"{self.network} began from pretrained weights ({path.name}, {taken} of {all_} tensors)"
            head = f"net.{HEADS[self.network.partition('_')[0]]}"
            return Net(
                network=TorchvisionLogits(network), mean=mean, std=std, head=head, notes=(said, *notes(source.source))
            )

        return learn(source, ctx, params, NAME, build, params.objective)

    def _weights(self, ctx: Context) -> tuple[Path | None, str]:
        if self.weights == "random":
            return None, "asked for"
        if self.weights != "auto":
            return weights.local(Path(self.weights)), ""
        path = _cache(self.network)
        assert path is not None, "torch is there by now"
        return weights.fetch(PLACE + FILES[self.network], path, ctx)


IMAGENET = (
    np.array([123.675, 116.28, 103.53], np.float32),
    np.array([58.395, 57.12, 57.375], np.float32),
)
"""Mean and standard deviation of the images that torchvision's and most of transformers' weights were learnt from."""


def cached(network: str) -> Path | None:
    """Weights of the network that torchvision has downloaded already; asks no network."""
    path = _cache(network)
    return path if path is not None and path.is_file() else None


def create(network: str, channels: int) -> "nn.Module":
    """The network with fresh weights from torch's global random state."""
    models = _torchvision()
    made: nn.Module = getattr(models, network)(weights=None, weights_backbone=None, num_classes=channels)
    return made


def state_of(path: Path) -> dict[str, Any]:
    """Tensors of a .safetensors file, or of a checkpoint of torchvision (read without running what is in it)."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(f"weights {path.name}", "a file of tensors", first) from None
    except Exception as error:  # pickle's own error, which says that there is more in the file than tensors
        raise Invalid(f"weights {path.name}", "a file of tensors alone", type(error).__name__) from None


def take(network: "nn.Module", state: dict[str, Any], name: str, wanted: str) -> tuple[int, int]:
    """Copy the tensors that fit, and say how many of how many did.

    Raises: Invalid: fewer than half fit.
    """
    own = network.state_dict()
    # Our own bundles name the tensors below ``net``.
    state = {key.removeprefix("net."): x for key, x in state.items()}
    fits = {key: x for key, x in state.items() if key in own and own[key].shape == x.shape}
    if len(fits) < LEAST_TAKEN * len(own):
        raise Invalid(
            f"weights {name}", f"weights of {wanted}", f"a file of which {len(fits)} of {len(own)} tensors fit"
        )
    network.load_state_dict({**own, **fits})
    return len(fits), len(own)


def _torchvision() -> Any:
    try:
        return importlib.import_module("torchvision.models.segmentation")
    except ImportError:
        raise Missing("torchvision", "train", "segmentation networks") from None


def _cache(network: str) -> Path | None:
    try:
        from torch import hub
    except ImportError:
        return None
    return Path(hub.get_dir()) / "checkpoints" / FILES[network]
