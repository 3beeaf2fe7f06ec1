"""``loopworks bundle``: a model or chain for machines where Loopworks is not installed."""

from pathlib import Path
from typing import Annotated

import typer

from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened
from loopworks.core.errors import Invalid


def register(app: typer.Typer) -> None:
    """Hang the command under ``app``."""
    app.command("bundle")(bundle)


def bundle(
    name: Annotated[
        str, typer.Argument(help="A deployment, a chain, or a model: NAME, NAME:NUMBER or NAME@ALIAS.")
    ] = "",
    variant: Annotated[
        list[str] | None, typer.Option(help="A variant to put in; repeat it. The first answers by default.")
    ] = None,
    all_variants: Annotated[
        bool, typer.Option("--all-variants", help="Put in all inside the accuracy budget.")
    ] = False,
    zip: Annotated[bool, typer.Option("--zip", help="Write one zip file instead of a folder.")] = False,
    container: Annotated[bool, typer.Option("--container", help="Add a Containerfile.")] = False,
    kserve: Annotated[bool, typer.Option("--kserve", help="Add a KServe manifest and its Containerfile.")] = False,
    image: Annotated[str, typer.Option(help="Image that the manifest names; default NAME:NUMBER.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder or zip file to write; default NAME-edge here.")] = None,
    key: Annotated[bool, typer.Option("--key", help="Only print the public key that bundles are signed with.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Write a model or chain as a signed folder that runs with a runtime, numpy and Pillow alone."""
    with face(json) as out_, opened(workspace) as space:
        if key:
            out_.say(space.edge_key())
            out_.done({"key": space.edge_key()})
            return
        if not name:
            raise Invalid("what to bundle", "a deployment or model", "nothing", "loopworks deployments lists them")
        if all_variants and variant:
            raise Invalid("variants", "either --variant or --all-variants", "both")
        picked = None if all_variants else tuple(variant or ())
        done = space.pack_edge(
            name, out or "", variants=picked, is_zip=zip, container=container, kserve=kserve, image=image
        )
        out_.say(f"{done.path}: {', '.join(done.manifest.variants)}, {done.size_bytes / 2**20:.1f} MiB")
        out_.say(f"signed by key {done.manifest.key}")
        if not zip:
            out_.say("there: pip install -r requirements.txt, then python -m loopworks_edge predict|serve|bench|verify")
        out_.done({"bundle": done.to_json()})
