"""``loopworks token``: who may ask the server."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from loopworks.cli.output import JsonOption, WorkspaceOption, face, opened

group = typer.Typer(help="API tokens of the server: add, list, revoke.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Hang the commands under ``app``."""
    app.add_typer(group, name="token")


@group.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[list[str] | None, typer.Option(help="predict (default), read, write or admin; repeat it.")] = None,
    deployment: Annotated[
        list[str] | None, typer.Option(help="With scope predict alone: the only deployment it may ask; repeat it.")
    ] = None,
    expires: Annotated[str, typer.Option(help="After how long it ends, e.g. 90d; default never.")] = "",
    author: Annotated[str, typer.Option(help="Who makes it.")] = "",
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """Make an API token and show it, this once; from the first one on the server answers nobody without."""
    with face(json) as out, opened(workspace) as space:
        made = space.add_token(
            name, scope or ["predict"], deployments=deployment or [], expires=expires or None, author=author
        )
        until = f", until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else ""
        out.say(f"token {made.name} ({', '.join(made.scopes)}{until}); it is not shown again:")
        out.say(made.text)
        out.done({"token": made.to_json()})


@group.command("list")
def ls(
    revoked: Annotated[bool, typer.Option("--revoked", help="Those that were revoked, too.")] = False,
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """List the tokens, without themselves."""
    with face(json) as out, opened(workspace) as space:
        found = space.tokens(revoked=revoked)
        rows = [
            (
                token.name,
                ", ".join(token.scopes) + (f" of {', '.join(token.deployments)}" if token.deployments else ""),
                _day(token.expires_at) or "never",
                _day(token.used_at) or "never",
                "revoked" if token.revoked_at else "expired" if _is_past(token.expires_at) else "",
            )
            for token in found
        ]
        out.table(("token", "scopes", "ends", "last used", ""), rows)
        out.done({"tokens": [token.to_json() for token in found]})


@group.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the token.")],
    workspace: WorkspaceOption = ".",
    json: JsonOption = False,
) -> None:
    """End a token; running servers refuse it within a second."""
    with face(json) as out, opened(workspace) as space:
        done = space.revoke_token(name)
        out.say(f"token {done.name} is revoked")
        out.done({"token": done.to_json()})


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


def _is_past(moment: datetime | None) -> bool:
    return moment is not None and moment < datetime.now(UTC)
