"""Values that every part speaks: label schema, shapes, tensor signatures, the rule that makes pixels, scores."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from loopworks.core.errors import Invalid
from loopworks.core.fields import Fields, is_text

Source = Literal["person", "import", "model"]
Fit = Literal["stretch", "crop", "pad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSchema:
    """The classes of a dataset in their fixed order (a class id is its position)."""

    classes: tuple[str, ...] = ()
    is_multi: bool = False
    """Whether one item may carry several classes at once (multi-label) or none of them."""

    def __post_init__(self) -> None:
        """Refuse doubles, also those that differ only in upper and lower case."""
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
        """As plain JSON."""
        return {"classes": list(self.classes), "is_multi": self.is_multi}

    @classmethod
    def from_json(cls, body: Any, where: str = "label schema") -> "LabelSchema":
        """The schema that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        return cls(classes=fields.texts("classes"), is_multi=fields.flag("is_multi"))


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Shape:
    """What an annotation says: a class, and for later task kinds where. Canonical: equal content, equal value."""

    label: str
    source: Source = "person"
    author: str = ""
    """Who or which model said it; empty where that is not known."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"label": self.label, "source": self.source, "author": self.author}

    @classmethod
    def from_json(cls, body: Any, where: str = "shape") -> "Shape":
        """The shape that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        source = fields.one_of("source", get_args(Source))
        return cls(label=fields.text("label"), source=source, author=fields.text("author"))


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
