"""The command line: one verb a stage."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from loopworks import __version__
from loopworks.cli import bundle, chain, data, deploy, infer, jobs, label, live, model, models, space, token, watch
from loopworks.cli.output import Options

ORDER = (
    "init", "data", "label", "train", "optimize", "models", "deploy", "deployments", "promote", "rollback", "undeploy",
    "chain", "bundle", "serve", "token", "predict", "score", "live", "explain", "lineage", "watch", "jobs", "worker",
    "doctor", "demo",
)  # fmt: skip


class InOrder(TyperGroup):
    """Lists the commands in the order of the loop, not of their registration."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, the loop's verbs first."""
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    name="loopworks",
    cls=InOrder,
    help="From raw data to a decision in use: data, label, train, optimize, infer - and back to data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich's help takes 0.2 s more to import than the plain one
    add_completion=False,
    epilog="Exit codes: 0 done, 1 failure, 2 wrong usage or data, 3 some left out, 130 stopped by the user.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loopworks {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Take the options that stand before the command."""
    Options.debug = debug


space.register(app)
data.register(app)
label.register(app)
model.register(app)
models.register(app)
deploy.register(app)
infer.register(app)
token.register(app)
bundle.register(app)
chain.register(app)
watch.register(app)
live.register(app)
jobs.register(app)


def main() -> None:
    """Entry point of the ``loopworks`` command."""
    app()
