"""``loopworks score`` and ``live``: many items at once, and one after another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loopworks.cli.output import JsonOption, Out, WaitOption, WorkspaceOption, face, left, opened

group = typer.Typer(
    help="Live pipelines: from a camera, file, folder or topic through a model to sinks.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(help="Name of the pipeline.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.command("score")(score)
    app.add_typer(group, name="live")


def score(
    name: Annotated[str, typer.Argument(help="A deployment, or a model: NAME, NAME:NUMBER or NAME@ALIAS.")],
    source: Annotated[str, typer.Argument(help="A dataset, a folder, or a file with rows.")],
    out: Annotated[str, typer.Option(help="New folder (Parquet parts), or new file: .parquet or .csv.")],
    wait: WaitOption = True,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Ask a model about every item of a dataset, folder or file, and write the answers.

    A run that is killed goes on where it was; what cannot be read is a row with an error.
    """
    with face(json) as shown, opened(workspace) as space:
        job = space.score_files_job(name, source, out=out)
        if not wait:
            left(shown, job)
            return
        with shown.job(f"scoring {source}") as follow:
            done = space.jobs.result(job.id, follow)
        shown.say(f"{done['items']} items into {done['out']}, {done['per_s']:g} a second")
        if done["unread"]:
            shown.say(f"{done['unread']} of them could not be answered: the column error says why")
        shown.done({"job": job.id, **done})
        if done["unread"]:
            raise typer.Exit(2 if done["unread"] == done["items"] else 3)


@group.command("add")
def add(
    definition: Annotated[Path, typer.Argument(help="YAML or JSON file: name, source, model, sinks.")],
    start: Annotated[bool, typer.Option("--start/--no-start", help="Whether the server shall run it.")] = True,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one with the same name.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Keep a pipeline; the workspace's server runs it, also after a restart."""
    with face(json) as out, opened(workspace) as space:
        _show(out, space.live.add(definition, start=start, replace=replace))


@group.command("start")
def start(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Let a pipeline run."""
    with face(json) as out, opened(workspace) as space:
        _show(out, space.live.start(name))


@group.command("stop")
def stop(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Let a pipeline run no longer."""
    with face(json) as out, opened(workspace) as space:
        _show(out, space.live.stop(name))


@group.command("remove")
def remove(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Stop and forget a pipeline; what its sinks wrote stays."""
    with face(json) as out, opened(workspace) as space:
        space.live.remove(name)
        out.say(f"removed pipeline {name}")
        out.done({"removed": name})


@group.command("list")
def ls(workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the pipelines."""
    with face(json) as out, opened(workspace) as space:
        found = space.live.list()
        columns = ("pipeline", "model", "state", "frames", "dropped", "fps", "reconnects")
        names = ("name", "model", "state", "frames_out", "frames_dropped", "fps", "reconnects")
        out.table(columns, [[one.get(name, "-") for name in names] for one in found])
        out.done({"pipelines": found})


@group.command("status")
def status(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """How a pipeline goes: frames, counts at lines and in zones, sinks."""
    with face(json) as out, opened(workspace) as space:
        _show(out, space.live.status(name))


@group.command("run")
def run(name: NameArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Run a pipeline here, without a server, until its file ends or Ctrl-C."""
    with face(json) as out, opened(workspace) as space:
        with out.progress(f"pipeline {name}") as update:

            def follow(told: dict[str, Any]) -> None:
                update(told["share"], "frames", done=told["frames_out"])

            done = space.live.run(name, on_status=follow)
            follow(done)
        _show(out, done)


def _show(out: Out, told: dict[str, Any]) -> None:
    said = [f"{key.partition('_')[2]} {told[key]}" for key in ("frames_out", "frames_dropped") if key in told]
    out.say(f"pipeline {told['name']}: {', '.join([told['state'], *said])}")
    if told.get("error"):
        out.say(f"  last error: {told['error']}")
    for kind, places in told.get("counts", {}).items():
        for name, counted in places.items():
            out.say(f"  {kind.rstrip('s')} {name}: {'; '.join(_counted(counted))}")
    for sink in told.get("sinks", ()):
        error = f", last error: {sink['error']}" if sink["error"] else ""
        counts = ", ".join(f"{sink[one]} {one}" for one in ("sent", "failed", "dropped"))
        out.say(f"  sink {sink['kind']} {sink.get('to', '')}: {counts}{error}")
    out.done({"pipeline": told})


def _counted(told: dict[str, Any]) -> list[str]:
    """What a line or zone has counted, class by class, in words."""
    words = []
    for key, value in told.items():
        unit = " s" if key.endswith("_s") else ""
        each = value.items() if isinstance(value, dict) else (("", value),)
        by_class = ", ".join(f"{label} {count:g}{unit}".strip() for label, count in each)
        words.append(f"{key.removesuffix('_s').replace('_', ' ')} {by_class or 0}")
    return words
