"""Values that every part speaks: label schema, shapes, tensor signatures, the rule that makes pixels, scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from loopworks.core.errors import Invalid


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
            twin = seen.setdefault(name.casefold(), name)
            if twin is not name:
                raise Invalid(
                    "class names",
                    "different in more than upper and lower case",
                    f"{twin!r} and {name!r}",
                    "rename one of them, or merge the two classes",
                )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"classes": list(self.classes), "is_multi": self.is_multi}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "LabelSchema":
        """The schema that ``to_json`` wrote."""
        return cls(classes=tuple(body["classes"]), is_multi=bool(body["is_multi"]))


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Shape:
    """What an annotation says: a class, and for later task kinds where. Canonical: equal content, equal value."""

    label: str
    source: Literal["person", "import", "model"] = "person"
    author: str = ""
    """Who or which model said it; empty where that is not known."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"label": self.label, "source": self.source, "author": self.author}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Shape":
        """The shape that ``to_json`` wrote."""
        return cls(label=body["label"], source=body["source"], author=body["author"])


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
    def from_json(cls, body: Mapping[str, Any]) -> "TensorSpec":
        """The spec that ``to_json`` wrote."""
        return cls(name=body["name"], datatype=body["datatype"], shape=tuple(body["shape"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRule:
    """The one stated rule that turns an image file into a model's input; see ``loopworks.core.image``."""

    height: int
    width: int
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    """stretch: both sides to size; crop: shorter side to size, then the centre; pad: longer side, black bars."""

    def __post_init__(self) -> None:
        """Refuse sizes that no model has."""
        for name, value in (("height", self.height), ("width", self.width)):
            if not 1 <= value <= 8192:
                raise Invalid(f"image rule {name}", "between 1 and 8192 pixels", value)
        if self.fit not in ("stretch", "crop", "pad"):
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
    def from_json(cls, body: Mapping[str, Any]) -> "ImageRule":
        """The rule that ``to_json`` wrote; another rule's constants are refused, never guessed around."""
        rule = cls(height=int(body["height"]), width=int(body["width"]), fit=body["fit"])
        if (other := {k: v for k, v in body.items() if rule.to_json().get(k) != v}) != {}:
            raise Invalid("preprocessing rule", f"one that this version knows ({rule.to_json()})", other)
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
    def from_json(cls, body: Mapping[str, Any]) -> "Score":
        """The score that ``to_json`` wrote."""
        return cls(value=body["value"], low=body["low"], high=body["high"], count=int(body["count"]))


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
