"""``loopworks chain``: several models behind one name."""

from pathlib import Path
from typing import Annotated

import typer

from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened

group = typer.Typer(help="Chains: models that ask each other, such as detect, crop, classify.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the chain.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.add_typer(group, name="chain")


@group.command("add")
def add(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="YAML file with nodes and edges.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Add a chain, or change it; it answers like a deployment."""
    with face(json) as out, opened(workspace) as space:
        done = space.add_chain(name, file)
        out.say(f"chain {done.name}, revision {done.revision}: {', '.join(done.graph['nodes'])}")
        out.done({"chain": done.to_json()})


@group.command("ls")
def ls(workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the chains."""
    with face(json) as out, opened(workspace) as space:
        found = space.chains()
        rows = [
            (c.name, c.revision, ", ".join(f"{node} ({ref})" for node, ref in c.graph["nodes"].items())) for c in found
        ]
        out.table(("chain", "revision", "nodes"), rows)
        out.done({"chains": [c.to_json() for c in found]})


@group.command("show")
def show(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Print a chain as YAML."""
    import yaml

    with face(json) as out, opened(workspace) as space:
        found = space.chain(name)
        out.say(yaml.safe_dump(found.graph, sort_keys=False, allow_unicode=True).rstrip())
        out.done({"chain": found.to_json()})


@group.command("rm")
def rm(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Take a chain away; its models stay."""
    with face(json) as out, opened(workspace) as space:
        done = space.remove_chain(name)
        out.say(f"chain {done.name} is gone")
        out.done({"chain": done.to_json()})
