"""``loopworks jobs`` and ``worker``."""

from typing import TYPE_CHECKING, Annotated

import typer

from loopworks.cli.output import JsonOption, Out, WorkspaceOption, face, opened

if TYPE_CHECKING:
    from loopworks.jobs import Job

group = typer.Typer(help="Jobs: list, show, follow, cancel, retry, log.", invoke_without_command=True)

JobArgument = Annotated[str, typer.Argument(help="Job id, or its start.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.add_typer(group, name="jobs")
    app.command("worker")(worker)


@group.callback()
def ls(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Jobs to show.")] = 20,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List the jobs, newest first."""
    if context.invoked_subcommand:
        return
    with face(json) as out, opened(workspace) as space:
        found = space.jobs.list(limit=limit)
        rows = [(j.id, j.step, j.status, f"{j.share:.0%}", j.text or j.title) for j in found]
        out.table(("job", "step", "status", "done", ""), rows)
        out.done({"jobs": [job.to_json() for job in found]})


@group.command("show")
def show(job: JobArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """One job, with its parameters, result or error."""
    with face(json) as out, opened(workspace) as space:
        _show(out, space.jobs.get(job))


@group.command("follow")
def follow(job: JobArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Wait for a job to end."""
    with face(json) as out, opened(workspace) as space:
        with out.job(f"job {job}") as update:
            done = space.jobs.follow(space.jobs.get(job).id, update)
        _show(out, done)
        if done.status != "done":
            raise typer.Exit(1)


@group.command("cancel")
def cancel(job: JobArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Stop a job."""
    with face(json) as out, opened(workspace) as space:
        found = space.jobs.get(job)
        space.jobs.cancel(found.id)
        _show(out, space.jobs.get(found.id))


@group.command("retry")
def retry(job: JobArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Run a failed or cancelled job again, from its last checkpoint."""
    with face(json) as out, opened(workspace) as space:
        found = space.jobs.get(job)
        space.jobs.retry(found.id)
        with out.job(f"job {found.id}") as update:
            done = space.jobs.follow(found.id, update)
        _show(out, done)
        if done.status != "done":
            raise typer.Exit(1)


@group.command("log")
def log(job: JobArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """What a job wrote."""
    with face(json) as out, opened(workspace) as space:
        found = space.jobs.get(job)
        lines = space.jobs.log(found.id)
        for line in lines:
            out.say(line)
        out.done({"job": found.id, "log": lines})


def worker(workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Run this workspace's jobs until Ctrl-C."""
    with face(json) as out, opened(workspace) as space:
        out.say(f"worker of {space.folder} (Ctrl-C ends it)")
        space.work()
        out.done({"worker": "ended"})


def _show(out: Out, job: "Job") -> None:
    out.say(f"{job.id} {job.step}: {job.status}, {job.share:.0%} {job.text}")
    if job.error:
        out.say(f"error[{job.error['code']}]: {job.error['message']}")
    out.done({"job": job.to_json()})
