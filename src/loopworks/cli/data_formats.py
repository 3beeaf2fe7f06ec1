"""``loopworks data formats`` and ``export``, and the options of a format for ``add``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened
from loopworks.core.errors import Invalid

if TYPE_CHECKING:
    from loopworks.data.exporter import By

FormatOption = Annotated[str, typer.Option("--format", help="Name of a format (data formats), or auto.")]
OptionOption = Annotated[list[str], typer.Option("--option", "-o", help="NAME=VALUE of the format; may be repeated.")]
EXIT_PARTLY = 3
"""Done, and some things were left out, which are listed."""


def parsed(pairs: Sequence[str]) -> dict[str, Any]:
    """Options from ``NAME=VALUE``; a comma makes a list of more than one value where the option is one.

    Raises: Invalid: no such pair, or a name twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise Invalid("--option", "NAME=VALUE", pair)
        if name in found:
            raise Invalid("--option", "given once for each name", name)
        found[name] = value
    return found


def register(group: typer.Typer) -> None:
    """Hang the commands under ``loopworks data``."""
    group.command("formats")(formats)
    group.command("export")(export)


def formats(json: JsonOption = False) -> None:
    """List the formats that can be read and written, with their options."""
    from loopworks.data.formats import detect

    with face(json) as out:
        found = detect.describe()
        out.table(
            ("format", "what", "options"), [(f["name"], f["text"], ", ".join(f["options"]) or "-") for f in found]
        )
        out.done({"formats": found})


def export(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    version_or_folder: Annotated[str, typer.Argument(metavar="[VERSION]", help="Version id, or its start.")],
    folder: Annotated[str, typer.Argument(help="New folder to write; alone: the items as they are now.")] = "",
    format: Annotated[str, typer.Option("--format", help="Name of a format (data formats).")] = "folders",
    option: OptionOption = [],  # noqa: B006 typer reads the default, nothing changes it
    by: Annotated[str, typer.Option(help="copy, or link (hard link where possible).")] = "copy",
    media: Annotated[bool, typer.Option(help="Write the images too, or the annotations alone.")] = True,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Write a version, or the live set, in any format."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        source = target.version(version_or_folder) if folder else target
        place = folder or version_or_folder
        report = source.export(place, format=format, options=parsed(option), by=cast("By", by), media=media)
        out.say(f"{report.items} items as {report.format}, {report.files} files in {place}")
        out.problems(report.problems)
        out.done({"dataset": dataset, **report.to_json()})
        if report.problems:
            raise typer.Exit(EXIT_PARTLY)
