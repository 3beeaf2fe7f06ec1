"""A small detector of our own: a residual backbone, a feature pyramid, and one guess per place of three grids."""
# ruff: noqa: TID253 - this file is imported inside functions only

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopworks.train.nets import Block

STRIDES = (8, 16, 32)
RARE = 0.01
"""Score that a fresh network gives everywhere: nearly no place holds a thing."""
REACH = 2.0
"""Distance to the sides of a box that a fresh network says, in strides."""
FURTHEST = 5.0


def _convolution(inner: int, outer: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, size, stride, size // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


class SmallDetector(nn.Module):
    """Normalized images of one size to logits and boxes at every place; see ``dense.Raw``."""

    def __init__(self, classes: int, height: int, width: int, widths: Sequence[int], blocks: int, neck: int) -> None:
        """Build with fresh weights from torch's global random state.

        Args:
            classes: of things.
            height: of the images, a multiple of 32.
            width: likewise.
            widths: channels at strides 2, 4, 8, 16 and 32.
            blocks: residual blocks per stage from stride 8 on.
            neck: channels of the pyramid and the heads.
        """
        super().__init__()
        self.stem = _convolution(3, widths[0], 3, 2)
        stages: list[nn.Module] = [Block(widths[0], widths[1], 2)]
        for inner, outer in zip(widths[1:], widths[2:], strict=False):
            more = [Block(outer, outer, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(Block(inner, outer, 2), *more))
        self.stages = nn.ModuleList(stages)
        self.sides = nn.ModuleList(_convolution(inner, neck, 1) for inner in widths[2:])
        self.smooth = nn.ModuleList(_convolution(neck, neck) for _ in widths[2:])
        self.class_tower = _convolution(neck, neck)
        self.box_tower = _convolution(neck, neck)
        self.head = nn.Conv2d(neck, classes, 3, 1, 1)
        self.box_head = nn.Conv2d(neck, 4, 3, 1, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        assert self.head.bias is not None
        assert self.box_head.bias is not None
        nn.init.constant_(self.head.bias, -math.log((1 - RARE) / RARE))
        nn.init.normal_(self.box_head.weight, std=0.01)
        nn.init.constant_(self.box_head.bias, 0.0)
        grids = [(height // stride, width // stride) for stride in STRIDES]
        places, strides = (
            grid_places(grids),
            torch.cat([torch.full((h * w,), float(s)) for (h, w), s in zip(grids, STRIDES, strict=True)]),
        )
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("reach", strides[:, None] * REACH / torch.tensor([width, height]), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(n, 3, height, width)`` to logits ``(n, places, classes)`` and boxes ``(n, places, 4)``."""
        x = self.stages[0](self.stem(x))
        levels = []
        for stage in list(self.stages)[1:]:
            x = stage(x)
            levels.append(x)
        sides = [side(level) for side, level in zip(self.sides, levels, strict=True)]
        for i in range(len(sides) - 1, 0, -1):
            sides[i - 1] = sides[i - 1] + functional.interpolate(sides[i], scale_factor=2.0, mode="nearest")
        levels = [smooth(side) for smooth, side in zip(self.smooth, sides, strict=True)]
        logits = torch.cat([self.head(self.class_tower(x)).flatten(2) for x in levels], dim=2)
        raw = torch.cat([self.box_head(self.box_tower(x)).flatten(2) for x in levels], dim=2)
        return logits.transpose(1, 2), self._boxes(raw.transpose(1, 2))

    def _boxes(self, raw: Tensor) -> Tensor:
        """Distances to the four sides, in strides and on a logarithmic scale, as boxes."""
        places, reach = self.get_buffer("places"), self.get_buffer("reach")
        far = raw.clamp(-FURTHEST, FURTHEST).exp()
        return torch.cat((places - far[..., :2] * reach, places + far[..., 2:] * reach), dim=-1)


def grid_places(grids: Sequence[tuple[int, int]]) -> Tensor:
    """Middles of the cells of grids (rows, columns) over an image, row by row, as x and y in 0..1, ``(places, 2)``."""
    parts = []
    for rows, columns in grids:
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        parts.append(torch.stack((x, y), dim=-1).reshape(-1, 2))
    return torch.cat(parts)
