"""What is watched of a deployment: which inputs are kept, how drift is looked for, who is told, when to train again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.params import refused
from loopworks.core.units import seconds

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Days = Annotated[float, Field(gt=0, le=36_500)]
When = Literal["uncertain", "random", "far", "disagree", "feedback"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Capture(_Part):
    """One rule that chooses inputs for the inbox."""

    when: When
    """uncertain: the model is unsure; random: a share of all; far: unlike the training data; disagree: another model
    says something else; feedback: a user says that the answer was wrong."""
    above: Annotated[float, Field(ge=0, le=1)] = 0.6
    """uncertain: least uncertainty, in 0..1 (1 is a coin flip), as the task kind has it."""
    share: Share | None = None
    """random: share of all inputs; disagree: share that the other model is asked about (default 0.1)."""
    beyond: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """far: farther from the training data than this share of the training data itself."""
    model: str = ""
    """disagree: the other model, NAME, NAME:NUMBER or NAME@ALIAS; empty: the champion of the same name."""
    variant: str = ""
    """disagree: variant of the other model; with an empty ``model``: of the model in use."""
    per_hour: Count = 100
    """At most so many new inputs an hour."""
    per_day: Count = 1_000
    """At most so many new inputs a day."""

    @model_validator(mode="after")
    def _complete(self) -> "Capture":
        if self.when == "random" and self.share is None:
            raise ValueError("given a share where it is random")
        return self

    @property
    def name(self) -> str:
        """What the rule is called as the reason of a capture."""
        return self.when


class Privacy(_Part):
    """What of an input may be kept."""

    keep: Literal["off", "tensors", "full"] = "full"
    """full: the input as it came; tensors: only what the model sees of it (pixels at its size, its columns); off:
    nothing, inputs are only counted."""
    drop: tuple[str, ...] = ()
    """Columns that are never kept."""
    hash: tuple[str, ...] = ()
    """Columns of which a keyed hash is kept: equal values stay equal."""
    blur: tuple[str, ...] = ()
    """Classes (of the model's own boxes) that are blurred in kept images."""


class Drift(_Part):
    """How drift is looked for."""

    is_on: bool = True
    """Whether it is."""
    window: Annotated[int, Field(ge=50, le=1_000_000)] = 1_000
    """Inputs that are compared with the training data at once."""
    every: str | float = "1d"
    """Also compare after this time, where at least 50 inputs came."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Chance of a false alarm in a window, over all columns together (Holm's correction)."""
    psi: Annotated[float, Field(ge=0)] = 0.1
    """A column must also have at least this population stability index: a difference that matters, not only one that
    is certain. Source of the scale: below 0.1 none, 0.1 to 0.25 some, above 0.25 large."""
    ignore: tuple[str, ...] = ()
    """Columns that are not looked at."""

    @field_validator("every")
    @classmethod
    def _time(cls, value: str | float) -> str | float:
        return _seconds(value)


class Alert(_Part):
    """Who is told of an alarm."""

    url: str
    """Webhook: gets a POST with JSON, signed by the setting ``watch_secret``."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    """For one try."""
    tries: Annotated[int, Field(ge=1, le=10)] = 5
    """With twice the pause each time, from one second on."""

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL that begins with http:// or https:// and names a host")
        return value


class Log(_Part):
    """The log of predictions, which truth that comes later is joined to."""

    is_on: bool = True
    """Whether predictions (id, answer, confidence, time; never the input) are logged."""
    days: Days = 90
    """How long they are kept."""


class Retention(_Part):
    """How long captured inputs are kept."""

    days: Days = 90
    """Captured inputs that nobody labelled by then are erased for good."""


class Retrain(_Part):
    """When to train again; any reason that is given will do. Nothing is promoted unless ``promote`` says so."""

    new_labels: Annotated[int, Field(ge=1)] | None = None
    """So many items were labelled since the version behind the model."""
    on_drift: bool = False
    """An alarm of drift since the last training."""
    accuracy_below: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The measured live accuracy (with truth; of boxes mAP, of masks mean IoU) is surely below: the upper end of its
    interval is."""
    every: str | float | None = None
    """So long since the last training."""
    recipe: str = "auto"
    """As in ``train``: a recipe, auto or search."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Of the recipe."""
    budget: str | float | None = "10m"
    """Time that it may take."""
    cool_down: str | float = "1d"
    """Least time between two trainings."""
    promote: bool = False
    """Make the winner champion and put it to use where it is better on the same test items."""

    @field_validator("every", "cool_down", "budget")
    @classmethod
    def _time(cls, value: str | float | None) -> str | float | None:
        return None if value is None else _seconds(value)


class Rules(_Part):
    """All that is watched of one deployment."""

    dataset: str = ""
    """Whose inbox takes captured inputs; empty: the dataset that the model learnt from."""
    key: str = ""
    """Column that says who a row is, by which truth may come; it need not be a column of the model."""
    capture: tuple[Capture, ...] = ()
    """Which inputs are kept."""
    privacy: Privacy = Privacy()
    """What of them is kept."""
    retention: Retention = Retention()
    """For how long."""
    log: Log = Log()
    """The log of predictions."""
    drift: Drift = Drift()
    """How drift is looked for."""
    alerts: tuple[Alert, ...] = ()
    """Who is told."""
    retrain: Retrain | None = None
    """When to train again; nothing: never."""

    @model_validator(mode="after")
    def _once(self) -> "Rules":
        names = [rule.name for rule in self.capture]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"of one capture rule of a kind, not two ({', '.join(twice)})")
        return self

    def rule(self, when: When) -> Capture | None:
        """The capture rule of a kind."""
        return next((rule for rule in self.capture if rule.when == when), None)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return self.model_dump(mode="json")


def parse(body: Any) -> Rules:
    """Rules from plain JSON; ``Invalid`` names the first field that is wrong."""
    if not isinstance(body, Mapping):
        raise Invalid("watch rules", "an object", type(body).__name__, "docs/watch.md shows one")
    try:
        return Rules.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            where = ".".join(str(part) for part in first["loc"])
            raise Invalid(
                f"watch rules {where}", "a known name", first["loc"][-1], "docs/watch.md lists them"
            ) from None
        raise refused(error, "watch rules ") from None


def read(path: str | Path) -> Rules:
    """Rules from a YAML or JSON file."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound("file", str(file), hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(str(file), "a file in UTF-8 that can be read", str(error)) from None
    try:
        body = yaml.safe_load(text)  # JSON is YAML, too
    except yaml.YAMLError as error:
        raise Invalid(str(file), "YAML or JSON", " ".join(str(error).split())) from None
    return parse({} if body is None else body)


def _seconds(value: str | float) -> str | float:
    try:
        seconds(value)
    except Invalid:
        raise ValueError("a duration above zero such as 30s, 5m or 1.5h") from None
    return value
