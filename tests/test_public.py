"""Golden files of what users rely on: public names and dependencies. A change here is a decision, not an accident.

``LOOPWORKS_GOLDEN=write pytest tests/test_public.py`` writes them anew.
"""

import inspect
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

import loopworks
import loopworks.testing

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


def check(name: str, text: str) -> None:
    """Compare with the golden file, or write it where that was asked for."""
    path = GOLDEN / name
    if os.environ.get("LOOPWORKS_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} differs; see the head of this file"


def shape(thing: Any) -> list[str]:
    """Signatures of a public function, or of a class and its public methods."""
    if not inspect.isclass(thing):
        return [f"{inspect.signature(thing)}" if callable(thing) else type(thing).__name__]
    members = {
        name: member
        for name, member in inspect.getmembers(thing)
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
    }
    lines = []
    for name, member in sorted(members.items()):
        lines.append(f"  .{name}" + ("" if isinstance(member, property) else str(inspect.signature(member))))
    return ["class", *lines]


def public(module: Any) -> str:
    """Every public name of a module with its shape, one a line."""
    lines = []
    for name in sorted(module.__all__):
        first, *rest = shape(getattr(module, name))
        lines += [f"{module.__name__}.{name} {first}", *rest]
    return "\n".join(lines) + "\n"


def test_public_names_of_loopworks() -> None:
    check("public.txt", public(loopworks))


def test_public_names_of_loopworks_testing() -> None:
    check("public_testing.txt", public(loopworks.testing))


def test_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [f"core: {line}" for line in project["project"]["dependencies"]]
    for extra, needs in sorted(project["project"]["optional-dependencies"].items()):
        lines += [f"{extra}: {line}" for line in needs]
    lines += [f"dev: {line}" for line in project["dependency-groups"]["dev"]]
    check("dependencies.txt", "\n".join(lines) + "\n")


def test_every_core_dependency_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index("dependencies = [")
    block = lines[start + 1 : lines.index("]", start)]
    assert block
    assert [line for line in block if "#" not in line] == []


def test_unknown_names_are_refused_like_pythons_own() -> None:
    with pytest.raises(AttributeError, match="module 'loopworks' has no attribute 'nope'"):
        loopworks.nope  # noqa: B018


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert loopworks.__version__ == project["project"]["version"]
