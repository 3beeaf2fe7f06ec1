"""A context for steps under test: it keeps what the step reported and can ask it to stop."""

from dataclasses import dataclass, field
from pathlib import Path

from loopworks.core.contracts import Context


@dataclass(slots=True)
class Recorder:
    """What a step did with its context."""

    stop_after: int | None = None
    """Ask to stop from the question after this many on; ``None`` never."""
    asked: int = 0
    """How often the step asked whether it should stop (each ``tick`` asks once)."""
    ticks: list[tuple[float, str]] = field(default_factory=list)
    """Share done and text of each tick, in order."""
    metrics: list[tuple[str, int, float]] = field(default_factory=list)
    """Name, step and value of each metric, in order."""
    pictures: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Name, step and PNG of each picture, in order."""

    @property
    def asked_after_stop(self) -> int:
        """How often the step went on to ask after it had been told to stop."""
        return 0 if self.stop_after is None else max(0, self.asked - self.stop_after - 1)

    def context(self, scratch: Path, seed: int = 0) -> Context:
        """A context that writes into this recorder."""
        return Context(
            seed=seed,
            scratch=scratch,
            report=lambda share, text: self.ticks.append((share, text)),
            stopped=self._stopped,
            metric=lambda name, step, value: self.metrics.append((name, step, value)),
            picture=lambda name, step, png: self.pictures.append((name, step, png)),
        )

    def _stopped(self) -> bool:
        self.asked += 1
        return self.stop_after is not None and self.asked > self.stop_after


def context(
    scratch: Path, seed: int = 0, *, stop_after: int | None = None, recorder: Recorder | None = None
) -> Context:
    """A context for a step under test.

    Args:
        scratch: folder of the run, e.g. pytest's ``tmp_path``.
        seed: of the run.
        stop_after: let this many ticks pass, then ask the step to stop; ``None`` never.
        recorder: where to keep ticks and metrics, for a test that looks at them; ``stop_after`` is then its own.
    """
    return (recorder or Recorder(stop_after=stop_after)).context(scratch, seed)
