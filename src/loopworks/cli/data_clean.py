"""``loopworks data check`` and what follows from it: findings, fix, ignore; similar items and the map."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopworks.cli.output import JsonOption, Out, ReportOption, WaitOption, WorkspaceOption, face, left, opened
from loopworks.core.errors import Invalid

if TYPE_CHECKING:
    from loopworks.store.findings import Finding

DatasetArgument = Annotated[str, typer.Argument(help="Name of the dataset.")]
FindingsArgument = Annotated[list[str], typer.Argument(help="Ids of findings, or their beginnings.")]
AuthorOption = Annotated[str, typer.Option(help="Who does it.")]
DescriptorOption = Annotated[str, typer.Option(help="auto, model, look, near, words, timm:NAME or transformers:NAME.")]


def register(group: typer.Typer) -> None:
    """Hang the commands under ``loopworks data``."""
    for name, command in (
        ("check", check),
        ("findings", findings),
        ("fix", fix),
        ("ignore", ignore),
        ("similar", similar),
        ("map", show_map),
    ):
        group.command(name)(command)


def check(
    dataset: DatasetArgument,
    only: Annotated[list[str] | None, typer.Option(help="Only this check; may be given several times.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="CHECK.PARAMETER=VALUE, e.g. dark.share=0.8.")] = None,
    report: ReportOption = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds and samples.")] = 0,
    wait: WaitOption = True,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Look for copies, leakage, broken and odd images, wrong labels and faulty boxes."""
    with face(json) as out, opened(workspace) as space:
        target, params = space.dataset(dataset), _params(set_ or ())
        if not wait:
            left(out, space.check_job(dataset, *(only or ()), params=params, seed=seed))
            return
        with out.progress(f"checking {dataset}") as update:
            found = target.clean.check(*(only or ()), params=params, seed=seed, progress=update)
        out.table(("check", "findings"), list(found.counts.items()))
        _table(out, found.findings[:20])
        if len(found.findings) > 20:
            out.say(f"... and {len(found.findings) - 20} more; loopworks data findings {dataset} shows them")
        out.say(f"{len(found.findings)} findings in {found.items} items, {found.ignored} ignored")
        if report:
            out.say(f"{target.clean.report(report)} findings with pictures in {report}")
        out.done(found.to_json())


def findings(
    dataset: DatasetArgument,
    finding: Annotated[str, typer.Argument(help="Only the finding with this id, or its beginning.")] = "",
    state: Annotated[str, typer.Option(help="open, fixed, ignored or all.")] = "open",
    kind: Annotated[str, typer.Option(help="Only those of this check.")] = "",
    report: ReportOption = "",
    limit: Annotated[int, typer.Option(min=1, help="Findings to show.")] = 100,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List what checks found, by kind, the worst first."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        if finding:
            one = target.clean.finding(finding)
            _table(out, [one])
            out.done({"dataset": dataset, "findings": [one.to_json()]})
            return
        found = target.clean.findings(state=state, kind=kind)
        _table(out, found[:limit])
        out.say(f"{min(limit, len(found))} of {len(found)} findings")
        if report:
            out.say(f"{target.clean.report(report, state=state, kind=kind)} findings with pictures in {report}")
        out.done({"dataset": dataset, "findings": [one.to_json() for one in found[:limit]], "count": len(found)})


def fix(
    dataset: DatasetArgument,
    finding: FindingsArgument,
    author: AuthorOption = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Put right what findings say; each fix is an operation that ``data undo`` takes back."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        done = []
        for one in finding:
            fixed = target.clean.fix(one, author=author)
            done.append(fixed)
            undo = f"; undo: loopworks data undo {dataset} {fixed.op[:18]}" if fixed.op else "; nothing was left to do"
            out.say(f"{fixed.id[:12]} fixed ({fixed.action}){undo}")
        out.done({"dataset": dataset, "findings": [one.to_json() for one in done]})


def ignore(
    dataset: DatasetArgument,
    finding: FindingsArgument,
    reopen: Annotated[bool, typer.Option("--reopen", help="Open ignored findings again.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Wave findings through: later checks leave them ignored."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        done = [target.clean.ignore(one, is_ignored=not reopen) for one in finding]
        out.say(f"{len(done)} findings {'open again' if reopen else 'ignored'}")
        out.done({"dataset": dataset, "findings": [one.to_json() for one in done]})


def similar(
    dataset: DatasetArgument,
    item: Annotated[str, typer.Argument(help="Id, its beginning, or name of an item.")] = "",
    image: Annotated[str, typer.Option(help="An image file to look for instead.")] = "",
    text: Annotated[str, typer.Option(help="A text to look for instead, in a dataset of texts.")] = "",
    count: Annotated[int, typer.Option("-k", min=1, help="Items to show.")] = 10,
    descriptor: DescriptorOption = "auto",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """The items most like an item, an image or a text; says what they were compared by."""
    with face(json) as out, opened(workspace) as space:
        target = space.dataset(dataset)
        found = target.similar(item, image=image or None, text=text, k=count, descriptor=descriptor)
        out.table(("item", "name", "likeness"), [(hit.item[:12], hit.name, hit.score) for hit in found.hits])
        out.say(f"compared by {found.descriptor}")
        out.done({"dataset": dataset, **found.to_json()})


def show_map(
    dataset: DatasetArgument,
    descriptor: DescriptorOption = "auto",
    limit: Annotated[int, typer.Option(min=1, help="At most so many items.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another map.")] = 0,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Places of the items on a plane, alike ones together; --json gives them all."""
    with face(json) as out, opened(workspace) as space:
        found = space.dataset(dataset).map(descriptor=descriptor, limit=limit, seed=seed)
        out.table(("item", "name", "x", "y"), [(s.item[:12], s.name, s.x, s.y) for s in found.spots[:20]])
        out.say(f"{len(found.spots)} items laid out by {found.descriptor}")
        out.done({"dataset": dataset, **found.to_json()})


def _table(out: Out, found: "Sequence[Finding]") -> None:
    rows = [(one.id[:12], one.kind, one.state, one.action, one.message) for one in found]
    out.table(("finding", "check", "state", "fix", "what"), rows)


def _params(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, is_set, value = text.partition("=")
        check, is_named, parameter = name.partition(".")
        if not is_set or not is_named:
            raise Invalid("--set", "CHECK.PARAMETER=VALUE", text, "for example dark.share=0.8")
        found.setdefault(check, {})[parameter] = value
    return found
