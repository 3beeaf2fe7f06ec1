"""Write docs/reference.md (and docs/openapi.json where there is a server) from the code.

``python docs/generate.py`` writes them; ``--check`` writes nothing and says with exit code 1 which are out of date.
The same installed versions give the same bytes: no date, no machine, no outside package's plug-ins.
"""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loopworks.core import params
from loopworks.core.errors import error_classes
from loopworks.core.registry import plugins
from loopworks.core.settings import PREFIX, LimitSettings, Settings

DOCS = Path(__file__).parent
HEAD = "<!-- Written by docs/generate.py (make docs); changes by hand are lost. -->\n"


def reference() -> str:
    """The whole page."""
    parts = [f"# Reference\n\n{HEAD}", *settings(), *commands(), *plugin_pages(), *errors()]
    return "\n".join(parts).rstrip() + "\n"


def settings() -> Iterator[str]:
    """Every setting with its variable, range, default and meaning."""
    yield "## Settings\n"
    yield "Flags win over environment variables, these over `loopworks.toml`, these over the default.\n"
    yield "| setting | variable | value | default | meaning |\n|---|---|---|---|---|"
    schema = Settings.model_json_schema()["properties"]
    for name, field in schema.items():
        value = _value(field)
        default = "see below" if "$ref" in field else _default(field)
        yield f"| `{name}` | `{PREFIX}{name.upper()}` | {value} | {default} | {_cell(field['description'])} |"
    yield "\nOf `limits`, and of each table in `limits_of` (as environment variables, both are JSON):\n"
    yield "| limit | value | default | meaning |\n|---|---|---|---|"
    for name, field in LimitSettings.model_json_schema()["properties"].items():
        yield f"| `{name}` | {_value(field)} | {_default(field)} | {_cell(field['description'])} |"
    yield ""


def errors() -> Iterator[str]:
    """Every error code with its exit code and HTTP status."""
    yield "## Errors\n"
    yield "What each means and what to do: [errors.md](errors.md).\n"
    yield "| code | exit code | HTTP status | meaning |\n|---|---|---|---|"
    for code, kind in sorted(error_classes().items()):
        yield f"| `{code}` | {kind.exit_code} | {kind.status} | {_cell(_first(kind.__doc__))} |"
    yield ""


def plugin_pages() -> Iterator[str]:
    """Every plug-in that ships with Loopworks, with its parameters."""
    yield "## Plug-ins\n"
    yield "Outside packages add their own: [plugins.md](plugins.md).\n"
    for name in shipped():
        plugin = plugins.get(name)
        kind = plugin if isinstance(plugin, type) else type(plugin)
        yield f"### `{name}`\n\n{_paragraph(kind.__doc__)}\n"
        fields = params.schema(plugin).get("properties", {}) if isinstance(plugin, type) else {}
        if fields:
            yield "| parameter | value | default | meaning |\n|---|---|---|---|"
            for field, facts in fields.items():
                meaning = _cell(facts.get("description", ""))
                yield f"| `{field}` | {_value(facts)} | {_default(facts)} | {meaning} |"
            yield ""


def shipped() -> list[str]:
    """Names of our own plug-ins: what an outside package adds on this machine is not ours to document."""
    import loopworks.builtins  # noqa: F401  # so that a broken one stops here instead of leaving a page half empty

    return [name for name in plugins.names() if _module(plugins.get(name)).startswith("loopworks.")]


def commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield "## Commands\n"
    yield "Exit codes and the keys of `--json`: [cli.md](cli.md).\n"
    for path, command in command_tree():
        usage = " ".join(["loopworks", *path, *(_usage(p) for p in command.params if p.param_type_name == "argument")])
        yield f"### `{usage}`\n\n{_paragraph(command.help)}\n"
        rows = [p for p in command.params if p.name != "help" and not p.hidden]
        if rows:
            yield "| argument or option | value | default | meaning |\n|---|---|---|---|"
            yield from map(_option, rows)
            yield ""


def command_tree() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command that does something, with the words that call it, in the order of the help."""
    import typer.main

    from loopworks.cli.main import app

    def walk(command: Any, path: tuple[str, ...], context: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        if not hasattr(command, "list_commands"):
            yield path, command
            return
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if not inner.hidden:
                yield from walk(inner, (*path, name), context)

    root = typer.main.get_command(app)
    yield from walk(root, (), root.make_context("loopworks", [], resilient_parsing=True))


def openapi() -> str:
    """The server's OpenAPI document."""
    app = importlib.import_module("loopworks.server.app")
    described = importlib.import_module("loopworks.server.openapi")
    return json.dumps(described.describe(app.ROUTES), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def pages() -> dict[Path, Callable[[], str]]:
    """Each generated file and what makes it."""
    found = {DOCS / "reference.md": reference}
    if importlib.util.find_spec("loopworks.server.openapi"):
        found[DOCS / "openapi.json"] = openapi
    return found


def _module(plugin: Any) -> str:
    return (plugin if isinstance(plugin, type) else type(plugin)).__module__


def _option(option: Any) -> str:
    name = ", ".join(f"`{word}`" for word in (*option.opts, *option.secondary_opts))
    if option.param_type_name == "argument":
        name = f"`{option.name.upper()}`"
    kind = "" if getattr(option, "is_flag", False) else _type(option)
    default = "required" if option.required else _literal(option.default)
    variable = f" Variable: `{option.envvar}`." if option.envvar else ""
    return f"| {name} | {kind} | {default} | {_cell((option.help or '') + variable)} |"


def _usage(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _type(option: Any) -> str:
    low, high = getattr(option, "min", None), getattr(option, "max", None)
    bounds = "" if low is None and high is None else f", {'' if low is None else low}..{'' if high is None else high}"
    kind = option.bare_type() if callable(option.bare_type) else option.bare_type
    name = str(kind) if "[" in str(kind) else getattr(kind, "__name__", str(kind))
    return {"str": "text", "list[str]": "texts", "int": "whole number", "float": "number", "Path": "path"}.get(
        name, name
    ) + bounds


def _value(field: dict[str, Any]) -> str:
    """What a JSON schema asks for, in words."""
    if "anyOf" in field:
        return " or ".join(_value(one) for one in field["anyOf"])
    if "$ref" in field:
        return "object"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    name = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "none"}
    kind = name.get(field.get("type", ""), field.get("type", "any"))
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    words = []
    if low is not None:
        words.append(f"{'above' if 'exclusiveMinimum' in field else 'from'} {low}")
    if high is not None:
        words.append(f"{'below' if 'exclusiveMaximum' in field else 'to'} {high}")
    return f"{kind}, {' '.join(words)}" if words else kind


def _default(field: dict[str, Any]) -> str:
    return _literal(field["default"]) if "default" in field else "required"


def _literal(value: Any) -> str:
    if value is None or value in ("", (), []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _first(text: str | None) -> str:
    return (text or "").strip().split("\n\n", 1)[0].replace("\n", " ")


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n", 1)[0].split()).replace("``", "`")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which are out of date."""
    stale = []
    for path, make in pages().items():
        text = make()
        if arguments == ["--check"]:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"error: {', '.join(stale)} must be what the code says; run make docs\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
