"""``loopworks chain``: several models behind one name."""

from pathlib import Path
from typing import Annotated

import typer

from loopworks.cli.deploy import AuthorOption
from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened

group = typer.Typer(help="Chains: models that ask each other, such as detect, crop, classify.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the chain.")]
RevisionOption = Annotated[int | None, typer.Option(min=1, help="That revision instead.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.add_typer(group, name="chain")


@group.command("add")
def add(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="YAML file with nodes and edges.")],
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Add a chain, or change it; it answers like a deployment."""
    with face(json) as out, opened(workspace) as space:
        done = space.add_chain(name, file, author=author)
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
def show(
    name: NameArgument,
    revision: RevisionOption = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="As YAML, for chain add.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Draw a chain and list its revisions, or print it as YAML."""
    import yaml

    with face(json) as out, opened(workspace) as space:
        found = space.chain(name, revision)
        history = space.chain_history(name)
        if as_yaml:
            out.say(yaml.safe_dump(found.graph, sort_keys=False, allow_unicode=True).rstrip())
        else:
            out.say(f"chain {found.name}, revision {found.revision}")
            out.say(space.draw_chain(found))
            rows = [(one.created_at, one.change, one.revision, one.author) for one in reversed(history)]
            out.table(("when (UTC)", "change", "revision", "who"), rows[:20])
        out.done({"chain": found.to_json(), "history": [one.to_json() for one in history]})


@group.command("rollback")
def rollback(
    name: NameArgument,
    revision: RevisionOption = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Let the graph before, or that of a revision, be the chain's again; it becomes a new revision."""
    with face(json) as out, opened(workspace) as space:
        done = space.rollback_chain(name, revision, author=author)
        out.say(f"chain {done.name}, revision {done.revision}: {done.change}")
        out.done({"chain": done.to_json()})


@group.command("rm")
def rm(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Take a chain away; its models stay."""
    with face(json) as out, opened(workspace) as space:
        done = space.remove_chain(name)
        out.say(f"chain {done.name} is gone")
        out.done({"chain": done.to_json()})
