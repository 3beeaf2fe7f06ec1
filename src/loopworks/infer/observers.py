"""Several that are shown every run of the engine's models."""

from loopworks.core.contracts import Arrays
from loopworks.infer.served import Observer, Served


class Observers:
    """Shows a run to each in turn; where one fails, the others see it all the same."""

    def __init__(self, *each: Observer) -> None:
        """All of ``each``."""
        self._each = each

    def saw(self, served: Served, inputs: Arrays, outputs: Arrays, rows: int) -> None:
        """The engine has run a model. What the first to fail raised is raised when all have seen it."""
        failed: Exception | None = None
        for one in self._each:
            try:
                one.saw(served, inputs, outputs, rows)
            except Exception as error:  # raised below
                failed = failed or error
        if failed is not None:
            raise failed
