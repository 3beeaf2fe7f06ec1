"""``loopworks data table``: rows of a tabular dataset: add, look, choose, profile, split, freeze, export."""

from pathlib import Path
from typing import Annotated

import typer

from loopworks.cli.data_formats import EXIT_PARTLY
from loopworks.cli.output import JsonOption, ReportOption, WorkspaceOption, face, opened
from loopworks.core.errors import Invalid
from loopworks.store.blobs import write_error

group = typer.Typer(help="Rows of tables: add, look, choose, profile, split, freeze, export.", no_args_is_help=True)

DatasetArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]
AuthorOption = Annotated[str, typer.Option(help="Who does it.")]


@group.command("add")
def add(
    dataset: DatasetArgument,
    paths: Annotated[list[str], typer.Argument(help="CSV, TSV, Parquet or JSON lines files, folders or globs.")],
    task: Annotated[str, typer.Option(help="Task kind of a new dataset.")] = "tabular-classification",
    delimiter: Annotated[str, typer.Option(help="Between cells; empty: find out.")] = "",
    quote: Annotated[str, typer.Option(help="Around cells; empty: find out.")] = "",
    encoding: Annotated[str, typer.Option(help="Of text files; empty: find out.")] = "",
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether the first line names the columns.")
    ] = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Add rows. Adding twice adds nothing; a killed import goes on; bad lines are listed and the good ones kept."""
    with face(json) as out, opened(workspace) as space:
        known = {found["name"]: found["task"] for found in space.datasets()}
        table = space.dataset(dataset, task=None if dataset in known else task).table
        with out.progress(f"reading into {dataset}") as update:
            report = table.add(
                paths if len(paths) > 1 else paths[0],
                delimiter=delimiter,
                quote=quote,
                encoding=encoding,
                header=header,
                author=author,
                progress=lambda done, total: update(done / max(total, 1), f"{done >> 20}/{total >> 20} MB"),
            )
        out.say(
            f"{dataset}: {report.added} added, {report.known} known already, {report.changed} changed, "
            f"{report.left_out} left out; {report.rows} rows"
        )
        for note in report.notes:
            out.say(f"  note: {note}")
        out.problems(report.problems)
        out.done({"dataset": dataset, **report.to_json()})
        if report.problems:
            raise typer.Exit(EXIT_PARTLY if report.added or report.known or report.changed else 2)


@group.command("schema")
def schema(dataset: DatasetArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """Columns with their types, missing values, units and what was noticed."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).table.schema
        out.table(
            ("column", "type", "missing", "role", "notes"),
            [
                (
                    c.name,
                    c.type,
                    sum(c.missing.values()),
                    _role(c.name, found.target, found.id, found.time),
                    "; ".join(c.notes),
                )
                for c in found.columns
            ],
        )
        out.say(f"{found.rows} rows")
        out.done({"dataset": dataset, **found.to_json()})


