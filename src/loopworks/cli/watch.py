"""``loopworks watch``: capture, drift, truth and training again of what is in use."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened
from loopworks.core.errors import Invalid

DeploymentArgument = Annotated[str, typer.Argument(help="Name of the deployment.")]
AuthorOption = Annotated[str, typer.Option(help="Who does it.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    group = typer.Typer(help="Watch what is in use: capture, drift, truth, training again.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("set")(set_rules)
    group.command("show")(show)
    group.command("stop")(stop)
    group.command("events")(events)
    group.command("inbox")(inbox)
    group.command("captured")(captured)
    group.command("feedback")(feedback)
    group.command("truth")(truth)
    group.command("drift")(drift)
    group.command("purge")(purge)
    group.command("retrain")(retrain)
    app.add_typer(group, name="watch")


def ls(workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the deployments that are watched."""
    with face(json) as out, opened(workspace) as space:
        found = [(name, space.watch_rules(name)) for name in space.watches()]
        rows = [(name, ", ".join(rule.name for rule in rules.capture) or "-") for name, rules in found]
        out.table(("deployment", "captures"), rows)
        out.done({"watches": [{"deployment": name, "rules": rules.to_json()} for name, rules in found]})


def set_rules(
    deployment: DeploymentArgument,
    rules: Annotated[Path | None, typer.Argument(help="YAML or JSON file with rules; default: log and drift.")] = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Watch a deployment by rules, in place of those before."""
    with face(json) as out, opened(workspace) as space:
        found = space.watch(deployment, rules, author=author)
        names = ", ".join(rule.name for rule in found.capture) or "nothing"
        out.say(f"deployment {deployment} is watched: captures {names}; drift {'on' if found.drift.is_on else 'off'}")
        out.done({"deployment": deployment, "rules": found.to_json()})


def show(deployment: DeploymentArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Show counts, inbox, drift and accuracy of a watched deployment."""
    with face(json) as out, opened(workspace) as space:
        found = space.watched(deployment)
        counts = ", ".join(f"{name} {count}" for name, count in found["counts"].items()) or "nothing yet"
        out.say(f"deployment {deployment}: {counts}; {found['logged']} predictions logged")
        out.say("inbox: " + (", ".join(f"{state} {count}" for state, count in found["inbox"].items()) or "empty"))
        for line in _accuracy(found["accuracy"]):
            out.say(line)
        if found["drift"]:
            out.say(f"drift of {found['drift']['items']} items at {found['drift']['at'][:19]}:")
            out.table(("column", "of", "drift", "p", "psi", "training", "now"), _columns(found["drift"]))
        out.done(found)


def stop(
    deployment: DeploymentArgument,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Watch a deployment no more; what was captured stays."""
    with face(json) as out, opened(workspace) as space:
        was = space.unwatch(deployment, author=author)
        out.say(f"deployment {deployment} is not watched any more" if was else f"{deployment} was not watched")
        out.done({"deployment": deployment, "was_watched": was})


def events(
    deployment: DeploymentArgument,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only alarm, alert, drift, retrain, rules or purge; repeat it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List what watching found and decided, the newest first."""
    with face(json) as out, opened(workspace) as space:
        found = space.watch_events(deployment, *(kind or ()), limit=limit)
        rows = [
            (e.kind, f"{e.at:%Y-%m-%d %H:%M:%S}", str(e.body.get("text") or e.body.get("state", ""))) for e in found
        ]
        out.table(("event", "at", "what"), rows)
        out.done({"deployment": deployment, "events": [event.to_json() for event in found]})


def inbox(
    deployment: DeploymentArgument,
    state: Annotated[str, typer.Option(help="inbox, returned (labelled since), or empty for all.")] = "inbox",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List captured inputs, the newest first."""
    with face(json) as out, opened(workspace) as space:
        found = space.inbox(deployment, state=state, limit=limit)
        rows = [(one.item[:12], ", ".join(one.reasons), one.label, one.score, one.count) for one in found]
        out.table(("item", "why", "answer", "confidence", "times"), rows)
        out.done({"deployment": deployment, "inbox": [one.to_json() for one in found]})


def captured(
    prediction: Annotated[str, typer.Argument(help="Id of the prediction, as its answer has it.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Show the captured input of a prediction, or what has become of it."""
    with face(json) as out, opened(workspace) as space:
        one = space.captured(prediction)
        out.say(f"{one.state}: {', '.join(one.reasons)}; answered {one.label} ({one.score:.3f}) by {one.model}")
        out.say(f"seen {one.count} times, last at {one.last_at:%Y-%m-%d %H:%M} UTC")
        out.done(one.to_json())


def feedback(
    prediction: Annotated[str, typer.Argument(help="Id of the prediction, as its answer has it.")],
    right: Annotated[bool | None, typer.Option("--right/--wrong", help="Whether the answer was right.")] = None,
    label: Annotated[str | None, typer.Option(help="What is true; several classes are separated by |.")] = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Say whether a prediction was right, or what is true."""
    with face(json) as out, opened(workspace) as space:
        done = space.feedback(prediction, right=right, label=label, author=author)
        said = {True: "wrong", False: "right", None: "not known to be right or wrong"}[done["is_wrong"]]
        out.say(f"noted: the answer was {said}")
        out.done(done)


def truth(
    deployment: DeploymentArgument,
    file: Annotated[Path, typer.Argument(help="CSV with id (prediction, item or key) and label.")],
    author: AuthorOption = "truth",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take in what was right after all."""
    with face(json) as out, opened(workspace) as space:
        done = space.truth(deployment, file, author=author)
        out.say(f"{done['known']} truths taken, {done['labeled']} captured inputs labelled")
        out.problems(done["problems"])
        out.done({"deployment": deployment, **done, "problems": [one.to_json() for one in done["problems"]]})
        if done["problems"]:
            raise typer.Exit(3 if done["known"] else 2)


def drift(
    deployment: DeploymentArgument,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Image or text files, or tables of rows; 50 or more.")
    ] = None,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Compare items with the training data of a deployment."""
    with face(json) as out, opened(workspace) as space:
        if not files:
            raise Invalid("what to compare", "at least one file", "nothing")
        found = space.drift(deployment, files)
        out.say(f"{'drift' if found['is_drift'] else 'no drift'} in {found['items']} items")
        out.table(("column", "of", "drift", "p", "psi", "training", "now"), _columns(found))
        out.problems(found["problems"])
        out.done({"deployment": deployment, **found, "problems": [one.to_json() for one in found["problems"]]})


def purge(
    deployment: DeploymentArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Erase captured inputs and predictions that are older than the rules allow."""
    with face(json) as out, opened(workspace) as space:
        done = space.purge(deployment, dry_run=dry_run)
        would = "would be erased" if dry_run else "erased"
        out.say(f"{done['items']} items, {done['rows']} rows and {done['predictions']} predictions {would}")
        out.done({"deployment": deployment, "is_dry_run": dry_run, **done})


def retrain(
    deployment: DeploymentArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also without a reason, and within the cool-down.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Train again where the rules say that it is time, or judge the training that has ended."""
    with face(json) as out, opened(workspace) as space:
        done = space.retrain(deployment, dry_run=dry_run, force=force)
        why = "; ".join(done.get("reasons", ())) or done.get("text", "")
        held = f" ({done['held_back']})" if done.get("held_back") else ""
        due = "it is time: " if done.get("is_due") else ""
        out.say(f"{deployment}: {done['state']}{held}" + (f": {due}{why}" if why else ""))
        out.done({"deployment": deployment, **done})


def _columns(report: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        (c["name"], c["of"], "yes" if c["is_drift"] else "", f"{c['p']:.2g}", c["psi"] or "-", c["before"], c["now"])
        for c in report["columns"]
    ]


def _accuracy(found: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("measured", "feedback"):
        if one := found[name]:
            told = f"{one['metric']} {one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}] on {one['count']}"
            lines.append(f"{'measured' if name == 'measured' else 'by feedback alone'}: {told}")
            if more := one.get("more"):  # of boxes and masks
                lines.append(f"  {', '.join(f'{key} {value:.4f}' for key, value in more.items())}; {one['source']}")
    for one in found["estimated"]:
        told = f"accuracy {one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}] on {one['count']}"
        lines.append(f"{told}: {one['note']} ({one['how'].replace('_', ' ')})")
    return lines
