"""Detectors of transformers without suppression (RT-DETR, RT-DETRv2, D-FINE): fine-tuned, or from random weights."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train import weights
from loopworks.train.contracts import Lesson, Made
from loopworks.train.detection.fit import DetectionFit, told
from loopworks.train.images import Net, learn, load_libraries

if TYPE_CHECKING:
    from torch import nn

    from loopworks.train.augment import Augment
    from loopworks.train.loop import Objective

NAME = "train.transformers-detector"
DEFAULT = "PekingU/rtdetr_v2_r18vd"
FAMILIES = ("rt_detr", "rt_detr_v2", "d_fine")
"""Families whose outputs, loss and export are known to fit."""
USUAL_SIZE, SMALL_SIZE = 640, 320
"""Longer side of the input that the published weights were learnt with, and one for a network from random weights."""
HEAD = "net.model.decoder.class_embed"
"""The layers in which classes lie."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersDetector(DetectionFit):
    """RT-DETR, RT-DETRv2 or D-FINE of transformers, pretrained where weights are in reach: the strongest on a GPU."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    steps: ClassVar[int] = 1000

    model: str = DEFAULT
    """Repository on the Hugging Face hub (mind the licence of its weights), or a folder with config.json and, unless
    weights is random, model.safetensors."""
    weights: str = "auto"
    """auto: the folder's, cached or downloaded if the hub can be reached, else random; random: of the shape that the
    folder's config.json says, or of a small RT-DETRv2."""
    rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Highest learning rate, no unit."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """Pull of the weights towards zero (AdamW), no unit."""
    batch: Annotated[int, Field(ge=0, le=4096)] = 8
    """Images per step; 0 is 16 below 512 training images, else 32."""

    @classmethod
    def fitness(cls, _source: Source, budget_s: float | None) -> tuple[float, str]:
        """Worth its time where pretrained weights are at hand, and there is time."""
        if weights.cached(DEFAULT, (weights.CONFIG,)) is None:
            return 0.1, "no pretrained weights in the cache"
        return (0.75 if budget_s is None or budget_s > 600 else 0.3), "pretrained weights are in the cache"

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        load_libraries()
        library = _transformers()
        folder, why = weights.folder(self.model, self.weights, ctx)
        is_random = folder is None or self.weights == "random"
        params = replace(self, image_size=self.image_size or (SMALL_SIZE if is_random else USUAL_SIZE))
        built: list[nn.Module] = []

        def build(classes: int, _images: NDArray[np.uint8], _ctx: Context) -> Net:
            from loopworks.train.detection.queries import QueryNet

            network = create(library, folder, classes, is_random=is_random)
            built.append(network)
            begin = f"random weights: {why or 'asked for'}" if is_random else f"pretrained weights ({self.model})"
            said = (f"{type(network).__name__} began from {begin}",)
            mean, std = np.zeros(3, np.float32), np.full(3, 255, np.float32)  # as the published weights were learnt
            return Net(network=QueryNet(network), mean=mean, std=std, head=HEAD, notes=said)

        def objective(augment: "Augment", _source: Source) -> "Objective":
            from loopworks.train.detection.queries import Queries

            return Queries(augment, built[0])

        return told(learn(source, ctx, params, NAME, build, objective), source.source)


def create(library: Any, folder: Path | None, classes: int, *, is_random: bool) -> "nn.Module":
    """The network with fresh layers for ``classes``; torch's random state gives the fresh weights.

    Raises: Invalid: no detector of a family that is known, or weights that do not fit it.
    """
    names = {i: str(i) for i in range(classes)}
    # Noised boxes of the truth as further queries would need the labels inside the network; sizes are not fixed.
    more: dict[str, Any] = {"num_denoising": 0, "anchor_image_size": None, "eval_size": None}
    more |= {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    if folder is None:
        return _lively(library.RTDetrV2ForObjectDetection(small(library, more)))
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, **more)
        if config.model_type not in FAMILIES:
            raise ValueError(f"one of the family {config.model_type}")
        if is_random:
            config.freeze_backbone_batch_norms = False
            return _lively(library.AutoModelForObjectDetection.from_config(config))
        made, report = library.AutoModelForObjectDetection.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(f"model {folder}", f"a detector of transformers ({', '.join(FAMILIES)})", first) from None
    fresh = len(report["missing_keys"]) + len(report["mismatched_keys"])
    if fresh > len(made.state_dict()) / 2:
        raise Invalid(
            f"weights in {folder}", f"weights of {type(made).__name__}", "a file of which hardly anything fits"
        )
    network: nn.Module = made.float()
    return network


def small(library: Any, more: dict[str, Any]) -> Any:
    """The configuration of a small RT-DETRv2, for two cores and few images."""
    backbone = library.RTDetrResNetConfig(
        embedding_size=24, hidden_sizes=[24, 48, 96, 192], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return library.RTDetrV2Config(
        backbone_config=backbone, freeze_backbone_batch_norms=False, encoder_in_channels=[48, 96, 192],
        encoder_hidden_dim=64, encoder_ffn_dim=128, encoder_attention_heads=4, hidden_expansion=0.5, d_model=64,
        decoder_in_channels=[64, 64, 64], decoder_ffn_dim=128, decoder_attention_heads=4, decoder_layers=2,
        num_queries=100, **more,
    )  # fmt: skip


def _lively(network: "nn.Module") -> "nn.Module":
    """The same with batch norms that let through what they get: transformers begins them at nearly nothing."""
    from torch import nn

    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
    return network.float()


def _transformers() -> Any:
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        raise Missing("transformers", "train", "RT-DETR and its kin") from None
    library.logging.set_verbosity_error()
    return library
