"""``loopworks chain``: models that ask about what others have found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from loopworks.cli.output import JsonOption, Out, WorkspaceOption, face, opened

group = typer.Typer(help="Chains: models that ask about what others have found.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name of the chain.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.add_typer(group, name="chain")


@group.command("add")
def add(
    definition: Annotated[Path, typer.Argument(help="YAML or JSON file: name, steps.")],
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one with the same name.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Keep a chain."""
    with face(json) as out, opened(workspace) as space:
        made = space.chains.add(definition, replace=replace)
        out.say(f"chain {made.name}: {', '.join(step.name for step in made.steps)}")
        out.done({"chain": made.to_json()})


@group.command("list")
def ls(workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the chains."""
    with face(json) as out, opened(workspace) as space:
        found = space.chains.list()
        rows = [(one.name, " ".join(f"{step.name}={step.model}" for step in one.steps)) for one in found]
        out.table(("chain", "steps"), rows)
        out.done({"chains": [one.to_json() for one in found]})


@group.command("ask")
def ask(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="An image file.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """What a chain says of an image."""
    with face(json) as out, opened(workspace) as space:
        told = space.chains.ask(name, file)
        _show(out, told, "")
        out.done(told)


@group.command("remove")
def remove(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Forget a chain."""
    with face(json) as out, opened(workspace) as space:
        space.chains.remove(name)
        out.say(f"removed chain {name}")
        out.done({"removed": name})


def _show(out: Out, said: Mapping[str, Any], indent: str) -> None:
    for thing in said["objects"]:
        place = f" at {', '.join(f'{side:g}' for side in thing['box'])}" if "box" in thing else ""
        out.say(f"{indent}{thing['label']} {thing['score']:.3f}{place}")
        for step, more in thing.get("then", {}).items():
            out.say(f"{indent}  {step}:")
            _show(out, more, indent + "    ")
