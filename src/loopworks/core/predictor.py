"""Loading one executable form of a model, so that it takes what clients send."""

from collections.abc import Callable
from pathlib import Path

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Arrays, Opened, Predictor, Rule, Runtime
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule


class Encoded:
    """A predictor behind the rule of its model: packed tensors in, answers out."""

    def __init__(self, predictor: Predictor, rule: Rule) -> None:
        """Wrap ``predictor``, which takes what ``rule`` encodes."""
        self._predictor, self._rule = predictor, rule

    def predict(self, batch: Arrays) -> Arrays:
        """Answer a packed batch."""
        return self._predictor.predict(self._rule.encode(batch))

    def close(self) -> None:
        """Close the predictor."""
        self._predictor.close()


def load(variant: Variant, folder: Path, rule: Rule, *, threads: int = 0, device: str = "cpu") -> Predictor:
    """A predictor for packed tensors, from the variant's file in ``folder``; ``threads`` 0 is one per core.

    ``device`` is for runtimes that know several (a field of that name).

    Raises: NotFound, Missing, Invalid: no such runtime, not installed, or the file is none that it runs.
    """
    return load_by(plugins.get(f"runtime.{variant.runtime}"), variant, folder, rule, threads=threads, device=device)


def load_by(
    kind: Callable[..., Runtime], variant: Variant, folder: Path, rule: Rule, *, threads: int = 0, device: str = "cpu"
) -> Predictor:
    """``load``, by a runtime that is known already."""
    is_known = device != "cpu" and "device" in getattr(kind, "__dataclass_fields__", ())
    return start(kind(device=device) if is_known else kind(), variant, folder, rule, threads=threads)


def start(runtime: Runtime, variant: Variant, folder: Path, rule: Rule, *, threads: int = 0) -> Predictor:
    """``load``, by a runtime that is at hand already."""
    found = runtime.load(folder / variant.file, threads=threads, precision=variant.precision)
    return found if isinstance(rule, ImageRule) else Encoded(found, opened(rule, folder))


def opened(rule: Rule, folder: Path) -> Rule:
    """The rule of the bundle in ``folder``, able to encode."""
    return rule.opened(folder) if isinstance(rule, Opened) else rule
