"""What a training does to the process that it runs in: threads, precision, memory, quiet libraries, Ctrl-C."""
# ruff: noqa: TID253 - this file is imported inside functions only

import contextlib
import gc
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch.utils._pytree import tree_leaves, tree_map

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


def precision() -> Precision:
    """How a training computes here: bfloat16 on GPUs that have it, half precision on older ones, else 32 bits."""
    if not torch.cuda.is_available():
        return "32-true"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed"
    return "16-mixed" if torch.cuda.get_device_capability() >= (7, 0) else "32-true"


def in_full(loss: Callable[[Any, Any], torch.Tensor], raw: Any, targets: Any) -> torch.Tensor:
    """A loss in 32 bits, also where the network computed ``raw`` in fewer: sums and logarithms need them."""

    def full(value: Any) -> Any:
        is_short = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.float() if is_short else value

    device = next((x.device.type for x in tree_leaves(raw) if isinstance(x, torch.Tensor)), "cpu")
    with torch.autocast(device, enabled=False):
        return loss(tree_map(full, raw), targets)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says so; the CPU's allocator has no class of its own for it."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch's threads for one training, put back afterwards; 0 is one per core."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """No warnings, and errors alone from the loggers ``names``: our users hear of what we say ourselves."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls ``stop``; Lightning would end the whole process instead."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not is_ours:
        yield
        return

    def mark(_number: int, _frame: Any) -> None:
        stop()

    signal.signal(signal.SIGINT, mark)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
