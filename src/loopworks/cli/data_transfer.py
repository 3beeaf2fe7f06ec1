"""``loopworks data push`` and ``pull``: frozen versions between workspaces."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from loopworks.cli.output import JsonOption, Out, Update, WorkspaceOption, face, opened
from loopworks.core.units import bytes_text, seconds_text

if TYPE_CHECKING:
    from loopworks.data.transfer import TransferReport

NameOption = Annotated[str, typer.Option(help="Name of the dataset where it goes; the same by default.")]
AuthorOption = Annotated[str, typer.Option(help="Who does it.")]
VersionArgument = Annotated[str, typer.Argument(help="Version id, its start, or a tag.")]


def register(group: typer.Typer) -> None:
    """Hang the commands under ``data``."""
    group.command("push")(push)
    group.command("pull")(pull)


def push(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset here.")],
    version: VersionArgument,
    target: Annotated[str, typer.Argument(help="Folder of the other workspace; its blobs may lie in a bucket.")],
    name: NameOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Bring a frozen version to another workspace; only what is missing there is sent."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset)
        with out.progress(f"pushing {dataset}") as update:
            report = found.push(version, target, name=name, author=author, progress=_shown(update))
        _told(out, report, target)


def pull(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset there.")],
    version: VersionArgument,
    source: Annotated[str, typer.Argument(help="Folder of the other workspace; its blobs may lie in a bucket.")],
    name: NameOption = "",
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Bring a frozen version here from another workspace; only what is missing here is sent."""
    with face(json) as out, opened(workspace) as space:
        with out.progress(f"pulling {dataset}") as update:
            report = space.pull(dataset, version, source, name=name, author=author, progress=_shown(update))
        _told(out, report, workspace)


def _shown(update: Update) -> Callable[[int, int, int], None]:
    def show(done: int, total: int, size: int) -> None:
        update(done / total if total else 1.0, "blobs", done=done, total=total, size=size)

    return show


def _told(out: Out, report: "TransferReport", place: str) -> None:
    state = "" if report.is_new else " (was there already)"
    out.say(
        f"{report.dataset}: version {report.version[:12]}, number {report.number}, {report.items} items, "
        f"in {place}{state}"
    )
    out.say(
        f"{report.blobs_sent} blobs sent, {report.blobs_known} there already; {bytes_text(report.size_bytes)} in "
        f"{seconds_text(report.seconds)}, {bytes_text(report.rate)}/s"
    )
    if report.references:
        out.say(f"{report.references} items are kept by reference: their files were not copied")
    for tag, means in report.tags_kept.items():
        out.say(f"tag {tag} means version {means[:12]} there, and still does")
    out.done(report.to_json())
