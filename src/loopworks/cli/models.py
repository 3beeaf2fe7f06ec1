"""``loopworks models``: list, compare, name, show."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopworks.cli.output import JsonOption, Out, WorkspaceOption, face, opened
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins

if TYPE_CHECKING:
    from loopworks.train.compare import Comparison
    from loopworks.workspace import Model

group = typer.Typer(help="Models: list, compare, alias, card.", invoke_without_command=True)

ModelArgument = Annotated[str, typer.Argument(help="Model: NAME, NAME:NUMBER or NAME@ALIAS.")]


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.add_typer(group, name="models")
    app.command("explain")(explain)


@group.callback()
def ls(context: typer.Context, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """List the models, newest first."""
    if context.invoked_subcommand:
        return
    with face(json) as out, opened(workspace) as space:
        found, aliases = space.models(), space.aliases()
        rows = [
            (
                m.ref,
                ", ".join(aliases.get(m.ref, [])),
                m.task,
                m.variant,
                headline(m),
                m.version[:12],
                f"{m.created_at:%Y-%m-%d %H:%M}",
            )
            for m in found
        ]
        out.table(("model", "alias", "task", "variant", "test", "version", "made (UTC)"), rows)
        out.done({"models": [m.to_json() for m in found], "aliases": aliases})


@group.command("compare")
def compare(
    left: ModelArgument, right: ModelArgument, workspace: WorkspaceOption = ".", json: JsonOption = False
) -> None:
    """Two models on the same test items: better, worse, or not separable."""
    with face(json) as out, opened(workspace) as space:
        found = space.compare(left, right)
        _compared(out, found)
        out.done({"comparison": found.to_json()})


@group.command("alias")
def alias(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(help="champion, challenger, or any word.")],
    force: Annotated[bool, typer.Option("--force", help="Make it champion even if it is not better.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Give a model a name.

    A new champion must be better than the one before on the same test items.
    """
    with face(json) as out, opened(workspace) as space:
        found = space.alias(model, name, force=force)
        if found is not None:
            _compared(out, found)
        ref = space.model(model).ref
        out.say(f"{ref} is now {name}")
        out.done({"model": ref, "alias": name, "comparison": None if found is None else found.to_json()})


