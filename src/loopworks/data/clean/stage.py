"""``dataset.clean``: check, findings, fix, ignore, report."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core import params as parameters
from loopworks.core.errors import Conflict, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.data.clean import fixes
from loopworks.data.clean.contract import Check, Issue, Scene
from loopworks.data.features import compute
from loopworks.data.features.contract import Rows
from loopworks.store import changes, findings, items, operations
from loopworks.store.findings import Finding
from loopworks.store.home import Home
from loopworks.store.ids import new_id

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

Progress = Callable[[float, str], None]
PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found: all findings of the kinds looked for that are open now."""

    dataset: str
    checks: tuple[str, ...]
    items: int
    findings: tuple[Finding, ...]
    ignored: int
    """Findings that were waved through before and hold still."""
    problems: tuple[Problem, ...]
    """Items that could not be read."""

    @property
    def counts(self) -> dict[str, int]:
        """Check -> open findings, also where there are none."""
        found = Counter(one.kind for one in self.findings)
        return {name: found[name] for name in self.checks}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "dataset": self.dataset,
            "items": self.items,
            "counts": self.counts,
            "ignored": self.ignored,
            "findings": [one.to_json() for one in self.findings],
            "problems": [problem.to_json() for problem in self.problems],
        }


class Clean:
    """Checks of one dataset and what they found. Fixes are operations: ``Dataset.undo`` takes them back."""

    def __init__(self, home: Home, dataset: "Dataset") -> None:
        """``Dataset.clean`` makes these."""
        self._home = home
        self._dataset = dataset

    def check(
        self,
        *names: str,
        params: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> CheckReport:
        """Look for what is wrong and remember it as findings.

        Args:
            names: checks (``clean.NAME`` without ``clean.``); by default all that fit the dataset's kind of items.
            params: check -> its parameters, where they are not the defaults.
            seed: of what is drawn at random (folds, samples).
            progress: takes the share done in 0..1 and a short text.
        Raises:
            NotFound: no such check.
            Invalid: a parameter that the check does not take.
        """
        media = self._dataset.task.media
        checks = chosen(names, params or {}, media)
        tick = progress or (lambda share, text: None)
        scene, problems = self._scene(media, seed, tick)
        issues: list[Issue] = []
        for place, (name, check) in enumerate(checks.items()):
            tick(0.5 + 0.5 * place / len(checks), name)
            issues += check.find(scene)
        found = [_row(issue) for issue in issues]
        with self._home.catalog.begin() as tx:
            findings.replace(tx, self._dataset.id, checks, found)
            now = [one for one in findings.every(tx, self._dataset.id, state="all") if one.kind in checks]
        tick(1.0, "done")
        return CheckReport(
            dataset=self._dataset.name,
            checks=tuple(checks),
            items=len(scene.items),
            findings=tuple(one for one in now if one.state == "open"),
            ignored=sum(one.state == "ignored" for one in now),
            problems=tuple(problems.values()),
        )

    def findings(self, *, state: str = "open", kind: str = "") -> list[Finding]:
        """What checks found, by kind, the worst first.

        Args:
            state: open, fixed, ignored, or all.
            kind: only those of one check.
        Raises: Invalid: no such state.
        """
        with self._home.catalog.read() as tx:
            return findings.every(tx, self._dataset.id, state=state, kind=kind)

    def finding(self, finding: str) -> Finding:
        """A finding by its id or the beginning of it; ``NotFound`` or ``Invalid`` (several begin like that)."""
        with self._home.catalog.read() as tx:
            return findings.get(tx, self._dataset.id, finding)

    def fix(self, finding: str, *, author: str = "") -> Finding:
        """Put right what a finding says, as one operation (its ``op``) that ``Dataset.undo`` takes back.

        An item of the test set never leaves it by a fix; of copies, one in the test set is the one that stays.

        Raises:
            NotFound: no such finding.
            Invalid: it has no fix.
            Conflict: it is fixed already, or the items have changed since the check.
        """
        dataset = self._dataset.id
        schema, task = self._dataset.schema, self._dataset.task
        with self._home.catalog.begin() as tx:
            found = findings.get(tx, dataset, finding)
            if found.state == "fixed":
                hint = f"loopworks data undo {self._dataset.name} {found.op[:18]} takes it back" if found.op else ""
                raise Conflict(f"finding {found.id[:12]} must be open; got one that is fixed", hint)
            here = items.among(tx, dataset, fixes.touched(found))
            other = found.detail["facts"].get("dataset", "") if found.kind == "duplicates" else ""
            elsewhere = findings.among(tx, other, dataset) if other else {}
            wanted = fixes.plan(found, here, task, schema, author, elsewhere)
            op = new_id()
            count = changes.apply(tx, dataset, wanted, author=author, op=op)
            more = {"finding": found.id}
            operations.record(
                tx, dataset, op, "fix", count=count, author=author, reason=f"{found.kind}: {found.message}", more=more
            )
            findings.set_state(tx, found.id, "fixed", op if count else "")
            return findings.get(tx, dataset, found.id)

    def ignore(self, finding: str, *, is_ignored: bool = True) -> Finding:
        """Wave a finding through: checks find it again and leave it ignored. ``is_ignored=False`` opens it again.

        Raises:
            NotFound: no such finding.
            Conflict: it is fixed already.
        """
        with self._home.catalog.begin() as tx:
            found = findings.get(tx, self._dataset.id, finding)
            if found.state == "fixed":
                raise Conflict(f"finding {found.id[:12]} must be open; got one that is fixed")
            findings.set_state(tx, found.id, "ignored" if is_ignored else "open")
            return findings.get(tx, self._dataset.id, found.id)

    def report(self, path: str | Path, *, state: str = "open", kind: str = "", limit: int = 200) -> int:
        """Write the findings with pictures as one HTML file; gives how many are in it.

        Args:
            path: of the file.
            state: open, fixed, ignored, or all.
            kind: only those of one check.
            limit: at most so many findings of each kind, the worst first.
        """
        from loopworks.data.clean import report

        return report.write(self._home, self._dataset, self.findings(state=state, kind=kind), Path(path), limit=limit)

    def page(self, *, state: str = "open", kind: str = "", limit: int = 200) -> str:
        """The report as text: one HTML page; parameters as in ``findings`` and ``report``."""
        from loopworks.data.clean import report

        return report.page(self._home, self._dataset, self.findings(state=state, kind=kind), limit=limit)[0]

    def _scene(self, media: str, seed: int, tick: Progress) -> tuple[Scene, dict[str, Problem]]:
        everything: list[items.Item] = []
        after: str | None = None
        while page := self._dataset.items(limit=PAGE, after=after):
            everything += page
            after = page[-1].id
        problems: dict[str, Problem] = {}
        done: dict[str, Rows] = {}

        def rows(name: str) -> Rows:
            if name not in done:
                text = f"describing items ({name})"
                done[name] = compute.rows(
                    self._home,
                    plugins.get(f"feature.{name}")(),
                    everything,
                    lambda at, total: tick(0.5 * at / max(total, 1), text),
                )
                problems.update(done[name].problems)
            return done[name]

        def others() -> dict[str, dict[str, str]]:
            with self._home.catalog.read() as tx:
                return findings.shared(tx, self._dataset.id)

        scene = Scene(
            items=everything, schema=self._dataset.schema, media=media, rows=rows, others=others, tick=tick, seed=seed
        )
        return scene, problems


def chosen(names: Sequence[str], params: Mapping[str, Mapping[str, Any]], media: str) -> dict[str, Check]:
    """The checks called so, or all for a kind of items, built with their parameters; ``NotFound``, ``Invalid``."""
    known = [name.partition(".")[2] for name in plugins.names("clean")]
    for name in (*names, *params):
        if name not in known:
            raise NotFound("check", name, known)
    built = {
        name: parameters.build(plugins.get(f"clean.{name}"), params.get(name, {}), f"clean.{name}") for name in known
    }
    return {name: check for name, check in built.items() if (name in names if names else media in check.media)}


def _row(issue: Issue) -> dict[str, Any]:
    detail = {
        "message": issue.message,
        "score": round(float(issue.score), 4),
        "fix": dict(issue.fix),
        "facts": dict(issue.facts),
    }
    return {"kind": issue.kind, "items": list(issue.items), "detail": detail}
