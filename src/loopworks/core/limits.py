"""What one deployed model may take, and how often it may be asked; plain, as models that run alone have no pydantic."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The setting ``limits`` says what each means, and checks it."""

    workers: int = 0
    max_batch: int = 32
    max_queue: int = 1024
    max_concurrent: int = 0
    target_ms: float = 0.0
    isolation: Literal["none", "process"] = "none"
    memory_mb: int = 0
    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How often one deployment may be asked; 0 is any number. The setting ``limits`` says what each means."""

    per_s: float = 0.0
    per_day: int = 0
    per_s_token: float = 0.0
    per_day_token: int = 0
