"""A source whose test split is out of reach until every choice is made."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.errors import Conflict
from loopworks.core.values import LabelSchema
from loopworks.data.source import Progress, Rows, Sized, Source, Texts

TEST = "test"


def seal(source: Source) -> Source:
    """``source`` without its test split: what recipes and searches see.

    Its ``counts`` know no test items, and whoever asks for them gets ``Conflict``. It can be asked whatever ``source``
    can be asked beside that (``Sized``, ``Texts``, ``Rows``).
    """
    can = tuple(part for protocol, part in _PARTS.items() if isinstance(source, protocol))
    return type("Sealed", (*can, Sealed), {})(source)  # type: ignore[no-any-return]


class Sealed:
    """Everything but the test split; made by ``seal``."""

    def __init__(self, source: Any) -> None:
        """Wrap ``source``."""
        self._source = source

    @property
    def id(self) -> str:
        """Id of the version."""
        return str(self._source.id)

    @property
    def task(self) -> Learnable:
        """Its task kind."""
        found: Learnable = self._source.task
        return found

    @property
    def schema(self) -> LabelSchema:
        """Its classes."""
        found: LabelSchema = self._source.schema
        return found

    @property
    def counts(self) -> Mapping[str, int]:
        """Split -> items, without test."""
        return {split: count for split, count in self._source.counts.items() if split != TEST}

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        """A split's items, packed."""
        found: Arrays = self._source.inputs(rule, _open(split), progress)
        return found

    def targets(self, split: str) -> NDArray[Any]:
        """A split's labels."""
        found: NDArray[Any] = self._source.targets(_open(split))
        return found

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        """What is known of a split's items."""
        found: Sequence[Mapping[str, Any]] = self._source.facts(_open(split))
        return found


class _Sized:
    _source: Any

    @property
    def typical_size(self) -> tuple[int, int]:
        found: tuple[int, int] = self._source.typical_size
        return found


class _Texts:
    _source: Any

    def texts(self, split: str) -> Sequence[str]:
        found: Sequence[str] = self._source.texts(_open(split))
        return found


class _Rows:
    _source: Any

    def rows(self, split: str) -> Any:
        return self._source.rows(_open(split))


_PARTS: Mapping[Any, type] = {Sized: _Sized, Texts: _Texts, Rows: _Rows}


def _open(split: str) -> str:
    if split == TEST:
        raise Conflict(
            "the test split must stay unread until every choice is made; got asked for it",
            "learn from train, choose by val",
        )
    return split
