"""The one direction of imports, and nothing heavy at the top of a module."""

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "loopworks").rglob("*.py"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = set(PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"])


def test_imports_go_one_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from importlinter import cli
    from importlinter.cli import lint_imports

    # It configures logging for the whole process, which would switch off the loggers of every later test.
    monkeypatch.setattr(cli, "_configure_logging", lambda verbose: None)
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True) == 0, capsys.readouterr().out


def test_every_part_of_the_package_has_its_layer() -> None:
    """A new folder outside of the layers would be free to import anything."""
    (contract,) = (c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    named = {part.strip().removeprefix("loopworks.") for layer in contract["layers"] for part in layer.split("|")}
    package = ROOT / "src" / "loopworks"
    parts = {p.stem for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    free = {"__init__", "testing"}  # the public names; ``testing`` has a contract of its own
    assert parts - free == named


def module_level(tree: ast.Module) -> set[str]:
    """First parts of what is imported when the module is: not inside functions, not for type checkers alone."""
    found: set[str] = set()
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written from the root"
            found.add((node.module or "").split(".")[0])
        todo.extend(ast.iter_child_nodes(node))
    return found


def test_the_rule_sees_a_heavy_import_wherever_it_hides() -> None:
    text = "try:\n    import torch\nexcept ImportError:\n    torch = None\nclass A:\n    from PIL import Image\n"
    assert module_level(ast.parse(text)) == {"torch", "PIL"}
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n"
    assert module_level(ast.parse(hidden)) == {"typing"}


MARK = "# ruff: noqa: TID253 - this file is imported inside functions only"
LAZY = [path for path in SOURCES if MARK in path.read_text(encoding="utf-8")]
EAGER = [path for path in SOURCES if path not in LAZY]


def test_modules_that_need_heavy_packages_are_imported_inside_functions_only() -> None:
    names = {path.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".") for path in LAZY}
    assert names
    for path in EAGER:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                full = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert not full & names, path
            elif isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & names, path


@pytest.mark.parametrize("path", EAGER, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    assert not module_level(ast.parse(path.read_text(encoding="utf-8"))) & HEAVY


def test_settings_alone_read_the_environment() -> None:
    readers = [
        path.relative_to(path.parents[1]).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
    ]
    assert set(readers) == {"core/settings.py", "loopworks/__init__.py"}  # which sets a switch before any import


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lengths.items() if count > 500} == {}
