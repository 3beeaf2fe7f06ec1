"""Segmentation networks of transformers (SegFormer, EoMT, ...): fine-tuned, or from random weights."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.data.source import Source
from loopworks.train import weights
from loopworks.train.contracts import Lesson, Made
from loopworks.train.images import Net, learn, load_libraries
from loopworks.train.segmentation.fit import SegmentFit, notes
from loopworks.train.segmentation.torchvision import IMAGENET

if TYPE_CHECKING:
    from torch import nn

NAME = "train.transformers-segmenter"
DEFAULT = "nvidia/segformer-b0-finetuned-ade-512-512"
UNIVERSAL = ("Eomt",)
"""Families that give masks with a class each, and take square images of one size alone."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersSegmenter(SegmentFit):
    """SegFormer, EoMT and others of transformers, pretrained where weights are in reach: the strongest on a GPU."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    model: str = DEFAULT
    """Repository on the Hugging Face hub (mind the licence of its weights), or a folder with config.json and, unless
    weights is random, model.safetensors."""
    weights: str = "auto"
    """auto: the folder's, cached or downloaded if the hub can be reached, else random; random: of the shape that the
    folder's config.json says, or of the smallest SegFormer."""
    rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Highest learning rate, no unit."""

    @classmethod
    def fitness(cls, _source: Source, budget_s: float | None) -> tuple[float, str]:
        """Worth its time where pretrained weights are at hand, and there is time."""
        if weights.cached(DEFAULT, (weights.CONFIG,)) is None:
            return 0.1, "no pretrained weights in the cache"
        return (0.75 if budget_s is None or budget_s > 600 else 0.3), "pretrained weights are in the cache"

    def rule(self, source: Source) -> ImageRule:
        """The shape of the typical image; a square for families that know one size."""
        usual = SegmentFit.rule(self, source)
        if not self._is_square():
            return usual
        return ImageRule(height=self.image_size, width=self.image_size, fit=self.fit)

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        load_libraries()
        _transformers()
        params = self.sized(source)
        if (size := self._square()) and params.image_size != size:
            if self.image_size:
                raise Invalid(f"image_size of {self.model}", f"{size} (it is fixed)", self.image_size)
            params = replace(params, image_size=size)

        def build(_classes: int, _images: NDArray[np.uint8], ctx: Context) -> Net:
            from loopworks.train.segmentation.nets import TransformersLogits
            from loopworks.train.segmentation.objective import channel_count

            folder, why = weights.folder(self.model, self.weights, ctx)
            channels = channel_count(source.source.schema)
            is_random = folder is None or self.weights == "random"
            network = create(folder, channels, is_random=is_random)
            begin = f"pretrained weights ({self.model})" if not is_random else f"random weights: {why or 'asked for'}"
            said = (f"{type(network).__name__} began from {begin}", *notes(source.source))
            mean, std = IMAGENET
            return Net(network=TransformersLogits(network), mean=mean, std=std, head=head_of(network), notes=said)

        return learn(source, ctx, params, NAME, build, params.objective)

    def _is_square(self) -> bool:
        return bool(self._square())

    def _square(self) -> int:
        """Side of the only images that the folder's network takes; 0: any size."""
        path = Path(self.model) / weights.CONFIG
        if not path.is_file():
            return 0
        import json

        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Invalid(str(path), "JSON", str(error)) from None
        names = " ".join(config.get("architectures") or [])
        size = config.get("image_size", 640)
        return int(size if isinstance(size, int) else size[0]) if names.startswith(UNIVERSAL) else 0


def create(folder: Path | None, channels: int, *, is_random: bool) -> "nn.Module":
    """The network with a fresh last layer of ``channels`` outputs; torch's random state gives the fresh weights.

    Raises: Invalid: no segmentation network, or weights that do not fit it.
    """
    library = _transformers()
    names = {i: str(i) for i in range(channels)}
    told: dict[str, Any] = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    if folder is None:
        return library.SegformerForSemanticSegmentation(library.SegformerConfig(**told))  # type: ignore[no-any-return]
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, **told)
        kind = _kind(library, config)
        if is_random:
            return _unmasked(kind(config))
        made, report = kind.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(f"model {folder}", "a segmentation network of transformers", first) from None
    fresh = len(report["missing_keys"]) + len(report["mismatched_keys"])
    if fresh > len(made.state_dict()) / 2:
        raise Invalid(
            f"weights in {folder}", f"weights of {type(made).__name__}", "a file of which hardly anything fits"
        )
    return _unmasked(made)


def _unmasked(network: Any) -> "nn.Module":
    """EoMT as it is at the end of its training, when no query is kept from looking anywhere any more.

    Source: Kerssies et al. 2025, "Your ViT is secretly an image segmentation model", 3.3 (mask annealing). The chances
    are numbers, not a tensor, so that the export can follow which way they lead.
    """
    if hasattr(network, "attn_mask_probs"):
        del network.attn_mask_probs
        network.attn_mask_probs = [0.0] * network.config.num_blocks
    made: nn.Module = network.float()
    return made


def head_of(network: "nn.Module") -> str:
    """Name of the layer whose rows are the classes; one that does not exist where they are none."""
    return "net.decode_head.classifier" if hasattr(network, "decode_head") else "net.no-single-head"


def _kind(library: Any, config: Any) -> Any:
    """The class of a segmentation network that the config says, else the one of its family."""
    for name in config.architectures or []:
        if name.endswith(("SemanticSegmentation", "UniversalSegmentation")) and hasattr(library, name):
            return getattr(library, name)
    mapping = library.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
    if type(config) not in mapping:
        raise ValueError(f"one of the family {config.model_type}")
    return mapping[type(config)]


def _transformers() -> Any:
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        raise Missing("transformers", "train", "SegFormer and its kin") from None
    library.logging.set_verbosity_error()
    return library
