"""``loopworks data``: find, count, search, saved views, and what models say of items."""

from typing import Annotated

import typer

from loopworks.cli.output import JsonOption, Out, WaitOption, WorkspaceOption, face, left, opened
from loopworks.data.stage import Item

DatasetArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]
QueryArgument = Annotated[str, typer.Argument(help="A query such as \"label = 'car' and width > 640\", or a view.")]
LimitOption = Annotated[int, typer.Option(min=1, max=10_000, help="Items to show.")]
SortOption = Annotated[
    str, typer.Option(help="name, -size, added_at, count, attributes.NAME ...; - for largest first.")
]


def register(group: typer.Typer) -> None:
    """Hang the commands under ``data``."""
    for name, command in (
        ("find", find),
        ("count", count),
        ("search", search),
        ("views", views),
        ("save-view", save_view),
        ("remove-view", remove_view),
        ("score", score),
        ("scored", scored),
    ):
        group.command(name)(command)


def find(
    dataset: DatasetArgument,
    query: QueryArgument = "",
    sort: SortOption = "",
    limit: LimitOption = 20,
    after: Annotated[str, typer.Option(help="Go on after this item id.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Items that fulfil a query; docs/query.md says what a query may hold."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).find(query, sort=sort, limit=limit, after=after or None)
        _show(out, found)
        out.done({"items": [item.to_json() for item in found]})


def count(
    dataset: DatasetArgument,
    query: QueryArgument = "",
    by: Annotated[str, typer.Option(help="Count by a field: label, split, tag, attributes.NAME ...")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """How many items fulfil a query, by a field if wanted."""
    with face(json) as out, opened(workspace) as space:
        look = space.dataset(dataset).look
        number = look.count(query)
        figures = look.figures(query, by) if by else {}
        if by:
            out.table((by, "items"), [(key or "-", value) for key, value in figures.items()])
        out.say(f"{number} items")
        out.done({"count": number, **({"by": figures} if by else {})})


def search(
    dataset: DatasetArgument,
    text: Annotated[str, typer.Argument(help="Words to look for.")],
    query: Annotated[str, typer.Option(help="Only items that fulfil this query too.")] = "",
    limit: LimitOption = 20,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Items with all these words in name, text, captions, attributes or tags, the best first."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).look.search(text, query=query, limit=limit)
        _show(out, found)
        out.done({"items": [item.to_json() for item in found]})


def views(dataset: DatasetArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the saved views."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).look.views()
        out.table(("view", "query", "sort"), [(v.name, v.query, v.sort or "name") for v in found])
        out.done({"views": [view.to_json() for view in found]})


def save_view(
    dataset: DatasetArgument,
    name: Annotated[str, typer.Argument(help="Letters, digits, - and _.")],
    query: QueryArgument,
    sort: SortOption = "",
    author: Annotated[str, typer.Option(help="Who saves it.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Keep a query under a name; the name then stands for it wherever a query is asked for."""
    with face(json) as out, opened(workspace) as space:
        view = space.dataset(dataset).look.save_view(name, query, sort=sort, author=author)
        out.say(f"view {view.name} of {dataset}: {view.query}")
        out.done({"view": view.to_json()})


def remove_view(
    dataset: DatasetArgument,
    name: Annotated[str, typer.Argument(help="The view.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Forget a saved view."""
    with face(json) as out, opened(workspace) as space:
        space.dataset(dataset).look.remove_view(name)
        out.say(f"view {name} of {dataset} is gone")
        out.done({"removed": name})


def score(
    dataset: DatasetArgument,
    model: Annotated[str, typer.Argument(help="NAME, NAME:NUMBER or NAME@ALIAS; default the newest.")] = "",
    query: Annotated[str, typer.Option(help="Only items that fulfil this query.")] = "",
    wait: WaitOption = True,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Ask a model about items and keep what it says, for queries such as prediction.score < 0.6."""
    with face(json) as out, opened(workspace) as space:
        if not wait:
            left(out, space.score_job(dataset, model, query=query))
            return
        with out.progress(f"scoring {dataset}") as update:
            report = space.score(
                dataset, model, query=query, progress=lambda n, of: update(n / max(of, 1), f"{n}/{of}")
            )
        out.say(f"{report['model']} scored {report['items']} items of {dataset}")
        out.problems(report["problems"])
        out.done({**report, "problems": [problem.to_json() for problem in report["problems"]]})


def scored(dataset: DatasetArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the models whose predictions are there, the newest first."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).look.scored()
        out.table(("model", "items", "at (UTC)"), [(s.model, s.items, f"{s.created_at:%Y-%m-%d %H:%M}") for s in found])
        out.done({"scored": [one.to_json() for one in found]})


def _show(out: Out, found: list[Item]) -> None:
    out.table(
        ("item", "name", "size", "split", "labels"),
        [
            (i.id[:12], i.name, f"{i.width}x{i.height}", i.split or "-", ", ".join(s.label for s in i.labels) or "-")
            for i in found
        ],
    )
