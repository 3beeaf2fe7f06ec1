"""Random changes of a batch of images that leave what is in them: shift, scale, turn, light, and flips on request."""
# ruff: noqa: TID253 - this file is imported inside functions only

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How far an image may be changed; all zero is not at all."""

    shift: float = 0.0
    """Largest move along each axis, as a share of the side, in 0..0.5."""
    scale: float = 0.0
    """Largest change of size, as a share, in 0..0.5."""
    rotate_deg: float = 0.0
    """Largest turn, in degrees, in 0..180."""
    light: float = 0.0
    """Largest change of brightness and of contrast, as a share of the range, in 0..1."""
    flip: str = "none"
    """none, horizontal or both."""

    def moves(self) -> bool:
        """Whether pixels change place, beyond a flip."""
        return bool(self.shift or self.scale or self.rotate_deg)


class Augment:
    """uint8 images to normalized floats, changed at random. Its draws depend on seed and epoch alone."""

    def __init__(self, change: Change, mean: Tensor, std: Tensor, device: torch.device) -> None:
        """Keep what to do; ``mean`` and ``std`` are per channel, shape ``(3,)``, in 0..255."""
        self.change = change
        self._mean = mean.view(1, 3, 1, 1).to(device)
        self._inverse = 1.0 / std.view(1, 3, 1, 1).to(device)
        self._generator = torch.Generator()
        self._share: tuple[int, int] | None = None

    def seed(self, seed: int) -> None:
        """Begin the draws of an epoch."""
        self._generator.manual_seed(seed)

    def share(self, first: int, total: int) -> None:
        """The next batch is part of one of ``total`` images, from ``first`` on; it is changed as it would be there."""
        self._share = first, total

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 ``(n, height, width, 3)`` to float32 ``(n, 3, height, width)`` (channels last in memory)."""
        mean, inverse = self._mean.to(images.device), self._inverse.to(images.device)
        return (images.permute(0, 3, 1, 2).to(torch.float32) - mean) * inverse

    def __call__(self, images: Tensor) -> Tensor:
        """Like ``normalize``, then the random changes."""
        x = self.normalize(images)
        if (moves := self.moves(x)) is not None:
            x = self.moved(x, moves)
        return self.lit(x)

    def moves(self, x: Tensor) -> Tensor | None:
        """Draw where the pixels of ``(n, channels, height, width)`` come from; ``None`` where they stay.

        Returns: one matrix per image, shape ``(n, 2, 3)``: it maps a place in the changed image to the place in the
            image as it was, both in -1..1 across the sides (the origin in the middle), as ``affine_grid`` takes it.
        """
        if self.change.flip == "none" and not self.change.moves():
            return None
        draws = self._draw(x, 6).flatten(1)
        angle = draws[0] * (self.change.rotate_deg * pi / 180)
        zoom = 1 + draws[1] * self.change.scale
        across = draws[4].sign() if self.change.flip in ("horizontal", "both") else torch.ones_like(zoom)
        down = draws[5].sign() if self.change.flip == "both" else torch.ones_like(zoom)
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        # grid_sample speaks in units of half a side, so a move of a whole share is twice that.
        return torch.stack(
            (
                torch.stack((cos * across, -sin * down, draws[2] * 2 * self.change.shift), dim=1),
                torch.stack((sin * across, cos * down, draws[3] * 2 * self.change.shift), dim=1),
            ),
            dim=1,
        )

    def moved(self, x: Tensor, moves: Tensor, *, mode: str = "bilinear", padding: str = "border") -> Tensor:
        """The images ``(n, channels, height, width)`` with their pixels moved; ``mode`` nearest is for masks."""
        if mode == "bilinear" and not self.change.moves():  # mirrors alone need no sampling
            x = torch.where(moves[:, 0, 0].view(-1, 1, 1, 1) < 0, x.flip(3), x)
            return torch.where(moves[:, 1, 1].view(-1, 1, 1, 1) < 0, x.flip(2), x)
        grid = functional.affine_grid(moves, list(x.shape), align_corners=False)
        found: Tensor = functional.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=False)
        return found

    def lit(self, x: Tensor) -> Tensor:
        """The images with their brightness and contrast changed at random."""
        if not self.change.light:
            return x
        gain, offset = self._draw(x, 2)
        changed: Tensor = x * (1 + self.change.light * gain) + self.change.light * offset
        return changed

    def _draw(self, x: Tensor, count: int) -> Tensor:
        """Uniform in -1..1, shape ``(count, n, 1, 1, 1)``; always from the CPU, so that every device sees the same."""
        first, total = self._share or (0, len(x))
        drawn = torch.rand((count, total, 1, 1, 1), generator=self._generator) * 2 - 1
        return drawn[:, first : first + len(x)].to(x.device)
