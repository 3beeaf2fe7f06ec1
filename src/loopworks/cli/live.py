"""``loopworks score``: many items at once."""

from typing import Annotated

import typer

from loopworks.cli.output import JsonOption, WaitOption, WorkspaceOption, face, left, opened


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.command("score")(score)


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
