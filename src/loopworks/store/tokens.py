"""Rows of API tokens. The catalog holds the SHA-256 of a token, never the token: 256 random bits need no slow hash."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.store import models, tables
from loopworks.store.ids import new_id, now

_table = tables.token
SCOPES = ("predict", "read", "write", "admin")
"""What a token may: ask models; see everything; change everything, with the two before; hand out tokens, with all."""
PREFIX = "lw_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as the catalog knows it."""

    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    deployments: tuple[str, ...]
    """With scope ``predict`` alone: the only deployments that it may ask; empty is all."""
    author: str
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    revoked_at: datetime | None
    text: str = ""
    """The token itself, once: where it was just made."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, without the digest; with ``token`` where it was just made."""
        times = {"created_at": self.created_at, "expires_at": self.expires_at, "used_at": self.used_at}
        return {
            "id": self.id,
            "name": self.name,
            "scopes": list(self.scopes),
            "deployments": list(self.deployments),
            "author": self.author,
            **{name: moment.isoformat() if moment else None for name, moment in times.items()},
            "revoked_at": self.revoked_at.isoformat() if self.revoked_at else None,
            **({"token": self.text} if self.text else {}),
        }


def digest(text: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def add(
    tx: Connection,
    name: str,
    *,
    scopes: Sequence[str],
    deployments: Sequence[str] = (),
    expires_at: datetime | None = None,
    author: str = "",
) -> Token:
    """Make a token; ``text`` of what is returned is its only copy.

    Raises:
        Invalid: the name, a scope, or deployments beside another scope than predict.
        Conflict: another token in use has this name.
    """
    if not models.NAME.fullmatch(name):
        raise Invalid("token name", "1 to 64 letters, digits, - or _", repr(name))
    if not scopes or (unknown := [scope for scope in scopes if scope not in SCOPES]):
        raise Invalid("scopes", f"some of {', '.join(SCOPES)}", ", ".join(unknown if scopes else ()) or "none")
    if deployments and tuple(scopes) != ("predict",):
        raise Invalid("deployments", "given with the scope predict alone", ", ".join(scopes))
    for deployment in deployments:
        if not models.NAME.fullmatch(deployment):
            raise Invalid("deployment name", "1 to 64 letters, digits, - or _", repr(deployment))
    if any(other.name == name for other in every(tx)):
        raise Conflict(f"a token in use must have a name of its own; got {name!r}", "revoke the other first")
    text = PREFIX + secrets.token_urlsafe(32)
    row = Token(
        id=new_id(),
        name=name,
        digest=digest(text),
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        deployments=tuple(sorted(set(deployments))),
        author=author,
        created_at=now(),
        expires_at=expires_at,
        used_at=None,
        revoked_at=None,
    )
    values = {column.name: getattr(row, column.name) for column in _table.c}
    tx.execute(insert(_table).values(values | {"scopes": list(row.scopes), "deployments": list(row.deployments)}))
    return replace(row, text=text)


def every(tx: Connection, *, revoked: bool = False) -> list[Token]:
    """All tokens, oldest first; the revoked ones only if asked for. Expired ones are among them."""
    query = select(_table).order_by(_table.c.id)
    if not revoked:
        query = query.where(_table.c.revoked_at.is_(None))
    rows = [dict(row._mapping) for row in tx.execute(query)]
    return [Token(**row | {key: tuple(row[key]) for key in ("scopes", "deployments")}) for row in rows]


def revoke(tx: Connection, name: str) -> Token:
    """End a token by name or id; ``NotFound`` where none in use is called so."""
    known = every(tx)
    found = next((token for token in known if name in (token.name, token.id)), None)
    if found is None:
        raise NotFound("token", name, [token.name for token in known])
    done = replace(found, revoked_at=now())
    tx.execute(update(_table).where(_table.c.id == found.id).values(revoked_at=done.revoked_at))
    return done


def used(tx: Connection, moments: Mapping[str, datetime]) -> None:
    """Note when tokens, by id, were last used."""
    for id, moment in moments.items():
        tx.execute(update(_table).where(_table.c.id == id).values(used_at=moment))
