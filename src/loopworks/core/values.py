"""Values that every part speaks: label schema, shapes, tensor signatures, the rule that makes pixels, scores."""

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from loopworks.core.errors import Invalid
from loopworks.core.fields import Fields, is_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

Source = Literal["person", "import", "model"]
Fit = Literal["stretch", "crop", "pad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSchema:
    """The classes of a dataset in their fixed order (a class id is its position)."""

    classes: tuple[str, ...] = ()
    is_multi: bool = False
    """Whether one item may carry several classes at once (multi-label) or none of them."""
    costs: tuple[float, ...] = ()
    """What it costs to miss an item of each class: the chosen class has the largest chance times cost. Empty: all cost
    the same. For two classes this is a threshold: at costs (1, 4) the second is chosen from a chance of 0.2 on."""

    def __post_init__(self) -> None:
        """Refuse doubles, also those that differ only in upper and lower case, and costs that are none."""
        if self.costs and (len(self.costs) != len(self.classes) or not all(0 < x < math.inf for x in self.costs)):
            raise Invalid("costs of classes", f"{len(self.classes)} finite numbers above 0", self.costs)
        if self.costs and self.is_multi:
            raise Invalid("costs of classes", "empty where an item may carry several classes", self.costs)
        seen: dict[str, str] = {}
        for name in self.classes:
            if not name or name != name.strip():
                raise Invalid("class name", "text without blanks around it", repr(name))
            if not is_text(name):
                raise Invalid("class name", "Unicode text", name, "rename the folder or label")
            key = unicodedata.normalize("NFC", name).casefold()  # one file system composes accents, another does not
            if key in seen:
                raise Invalid(
                    "class names",
                    "different in more than upper and lower case",
                    f"{seen[key]!r} and {name!r}",
                    "rename one of them, or merge the two classes",
                )
            seen[key] = name

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; costs only where there are some."""
        body: dict[str, Any] = {"classes": list(self.classes), "is_multi": self.is_multi}
        return {**body, "costs": list(self.costs)} if self.costs else body

    @classmethod
    def from_json(cls, body: Any, where: str = "label schema") -> "LabelSchema":
        """The schema that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        costs = fields.each("costs", _cost) if "costs" in fields.body else ()
        return cls(classes=fields.texts("classes"), is_multi=fields.flag("is_multi"), costs=costs)


def _cost(value: Any, where: str) -> float:
    return Fields({"cost": value}, where).number("cost")


Kind = Literal["class", "box", "obb", "polygon", "mask", "polyline", "points", "ellipse", "caption", "value"]
"""What a shape is; ``Shape.points`` says how each one is written."""
_KINDS = frozenset(get_args(Kind))
_LENGTHS = {"box": 4, "obb": 8, "mask": 2, "ellipse": 5}
_PLAIN = frozenset({"class", "caption", "value"})


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Shape:
    """What an annotation says: a class, and where. Canonical: equal content, equal value."""

    label: str
    """The class; empty for a caption."""
    source: Source = "person"
    author: str = ""
    """Who or which model said it; empty where that is not known."""
    kind: Kind = "class"
    points: tuple[tuple[float, ...], ...] = ()
    """Where, in pixels of the stored image, the origin at its upper left corner; rows of numbers by kind.

    class, caption, value: none. box: (x, y, width, height). obb: the four corners (x1, y1, ... x4, y4), clockwise.
    polygon: one row (x1, y1, x2, y2, ...) per part. polyline, points: (x1, y1, x2, y2, ...).
    ellipse: (centre x, centre y, radius x, radius y, angle in degrees, clockwise). mask: (height, width) of the image.
    """
    mask: str = ""
    """Of kind mask alone: the run lengths as COCO's compressed text (column by column, from the upper left)."""
    attributes: str = "{}"
    """What else is said of it (occluded, iscrowd, keypoints, text of a caption ...), as canonical JSON text."""
    extra: str = "{}"
    """Format name -> what only that format knows (its id of the annotation, the numbers as they were written), as
    canonical JSON text. Writers give it back where the shape has not changed since."""

    def __post_init__(self) -> None:
        """Refuse geometry that does not fit the kind, and numbers that are none."""
        if self.kind not in _KINDS:
            raise Invalid("kind of a shape", ", ".join(get_args(Kind)), self.kind)
        if self.kind in _PLAIN:
            if self.points:
                raise Invalid(f"points of a {self.kind}", "none", self.points)
        else:
            _check_points(self.kind, self.points)
        if (self.kind == "mask") != bool(self.mask):
            raise Invalid("mask of a shape", "run lengths for a mask, nothing for others", repr(self.mask[:40]))

    @property
    def facts(self) -> dict[str, Any]:
        """``attributes`` as a mapping."""
        return {} if self.attributes == "{}" else dict(json.loads(self.attributes))

    @property
    def origin(self) -> dict[str, Any]:
        """``extra`` as a mapping."""
        return {} if self.extra == "{}" else dict(json.loads(self.extra))

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """The upright box around it as (x, y, width, height) in pixels; ``None`` where there is none to tell.

        A mask's box needs its pixels, so it is not told here.
        """
        if self.kind in _PLAIN or self.kind == "mask":
            return None
        if self.kind == "box":
            x, y, width, height = self.points[0]
            return x, y, width, height
        if self.kind == "ellipse":
            cx, cy, rx, ry, angle = self.points[0]
            turn = math.radians(angle)
            dx = math.hypot(rx * math.cos(turn), ry * math.sin(turn))
            dy = math.hypot(rx * math.sin(turn), ry * math.cos(turn))
            return cx - dx, cy - dy, 2 * dx, 2 * dy
        xs = [x for row in self.points for x in row[::2]]
        ys = [y for row in self.points for y in row[1::2]]
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what a plain class label does not have is left out."""
        body: dict[str, Any] = {"label": self.label, "source": self.source, "author": self.author}
        if self.kind != "class":
            body["kind"] = self.kind
        if self.points:
            body["points"] = [list(row) for row in self.points]
        if self.mask:
            body["mask"] = self.mask
        if self.attributes != "{}":
            body["attributes"] = self.facts
        if self.extra != "{}":
            body["extra"] = self.origin
        return body

    @classmethod
    def from_json(cls, body: Any, where: str = "shape") -> "Shape":
        """The shape that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        source = fields.one_of("source", get_args(Source))
        rest = {name: body[name] for name in ("kind", "mask") if name in body}
        if not all(isinstance(value, str) for value in rest.values()):
            raise Invalid(f"kind and mask of {where}", "text", rest)
        return cls(
            label=fields.text("label"),
            source=source,
            author=fields.text("author"),
            points=_rows(body.get("points", []), where),
            attributes=dump(body.get("attributes", {}), f"attributes of {where}"),
            extra=dump(body.get("extra", {}), f"extra of {where}"),
            **rest,
        )


def dump(value: Any, where: str = "attributes") -> str:
    """A mapping as canonical JSON text (sorted keys, no blanks): what ``Shape.attributes`` and ``extra`` hold.

    Raises: Invalid: not a mapping with text keys, or with values that JSON does not have (NaN, infinity).
    """
    if not isinstance(value, Mapping):
        raise Invalid(where, "an object", type(value).__name__)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(where, "plain JSON", str(error)) from None


def _check_points(kind: str, points: tuple[tuple[float, ...], ...]) -> None:
    length = _LENGTHS.get(kind)
    if kind == "box" and len(points) == 1 and len(points[0]) == 4:
        # Most shapes are sound boxes: a sum is finite only where all of it is.
        x, y, width, height = points[0]
        if width >= 0 and height >= 0 and math.isfinite(x + y + width + height):
            return
    if not points or (len(points) > 1 and kind != "polygon"):
        raise Invalid(f"points of a {kind}", "one row of numbers", f"{len(points)} rows")
    for row in points:
        if length is not None and len(row) != length:
            raise Invalid(f"points of a {kind}", f"{length} numbers", f"{len(row)}")
        if length is None and (len(row) % 2 or len(row) < (6 if kind == "polygon" else 2)):
            raise Invalid(f"points of a {kind}", "pairs of x and y, three or more for a polygon", f"{len(row)} numbers")
        if not all(math.isfinite(number) for number in row):
            raise Invalid(f"points of a {kind}", "finite numbers", row)
    if kind in ("box", "ellipse", "mask") and min(points[0][:2] if kind == "mask" else points[0][2:4]) < 0:
        raise Invalid(f"size of a {kind}", "0 or more", points[0])


def _rows(found: Any, where: str) -> tuple[tuple[float, ...], ...]:
    numbers = isinstance(found, list) and all(
        isinstance(row, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in row)
        for row in found
    )
    if not numbers:
        raise Invalid(f"points of {where}", "rows of numbers", found)
    return tuple(tuple(float(x) for x in row) for row in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output tensor in Open Inference Protocol terms; -1 is any length."""

    name: str
    datatype: str  # BOOL, UINT8, INT64, FP32, BYTES ...
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, body: Any, where: str = "tensor") -> "TensorSpec":
        """The spec that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        return cls(name=fields.text("name"), datatype=fields.text("datatype"), shape=fields.wholes("shape"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRule:
    """The one stated rule that turns an image file into a model's input; see ``loopworks.core.image``."""

    height: int
    width: int
    fit: Fit = "stretch"
    """stretch: both sides to size; crop: shorter side to size, then the centre; pad: longer side, black bars."""

    def __post_init__(self) -> None:
        """Refuse sizes that no model has."""
        for name, value in (("height", self.height), ("width", self.width)):
            if not 1 <= value <= 8192:
                raise Invalid(f"image rule {name}", "between 1 and 8192 pixels", value)
        if self.fit not in get_args(Fit):
            raise Invalid("image rule fit", "stretch, crop or pad", self.fit)

    @property
    def media(self) -> str:
        """What an item is: ``image``."""
        return "image"

    def inputs(self) -> tuple[TensorSpec, ...]:
        """``image``: the pixels."""
        return (TensorSpec(name="image", datatype="UINT8", shape=(-1, self.height, self.width, 3)),)

    def pack(
        self, contents: Sequence[Any], *, names: Sequence[str] = (), max_pixels: int | None = None
    ) -> "dict[str, NDArray[Any]]":
        """Image files as ``inputs``; ``Invalid`` names the first that is not a whole image."""
        import numpy as np  # here, so that a bundle is read without it

        from loopworks.core import image  # which is about this rule, and so imports it

        limit = image.MAX_PIXELS if max_pixels is None else max_pixels
        names = names or [f"image {place}" for place in range(1, len(contents) + 1)]
        pixels = [image.decode(data, self, name, limit) for data, name in zip(contents, names, strict=True)]
        return {"image": pixels[0][None] if len(pixels) == 1 else np.stack(pixels)}

    def encode(self, batch: "Mapping[str, NDArray[Any]]") -> "Mapping[str, NDArray[Any]]":
        """The batch as it is: everything else is in the model's graph."""
        return batch

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with the constant parts of the rule written out for readers of other languages."""
        return {
            "kind": "image",
            "height": self.height,
            "width": self.width,
            "fit": self.fit,
            "color": "RGB",
            "orientation": "exif",
            "alpha": "over-black",
            "resize": "pillow-bilinear-antialias",
            "jpeg_draft": True,
            "layout": "NHWC",
            "dtype": "uint8",
        }

    @classmethod
    def from_json(cls, body: Any, where: str = "preprocessing") -> "ImageRule":
        """The rule that ``to_json`` wrote; another rule's constants are refused, never guessed around."""
        fields = Fields.of(body, where)
        fit = fields.one_of("fit", get_args(Fit))
        rule = cls(height=fields.whole("height", 1), width=fields.whole("width", 1), fit=fit)
        known = rule.to_json()
        for key in sorted(known.keys() | fields.body.keys()):
            found, wanted = fields.body.get(key), known.get(key)
            # 1 is equal to True, and is not what the format says.
            if found != wanted or isinstance(found, bool) != isinstance(wanted, bool):
                raise Invalid(
                    fields.path(key),
                    f"{known.get(key, 'absent')} (the rule that this version knows)",
                    fields.body.get(key, "nothing"),
                )
        return rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A metric value with its 95 % interval and the number of items it was measured on."""

    value: float
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}

    @classmethod
    def from_json(cls, body: Any, where: str = "score") -> "Score":
        """The score that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        return cls(
            value=fields.number("value"),
            low=fields.number("low"),
            high=fields.number("high"),
            count=fields.whole("count"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that was wrong with one part of a batch; the rest of the batch was kept."""

    where: str
    """File, line or field."""
    error: str
    """The error's code."""
    message: str
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"where": self.where, "error": self.error, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageNode:
    """One thing in the graph of what came from what."""

    kind: str  # dataset, version, run, model, variant, deployment, prediction, item, annotation, job
    id: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"kind": self.kind, "id": self.id, **dict(self.facts)}
