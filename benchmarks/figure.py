"""One measured figure with its target."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value that must not exceed its target (or, with ``at_least``, must reach it)."""

    name: str
    value: float
    unit: str
    """``ratio`` where it is one."""
    target: float
    at_least: bool = False
    detail: str = ""
    """What it was compared with, and how often."""

    @property
    def is_met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def line(self) -> str:
        """For people."""
        sign = ">=" if self.at_least else "<="
        verdict = "met" if self.is_met else "NOT MET"
        return f"{self.name}: {self.value:.3g} {self.unit} (target {sign} {self.target:g}, {verdict}) {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "is_met": self.is_met}
