"""``loopworks train`` and ``optimize``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopworks.cli.models import ModelArgument, headline_of, show_board, show_front
from loopworks.cli.output import JsonOption, Out, WaitOption, WorkspaceOption, face, left, opened
from loopworks.core.errors import Invalid
from loopworks.core.units import bytes_text

if TYPE_CHECKING:
    from loopworks.workspace import Model


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.command("train")(train)
    app.command("optimize")(optimize)


def train(
    dataset: Annotated[str, typer.Argument(help="Dataset (freezes it first) or the id of a frozen version.")] = "",
    budget: Annotated[str, typer.Option(help="Time that training may take, e.g. 90s or 5m.")] = "",
    recipe: Annotated[str, typer.Option(help="auto, or a recipe such as small-cnn or timm.")] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of the recipe, e.g. --set epochs=20.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model; default the dataset's.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same model.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of a Ray cluster that train one network together.")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Search for recipe and parameters; val alone decides.")
    ] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials of the search.")] = None,
    money: Annotated[float | None, typer.Option(help="What the search may cost; see price_per_hour.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Search for the best model that answers one item in so many ms here.")
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0, max=1, help="What its quick form may lose against fp32.")] = 0.01,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes and the task kinds they learn.")] = False,
    wait: WaitOption = True,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Train a model on a frozen version.

    The test set is only looked at, never learnt from or chosen by.
    """
    if listed:
        _list(json)
        return
    with face(json) as out, opened(workspace) as space:
        if not dataset:
            raise Invalid("dataset", "the name of a dataset or the id of a version", "nothing", "loopworks data ls")
        version = space.find_version(dataset)
        params = _params(settings or [])
        if search or recipe == "search" or any(one is not None for one in (trials, money, latency_ms)):
            job = space.search_job(
                version,
                budget=budget or None,
                trials=trials,
                money=money,
                latency_ms=latency_ms,
                max_drop=max_drop,
                recipes=[] if recipe in ("auto", "search") else [recipe],
                params=params,
                name=name,
                seed=seed,
            )
            if not wait:
                left(out, job)
                return
            with out.job(f"searching on {version.id[:12]}") as follow:
                model = space.result(job, follow)
            show_board(out, space.board(model))
            _show(out, space.bundle(model), model)
            return
        if not wait:
            job = space.train_job(
                version, recipe=recipe, params=params, budget=budget or None, name=name, seed=seed, workers=workers
            )
            left(out, job)
            return
        with out.job(f"training on {version.id[:12]}") as follow:
            model = space.train(
                version,
                recipe=recipe,
                params=params,
                budget=budget or None,
                name=name,
                seed=seed,
                workers=workers,
                on_progress=follow,
            )
        _show(out, space.bundle(model), model)


def optimize(
    model: ModelArgument,
    max_drop: Annotated[float, typer.Option(min=0, max=1, help="Accuracy that may be lost, e.g. 0.01.")] = 0.01,
    target: Annotated[str, typer.Option(help="latency, throughput or size.")] = "latency",
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="Only these, e.g. onnx-int8; default all.")
    ] = None,
    asked: Annotated[
        list[str] | None, typer.Option("--with", help="Also these, which train: pruned, distilled.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Time that each of those may train, e.g. 2m.")] = "",
    on: Annotated[Path | None, typer.Option(help="Measure nothing; take over this file of another machine.")] = None,
    wait: WaitOption = True,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Make a model smaller and faster.

    Every form is measured on this machine; the choice is made by the validation split alone.
    """
    with face(json) as out, opened(workspace) as space:
        if on is not None:
            from loopworks.optimize.hosts import read

            told, made = read(on), space.record(model, on, target=target)
            found = space.front(made, host=told.host)
            show_front(out, found, made.ref)
            out.done({"model": made.to_json(), "front": found})
            return
        how: dict[str, Any] = {"max_drop": max_drop, "target": target, "variants": variants}
        how |= {"asked": [part for one in asked or () for part in one.split(",")], "budget": budget or None}
        if not wait:
            left(out, space.optimize_job(model, **how))
            return
        with out.job(f"optimizing {model}") as follow:
            best = space.optimize(model, **how, on_progress=follow)
        bundle = space.bundle(best)
        show_front(out, space.front(best), f"{best.ref} ({bundle.recipe}, on version {bundle.version[:12]})")
        for note in bundle.notes:
            out.say(f"note: {note}")
        out.done({"model": best.to_json(), "bundle": bundle.to_json()})


def _list(json: bool) -> None:
    from loopworks.train.recipes import recipes

    with face(json) as out:
        found = recipes()
        rows = [(one["name"], ", ".join(one["tasks"]), one["about"]) for one in found]
        out.table(("recipe", "learns", ""), rows)
        out.done({"recipes": found})


def _show(out: Out, bundle: Any, model: "Model") -> None:
    headline = headline_of(model)
    out.table(
        ("variant", f"{headline} val", f"{headline} test", "p50 ms", "items/s", "size", ""),
        [_variant_row(v, headline, bundle.chosen) for v in bundle.variants],
        title=f"{model.ref} ({bundle.recipe}, on version {bundle.version[:12]})",
    )
    for note in bundle.notes:
        out.say(f"note: {note}")
    out.done({"model": model.to_json(), "bundle": bundle.to_json()})


def _variant_row(variant: Any, headline: str, chosen: str) -> tuple[object, ...]:
    def score(split: str) -> str:
        found = variant.metrics.get(split, {}).get(headline)
        return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else "-"

    mark = "chosen" if variant.name == chosen else "refused" if variant.is_refused else ""
    return (
        variant.name,
        score("val"),
        score("test"),
        variant.latency_ms.get("p50", "-"),
        round(variant.throughput_per_s) if variant.throughput_per_s else "-",
        bytes_text(variant.size_bytes),
        f"{mark} {variant.note}".strip(),
    )


def _params(pairs: Sequence[str]) -> dict[str, Any]:
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Invalid("--set", "NAME=VALUE", pair)
        try:
            found[name.strip()] = json.loads(text)
        except ValueError:
            found[name.strip()] = text  # a plain word needs no quotes
    return found
