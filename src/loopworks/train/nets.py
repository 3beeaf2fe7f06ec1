"""Networks of our own."""
# ruff: noqa: TID253 - this file is imported inside functions only

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; source: He et al. 2015, "Deep residual learning"."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        """From ``inner`` to ``outer`` channels, each side divided by ``stride``."""
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outer)
        # Starting as the identity lets the first steps train what is there already.
        nn.init.zeros_(self.second_norm.weight)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.short = nn.Sequential(nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer))
        # Every second pixel, then a convolution of 1 x 1, is one of stride 2: the gradient of that one, of 8 channels
        # on two threads, ends the process (torch 2.15, channels last).
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Same number of items, ``outer`` channels."""
        inside = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(
            self.second_norm(self.second(inside)) + self.short(x[:, :, :: self.stride, :: self.stride])
        )


class CompactCnn(nn.Module):
    """A small residual network whose cost falls with each stage, for two cores and few images."""

    def __init__(self, classes: int, widths: Sequence[int], stem_stride: int, blocks: int, dropout: float) -> None:
        """Build with fresh weights from torch's global random state.

        Args:
            classes: outputs.
            widths: channels of each stage; every stage after the first halves the sides.
            stem_stride: 1 for images of up to 48 pixels, else 2.
            blocks: residual blocks per stage.
            dropout: share of features left out before the last layer while training, in 0..1.
        """
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, stem_stride, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        stages: list[nn.Module] = []
        inner = widths[0]
        for place, outer in enumerate(widths):
            for block in range(blocks):
                stages.append(Block(inner, outer, 2 if block == 0 and (place > 0 or stem_stride > 1) else 1))
                inner = outer
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(n, 3, height, width)`` to logits ``(n, classes)``."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        features: Tensor = self.stages(x).mean((2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits
