"""Who asks: tokens in memory, so that a check costs microseconds and no query."""

import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loopworks.store.tokens import digest

if TYPE_CHECKING:
    from loopworks.workspace import Workspace

_INCLUDED = {
    "predict": frozenset({"predict"}),
    "read": frozenset({"read"}),
    "write": frozenset({"predict", "read", "write"}),
    "admin": frozenset({"predict", "read", "write", "admin"}),
}


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who asks, and what they may."""

    id: str
    name: str
    scopes: frozenset[str]
    deployments: frozenset[str] = frozenset()
    """The only ones that they may ask; empty is all."""
    until: float = float("inf")
    """When the token ends, in seconds since 1970."""


ANYONE = Who("", "", _INCLUDED["admin"])
"""Whoever asks a server on this machine that has no tokens."""


class Tokens:
    """The tokens of a workspace as they were at the last look."""

    def __init__(self, space: "Workspace", secret: str = "") -> None:
        """Look for the first time; ``secret`` is the setting ``token``, which may do everything."""
        self._space = space
        self._secret = secret.encode()
        self._owner = Who("setting", "token", _INCLUDED["admin"])
        self._found: dict[str, Who] = {}
        self._used: dict[str, float] = {}
        self.refresh()

    @property
    def are_needed(self) -> bool:
        """Whether there is any token, be it an expired one: then nothing is answered without."""
        return bool(self._secret or self._found)

    def refresh(self) -> None:
        """Look for what other processes added and revoked."""
        self._found = {
            token.digest: Who(
                token.id,
                token.name,
                frozenset().union(*(_INCLUDED[scope] for scope in token.scopes)),
                frozenset(token.deployments),
                token.expires_at.timestamp() if token.expires_at else float("inf"),
            )
            for token in self._space.tokens()
        }

    def who(self, given: str) -> Who | None:
        """Whose token this is; ``None`` where it is nobody's, or has expired.

        Tokens are found by their digest: how long that takes tells nothing about them.
        """
        if self._secret and hmac.compare_digest(given.encode(), self._secret):
            return self._owner
        found = self._found.get(digest(given))
        now = time.time()
        if found is None or now >= found.until:
            return None
        self._used[found.id] = now
        return found

    def write(self) -> None:
        """Note in the catalog when tokens were used since the last time."""
        if self._used:
            used, self._used = self._used, {}
            self._space.used_tokens({id: datetime.fromtimestamp(moment, UTC) for id, moment in used.items()})