@group.command("card")
def card(
    model: ModelArgument,
    html: Annotated[Path | None, typer.Option(help="Write the page with pictures to this file.")] = None,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """What a model is, how good it is, and where it is not."""
    with face(json) as out, opened(workspace) as space:
        if html is not None:
            html.write_text(space.card(model), encoding="utf-8")
            out.say(f"wrote {html}")
            out.done({"model": space.model(model).ref, "html": str(html)})
            return
        text = space.card(model, form="markdown")
        out.say(text)
        out.done({"model": space.model(model).ref, "markdown": text})


@group.command("add")
def add(
    path: Annotated[Path, typer.Argument(help="An .onnx file, or a folder with config.json and model.safetensors.")],
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[str, typer.Option(help="Dataset or version to score it on.")] = "",
    task: Annotated[str, typer.Option(help="Task kind; default that of the version.")] = "",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class, in the order of the model's answer; repeat it.")
    ] = None,
    multi: Annotated[bool, typer.Option("--multi", help="An item may carry several classes.")] = False,
    size: Annotated[int, typer.Option(min=0, max=8192, help="Height and width of images; 0: as the file says.")] = 0,
    fit: Annotated[str, typer.Option(help="stretch, crop or pad.")] = "stretch",
    mean: Annotated[str, typer.Option(help="Per channel, 0..255, e.g. 123.7,116.3,103.5.")] = "0,0,0",
    std: Annotated[str, typer.Option(help="Per channel, 0..255.")] = "255,255,255",
    answers: Annotated[str, typer.Option(help="chances, logits, or auto: by trying.")] = "auto",
    output: Annotated[str, typer.Option(help="Output that holds the answer; default the one that fits.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Take in a model that was trained elsewhere.

    It is tried once, and scored where a version is given.
    """
    from loopworks.train.adopt import signature

    with face(json) as out, opened(workspace) as space:
        told = signature({
            "image_size": size,
            "fit": fit,
            "mean": mean,
            "std": std,
            "answers": answers,
            "output": output,
        })
        found = space.find_version(version) if version else ""
        model = space.register(
            path, name, task=task, version=found, classes=classes or (), is_multi=multi, signature=told
        )
        out.say(f"{model.ref}: {headline(model)}")
        for note in space.bundle(model).notes:
            out.say(f"note: {note}")
        out.done({"model": model.to_json()})


@group.command("board")
def board(model: ModelArgument, workspace: WorkspaceOption = ".", json: JsonOption = False) -> None:
    """The trials of the search that a model comes from, the best first."""
    with face(json) as out, opened(workspace) as space:
        found = space.board(model)
        show_board(out, found)
        out.done({"model": space.model(model).ref, "board": found})


def show_board(out: Out, board: Mapping[str, Any], limit: int = 20) -> None:
    """The leader board of a search."""
    rows = [
        (
            one["number"],
            one["recipe"].partition(".")[2],
            "-" if one["value"] is None else f"{one['value']:.4f}",
            one["state"],
            f"{one['seconds']:.1f}",
            one["note"] or ", ".join(f"{name}={_short(value)}" for name, value in one["params"].items()) or "defaults",
        )
        for one in board["trials"][:limit]
    ]
    columns = ("trial", "recipe", f"{board['headline']} val", "ended", "s", "parameters")
    out.table(columns, rows, title=f"search: trial {board['best']} of {len(board['trials'])} is the best on val")


@group.command("front")
def front(
    model: ModelArgument,
    host: Annotated[str, typer.Option("--on", help="Another machine, recorded by optimize --on FILE.")] = "",
    svg: Annotated[Path | None, typer.Option(help="Write the picture to this file.")] = None,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """What each variant of a model is worth, and which of them no other one beats."""
    from loopworks.optimize.front import svg as draw

    with face(json) as out, opened(workspace) as space:
        found = space.front(model, host=host)
        show_front(out, found, space.model(model).ref)
        if svg is not None:
            svg.write_text(draw(found) + "\n", encoding="utf-8")
            out.say(f"wrote {svg}")
        out.done({"front": found})


def show_front(out: Out, found: Mapping[str, Any], title: str) -> None:
    """The front as a table."""
    headline, machine = found["headline"], found["machine"]
    columns = ("variant", f"{headline} val", "test", "p50 / p99 ms", "items/s (batch)", "size", "memory", "start s", "")
    where = f" on {found['host']}" if found["host"] else ""
    out.table(columns, [_front_row(row) for row in found["variants"]], title=f"{title}{where}")
    for row in found["variants"]:  # below the table, where a long line does not squeeze its columns
        if row["note"]:
            out.say(f"{row['name']} {'refused: ' if row['is_refused'] else ''}{row['note']}")
    facts = ", ".join(str(machine[name]) for name in ("processor", "cpu", "architecture", "os") if machine.get(name))
    out.say(f"measured on {facts}, {machine.get('cores', '?')} cores")


def _front_row(row: Mapping[str, Any]) -> tuple[object, ...]:
    from loopworks.core.units import bytes_text

    def score(name: str) -> str:
        one = row[name]
        return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" if one else "-"

    marks = [word for word, is_so in (("chosen", row["is_chosen"]), ("refused", row["is_refused"])) if is_so]
    marks += ["front"] if row["is_on_front"] else []
    is_measured = row["p50_ms"] is not None
    return (
        row["name"],
        score("val"),
        score("test"),
        f"{row['p50_ms']:.3g} / {row['p99_ms']:.3g}" if is_measured else "-",
        f"{_rate(row['per_s'])} ({row['batch'] or '?'})" if row["per_s"] else "-",
        bytes_text(row["size_bytes"]),
        bytes_text(row["memory_bytes"]) if row["memory_bytes"] else "-",
        f"{row['start_s']:.2f}" if row["start_s"] else "-",
        ", ".join(marks),
    )


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def explain(
    model: Annotated[str, typer.Argument(help="A deployment, or a model: NAME, NAME:NUMBER or NAME@ALIAS.")],
    item: Annotated[str, typer.Argument(help="An image file, a text (or a .txt file), or a row as JSON.")],
    label: Annotated[str, typer.Option(help="A class; default the one that the model gives.")] = "",
    picture: Annotated[Path | None, typer.Option(help="Write the image with the map over it to this PNG file.")] = None,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Why a model answers as it does for one item."""
    with face(json) as out, opened(workspace) as space:
        found = space.explain(model, _item(item), label=label)
        out.say(f"{found.label or 'value'}: {found.score:.4g} ({found.unit}); {found.method}")
        strongest = sorted(found.parts, key=lambda part: -abs(part["weight"]))[:20]
        rows = [(part.get("text", part.get("column", "")), f"{part['weight']:+.4f}") for part in strongest]
        if rows:
            out.table(("part", "weight"), rows)
        if picture is not None:
            if not found.picture:
                raise Invalid("--picture", "given for an image", model, "texts and rows have no picture")
            picture.write_bytes(found.picture)
            out.say(f"wrote {picture}")
        out.done({"reasons": found.to_json()})


def _item(text: str) -> Any:
    import json

    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return text  # a text that begins with a brace
    return Path(text) if text.endswith(".txt") and Path(text).is_file() else text


def headline(model: "Model") -> str:
    """The score that a model's task kind is judged by, on test where there is one."""
    scores = model.metrics.get("test") or model.metrics.get("val") or {}
    name = headline_of(model)
    return f"{name} {scores[name]['value']:.3f}" if name in scores else "-"


def headline_of(model: "Model") -> str:
    """Name of the metric that a model's task kind is judged by."""
    return str(plugins.get(f"task.{model.task}").headline)


def _compared(out: Out, found: "Comparison") -> None:
    rows = [
        (
            name,
            f"{one.left.value:.4f}",
            f"{one.right.value:.4f}",
            f"{one.difference.value:+.4f} [{one.difference.low:+.4f}, {one.difference.high:+.4f}]",
        )
        for name, one in found.metrics.items()
    ]
    out.table(("metric", found.left, found.right, "difference"), rows)
    out.say(found.sentence())
    for note in found.notes:
        out.say(f"note: {note}")
