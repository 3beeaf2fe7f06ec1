"""``loopworks label``: what comes next, setting labels, labels from and to files."""

from typing import Annotated

import typer

from loopworks.cli.data import DatasetArgument
from loopworks.cli.data_items import ItemsArgument, QueryOption, chosen
from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened

group = typer.Typer(help="Labels: what to label next, setting labels, CSV files.", no_args_is_help=True)

AuthorOption = Annotated[str, typer.Option(help="Who says so.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.add_typer(group, name="label")


@group.command("next")
def following(
    dataset: DatasetArgument,
    count: Annotated[int, typer.Option(min=1, help="How many items.")] = 10,
    model: Annotated[str, typer.Option(help="Model to ask; default the dataset's newest.")] = "",
    sampler: Annotated[str, typer.Option(help="random, uncertain or diverse; default diverse with a model.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """The unlabeled items that are worth labeling next, with the model's proposal."""
    with face(json) as out, opened(workspace) as space:
        picks = space.labeling(dataset, model).next(count, sampler=sampler, seed=seed)
        rows = [(p.item[:12], p.name, round(p.uncertainty, 3), ", ".join(p.proposal) or "-") for p in picks]
        if picks:
            out.table(("item", "name", "uncertainty", "proposal"), rows)
        else:
            out.say(f"every item of {dataset} is labeled, or in the test set")
        out.done({"dataset": dataset, "picks": [pick.to_json() for pick in picks]})


@group.command("set")
def put(
    dataset: DatasetArgument,
    item: Annotated[str, typer.Argument(help="Item id, its start, or file name.")],
    classes: Annotated[list[str], typer.Argument(help="The class; several for multi-label.")],
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Label one item. The old label stays in its history."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        target.label({target.item(item).id: classes}, author=author)
        done = target.item(item)
        out.say(f"{done.name}: {', '.join(classes)}")
        out.done({"dataset": dataset, "item": done.to_json()})


@group.command("clear")
def clear(
    dataset: DatasetArgument,
    items: ItemsArgument = None,
    query: QueryOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take labels away. The old labels stay in the history."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        ids = chosen(target, items, query)
        op = target.clear_labels(ids, author=author)
        out.say(f"{len(ids)} items are unlabeled now")
        out.done({"dataset": dataset, "operation": op, "cleared": ids})


@group.command("classes")
def classes(
    dataset: DatasetArgument,
    add: Annotated[list[str] | None, typer.Option("--add", help="A class to add.")] = None,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List the classes, or add some."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        if add:
            target.add_classes(add)
        by_class = target.counts()["by_class"]
        out.table(("class", "items"), [(name, by_class.get(name, 0)) for name in target.schema.classes])
        out.done({"dataset": dataset, "classes": list(target.schema.classes), "by_class": by_class})


@group.command("import")
def read(
    dataset: DatasetArgument,
    file: Annotated[str, typer.Argument(help="CSV with the columns item and labels (several with |).")],
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Labels from a CSV file; bad rows are listed and the good ones kept."""
    with face(json) as out, opened(workspace) as space:
        report = space.labeling(dataset).read_csv(file, author=author)
        out.say(f"{report.labeled} items labeled, {len(report.problems)} rows left out")
        out.problems(report.problems)
        out.done({"dataset": dataset, **report.to_json()})
        if report.problems and not report.labeled:
            raise typer.Exit(2)


@group.command("export")
def write(
    dataset: DatasetArgument,
    file: Annotated[str, typer.Argument(help="CSV file to write.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Labels to a CSV file that ``label import`` reads."""
    with face(json) as out, opened(workspace) as space:
        count = space.labeling(dataset).write_csv(file)
        out.say(f"{count} items in {file}")
        out.done({"dataset": dataset, "file": file, "items": count})


@group.command("history")
def history(
    dataset: DatasetArgument,
    item: Annotated[str, typer.Argument(help="Item id, its start, or file name.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Everything that was ever done to an item."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        events = target.history(target.item(item).id)
        rows = [(f"{e.at:%Y-%m-%d %H:%M:%S}", e.kind, e.author or "-", str(e.after)) for e in events]
        out.table(("at (UTC)", "event", "by", "after"), rows)
        out.done({"dataset": dataset, "item": target.item(item).id, "events": [event.to_json() for event in events]})
