"""Is it time to train again? Facts in, a decision with its reasons out; nothing is done here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from loopworks.core.units import seconds
from loopworks.infer.watch.rules import Retrain

SHARES = ("accuracy", "map", "miou")
"""What ``accuracy_below`` is a limit of: by labels, boxes or masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known when it is decided."""

    now: datetime
    trained_at: datetime
    """Of the newest model of the deployment's name, or the last training that was started for it."""
    new_labels: int
    """Labelled items more than the version behind the model has."""
    alarms: int
    """Of drift since then."""
    accuracy: Mapping[str, Any] | None
    """As ``accuracy.measured`` tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether to train, and why or why not."""

    is_due: bool
    reasons: tuple[str, ...] = ()
    held_back: str = ""
    """Why it is not done although there are reasons."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"is_due": self.is_due, "reasons": list(self.reasons), "held_back": self.held_back}


def decide(rules: Retrain, facts: Facts) -> Decision:
    """Any reason will do; the cool-down and the lack of new labels hold it back."""
    reasons = []
    since = facts.now - facts.trained_at
    if rules.new_labels is not None and facts.new_labels >= rules.new_labels:
        reasons.append(f"{facts.new_labels} new labels (from {rules.new_labels} on)")
    if rules.on_drift and facts.alarms:
        reasons.append(f"{facts.alarms} alarms of drift since the last training")
    low = rules.accuracy_below
    found = facts.accuracy
    if low is not None and found and found["metric"] in SHARES and found["high"] < low:
        reasons.append(
            f"live {found['metric']} {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] is below {low}"
        )
    if rules.every is not None and since >= timedelta(seconds=seconds(rules.every, "retrain.every")):
        reasons.append(f"{since.total_seconds() / 86_400:.1f} days since the last training")
    if not reasons:
        return Decision(is_due=False)
    pause = timedelta(seconds=seconds(rules.cool_down, "retrain.cool_down"))
    if since < pause:
        left = (pause - since).total_seconds() / 3600
        return Decision(is_due=False, reasons=tuple(reasons), held_back=f"cool-down: {left:.1f} h left")
    if facts.new_labels <= 0:
        held = "nothing new is labelled: label the inbox first"
        return Decision(is_due=False, reasons=tuple(reasons), held_back=held)
    return Decision(is_due=True, reasons=tuple(reasons))
