"""What an ``add`` of rows tells: counts, problems, and columns that are new or have another type now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loopworks.core.values import Problem
from loopworks.data.intake import AddReport
from loopworks.data.tables.census import Census
from loopworks.data.tables.intake import Session, place_of
from loopworks.data.tables.merge import Outcome
from loopworks.data.tables.schema import Column
from loopworks.store.segments import State


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """What an ``add`` did."""

    added: int = 0
    known: int = 0
    """Rows that were there already."""
    changed: int = 0
    """Rows whose id was there with other cells; they are replaced."""
    rows: int = 0
    """Rows of the table now."""
    left_out: int = 0
    """Rows that could not be read; ``problems`` says why (the first thousand of them)."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """Columns that are new, and columns whose type changed, with the first row that did it."""

    def as_items(self) -> AddReport:
        """As the report of ``Dataset.add``."""
        return AddReport(
            added=self.added,
            known=self.known,
            labeled=0,
            relabeled=self.changed,
            classes=(),
            formats=("table",),
            problems=self.problems,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "added": self.added,
            "known": self.known,
            "changed": self.changed,
            "rows": self.rows,
            "left_out": self.left_out,
            "problems": [problem.to_json() for problem in self.problems],
            "notes": list(self.notes),
        }


def report_of(session: Session, done: Outcome, before: State, after: State, first: int) -> TableReport:
    """The report of one import, from the states before and after it."""
    from loopworks.data.tables.table import schema_of

    notes = []
    old = {column.name: column for column in schema_of(before).columns}
    body = after.body
    for column in schema_of(after).columns:
        earlier = old.get(column.name)
        if earlier is None:
            if before.rows:
                notes.append(f"column {column.name!r} is new; rows from before have none")
            if any(note.startswith("mixed") for note in column.notes):
                notes.append(f"column {column.name!r}: {_mixed_note(column)}{_first_at(session, body, column, first)}")
        elif earlier.type not in (column.type, "empty"):
            at = _first_at(session, body, column, first)
            notes.append(f"column {column.name!r} was {earlier.type} and is {column.type} now{at}")
    for name in sorted(set(old) - set(session.names)):
        if done.added or done.changed:
            notes.append(f"column {name!r} is not in what was added; the new rows have none")
    if done.twice:
        notes.append(f"{done.twice} rows have an id that came twice with other cells; the last one holds")
    problems = [Problem(**problem) for problem in session.problems]
    return TableReport(
        added=done.added,
        known=done.known,
        changed=done.changed,
        rows=after.rows,
        left_out=session.left_out,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _mixed_note(column: Column) -> str:
    return next(note for note in column.notes if note.startswith("mixed"))


def _first_at(session: Session, body: Mapping[str, Any], column: Column, first: int) -> str:
    """Where the rarest kind of value of a column first came, if it came with this import."""
    told = Census.from_json(body["census"][column.name])
    fresh = {name: pair for name, pair in told.first.items() if pair[0] >= first}
    if not fresh:
        return ""
    rare = min(fresh, key=lambda name: (told.classes.get(name, 0), name))
    number, value = fresh[rare]
    return f"; first {value!r} in {place_of(session, number - first)}"
