"""Taking channels out of a trained network: the least important of every layer, so that it still fits together."""
# ruff: noqa: TID253 - this file is imported inside functions only

import torch
from torch import nn

from loopworks.core.errors import Failed, Missing

ROUND_TO = 4
"""Channels that are left are a multiple of this: processors compute so many at once."""


def prune(network: nn.Module, head: str, share: float, size: tuple[int, int]) -> str:
    """Remove channels in place and say in one line what went.

    Importance is the length of all weights that belong to a channel, over every layer that must lose it together.
    Source: Fang et al. 2023, "DepGraph: towards any structural pruning".

    Args:
        network: trained; it takes normalized float images.
        head: name of the last layer, whose outputs stay.
        share: of the channels of each layer, in 0..1.
        size: height and width of images, in pixels.
    Raises: Failed: the network cannot be followed. Missing: torch-pruning is not installed.
    """
    try:
        import torch_pruning
    except ImportError:
        raise Missing("torch-pruning", "train", "taking channels out of a network") from None
    before = sum(x.numel() for x in network.parameters())
    was_training = network.training
    network.eval()
    kept = [part for name, part in network.named_modules() if name == head or name.startswith(f"{head}.")]
    example = torch.zeros((1, 3, *size))
    try:
        pruner = torch_pruning.pruner.BasePruner(
            network,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=kept,
            round_to=ROUND_TO,
        )
        pruner.step()
        with torch.inference_mode():
            network(example)
    except Exception as error:  # it follows a network's graph, and raises whatever a layer that it does not know raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Failed(
            f"channels of the network must be removable; got {first[:200]}", "prune another network"
        ) from error
    network.train(was_training)
    after = sum(x.numel() for x in network.parameters())
    if after == before:
        raise Failed(f"channels of the network must be removable; all {before} weights are left")
    return f"{share:.0%} of the channels were taken out: {after} of {before} weights are left"
