"""``loopworks deploy``, ``deployments``, ``promote``, ``rollback`` and ``undeploy``: what answers requests."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopworks.cli.models import ModelArgument
from loopworks.cli.on_ray import put_on, take_off
from loopworks.cli.output import JsonOption, Out, WorkspaceOption, face, opened

if TYPE_CHECKING:
    from loopworks.workspace import Deployment

NameArgument = Annotated[str, typer.Argument(help="Name of the deployment.")]
RevisionOption = Annotated[int | None, typer.Option(min=1, help="Only this revision.")]
AuthorOption = Annotated[str, typer.Option(help="Who does it.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.command("deploy")(deploy)
    app.command("deployments")(deployments)
    app.command("promote")(promote)
    app.command("rollback")(rollback)
    app.command("undeploy")(undeploy)


def deploy(
    model: ModelArgument,
    name: Annotated[str, typer.Option(help="Name that answers requests; default the model's.")] = "",
    variant: Annotated[str, typer.Option(help="A variant of the model; default the chosen one.")] = "",
    host: Annotated[str, typer.Option("--for", help="The best variant on this machine; see optimize --on.")] = "",
    canary: Annotated[float | None, typer.Option(help="Answer only this part of the requests, in percent.")] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Answer nobody; only be compared with what is live.")
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Answer through Ray Serve, at ray_address or on this machine.")
    ] = False,
    replicas: Annotated[int, typer.Option(min=0, help="Processes on Ray; 0 takes it off.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on Ray; 0 takes a free one.")] = 0,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Put a model to use under a name; NAME@ALIAS follows the alias when it moves."""
    with face(json) as out, opened(workspace) as space:
        if ray and not replicas:
            take_off(space, out, name or model)
            return
        done = space.deploy(model, name=name, variant=variant, host=host, canary=canary, shadow=shadow, author=author)
        if ray:
            out.say(f"deployment {done.name}: {done.model}:{done.number} as {done.variant}, revision {done.revision}")
            put_on(space, out, done, replicas=replicas, port=port)
        else:
            _show(out, done)


def deployments(
    name: Annotated[str, typer.Argument(help="One deployment: all that is in use, and each change.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List what answers requests."""
    with face(json) as out, opened(workspace) as space:
        if not name:
            found, linked = space.deployments(), space.chains()
            rows = [(d.name, f"{d.model}:{d.number}", d.variant, d.revision) for d in found]
            rows += [(c.name, f"chain of {', '.join(c.graph['nodes'].values())}", "", c.revision) for c in linked]
            out.table(("deployment", "model", "variant", "revision"), rows)
            out.done({"deployments": [d.to_json() for d in found], "chains": [c.to_json() for c in linked]})
            return
        told = space.traffic(name)
        used = [
            (d.revision, _role(d), f"{d.model}:{d.number}", d.variant, f"@{d.alias}" if d.alias else "")
            for d in told.used
        ]
        out.table(("revision", "role", "model", "variant", "follows"), used)
        if told.agreements:
            compared = [
                (a.revision, a.live, "-" if a.share is None else f"{a.share:.4f}", a.rows, a.dropped, a.failed)
                for a in told.agreements
            ]
            out.table(("revision", "live", "agree", "rows", "dropped", "failed"), compared)
        changes = [(f"{c.at:%Y-%m-%d %H:%M:%S}", c.action, c.revision, c.share or "", c.author) for c in told.rollouts]
        out.table(("when (UTC)", "change", "revision", "percent", "who"), changes[:20])
        out.done({"traffic": told.to_json()})


def promote(
    name: NameArgument,
    revision: RevisionOption = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Let the canary answer all requests, or the canary or shadow of that revision."""
    with face(json) as out, opened(workspace) as space:
        _show(out, space.promote(name, revision, author=author))


def rollback(
    name: NameArgument,
    revision: RevisionOption = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take the canary back; without one, let the revision before be live again."""
    with face(json) as out, opened(workspace) as space:
        _show(out, space.rollback(name, revision, author=author))


def undeploy(
    name: NameArgument,
    revision: RevisionOption = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take a deployment out of use, or only its canary or shadow of that revision."""
    with face(json) as out, opened(workspace) as space:
        done = space.undeploy(name, revision, author=author)
        out.say(f"{done.ref} ended" if revision else f"deployment {done.name} ended")
        out.done({"deployment": done.to_json()})


def _role(done: "Deployment") -> str:
    return f"canary {done.share:g} %" if done.role == "canary" else done.role


def _show(out: Out, done: "Deployment") -> None:
    facts: list[Any] = [f"{done.model}:{done.number} as {done.variant}", f"revision {done.revision}"]
    if done.role != "live":
        facts.append(_role(done))
    if done.alias:
        facts.append(f"follows @{done.alias}")
    out.say(f"deployment {done.name}: {', '.join(facts)}")
    out.done({"deployment": done.to_json()})
