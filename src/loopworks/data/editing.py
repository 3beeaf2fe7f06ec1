"""Edits of a dataset that can be taken back: delete, tag, describe, and the list of operations.

``Dataset`` inherits these, so that its own module stays readable; nothing else does.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.fields import is_text
from loopworks.core.values import dump
from loopworks.store import changes, items, operations
from loopworks.store.changes import Facts
from loopworks.store.datasets import DatasetRow
from loopworks.store.home import Home
from loopworks.store.ids import new_id
from loopworks.store.items import Item
from loopworks.store.operations import Operation


class Editing:
    """What changes items and can be undone. Each method is one operation and gives its id."""

    _home: Home
    _row: DatasetRow

    def delete(self, ids: Iterable[str], *, author: str = "", reason: str = "") -> str:
        """Take items out of the dataset; ``undo`` brings them back with all that was said of them.

        Frozen versions keep them, and so does the disk: see ``erase`` where a person wants to be forgotten.

        Args:
            ids: of the items.
            author: who does it.
            reason: why.
        Returns: the operation's id.
        Raises: NotFound: no such item; nothing is deleted.
        """
        gone = {key: Facts(is_here=False) for key in dict.fromkeys(ids)}
        return self._change("delete", gone, author=author, reason=reason)

    def tag_items(self, ids: Iterable[str], *tags: str, author: str = "") -> str:
        """Give items tags, beside those that they have; gives the operation's id.

        Raises:
            NotFound: no such item.
            Invalid: a tag that is empty, has blanks around it, or more than 100 characters.
        """
        return self._retag("tag", ids, add=_checked(tags), author=author)

    def untag(self, ids: Iterable[str], *tags: str, author: str = "") -> str:
        """Take tags away from items, where they have them; gives the operation's id."""
        return self._retag("untag", ids, drop=_checked(tags), author=author)

    def describe(self, ids: Iterable[str], attributes: Mapping[str, Any], *, author: str = "") -> str:
        """Set attributes of items (camera, time, captions ...); the others stay, and ``None`` takes one away.

        Returns: the operation's id.
        Raises:
            NotFound: no such item.
            Invalid: a value that JSON does not have.
        """
        dump(attributes)
        with self._home.catalog.begin() as tx:
            before = self._wanted(tx, ids)
            merged = {key: {**item.attributes, **attributes} for key, item in before.items()}
            wanted = {
                key: Facts(attributes={name: value for name, value in found.items() if value is not None})
                for key, found in merged.items()
            }
            return self._apply(tx, "describe", wanted, author=author)

    def undo(self, operation: str, *, author: str = "", force: bool = False) -> Operation:
        """Take an operation back: every item that it changed is again as it was before; itself an operation.

        Args:
            operation: its id, or the beginning of it; see ``operations``.
            author: who does it.
            force: also where an item was changed since, or would leave the test set.
        Raises:
            NotFound: no such operation.
            Conflict: it is undone already; or something that ``force`` allows.
        """
        with self._home.catalog.begin() as tx:
            return operations.undo(tx, self._row.id, operation, author=author, force=force)

    def operations(self, limit: int = 100) -> list[Operation]:
        """What was done to the dataset, the newest first, at most ``limit``."""
        if limit < 1:
            raise Invalid("limit", "at least 1", limit)
        with self._home.catalog.read() as tx:
            return operations.every(tx, self._row.id, limit=limit)

    def _retag(
        self, what: str, ids: Iterable[str], *, add: tuple[str, ...] = (), drop: tuple[str, ...] = (), author: str
    ) -> str:
        with self._home.catalog.begin() as tx:
            before = self._wanted(tx, ids)
            wanted = {key: Facts(tags=tuple(sorted({*item.tags, *add} - {*drop}))) for key, item in before.items()}
            return self._apply(tx, what, wanted, author=author, reason=", ".join((*add, *drop)))

    def _change(self, what: str, wanted: Mapping[str, Facts], *, author: str, reason: str = "") -> str:
        with self._home.catalog.begin() as tx:
            self._wanted(tx, wanted)
            return self._apply(tx, what, wanted, author=author, reason=reason)

    def _apply(self, tx: Any, what: str, wanted: Mapping[str, Facts], *, author: str, reason: str = "") -> str:
        op = new_id()
        count = changes.apply(tx, self._row.id, wanted, author=author, op=op)
        operations.record(tx, self._row.id, op, what, count=count, author=author, reason=reason)
        return op

    def _wanted(self, tx: Any, ids: Iterable[str]) -> dict[str, Item]:
        """The items with these ids, or ``NotFound``."""
        wanted = list(dict.fromkeys(ids))
        found = items.among(tx, self._row.id, wanted)
        for item in wanted:
            if item not in found:
                raise NotFound("item", item, hint=f"dataset {self._row.name!r} has no item with this id")
        return found


def _checked(tags: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(tags))
    if not found:
        raise Invalid("tags", "one or more", "none")
    for tag in found:
        if not tag or tag != tag.strip() or len(tag) > 100 or not is_text(tag):
            raise Invalid("tag", "1 to 100 characters without blanks around them", repr(tag))
    return found
