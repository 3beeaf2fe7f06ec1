"""Where a training stands, and the file that it goes on from after a kill."""
# ruff: noqa: TID253 - this file is imported inside functions only

import errno
import logging
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loopworks.core.errors import NoSpace

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a training stands; goes into the checkpoint as plain values and tensors."""

    fingerprint: str
    epoch: int = 0
    """Epochs done."""
    best_value: float = -math.inf
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    spent_s: float = 0.0
    is_done: bool = False
    ended: str = ""
    """Why it ended: epochs, patience, or budget."""
    pieces: int = 1
    """Parts that a batch is fed in, their gradients added up: more than one where a whole batch has no room."""
    unsaved: int = 0
    """Checkpoints that a full disk had no room for."""


def resume(path: Path, fingerprint: str, network: nn.Module) -> tuple[Progress, dict[str, Any] | None]:
    """Progress and optimizer state of a checkpoint whose weights go into ``network``; fresh where none fits."""
    fresh = Progress(fingerprint=fingerprint)
    if not path.is_file():
        return fresh, None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        progress = Progress(**state["progress"])
        if progress.fingerprint != fingerprint:
            log.info("checkpoint of another training left aside path=%s", path)
            return fresh, None
        network.load_state_dict(state["network"])
        return progress, dict(state["optimizer"])
    except Exception as error:  # torch raises a dozen kinds for a damaged file; a fresh start is always right
        log.warning("checkpoint could not be read, starting again path=%s error=%s", path, error)
        return fresh, None


def save_atomically(state: Any, path: Path) -> None:
    """Write ``state`` so that a reader finds the old or the new file, whole.

    Raises: NoSpace: the disk is full; the old file stays.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC or "No space" in str(error):
            raise NoSpace(f"checkpoint {path.name} must be written; the disk is full", "free some space") from None
        raise
