"""Who may ask over HTTP and gRPC: the tokens of a workspace; ``Workspace`` has these methods."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from loopworks.core.units import seconds
from loopworks.store import asked, tokens
from loopworks.store.home import Home
from loopworks.store.ids import now
from loopworks.store.tokens import Token


class Access:
    """Tokens of a workspace; ``Workspace`` is one."""

    home: Home

    def add_token(
        self,
        name: str,
        scopes: Sequence[str] = ("predict",),
        *,
        deployments: Sequence[str] = (),
        expires: str | float | None = None,
        author: str = "",
    ) -> Token:
        """Make an API token; its ``text`` is shown this once. From the first one on the server answers nobody without.

        Args:
            name: whose it is; one token in use has it.
            scopes: some of predict, read, write (with these two) and admin (with all).
            deployments: with the scope predict alone, the only ones that it may ask.
            expires: after how long, e.g. ``"90d"`` or seconds; default never.
            author: who made it.
        """
        until = None if expires is None else now() + timedelta(seconds=seconds(expires, "expires"))
        with self.home.catalog.begin() as tx:
            return tokens.add(tx, name, scopes=scopes, deployments=deployments, expires_at=until, author=author)

    def tokens(self, *, revoked: bool = False) -> list[Token]:
        """The tokens in use, expired ones too; ``revoked`` adds those."""
        with self.home.catalog.read() as tx:
            return tokens.every(tx, revoked=revoked)

    def revoke_token(self, name: str) -> Token:
        """End a token by its name or id; running servers refuse it within a second."""
        with self.home.catalog.begin() as tx:
            return tokens.revoke(tx, name)

    def used_tokens(self, moments: Mapping[str, datetime]) -> None:
        """Note when tokens, by id, were last used; servers call it."""
        with self.home.catalog.begin() as tx:
            tokens.used(tx, moments)

    def asked(self, day: str, more: Mapping[tuple[str, str], int] | None = None) -> dict[tuple[str, str], int]:
        """Requests of a day (of UTC, YYYY-MM-DD) where a quota counts them; servers add theirs.

        Args:
            day: the day.
            more: what to add.
        Returns: (deployment, id of a token or empty for all callers) -> requests.
        """
        if more:
            with self.home.catalog.begin() as tx:
                asked.add(tx, day, more)
        with self.home.catalog.read() as tx:
            return asked.counts(tx, day)
