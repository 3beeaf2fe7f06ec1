"""Descriptors by a pretrained network whose weights are on this machine: nothing is downloaded, nothing hangs."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Missing, NotFound, Unreachable
from loopworks.core.values import ImageRule
from loopworks.data.features.contract import Batch

FILE = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """The pooled features of a timm network."""

    key: str
    title: str
    rule: ImageRule | None
    width: int
    net: Any
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    dtype: str = "float32"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """Features before the classifier, one batch at a time: the network uses all cores by itself."""
        import torch

        pixels = (np.asarray(batch, np.float32) / 255 - self.mean) / self.spread
        with self.lock, torch.inference_mode():
            found: NDArray[np.float32] = self.net(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()).numpy()
        return found


def load(name: str) -> Backbone:
    """The timm network ``name`` with pretrained weights from the hub's cache on this machine.

    Raises:
        Missing: timm is not installed.
        NotFound: timm has no such network with published weights.
        Unreachable: its weights are not in the cache; the hint is the line that brings them.
    """
    try:
        import timm
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        raise Missing("timm", "train", "a backbone as descriptor") from None
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None or not config.hf_hub_id:
        raise NotFound("timm network", name, timm.list_models(f"*{name.partition('.')[0]}*", pretrained=True)[:12])
    path = try_to_load_from_cache(config.hf_hub_id, FILE)
    if not isinstance(path, str):
        raise Unreachable(
            f"weights of {name} must be on this machine; got none in the cache of the hub",
            f"hf download {config.hf_hub_id} {FILE} brings them; look needs none",
        )
    net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": path}, num_classes=0).eval()
    height, width = config.input_size[1:]
    return Backbone(
        key=f"timm-{name.replace('/', '-')}",
        title=f"timm {name}",
        rule=ImageRule(height=height, width=width, fit="crop"),
        width=int(str(net.num_features)),
        net=net,
        mean=tuple(config.mean),
        spread=tuple(config.std),
    )
