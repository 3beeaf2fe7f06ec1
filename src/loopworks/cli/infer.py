"""``loopworks serve``, ``predict`` and ``lineage``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened
from loopworks.core.errors import Invalid
from loopworks.infer.chains import flat


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.command("serve")(serve)
    app.command("predict")(predict)
    app.command("lineage")(lineage)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; another than loopback needs a token.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the inference protocol over gRPC; 0 opens none.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Secret that clients must send.", envvar="LOOPWORKS_TOKEN")] = None,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Answer requests over HTTP, and over gRPC where it has a port.

    Open Inference Protocol v2, plain predictions, and the workspace.
    """
    import loopworks
    from loopworks.server.run import serve as run

    with face(json) as out, loopworks.open(workspace, create=False, token=token) as space:

        def ready(url: str) -> None:
            chosen = space.settings.grpc_port if grpc_port is None else grpc_port
            more = f", gRPC on port {chosen}" if chosen else ""
            out.say(f"loopworks answers on {url}{more} (Ctrl-C ends it)")
            out.done({"url": url, "deployments": [d.to_json() for d in space.deployments()]})

        run(space, host=host, port=port, grpc_port=grpc_port, ready=ready)


def predict(
    deployment: Annotated[str, typer.Argument(help="Name of the deployment.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Image or text files; CSV, TSV, JSON or Parquet with rows.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to ask about, for models of texts; repeat it.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels to show per item.")] = 3,
    draw: Annotated[str, typer.Option(help="Picture (PNG) to write, of the one image with the answer in it.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Ask a deployment in this process, without a server."""
    with face(json) as out, opened(workspace) as space:
        asked: list[str | Path] = [*(text or []), *(files or [])]
        if not asked:
            raise Invalid("what to predict", "at least one file, or --text", "nothing")
        if draw and len(asked) != 1:
            raise Invalid("--draw", "one image", f"{len(asked)} items", "draw them one by one")
        answers, problems = space.predict_many(deployment, asked)
        out.table(("item", "answer", "prediction"), [(a["name"], _said(a, top), a["id"]) for a in answers])
        if draw and answers:
            Path(draw).write_bytes(space.draw(deployment, asked[0]))
            out.say(f"drawn into {draw}")
        out.problems(problems)
        out.done({
            "deployment": deployment,
            "predictions": answers,
            "problems": [problem.to_json() for problem in problems],
        })
        if problems and not answers:
            raise typer.Exit(2)


def _further(row: Mapping[str, Any]) -> str:
    """What the next models of a chain say of it."""
    found = ", ".join(f"{one.node}: {one.label} {one.score:.3f}" for one in flat.rows(row.get("then", {})))
    return f" ({found})" if found else ""


def _said(answer: Mapping[str, Any], top: int) -> str:
    """An answer in one line: its first list with the scores, or its values."""
    facts = {key: value for key, value in answer.items() if key not in ("id", "name", "item")}
    for rows in facts.values():
        if isinstance(rows, list) and all(isinstance(row, dict) and {"label", "score"} <= row.keys() for row in rows):
            shown = ", ".join(f"{row['label']} {row['score']:.3f}{_further(row)}" for row in rows[:top]) or "-"
            chosen = facts.get("chosen", [])
            if len(chosen) == 1 and chosen[0] != rows[0]["label"]:  # the costs of mistakes spoke against the likeliest
                shown = f"{chosen[0]} by costs ({shown})"
            return shown + (f" and {len(rows) - top} more" if len(rows) > top else "")
    return ", ".join(
        f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
    )


def lineage(
    what: Annotated[
        str, typer.Argument(help="A prediction id, deployment, chain, model (NAME:NUMBER), version or dataset.")
    ],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Where something came from, back to the labels."""
    with face(json) as out, opened(workspace) as space:
        chain = space.lineage(what)
        depth, fork = 0, 0
        for place, node in enumerate(chain):
            if node.kind == "node":  # of a chain: each begins anew below it
                fork = fork or depth + 1
            depth = fork if node.kind == "node" else depth + bool(place)
            facts = ", ".join(f"{k} {v}" for k, v in node.facts.items())
            out.say(f"{'   ' * depth}{'└─ ' if depth else ''}{node.kind} {node.id}" + (f": {facts}" if facts else ""))
        out.done({"lineage": [node.to_json() for node in chain]})
