"""A network of our own that says of which class every pixel is."""
# ruff: noqa: TID253 - this file is imported inside functions only

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopworks.train.nets import Block

LEVELS = (2, 4)
"""How many times smaller the pooled views are, beside that of the whole picture."""


class Context(nn.Module):
    """What is around each pixel, from pooled views of the whole picture.

    Source: Zhao et al. 2017, "Pyramid scene parsing network"; the views are summed, not joined, as in DDRNet.
    """

    def __init__(self, inner: int, outer: int) -> None:
        """From ``inner`` to ``outer`` channels."""
        super().__init__()
        self.here = _Conv(inner, outer, 1)
        # No batch norm here: of a small picture there is one value per channel, from which it cannot learn.
        self.near = nn.ModuleList(nn.Sequential(nn.Conv2d(inner, outer, 1), nn.ReLU()) for _ in (*LEVELS, "whole"))
        self.mix = _Conv(outer, outer, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Same height and width."""
        height, width = x.shape[-2:]
        found: Tensor = self.here(x)
        for level, conv in zip(LEVELS, self.near[:-1], strict=True):
            small = functional.avg_pool2d(x, 2 * level + 1, level, level)
            found = found + functional.interpolate(conv(small), size=(height, width), mode="bilinear")
        mixed: Tensor = self.mix(found + self.near[-1](x.mean((2, 3), keepdim=True)))
        return mixed


class CompactSegmenter(nn.Module):
    """A residual encoder, a view of the whole picture, and a light decoder that joins the stages.

    Source: the decoder is that of Lin et al. 2017, "Feature pyramid networks", with one width for all stages.
    """

    def __init__(self, classes: int, widths: Sequence[int], blocks: int, decoder: int, dropout: float) -> None:
        """Build with fresh weights from torch's global random state.

        Args:
            classes: what a pixel may be.
            widths: channels of the stem and of each stage; every one halves the sides.
            blocks: residual blocks per stage.
            decoder: channels of the decoder.
            dropout: share of features left out before the last layer while training, in 0..1.
        """
        super().__init__()
        self.stem = _Conv(3, widths[0], 3, stride=2)
        inner = widths[0]
        self.stages = nn.ModuleList()
        for outer in widths[1:]:
            self.stages.append(
                nn.Sequential(Block(inner, outer, 2), *(Block(outer, outer, 1) for _ in range(blocks - 1)))
            )
            inner = outer
        self.context = Context(inner, decoder)
        self.across = nn.ModuleList(_Conv(width, decoder, 1) for width in widths[1:-1])
        self.smooth = nn.ModuleList(_Conv(decoder, decoder, 3) for _ in widths[1:-1])
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(decoder, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(n, 3, height, width)`` to logits ``(n, classes, height / 4, width / 4)``."""
        x = self.stem(x)
        seen: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        found: Tensor = self.context(x)
        for place in reversed(range(len(self.across))):
            finer: Tensor = self.across[place](seen[place])
            found = finer + functional.interpolate(found, size=finer.shape[-2:], mode="bilinear")
            found = self.smooth[place](found)
        logits: Tensor = self.head(self.dropout(found))
        return logits


class _Conv(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inner: int, outer: int, size: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(inner, outer, size, stride, size // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


class TorchvisionLogits(nn.Module):
    """A segmentation network of torchvision, whose logits stay on its own coarse grid."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap DeepLabV3, FCN or LR-ASPP."""
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes, h, w)``."""
        backbone, classifier = self.net.get_submodule("backbone"), self.net.get_submodule("classifier")
        seen = backbone(x)
        found: Tensor = classifier(seen.get("out", seen))
        return found


class TransformersLogits(nn.Module):
    """A segmentation network of transformers; of one that gives masks with a class each, the sum of its masks."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a model for semantic segmentation (SegFormer, ...) or for universal segmentation (EoMT, ...)."""
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes, h, w)``."""
        found = self.net(pixel_values=x)
        if hasattr(found, "logits"):
            logits: Tensor = found.logits
            return logits
        # Source: Cheng et al. 2021, "Per-pixel classification is not all you need for semantic segmentation", 3.4.
        chances = found.class_queries_logits.softmax(-1)[..., :-1]
        masks = found.masks_queries_logits.sigmoid()
        return torch.einsum("nqc,nqhw->nchw", chances, masks).clamp(min=1e-6).log()
