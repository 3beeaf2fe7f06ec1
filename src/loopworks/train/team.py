"""Processes that train one network together: each learns from its share of every batch, and all hold the same weights.

What a batch is, its random changes, the statistics of batch norm and the gradients are those of one process with the
whole batch, within rounding; only what a network draws itself (dropout) is drawn by each for its own share.
"""
# ruff: noqa: TID253 - this file is imported inside functions only

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

T = TypeVar("T")


def part(count: int, parts: int, at: int) -> range:
    """The places that part ``at`` has of ``count``; the first parts have one more where it does not come out even."""
    each, more = divmod(count, parts)
    start = at * each + min(at, more)
    return range(start, start + each + (at < more))


@dataclass(frozen=True, slots=True)
class Team:
    """This process among those that train together; alone, it tells itself what it says."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that judges, writes checkpoints, and whose clock counts."""
        return self.rank == 0

    def places(self, count: int) -> slice:
        """This process's part of ``count`` items."""
        own = part(count, self.size, self.rank)
        return slice(own.start, own.stop)

    def number(self, value: float) -> float:
        """The first process's number, for all."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(box, 0)
        return float(box)

    def told(self, value: T) -> T:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, 0)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """Everybody's values, for the first process; empty for the others."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.gather_object(value, found if self.is_first else None, 0)
        return found if self.is_first else []

    def mean(self, value: Tensor) -> float:
        """The mean of everybody's scalar, for all."""
        if self.size == 1:
            return float(value)
        total = value.detach().double().cpu().view(1).clone()
        distributed.all_reduce(total)
        return float(total) / self.size

    def sharing(self, network: nn.Module) -> nn.Module:
        """The network with the first process's weights, whose gradients become the mean over all processes."""
        with torch.no_grad():
            for buffer in network.buffers():  # running means too: the wrapper sends weights alone
                distributed.broadcast(buffer, 0)
        return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)

    def join(self, shared: nn.Module | None, *, is_last: bool) -> None:
        """Add up gradients over the pieces of a batch in each process, and share them after the last piece alone."""
        assert isinstance(shared, DistributedDataParallel)
        shared.require_backward_grad_sync = is_last


ALONE = Team()


class WholeNorm(TorchFunctionMode):
    """Batch norm in training takes mean and variance of the whole batch, over all processes.

    ``SyncBatchNorm`` of torch does so on GPUs alone, and not in the batch norms that timm derives.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Replace ``batch_norm``, let all else through."""
        kwargs = kwargs or {}
        return whole_norm(*args, **kwargs) if func is functional.batch_norm else func(*args, **kwargs)


def whole_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``functional.batch_norm`` over the batches of all processes."""
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x = input.float()
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    # Sums around what the mean was lately: a variance as a difference of two large numbers would lose its digits.
    near = torch.zeros_like(x[0].flatten(1)[:, 0]) if running_mean is None else running_mean.clone()
    moved = x - near.view(shape)
    count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
    sums = torch.cat([moved.sum(dims), moved.square().sum(dims), count])
    sums = _Sum.apply(sums)
    total = sums[-1]
    offset, squares = (sums[:-1] / total).chunk(2)
    variance = (squares - offset.square()).clamp(min=0.0)
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_((near + offset).to(running_mean.dtype), momentum)
            unbiased = variance * total / (total - 1).clamp(min=1.0)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    found = (moved - offset.view(shape)) * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        found = found * weight.view(shape)
    if bias is not None:
        found = found + bias.view(shape)
    whole: Tensor = found.to(input.dtype)
    return whole


class _Sum(torch.autograd.Function):
    """The sum over all processes; each of them answers for what the others made of it."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        distributed.all_reduce(total)
        return total
