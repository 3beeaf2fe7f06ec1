"""Looking at a dataset: find, count, search, saved views and predictions. ``Dataset`` has these as its methods."""

import re
from collections.abc import Iterator, Mapping, Sequence

from loopworks.core.errors import Invalid
from loopworks.core.query import Match, Node, Sort, walk
from loopworks.core.values import Shape
from loopworks.core.words import wanted
from loopworks.data.query.parser import parse, parse_field, parse_sort
from loopworks.store import look, predictions, views, words
from loopworks.store.home import Home
from loopworks.store.items import Item
from loopworks.store.predictions import Prediction, Scored
from loopworks.store.views import View

_VIEW = re.compile(r"[\w-]{1,64}")


class Look:
    """What can be asked of the items of one dataset."""

    def __init__(self, home: Home, dataset: str) -> None:
        """Look at the dataset with this id."""
        self._catalog = home.catalog
        self._cache = home.cache
        self._dataset = dataset

    def find(self, query: str = "", *, sort: str = "", limit: int = 100, after: str | None = None) -> list[Item]:
        """Items that fulfil a query, a page at a time; see ``Dataset.find``."""
        if limit < 1:
            raise Invalid("limit", "at least 1", limit)
        node, order = self._read(query, sort)
        with self._catalog.read() as tx:
            return look.fast_page(
                self._catalog, self._cache, tx, self._dataset, node, sort=order, limit=limit, after=after
            )

    def count(self, query: str = "") -> int:
        """How many items fulfil a query."""
        node, _ = self._read(query, "")
        with self._catalog.read() as tx:
            return look.fast_count(self._catalog, self._cache, tx, self._dataset, node)

    def figures(self, query: str, by: str) -> dict[str, int]:
        """Of the items that fulfil a query: value of the field ``by`` -> how many have it; empty text: none has one.

        Raises: Invalid: no such field, or one that is counted by no value (``shape.attributes``).
        """
        field = parse_field(by)
        if field.name == "shape.attributes":
            raise Invalid("field to count by", "label, split, tag, attributes.NAME or another field of items", by)
        node, _ = self._read(query, "")
        with self._catalog.read() as tx:
            return look.figures(tx, self._dataset, node, field)

    def ids(self, query: str = "") -> Iterator[str]:
        """Ids of all items that fulfil a query, by id, streamed."""
        node, _ = self._read(query, "")
        with self._catalog.read() as tx:
            yield from look.ids(tx, self._dataset, node)

    def search(self, text: str, *, query: str = "", limit: int = 100) -> list[Item]:
        """Items that have all words of ``text`` in name, text, captions, attributes or tags, the best first."""
        if limit < 1:
            raise Invalid("limit", "at least 1", limit)
        if not wanted(text):
            raise Invalid("text to search for", "at least one word", repr(text))
        node, _ = self._read(query, "")
        self._file(Match(text))
        with self._catalog.read() as tx:
            ids = look.ranked(tx, self._dataset, text, node, limit)
            return look.in_order(tx, self._dataset, ids)

    def save_view(self, name: str, query: str, *, sort: str = "", author: str = "") -> View:
        """Keep a query and its order under a name (letters, digits, - and _), in place of what had it."""
        if not _VIEW.fullmatch(name):
            raise Invalid("view name", "1 to 64 letters, digits, - or _", repr(name))
        parse(query), parse_sort(sort)
        with self._catalog.begin() as tx:
            return views.save(tx, self._dataset, name, query, sort, author)

    def views(self) -> list[View]:
        """All saved views, by name."""
        with self._catalog.read() as tx:
            return views.every(tx, self._dataset)

    def remove_view(self, name: str) -> None:
        """Forget a saved view; ``NotFound`` lists those that exist."""
        with self._catalog.begin() as tx:
            views.remove(tx, self._dataset, name)

    def keep(self, model: str, said: Mapping[str, Sequence[tuple[Shape, float]]]) -> None:
        """Keep what a model says of items: item id -> shapes with their confidence (0..1), for ``prediction.*``."""
        with self._catalog.begin() as tx:
            predictions.write(tx, self._dataset, model, said)

    def said(self, items: Sequence[str]) -> dict[str, list[Prediction]]:
        """Item id -> what models said of it, as far as it was kept."""
        with self._catalog.read() as tx:
            return predictions.of_items(tx, self._dataset, items)

    def scored(self) -> list[Scored]:
        """The models whose predictions are there, the newest first."""
        with self._catalog.read() as tx:
            return predictions.every(tx, self._dataset)

    def _read(self, query: str, sort: str) -> tuple[Node, Sort]:
        """The condition and order of a query, or of the view that is called so."""
        name = query.strip()
        if _VIEW.fullmatch(name):
            with self._catalog.read() as tx:
                view = views.find(tx, self._dataset, name)
            if view is not None:
                query, sort = view.query, sort or view.sort
        node, order = parse(query), parse_sort(sort)
        self._file(node)
        return node, order

    def _file(self, node: Node) -> None:
        if any(isinstance(part, Match) for part in walk(node)):
            words.catch_up(self._catalog, self._dataset)
