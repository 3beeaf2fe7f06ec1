"""``loopworks init``, ``doctor`` and ``demo``."""

from pathlib import Path
from typing import Annotated

import typer

from loopworks.cli.output import JsonOption, WorkspaceOption, face


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.command("init")(init)
    app.command("doctor")(doctor)
    app.command("demo")(demo)


def init(
    folder: Annotated[str, typer.Argument(help="New or empty folder.")] = ".",
    catalog: Annotated[str | None, typer.Option(help="postgresql://... instead of SQLite in the folder.")] = None,
    blobs: Annotated[str | None, typer.Option(help="s3://bucket/prefix instead of the folder.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow URI instead of SQLite in the folder.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a workspace."""
    import loopworks

    with (
        face(json) as out,
        loopworks.open(folder, catalog=catalog, blobs=blobs, tracking=tracking) as space,
    ):
        out.say(f"workspace in {space.folder}; next: loopworks data add NAME FOLDER -w {folder}")
        out.done({"workspace": str(space.folder), **space.info()})


def doctor(workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Say what is installed or missing.

    Also what the machine has, and whether the workspace is sound.
    """
    from loopworks.doctor import examine

    with face(json) as out:
        report = examine(Path(workspace))
        out.table(("", "what", "found", "do"), [("ok" if c.is_ok else "!!", c.what, c.found, c.hint) for c in report])
        bad = [check for check in report if not check.is_ok and check.is_needed]
        out.say("all is well" if not bad else f"{len(bad)} of {len(report)} checks failed")
        out.done({"is_sound": not bad, "checks": [check.to_json() for check in report]})
        if bad:
            raise typer.Exit(1)


def demo(
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", help="Folder of the demo; a second run goes on there.")
    ] = "loopworks-demo",
    folder: Annotated[str, typer.Option("--data", help="Your own images, one folder per class; default digits.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits, picks and trainings.")] = 0,
    json: JsonOption = False,
) -> None:
    """Run the whole loop on real images.

    Label, learn actively, optimize, serve, trace back; about three minutes. Ctrl-C stops it, a second run goes on.
    """
    from loopworks.demo.loop import run

    with face(json) as out:
        out.done(run(Path(workspace), Path(folder) if folder else None, seed=seed, out=out))