@group.command("choose")
def choose(
    dataset: DatasetArgument,
    target: Annotated[str | None, typer.Option(help="Column that models learn; empty takes it back.")] = None,
    id: Annotated[str | None, typer.Option(help="Column that says who a row is.")] = None,
    time: Annotated[str | None, typer.Option(help="Column that says when a row's prediction was due.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="COLUMN=TYPE, where the found one is not meant.")] = None,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Choose target, id and time columns, and types of columns."""
    with face(json) as out, opened(workspace) as space:
        types = dict(_pair(text) for text in type or [])
        found = space.dataset(dataset).table.choose(target=target, id=id, time=time, types=types, author=author)
        out.say(f"target {found.target or '-'}, id {found.id or '-'}, time {found.time or '-'}")
        out.done({"dataset": dataset, **found.to_json()})


@group.command("profile")
def profile(
    dataset: DatasetArgument,
    report: ReportOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """What the columns hold, and what looks wrong: leaks, duplicates, constants ..."""
    with face(json) as out, opened(workspace) as space:
        with out.progress(f"profile of {dataset}") as update:
            found = space.dataset(dataset).table.profile(progress=lambda share: update(share, ""))
        out.table(
            ("column", "type", "missing", "distinct", "min", "median", "max", "alone"),
            [
                (
                    c.name,
                    c.type,
                    c.missing,
                    c.distinct,
                    c.numbers.get("min", "-"),
                    c.numbers.get("p50", "-"),
                    c.numbers.get("max", "-"),
                    "-" if c.leak_score is None else c.leak_score,
                )
                for c in found.columns
            ],
        )
        for warning in found.warnings:
            out.say(f"  {warning.kind}: {warning.message}")
        if report:
            try:
                Path(report).write_text(found.to_html(), encoding="utf-8")
            except OSError as error:
                raise write_error(Path(report).parent, error) from None
        out.done(found.to_json())


@group.command("rows")
def rows(
    dataset: DatasetArgument,
    query: Annotated[
        str, typer.Option("--query", "-q", help="Only rows that fulfil it: age > 30 and city = 'Oslo'.")
    ] = "",
    sort: Annotated[str, typer.Option(help="Column; none: the order of import.")] = "",
    descending: Annotated[bool, typer.Option("--descending", help="The other way round.")] = False,
    split: Annotated[str, typer.Option(help="Only train, val or test.")] = "",
    column: Annotated[list[str] | None, typer.Option(help="Only these columns.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows to show.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Rows before them.")] = 0,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Show rows, a page at a time."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).table.page(
            query=query,
            sort=sort,
            descending=descending,
            split=split or None,
            columns=column or None,
            limit=limit,
            offset=offset,
        )
        names = list(found.rows[0]["cells"]) if found.rows else []
        out.table(
            ("row", "split", *names),
            [(r["id"][:12], r["split"] or "-", *(r["cells"][name] for name in names)) for r in found.rows],
        )
        out.say(f"{len(found.rows)} of {found.count} rows")
        out.done({"dataset": dataset, **found.to_json()})


@group.command("split")
def split(
    dataset: DatasetArgument,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the test set.")] = 0.2,
    val: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the validation set.")] = 0.1,
    by: Annotated[str, typer.Option(help="Column; rows with the same value stay together.")] = "",
    time: Annotated[str, typer.Option(help="Column of dates; the newest rows are the test set.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Give rows without a split one, by the target's classes, by group or by time; a test row never moves."""
    with face(json) as out, opened(workspace) as space:
        counts = space.dataset(dataset).table.split(test, val, by=by, time=time, seed=seed, author=author)
        out.say(f"{dataset}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        out.done({"dataset": dataset, "splits": counts})


@group.command("freeze")
def freeze(
    dataset: DatasetArgument,
    message: Annotated[str, typer.Option("--message", "-m", help="What this version is.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Freeze the rows as a version that never changes; the same rows give the same id."""
    with face(json) as out, opened(workspace) as space:
        version = space.dataset(dataset).table.freeze(message)
        out.say(f"version {version.id[:12]} of {dataset}: {version.counts['items']} rows, {version.counts['by_split']}")
        out.problems(version.problems)
        out.done(version.to_json())


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
        found = space.dataset(dataset).table.diff(old, new)
        out.say(f"{found.added} added, {found.removed} removed, {found.changed} changed")
        out.done({"dataset": dataset, "diff": found.to_json()})


@group.command("export")
def export(
    dataset: DatasetArgument,
    path: Annotated[str, typer.Argument(help="New file: .csv, .tsv, .jsonl or .parquet.")],
    version: Annotated[str, typer.Option(help="Version id, or its start; none: the rows of now.")] = "",
    split: Annotated[str, typer.Option(help="Only train, val or test.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Write the rows, in the order of import."""
    with face(json) as out, opened(workspace) as space:
        count = space.dataset(dataset).table.export(path, version=version, split=split or None)
        out.say(f"{count} rows in {path}")
        out.done({"dataset": dataset, "path": path, "rows": count})


@group.command("delete")
def delete(
    dataset: DatasetArgument,
    ids: Annotated[list[str], typer.Argument(help="Ids of rows, whole.")],
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Delete rows; undo brings them back."""
    with face(json) as out, opened(workspace) as space:
        table = space.dataset(dataset).table
        count = table.delete(ids, author=author)
        out.say(f"{count} rows deleted; {table.rows} left")
        out.done({"dataset": dataset, "deleted": count, "rows": table.rows})


@group.command("states")
def states(dataset: DatasetArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List what was done to the rows, newest first; undo takes the last of it back."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).table.states()
        out.table(("state", "what", "author", "rows"), [(s.clock, s.op, s.author or "-", s.rows) for s in found])
        out.done({"dataset": dataset, "states": [state.to_json() for state in found]})


@group.command("undo")
def undo(
    dataset: DatasetArgument, author: AuthorOption = "", workspace: WorkspaceOption = ".", json: JsonOption = False
) -> None:
    """Take the last change back, whatever it was."""
    with face(json) as out, opened(workspace) as space:
        table = space.dataset(dataset).table
        what = table.undo(author=author)
        out.say(f"{what} taken back; {table.rows} rows")
        out.done({"dataset": dataset, "undone": what, "rows": table.rows})


def _role(name: str, target: str, id: str, time: str) -> str:
    return ", ".join(role for role, chosen in (("target", target), ("id", id), ("time", time)) if chosen == name) or "-"


def _pair(text: str) -> tuple[str, str]:
    name, mark, kind = text.rpartition("=")
    if not mark or not name:
        raise Invalid("--type", "COLUMN=TYPE", text)
    return name, kind
