"""What a served model did."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Statistics:
    """What a served model did since it was loaded; times in nanoseconds."""

    success: int = 0
    failure: int = 0
    inferences: int = 0
    """Rows answered."""
    executions: int = 0
    """Runs of the model."""
    success_ns: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    """Summed over requests, as are the three below: every request of a batch waits for the whole of it."""
    input_ns: int = 0
    compute_ns: int = 0
    output_ns: int = 0
    unseen: int = 0
    """Runs that the observer failed on."""
    last_ms: int = 0
    """When it last answered, milliseconds since 1970."""
    batches: Counter[int] = field(default_factory=Counter)
    """Rows of a run -> number of such runs."""
    batch_ns: Counter[int] = field(default_factory=Counter)
    """Rows of a run -> time of all such runs."""
