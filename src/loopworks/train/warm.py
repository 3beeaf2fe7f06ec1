"""A warm start: weights of an earlier model into a new network, class by class where the classes changed."""
# ruff: noqa: TID253 - this file is imported inside functions only

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema

WEIGHTS = "model.safetensors"


def start_from(bundle: Bundle, network: nn.Module, head: str, schema: LabelSchema) -> str:
    """Copy what fits and say in one line what was taken.

    Args:
        bundle: the earlier model.
        network: changed in place.
        head: name of the last layer; its rows are moved to the place that their class has now.
        schema: the new classes.
    Raises: Invalid: no weights there, or fewer than half of them fit this network.
    """
    path = bundle.path(WEIGHTS)
    if not path.is_file():
        raise Invalid("start", f"a model with {WEIGHTS}", str(bundle.folder), "start from a model trained here")
    try:
        old = load_file(path)
    except SafetensorError as error:
        raise Invalid(str(path), "a safetensors file", str(error)) from None
    # Counters of batch norm fit every network and say nothing.
    new = {name: tensor for name, tensor in network.state_dict().items() if tensor.ndim > 0}
    taken = 0
    for name, tensor in new.items():
        if name not in old:
            continue
        if name.startswith(f"{head}."):
            taken += _copy_rows(old[name], tensor, bundle.schema.classes, schema.classes)
        elif old[name].shape == tensor.shape:
            tensor.copy_(old[name])
            taken += 1
    if taken < len(new) / 2:
        raise Invalid(
            "start",
            f"a model of the same recipe and size ({len(new)} tensors)",
            f"{bundle.recipe}, of which {taken} tensors fit",
            "train without start, or with the parameters of that model",
        )
    return f"training began from an earlier model of version {bundle.version} ({taken} of {len(new)} tensors)"


def _copy_rows(old: Tensor, new: Tensor, before: tuple[str, ...], now: tuple[str, ...]) -> int:
    """Rows by class; rows after those of the classes (what is no class) keep their place among themselves."""
    more = len(old) - len(before)
    if old.shape[1:] != new.shape[1:] or more < 0 or len(new) - len(now) != more:
        return 0
    places = [(now.index(name), row) for row, name in enumerate(before) if name in now]
    places += [(len(now) + row, len(before) + row) for row in range(more)]
    with torch.no_grad():
        for place, row in places:
            new[place] = old[row]
    return int(bool(places))
