"""``loopworks data``: tags, restore, branch and merge; delete, undo and erase; garbage collection."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, cast

import typer

from loopworks.cli.data_items import ItemsArgument, QueryOption, chosen
from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened

if TYPE_CHECKING:
    from loopworks.data.merging import Rule

DatasetArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]
AuthorOption = Annotated[str, typer.Option(help="Who does it.")]
VersionArgument = Annotated[str, typer.Argument(help="Version id, its start, or a tag.")]
SHOWN = 18


def register(group: typer.Typer) -> None:
    """Hang the commands under ``data``."""
    for name, command in COMMANDS.items():
        group.command(name)(command)


def tag(
    dataset: DatasetArgument,
    version: VersionArgument,
    name: Annotated[str, typer.Argument(help="The tag, e.g. v1 or gold.")],
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Let a tag mean a version; it moves there from the one that it meant before."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        before = target.tag(version, name, author=author)
        out.say(
            f"{name} of {dataset} is version {target.tags()[name][:12]}" + (f", was {before[:12]}" if before else "")
        )
        out.done({"dataset": dataset, "tags": target.tags()})


def tags(dataset: DatasetArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the tags of versions."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).tags()
        out.table(("tag", "version"), [(name, version[:12]) for name, version in found.items()])
        out.done({"dataset": dataset, "tags": found})


def restore(
    dataset: DatasetArgument,
    version: VersionArgument,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Make the live set what a version holds; items of the test set stay there."""
    with face(json) as out, opened(workspace) as space:
        report = space.dataset(dataset).restore(version, author=author)
        out.say(f"{dataset}: {report.changed} items restored, {report.kept_in_test} kept in the test set")
        if report.operation:
            out.say(f"undo: loopworks data undo {dataset} {report.operation[:SHOWN]}")
        out.done({"dataset": dataset, **report.to_json()})


def branch(
    dataset: DatasetArgument,
    name: Annotated[str, typer.Argument(help="Name of the new dataset.")],
    version: Annotated[str, typer.Option(help="Version id, its start, or a tag; the newest by default.")] = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Make a new dataset that begins as a version; media are shared, not copied."""
    with face(json) as out, opened(workspace) as space:
        made = space.dataset(dataset).branch(name, version, author=author)
        out.say(f"{name}: {made.counts()['items']} items, branched from {dataset}")
        out.done(made.to_json())


def merge(
    dataset: DatasetArgument,
    other: Annotated[str, typer.Argument(help="The branch to merge into it.")],
    rule: Annotated[str, typer.Option(help="What both changed: fail, ours, theirs or newest.")] = "fail",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, show what would be done.")] = False,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Bring what was done in a branch into a dataset, three-way."""
    with face(json) as out, opened(workspace) as space:
        report = space.dataset(dataset).merge(other, rule=cast("Rule", rule), author=author, dry_run=dry_run)
        will = "would be " if dry_run else ""
        out.say(
            f"{dataset}: {report.added} items {will}added, {report.changed} changed, {len(report.conflicts)} conflicts"
        )
        if report.conflicts:
            rows = [
                (c.item[:12], c.part, str(c.base), str(c.ours), str(c.theirs), c.taken or "-") for c in report.conflicts
            ]
            out.table(("item", "part", "base", "ours", "theirs", "taken"), rows[:50])
        if report.operation:
            out.say(f"undo: loopworks data undo {dataset} {report.operation[:SHOWN]}")
        out.done({"dataset": dataset, **report.to_json()})


def delete(
    dataset: DatasetArgument,
    items: ItemsArgument = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    query: QueryOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take items out of a dataset; undo brings them back."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        ids = chosen(target, items, query)
        op = target.delete(ids, author=author, reason=reason)
        out.say(f"{dataset}: {len(ids)} items deleted")
        out.say(f"undo: loopworks data undo {dataset} {op[:SHOWN]}")
        out.done({"dataset": dataset, "operation": op, "items": ids})


def undo(
    dataset: DatasetArgument,
    operation: Annotated[str, typer.Argument(help="Operation id, or its start; see operations.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also what was changed since, or leaves the test set.")
    ] = False,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take an operation back: every item that it changed is as it was before."""
    with face(json) as out, opened(workspace) as space:
        done = space.dataset(dataset).undo(operation, author=author, force=force)
        out.say(f"{dataset}: {done.items} items are as they were before {done.undoes[:SHOWN]}")
        out.say(f"undo: loopworks data undo {dataset} {done.id[:SHOWN]}")
        out.done({"dataset": dataset, "operation": done.to_json()})


def operations(
    dataset: DatasetArgument,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Operations to show.")] = 20,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List what was done to a dataset, newest first."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).operations(limit)
        rows = [
            (o.id[:SHOWN], o.what, o.items, o.author or "-", f"{o.at:%Y-%m-%d %H:%M}", "undone" if o.is_undone else "")
            for o in found
        ]
        out.table(("operation", "what", "items", "author", "at (UTC)", ""), rows)
        out.done({"dataset": dataset, "operations": [one.to_json() for one in found]})


def erase(
    dataset: DatasetArgument,
    items: ItemsArgument = None,
    *,
    reason: Annotated[str, typer.Option(help="Why; it stays when the data is gone.")],
    query: QueryOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Erase items for good, from every dataset and frozen version; this cannot be undone."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        report = target.erase(chosen(target, items, query), reason=reason, author=author)
        out.say(f"{len(report.items)} items erased from {', '.join(report.datasets)}; {report.size_bytes} bytes freed")
        for old, new in report.versions.items():
            out.say(f"version {old[:12]} is now {new[:12] or 'gone'}")
        for video in report.videos:
            out.say(f"video {video[:12]} removed; its other frames stay as images")
        if not report.is_scrubbed:
            out.say("the catalog's file was in use and may hold traces: run loopworks data gc --run when nobody works")
        out.done({"dataset": dataset, **report.to_json()})


def gc(
    run: Annotated[bool, typer.Option("--run", help="Remove them; without it they are only counted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them, which is the default.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Remove bytes that nothing leads to any more; by default only say how many there are."""
    with face(json) as out, opened(workspace) as space:
        sweep = space.gc(dry_run=dry_run or not run)
        word = "could be freed" if sweep.is_dry_run else "freed"
        out.say(f"{sweep.blobs} blobs, {sweep.size_bytes} bytes {word}; {sweep.spared} too young, {sweep.kept} in use")
        out.done(sweep.to_json())


COMMANDS: dict[str, Callable[..., None]] = {
    "tag": tag,
    "tags": tags,
    "restore": restore,
    "branch": branch,
    "merge": merge,
    "delete": delete,
    "undo": undo,
    "operations": operations,
    "erase": erase,
    "gc": gc,
}
