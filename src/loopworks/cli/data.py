"""``loopworks data``: add, look, split, freeze, compare, export."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from loopworks.cli import data_clean, data_formats, data_items, data_look, data_table, data_transfer, data_versions
from loopworks.cli.data_add import EveryOption, FramesOption, JpegOption, ScenesOption, stepping
from loopworks.cli.data_formats import EXIT_PARTLY, FormatOption, OptionOption, parsed
from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened

if TYPE_CHECKING:
    from loopworks.data.stage import By, Labels, State

group = typer.Typer(help="Datasets: add, look, split, freeze, compare, export.", no_args_is_help=True)

DatasetArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    data_clean.register(group)
    data_formats.register(group)
    data_look.register(group)
    data_items.register(group)
    data_versions.register(group)
    data_transfer.register(group)
    app.add_typer(group, name="data")
    group.add_typer(data_table.group, name="table")


@group.command("add")
def add(
    dataset: DatasetArgument,
    paths: Annotated[list[str], typer.Argument(help="Folders, files, globs, archives, videos or URLs (s3://...).")],
    format: FormatOption = "auto",
    option: OptionOption = [],  # noqa: B006 typer reads the default, nothing changes it
    task: Annotated[str, typer.Option(help="Task kind of a new dataset; by default the one that fits.")] = "",
    multi: Annotated[bool, typer.Option("--multi", help="A new dataset's items may carry several classes.")] = False,
    labels: Annotated[str, typer.Option(help="auto, folders (folder names are classes) or none.")] = "auto",
    by: Annotated[str, typer.Option(help="copy, link (hard link where possible) or reference.")] = "copy",
    split: Annotated[str, typer.Option(help="Put all items into train, val or test.")] = "",
    author: Annotated[str, typer.Option(help="Who gave the labels.")] = "",
    every: EveryOption = 0,
    frames: FramesOption = "",
    scenes: ScenesOption = 0.0,
    jpeg: JpegOption = 0,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Add data of any format. Adding twice adds nothing; bad parts are listed, good ones kept."""
    with face(json) as out, opened(workspace) as space:
        from loopworks.data.frames import chosen

        wanted = chosen(every, frames, scenes, jpeg)
        with out.progress(f"adding to {dataset}") as update:
            report = space.add(
                dataset,
                paths if len(paths) > 1 else paths[0],
                task=task,
                is_multi=multi,
                format=format,
                options=parsed(option),
                labels=cast("Labels", labels),
                by=cast("By", by),
                split=split,
                author=author,
                frames=wanted,
                progress=lambda done, total: update(done / max(total, 1), "items", done=done, total=total),
                tick=stepping(update),
            )
        out.say(f"{dataset}: {report.added} added, {report.known} known already, {len(report.problems)} problems")
        out.problems(report.problems)
        out.done({"dataset": dataset, **report.to_json()})
        if report.problems:
            raise typer.Exit(EXIT_PARTLY if report.added or report.known else 2)


@group.command("ls")
def ls(
    dataset: Annotated[str, typer.Argument(help="A dataset to list the items of; none lists the datasets.")] = "",
    state: Annotated[str, typer.Option(help="all, labeled or unlabeled.")] = "all",
    split: Annotated[str, typer.Option(help="train, val or test.")] = "",
    label: Annotated[str, typer.Option(help="Only items of this class.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Items to show.")] = 20,
    after: Annotated[str, typer.Option(help="Go on after this item id.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List datasets, or the items of one."""
    with face(json) as out, opened(workspace) as space:
        if not dataset:
            found = space.datasets()
            rows = [
                (d["name"], d["task"], d["counts"]["items"], d["counts"]["labeled"], len(d["classes"])) for d in found
            ]
            out.table(("dataset", "task", "items", "labeled", "classes"), rows)
            out.done({"datasets": found})
            return
        target = space.dataset(dataset)
        items = target.items(
            state=cast("State", state), split=split or None, label=label or None, limit=limit, after=after or None
        )
        counts = target.counts()
        out.table(
            ("item", "name", "size", "split", "labels"),
            [
                (
                    i.id[:12],
                    i.name,
                    f"{i.width}x{i.height}",
                    i.split or "-",
                    ", ".join(s.label for s in i.labels) or "-",
                )
                for i in items
            ],
        )
        out.say(f"{len(items)} of {counts['items']} items; by class: {counts['by_class']}")
        out.done({"dataset": target.to_json(), "items": [item.to_json() for item in items]})


@group.command("split")
def split(
    dataset: DatasetArgument,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the test set.")] = 0.2,
    val: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the validation set.")] = 0.1,
    by: Annotated[
        str | None, typer.Option(help="Attribute (camera, patient ...) or folder: equal values stay in one split.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Attribute that is a time, or added_at: the newest are the test set.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    author: Annotated[str, typer.Option(help="Who splits.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Give labeled items without a split one: by class, group or time; a test item never moves."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        counts = target.split(test=test, val=val, by=by, time=time, seed=seed, author=author)
        figures = target.split_figures().to_json()
        out.say(f"{dataset}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        out.table(("class", *counts), [(name, *found.values()) for name, found in figures["by_class"].items()])
        if figures["by"]:
            shown = ", ".join(f"{name} {count}" for name, count in figures["groups"].items())
            out.say(f"groups by {figures['by']}: {shown}; {figures['ungrouped']} items without it")
            if figures["straddling"]:
                some = ", ".join(figures["straddling"][:5])
                out.say(f"  {len(figures['straddling'])} groups were in several splits before, such as {some}")
        if figures.get("mixed"):
            out.say(f"  {figures['mixed']} items for training are not older than the test set: they were split before")
        out.done({"dataset": dataset, **figures})


@group.command("freeze")
def freeze(
    dataset: DatasetArgument,
    message: Annotated[str, typer.Option("--message", "-m", help="What this version is.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Freeze the labeled items as a version that never changes; the same state gives the same id."""
    with face(json) as out, opened(workspace) as space:
        version = space.dataset(dataset).freeze(message)
        out.say(
            f"version {version.id[:12]} of {dataset}: {version.counts['items']} items, {version.counts['by_split']}"
        )
        out.problems(version.problems)
        out.done(version.to_json())


@group.command("versions")
def versions(dataset: DatasetArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the frozen versions, newest first."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).versions()[::-1]
        rows = [(v.id[:12], v.counts["items"], f"{v.created_at:%Y-%m-%d %H:%M}", v.message) for v in found]
        out.table(("version", "items", "frozen (UTC)", "message"), rows)
        out.done({"dataset": dataset, "versions": [v.to_json() for v in found]})


@group.command("diff")
def diff(
    dataset: DatasetArgument,
    old: Annotated[str, typer.Argument(help="Version id, or its start.")],
    new: Annotated[str, typer.Argument(help="Version id, or its start.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """What changed between two versions."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        found = target.version(old).diff(target.version(new)).to_json()
        out.say(f"{len(found['added'])} added, {len(found['removed'])} removed, {len(found['changed'])} changed")
        said, moves = found["annotations"], found["moves"]
        out.say(f"annotations: {said['added']} added, {said['removed']} removed, {said['changed']} changed")
        counts = [(name, pair["before"], pair["after"]) for name, pair in found["by_class"].items()]
        if counts:
            out.table(("class", "items before", "after"), counts)
        for move, count in moves.items():
            out.say(f"split {move}: {count} items")
        out.done({"dataset": dataset, "diff": found})
