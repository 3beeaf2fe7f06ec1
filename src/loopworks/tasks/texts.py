"""Task kinds whose items are texts or table rows. Models for them are not trained yet (see docs/train.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape


@dataclass(frozen=True, slots=True)
class Classes:
    """What a text or a row is, out of a fixed list of classes."""

    name: str
    media: str
    kinds: frozenset[str] = frozenset({"class"})

    def check(self, shapes: Sequence[Shape], schema: LabelSchema) -> tuple[Shape, ...]:
        """Sorted shapes, one per class; single label: exactly one."""
        for shape in shapes:
            if shape.kind != "class":
                raise Invalid(f"label of a {self.media}", "a class", shape.kind)
            if shape.label not in schema.classes:
                raise NotFound("class", shape.label, schema.classes)
        unique = {shape.label: shape for shape in sorted(shapes)}
        if not schema.is_multi and len(unique) != 1:
            raise Invalid(f"label of a {self.media}", "exactly one class", sorted(unique) or "none")
        return tuple(unique[name] for name in sorted(unique))

    def draw(self, image: NDArray[np.uint8], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
        """Texts and rows have no picture."""
        raise Invalid("item to draw", "an image", f"a {self.media}")


@dataclass(frozen=True, slots=True)
class Value:
    """A number for each row, in the unit of the target column."""

    name: str = "tabular-regression"
    media: str = "row"
    kinds: frozenset[str] = frozenset({"value"})

    def check(self, shapes: Sequence[Shape], schema: LabelSchema) -> tuple[Shape, ...]:
        """Exactly one shape of kind value, whose attribute ``value`` is a finite number."""
        if len(shapes) != 1 or shapes[0].kind != "value":
            raise Invalid("label of a row", "one value", [shape.kind for shape in shapes] or "none")
        found = shapes[0].facts.get("value")
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise Invalid("value of a row", "a number", found)
        return tuple(shapes)

    def draw(self, image: NDArray[np.uint8], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
        """Rows have no picture."""
        raise Invalid("item to draw", "an image", "a row")


plugins.add("task.text-classification")(Classes("text-classification", "text"))
plugins.add("task.tabular-classification")(Classes("tabular-classification", "row"))
plugins.add("task.tabular-regression")(Value())
