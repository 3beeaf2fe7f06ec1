"""``loopworks data``: new datasets, items one by one or by a query, versions looked into, rows of descriptors."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopworks.cli.output import JsonOption, Out, WaitOption, WorkspaceOption, face, left, opened
from loopworks.core.errors import Invalid

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

DatasetArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]
ItemsArgument = Annotated[list[str] | None, typer.Argument(help="Items: ids, their beginnings, or names.")]
QueryOption = Annotated[str, typer.Option(help="Instead of items: all that fulfil this query.")]
AuthorOption = Annotated[str, typer.Option(help="Who does it.")]
VersionArgument = Annotated[str, typer.Argument(help="Version id, its start, or a tag.")]
SHOWN = 18


def register(group: typer.Typer) -> None:
    """Hang the commands under ``data``."""
    for name, command in (
        ("create", create),
        ("show", show),
        ("assign", assign),
        ("tag-items", tag_items),
        ("untag-items", untag_items),
        ("describe", describe),
        ("version", version),
        ("version-items", version_items),
        ("embed", embed),
    ):
        group.command(name)(command)


def chosen(target: "Dataset", items: list[str] | None, query: str) -> list[str]:
    """Ids of the items that were named, or that fulfil the query; ``Invalid`` where both or neither are given."""
    if bool(items) == bool(query):
        raise Invalid("items", "ids or names, or --query", "both" if query else "nothing")
    return [target.item(item).id for item in items] if items else list(target.ids(query))


def create(
    dataset: DatasetArgument,
    task: Annotated[str, typer.Argument(help="Task kind, e.g. image-classification.")],
    class_: Annotated[list[str] | None, typer.Option("--class", help="A class known from the start.")] = None,
    multi: Annotated[bool, typer.Option("--multi", help="Items may carry several classes.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Make an empty dataset, or show the one that is there."""
    with face(json) as out, opened(workspace) as space:
        made = space.dataset(dataset, task, classes=class_ or (), is_multi=multi)
        out.say(f"{dataset}: {task}, {made.counts()['items']} items, classes {', '.join(made.schema.classes) or '-'}")
        out.done(made.to_json())


def show(
    dataset: DatasetArgument,
    item: Annotated[str, typer.Argument(help="Id, its beginning, or name of an item.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read its bytes and compare them with its id.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """One item with its labels, tags and attributes."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        found = target.item(item)
        if verify:
            target.verify(found)
        told = found.to_json()
        out.table(
            ("", dataset), [(name, str(value)) for name, value in told.items() if value not in ("", [], {}, None)]
        )
        out.done({"dataset": dataset, "item": told, "is_verified": verify})


def assign(
    dataset: DatasetArgument,
    split: Annotated[str, typer.Argument(help="train, val or test.")],
    items: ItemsArgument = None,
    query: QueryOption = "",
    force: Annotated[bool, typer.Option("--force", help="Also out of the test set.")] = False,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Put items into a split by hand; a test item stays unless it is forced."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        ids = chosen(target, items, query)
        _done(out, dataset, target.assign(ids, split, author=author, force=force), ids, f"in {split}")


def tag_items(
    dataset: DatasetArgument,
    items: ItemsArgument = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    query: QueryOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Give items tags, beside those that they have."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        ids = chosen(target, items, query)
        _done(out, dataset, target.tag_items(ids, *(tag or ()), author=author), ids, "tagged")


def untag_items(
    dataset: DatasetArgument,
    items: ItemsArgument = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    query: QueryOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take tags away from items, where they have them."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        ids = chosen(target, items, query)
        _done(out, dataset, target.untag(ids, *(tag or ()), author=author), ids, "untagged")


def describe(
    dataset: DatasetArgument,
    items: ItemsArgument = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE; the value as JSON, else text.")] = None,
    query: QueryOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Set attributes of items (camera, time ...); the others stay, and null takes one away."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        ids = chosen(target, items, query)
        attributes = dict(_attribute(text) for text in set_ or ())
        if not attributes:
            raise Invalid("--set", "given once or more", "nothing", "for example --set camera=north")
        _done(out, dataset, target.describe(ids, attributes, author=author), ids, "described")


def version(
    dataset: DatasetArgument,
    version: VersionArgument,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """One version: what it holds, and who gave its labels."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        found = target.version(version)
        authors = [] if target.is_table else [one.to_json() for one in found.authors()]
        out.say(f"version {found.id} of {dataset}, number {found.number}: {found.message or '-'}")
        out.say(f"{found.counts['items']} items, {found.counts['by_split']}, {found.counts['by_class']}")
        if authors:
            out.table(
                ("labels by", "source", "labels"), [(a["author"] or "-", a["source"], a["count"]) for a in authors]
            )
        out.problems(found.problems)
        out.done({"dataset": dataset, "version": found.to_json(), "authors": authors})


def version_items(
    dataset: DatasetArgument,
    version: VersionArgument,
    item: Annotated[str, typer.Argument(help="Id of one item: who said what of it, and when.")] = "",
    split: Annotated[str, typer.Option(help="Only train, val or test.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Items to show.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Items before them.")] = 0,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Items of a version, in order of their id; or the labels of one with author and time."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).version(version)
        if item:
            facts = [node.to_json() for node in found.facts(item)]
            said = [(f["label"], f["author"] or "-", f["source"], f["at"]) for f in facts]
            out.table(("label", "author", "source", "at (UTC)"), said)
            out.done({"dataset": dataset, "annotations": facts})
            return
        rows = found.rows(split or None)
        part = [row.to_json() for row in rows[offset : offset + limit]]
        shown = [
            (r["id"][:12], r["name"], r["split"], ", ".join(s.get("label", "") for s in r["labels"]) or "-")
            for r in part
        ]
        out.table(("item", "name", "split", "labels"), shown)
        out.say(f"{len(part)} of {len(rows)} items")
        out.done({"dataset": dataset, "items": part, "count": len(rows)})


def embed(
    dataset: DatasetArgument,
    descriptor: Annotated[
        str, typer.Option(help="auto, model, look, near, words, timm:NAME or transformers:NAME.")
    ] = "auto",
    wait: WaitOption = True,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Compute the rows by which items are compared, so that similar and map answer at once."""
    with face(json) as out, opened(workspace) as space:
        if not wait:
            left(out, space.embed_job(dataset, descriptor))
            return
        with out.progress(f"embedding {dataset}") as update:
            told = space.dataset(dataset).embed(
                descriptor, progress=lambda n, of: update(n / max(of, 1), "items", done=n, total=of)
            )
        out.say(f"{told['items']} items of {dataset} have {told['width']} numbers by {told['descriptor']}")
        out.done(told)


def _done(out: Out, dataset: str, operation: str, ids: list[str], what: str) -> None:
    out.say(f"{dataset}: {len(ids)} items {what}")
    out.say(f"undo: loopworks data undo {dataset} {operation[:SHOWN]}")
    out.done({"dataset": dataset, "operation": operation, "items": ids})


def _attribute(text: str) -> tuple[str, Any]:
    import orjson

    name, mark, value = text.partition("=")
    if not mark or not name:
        raise Invalid("--set", "NAME=VALUE", text)
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value
