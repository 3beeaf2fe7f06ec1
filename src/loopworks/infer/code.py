"""Which modules a program needs: followed through its import lines, so that a copy of them runs on its own."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from loopworks.core.errors import NotFound


def closure(roots: Iterable[str], folders: dict[str, Path]) -> tuple[dict[str, Path], set[str]]:
    """All modules that ``roots`` need of the packages in ``folders``, and the outside packages that these import.

    Imports inside functions count; those for type checkers alone do not, nor those of a package's ``__getattr__``,
    which is there so that they need not be made.

    Args:
        roots: full names of modules.
        folders: top-level package -> its folder.
    Returns: module -> file, packages above modules among them; first parts of outside modules.
    Raises: NotFound: a module has no file.
    """
    found: dict[str, Path] = {}
    outside: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        if (package := name.partition(".")[0]) not in folders:
            outside.add(package)
            continue
        if (path := _file(name, folders)) is None:
            raise NotFound("module", name)
        found[name] = path
        if "." in name:
            todo.append(name.rpartition(".")[0])
        todo += [name for module, part in _imports(path) for name in _named(module, part, folders)]
    return found, outside


def _named(module: str, part: str, folders: dict[str, Path]) -> list[str]:
    """``from module import part`` means a module below, or a name in it."""
    full = f"{module}.{part}"
    is_module = part and module.partition(".")[0] in folders and _file(full, folders) is not None
    return [module, full] if is_module else [module]


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        todo += ast.iter_child_nodes(node)


def _file(name: str, folders: dict[str, Path]) -> Path | None:
    package, _, rest = name.partition(".")
    path = folders[package].joinpath(*rest.split(".")) if rest else folders[package]
    for found in (path / "__init__.py", path.with_suffix(".py")):
        if found.is_file():
            return found
    return None
