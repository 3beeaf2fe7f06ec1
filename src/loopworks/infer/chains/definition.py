"""What a chain is: models that ask about what others have found; read from YAML or JSON, checked at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loopworks.core.errors import Invalid
from loopworks.core.params import expectation

NAME = r"^[A-Za-z0-9_-]{1,64}$"
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Step(_Part):
    """One model, and what it is asked about."""

    name: Annotated[str, Field(pattern=NAME)]
    model: Annotated[str, Field(pattern=NAME)]
    """Name of a deployment of images."""
    of: str = ""
    """Step whose objects it is asked about, each cut out of the picture; empty, of the first: the whole picture."""
    labels: tuple[str, ...] = ()
    """Only objects of these classes: so a chain branches. Empty: all."""
    score: Share = 0
    """Only objects with at least this score."""
    margin: Annotated[float, Field(ge=0, le=2)] = 0
    """What is cut out beyond the object's box on each side, as a share of its side."""
    most: Annotated[int, Field(ge=1, le=1000)] = 100
    """At most so many objects of a picture, those with the best scores."""


class Chain(_Part):
    """Models in a tree: the first is asked about the picture, the others about what an earlier one has found."""

    name: Annotated[str, Field(pattern=NAME)]
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=32)]

    @model_validator(mode="after")
    def _is_tree(self) -> "Chain":
        seen: list[str] = []
        for step in self.steps:
            if step.name in seen:
                raise ValueError(f"a chain whose steps have names of their own, not two called {step.name}")
            if not seen and step.of:
                raise ValueError("a chain whose first step is asked about the picture, with no 'of'")
            if seen and step.of not in seen:
                raise ValueError(f"a chain whose step {step.name} says an earlier step in 'of'")
            seen.append(step.name)
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; ``read`` takes it."""
        return self.model_dump(mode="json", exclude_defaults=True)


def read(given: str | Path | Mapping[str, Any]) -> Chain:
    """A chain from a mapping, or from a file of YAML or JSON.

    Raises: Invalid: the first fault; the hint names the others.
    """
    body = given if isinstance(given, Mapping) else _parsed(Path(given).expanduser())
    try:
        return Chain.model_validate(body)
    except ValidationError as error:
        told = [_fault(one) for one in error.errors(include_url=False)]
        raise Invalid(*told[0], "; ".join(f"{a} must be {b}; got {c}" for a, b, c in told[1:])) from None


def _parsed(path: Path) -> Any:
    import yaml

    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(str(path), "a readable file", error.strerror or str(error)) from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise Invalid(str(path), "YAML or JSON in UTF-8", " ".join(str(error).split())) from None
    if not isinstance(body, Mapping):
        raise Invalid(str(path), "a mapping: name, steps", type(body).__name__)
    return body


def _fault(error: Any) -> tuple[str, str, object]:
    where = ".".join(map(str, error["loc"])) or "chain"
    if error["type"] == "missing":
        return where, "given", "nothing"
    if error["type"] == "extra_forbidden":
        return where, "a known field", error["loc"][-1]
    return where, expectation(error["msg"]), "another" if isinstance(error["input"], Mapping) else error["input"]
