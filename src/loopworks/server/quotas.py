"""How often deployments may be asked, together and by each token: in a second, and in a day."""

import threading
import time
from collections import Counter
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from loopworks.core.errors import TooMany
from loopworks.core.limits import Quota
from loopworks.core.settings import Settings
from loopworks.server.rates import Rate
from loopworks.server.tokens import Who

if TYPE_CHECKING:
    from loopworks.workspace import Workspace


class Quotas:
    """The quotas of a workspace's deployments. Days are those of UTC, and their counts are the catalog's.

    Several servers of a workspace count a day together, as far as ``write`` has brought their counts to each other; a
    second each counts for itself.
    """

    def __init__(self, settings: Settings) -> None:
        """The quotas that ``settings`` name; nothing is counted yet."""
        self._settings = settings
        self.names: Container[str] = ()
        """The deployments there are: other names count only where ``limits_of`` has them (as it may a chain)."""
        self.are_any = any(part != Quota() for part in (settings.quota_for(name) for name in ("", *settings.limits_of)))
        """Whether there is anything to count; where there is not, nobody needs to ask."""
        self._rates: dict[str, tuple[Quota, Rate, Rate]] = {}
        self._day = ""
        self._there: Counter[tuple[str, str]] = Counter()
        """(deployment, token) -> requests of this day that are in the catalog."""
        self._new: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def take(self, deployment: str, who: Who) -> None:
        """Count one request; ``TooMany`` says when the next one is welcome. One that is refused takes nothing."""
        if deployment not in self.names and deployment not in self._settings.limits_of:
            return
        quota, rate, rate_by_token = self._rates_of(deployment)
        keys = {(deployment, ""), (deployment, who.id)}
        is_by_day = bool(quota.per_day or quota.per_day_token)
        if is_by_day:
            with self._lock:
                self._turn()
                if who.id:
                    self._check((deployment, who.id), quota.per_day_token, f"a token may ask deployment {deployment!r}")
                self._check((deployment, ""), quota.per_day, f"deployment {deployment!r} may be asked")
                self._new.update(keys)
        try:
            if who.id:
                rate_by_token.take(who.id)
            rate.take("")
        except TooMany:
            if is_by_day:
                with self._lock:
                    self._new.subtract(keys)
            raise

    def write(self, space: "Workspace") -> None:
        """Bring what was counted to the catalog, and take over what others counted; at the start, too."""
        if not self.are_any:
            return
        with self._lock:
            self._turn()
            day, more = self._day, dict(self._new)
        there = space.asked(day, more)
        with self._lock:
            if day == self._day:
                self._there = Counter(there)
                self._new.subtract(more)
                self._new = +self._new

    def _rates_of(self, deployment: str) -> tuple[Quota, Rate, Rate]:
        found = self._rates.get(deployment)
        if found is None:
            quota, burst = self._settings.quota_for(deployment), self._settings.request_burst
            found = self._rates[deployment] = (
                quota,
                Rate(f"all callers of deployment {deployment!r}", quota.per_s, burst),
                Rate(f"a token of deployment {deployment!r}", quota.per_s_token, burst),
            )
        return found

    def _turn(self) -> None:
        """Begin anew where the day has."""
        day = datetime.fromtimestamp(time.time(), UTC).date().isoformat()
        if day != self._day:
            self._day = day
            self._there.clear()
            self._new.clear()

    def _check(self, key: tuple[str, str], most: int, what: str) -> None:
        if not most or self._there[key] + self._new[key] < most:
            return
        now = datetime.fromtimestamp(time.time(), UTC)
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        error = TooMany(f"{what} {most} times a day; got more", "the next day begins at midnight UTC")
        error.retry_after_s = max(1.0, (midnight - now).total_seconds())
        raise error
