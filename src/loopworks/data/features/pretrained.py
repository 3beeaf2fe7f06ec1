"""Descriptors by a model of the transformers library whose files are on this machine, for images and for texts.

Weights are read from safetensors alone, code of a repository is never run, and nothing is downloaded.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid, Missing, Unreachable
from loopworks.core.values import ImageRule
from loopworks.data.features.contract import Batch

_LONGEST = 512  # tokens of a text that are read
_SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """The pooled output of a model: of images its pooler or the mean of all places, of texts the mean of all tokens."""

    key: str
    title: str
    rule: ImageRule | None
    width: int
    net: Any
    tokenizer: Any = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    spread: tuple[float, ...] = (0.5, 0.5, 0.5)
    dtype: str = "float32"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """One row for each item, one batch at a time: the model uses all cores by itself."""
        import torch

        with self.lock, torch.inference_mode():
            return np.asarray((self._texts(batch) if self.rule is None else self._images(batch)).float().numpy())

    def _images(self, batch: Batch) -> Any:
        import torch

        pixels = (np.asarray(batch, np.float32) / 255 - self.mean) / self.spread
        asked = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()
        if hasattr(self.net, "get_image_features"):  # CLIP and its kind
            found = self.net.get_image_features(pixel_values=asked)
            return found if isinstance(found, torch.Tensor) else found.pooler_output
        answer = self.net(pixel_values=asked)
        pooled = getattr(answer, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden = answer.last_hidden_state
        return hidden.mean(dim=(2, 3) if hidden.ndim == 4 else 1)

    def _texts(self, batch: Batch) -> Any:
        import torch

        longest = min(_LONGEST, int(self.tokenizer.model_max_length))
        asked = self.tokenizer(list(batch), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        if hasattr(self.net, "get_text_features"):
            found = self.net.get_text_features(**asked)
            return found if isinstance(found, torch.Tensor) else found.pooler_output
        hidden = self.net(**asked).last_hidden_state
        weight = asked["attention_mask"].unsqueeze(-1)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def load(name: str, media: str) -> Pretrained:
    """The model ``name`` of the hub's cache on this machine, or in a folder.

    Args:
        name: ``OWNER/NAME`` as on the hub, or a folder with ``config.json`` and ``model.safetensors``.
        media: image or text.
    Raises:
        Missing: transformers is not installed.
        Unreachable: its files are not on this machine.
        Invalid: no model for this kind of items.
    """
    try:
        import transformers
    except ImportError:
        raise Missing("transformers", "train", "a transformers model as descriptor") from None
    local: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **local)
        net = transformers.AutoModel.from_pretrained(name, config=config, use_safetensors=True, **local).eval()
        reader = transformers.AutoTokenizer if media == "text" else transformers.AutoImageProcessor
        tool = reader.from_pretrained(name, **local)
    except (OSError, ValueError) as error:  # whatever is missing, the library says so in many lines
        said = " ".join(str(error).split())[:160]
        raise Unreachable(
            f"{media} model {name} must be on this machine, as safetensors; got: {said}",
            f"hf download {name} brings it, or name a folder; {'words' if media == 'text' else 'look'} needs none",
        ) from None
    title, key = f"transformers {name}", _key(name, config, media)
    if media == "text":
        return _checked(Pretrained(key=key, title=title, rule=None, width=0, net=net, tokenizer=tool))
    height, width = _size(tool, config)
    rule = ImageRule(height=height, width=width, fit="crop")
    mean, spread = (tuple(getattr(tool, part, None) or (0.5,) * 3) for part in ("image_mean", "image_std"))
    return _checked(Pretrained(key=key, title=title, rule=rule, width=0, net=net, mean=mean, spread=spread))


def _checked(found: Pretrained) -> Pretrained:
    """The same with its width, found out by asking it once."""
    rule = found.rule
    batch: Batch = ["a"] if rule is None else np.zeros((1, rule.height, rule.width, 3), np.uint8)
    try:
        width = int(found.describe(batch).shape[1])
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise Invalid(found.title, "a model of such items", " ".join(str(error).split())[:160]) from None
    return replace(found, width=width)


def _size(tool: Any, config: Any) -> tuple[int, int]:
    size: Any = getattr(tool, "crop_size", None) or getattr(tool, "size", None) or getattr(config, "image_size", _SIDE)
    if isinstance(size, int):
        return size, size
    told = dict(size)
    side = told.get("shortest_edge") or _SIDE
    return int(told.get("height") or side), int(told.get("width") or side)


def _key(name: str, config: Any, media: str) -> str:
    """Another key where the files are others: the hub's commit, or size and time of the files of a folder."""
    facts = str(getattr(config, "_commit_hash", None))
    if (folder := Path(name)).is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        facts = repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    digest = hashlib.sha256(f"{media}\n{Path(name).resolve() if folder.is_dir() else name}\n{facts}".encode())
    return f"transformers-{digest.hexdigest()[:16]}"
