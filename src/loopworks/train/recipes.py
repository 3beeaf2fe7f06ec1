"""Which recipes there are, which task kinds they learn, and which one suits some data."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from loopworks.core.contracts import Step
from loopworks.core.errors import Invalid, LoopworksError, NotFound
from loopworks.core.params import schema
from loopworks.core.registry import plugins
from loopworks.core.settings import invalid
from loopworks.data.source import Source
from loopworks.train.contracts import PLAIN_FITNESS, Fit, Lesson, Made, Tunable

AUTO = "auto"


def recipes(task: str = "") -> list[dict[str, Any]]:
    """Every recipe, or those that learn a task kind.

    Returns: ``name``, ``about`` (one sentence), ``tasks`` (the kinds that it learns), ``is_tunable`` (whether a search
        may change its parameters) and ``schema``, the JSON schema of its parameters.
    """
    found = []
    for name in plugins.names("train"):
        kind = plugins.get(name)
        if task and task not in (tasks_of(kind) or (task,)):
            continue
        found.append({
            "name": name.partition(".")[2],
            "about": (kind.__doc__ or "").strip().splitlines()[0],
            "tasks": sorted(tasks_of(kind)),
            "is_tunable": isinstance(kind, Tunable),
            "schema": schema(kind),
        })
    return found


def parameters(kind: type) -> set[str]:
    """Names of a recipe's parameters."""
    return {field.name for field in fields(kind)}


def tasks_of(kind: type) -> frozenset[str]:
    """Task kinds that a recipe says it learns; empty where it says none."""
    return frozenset(getattr(kind, "tasks", ()))


def learning(task: str) -> list[str]:
    """Full names of the recipes that say they learn a task kind."""
    return [name for name in plugins.names("train") if task in tasks_of(plugins.get(name))]


def full(recipe: str) -> str:
    """A recipe's name with ``train.``."""
    return recipe if recipe.startswith("train.") else f"train.{recipe}"


def check(recipe: str, params: Mapping[str, Any], task: str = "") -> None:
    """Refuse an unknown recipe, one of another task kind, or parameters that it does not take, before any work.

    With ``auto`` the data decides later which recipe it will be, so one that takes the parameters is enough.

    Args:
        recipe: name with or without ``train.``, or ``auto``.
        params: its parameters.
        task: task kind of the data; empty: not known yet.
    Raises: NotFound, Invalid: as for the first recipe where none takes them.
    """
    if recipe != AUTO:
        step(full(recipe), params, task)
        return
    refused: LoopworksError | None = None
    # A recipe that knows the parameters says best what is wrong with their values.
    for name in sorted(_of(task), key=lambda name: not set(params) <= parameters(plugins.get(name))):
        try:
            step(name, params, task)
        except LoopworksError as error:
            refused = refused or error
        else:
            return
    if refused is not None:
        raise refused


def choose(source: Source, budget_s: float | None, params: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """The recipe that suits the data best, by its own word, and why; one that takes ``params``, where one does.

    Raises: Invalid: no recipe learns the task kind.
    """
    found = []
    for name in _of(source.task.name):
        kind = plugins.get(name)
        if not tasks_of(kind):
            continue
        share, why = kind.fitness(source, budget_s) if isinstance(kind, Fit) else (PLAIN_FITNESS, "it learns the task")
        takes = set(params or {}) <= parameters(kind)
        found.append((takes, share, name, why))
    if not found:
        raise _none(source.task.name)
    # The first by name among equals, so that the choice is the same everywhere.
    _, share, name, why = min(found, key=lambda one: (not one[0], -one[1], one[2]))
    if share <= 0:
        raise Invalid(f"a recipe for {source.task.name}", "usable here", why, "loopworks train --list")
    return name, why


def step(name: str, params: Mapping[str, Any], task: str = "") -> Step[Lesson, Made]:
    """The recipe with its parameters.

    Raises: NotFound: no such recipe or parameter. Invalid: a parameter out of range, or a recipe of another task kind.
    """
    kind = plugins.get(name)
    if task and tasks_of(kind) and task not in tasks_of(kind):
        known = ", ".join(one.partition(".")[2] for one in learning(task)) or "none yet"
        raise Invalid(
            "recipe",
            f"one that learns {task}",
            f"{name.partition('.')[2]}, which learns {', '.join(sorted(tasks_of(kind)))}",
            f"recipes that do: {known}",
        )
    if unknown := sorted(set(params) - {field.name for field in fields(kind)}):
        raise NotFound(f"parameter of {name}", unknown[0], [field.name for field in fields(kind)])
    try:
        made: Step[Lesson, Made] = TypeAdapter(kind).validate_python(dict(params))
    except ValidationError as error:
        raise invalid(error, {field.name: f"{name}.{field.name}" for field in fields(kind)}) from None
    return made


def _of(task: str) -> list[str]:
    """Names of the recipes that may learn a task kind; of all, where it is not known."""
    if not task:
        return plugins.names("train")
    if not (found := learning(task)):
        raise _none(task)
    return found


def _none(task: str) -> Invalid:
    known = sorted({one for name in plugins.names("train") for one in tasks_of(plugins.get(name))})
    return Invalid(
        "task kind", f"one that a recipe learns ({', '.join(known)})", task, "docs/plugins.md: a recipe of your own"
    )
