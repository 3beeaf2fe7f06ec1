"""The rows of a tabular dataset: add, look, choose, profile, split, freeze, export. What ``dataset.table`` gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.values import LabelSchema
from loopworks.data.tables import merge, schema, segments
from loopworks.data.tables.addition import TableReport, report_of
from loopworks.data.tables.census import Census
from loopworks.data.tables.intake import Intake, Options, Progress, Session, find
from loopworks.data.tables.schema import Column
from loopworks.store import datasets, events
from loopworks.store import segments as rows
from loopworks.store.home import Home
from loopworks.store.segments import Segment, State

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.pages import Page
    from loopworks.data.tables.profile import Profile
    from loopworks.data.tables.version import TableDiff, TableVersion

TRIES = 5
MOST_CLASSES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The columns as they are now, and what was chosen."""

    columns: tuple[Column, ...]
    rows: int
    target: str = ""
    id: str = ""
    time: str = ""

    def column(self, name: str) -> Column:
        """A column by its name; ``NotFound`` lists those that exist."""
        for column in self.columns:
            if column.name == name:
                return column
        raise NotFound("column", name, [column.name for column in self.columns])

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "rows": self.rows,
            "target": self.target,
            "id": self.id,
            "time": self.time,
            "columns": [column.to_json() for column in self.columns],
        }


@dataclass(frozen=True, slots=True)
class Live:
    """A table at one state."""

    state: State
    segments: Sequence[Segment] = field(default_factory=tuple)

    @property
    def names(self) -> list[str]:
        """The columns, in the order they came."""
        return list(self.state.body.get("names", []))


class Table:
    """The rows of one dataset; every change makes a new state, and the one before can be brought back."""

    def __init__(self, home: Home, dataset: str, name: str, task: str) -> None:
        """The table of the dataset with this id, name and task kind; use ``Dataset.table``."""
        self._home, self._dataset, self._name, self._task = home, dataset, name, task

    # ---- what it is

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._state().rows

    @property
    def schema(self) -> Schema:
        """Columns with their types, and the columns chosen as target, id and time."""
        return schema_of(self._state())

    def add(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        delimiter: str = "",
        quote: str = "",
        encoding: str = "",
        header: bool | None = None,
        author: str = "",
        progress: Progress | None = None,
    ) -> TableReport:
        """Add the rows of CSV, TSV, Parquet and JSON lines files; what cannot be read is listed, the rest is kept.

        Nothing is seen before all of it is there. Adding the same again adds nothing; a killed import is continued by
        running it again; a file that has grown adds its new rows.

        Args:
            source: files, folders or patterns.
            delimiter: of delimited text; empty: find out.
            quote: of delimited text; empty: find out.
            encoding: of text; empty: find out.
            header: whether the first line names the columns; ``None``: find out.
            author: who does it.
            progress: takes the bytes done and of all, while reading.
        Raises:
            NotFound: a path does not exist.
            Invalid: no table file there, or no row that could be read.
            NoSpace: the disk is full; the table is as it was.
            Busy: another process adds the same files now.
        """
        options = Options(delimiter=delimiter, quote=quote, encoding=encoding, header=header)
        before = self._state()
        intake = Intake(self._home, self._dataset, before, find(source), options)
        is_done = False
        try:
            session = intake.read(progress)
            if not session.rows and not before.rows:
                first = session.problems[0]["message"] if session.problems else "no row"
                raise Invalid(str(source), "a table with a row that can be read", first)
            report = self._merged(intake, session, author)
            is_done = True
        finally:
            intake.spool.close(is_done=is_done)
        return report

    def choose(
        self,
        *,
        target: str | None = None,
        id: str | None = None,
        time: str | None = None,
        types: Mapping[str, str] | None = None,
        author: str = "",
    ) -> Schema:
        """Choose what the columns are for; ``None`` leaves a choice as it is, an empty text takes it back.

        Args:
            target: what models learn; for classification its values become the dataset's classes.
            id: says who a row is; it must have a value in each row, and each value once.
            time: when a row's prediction was due; columns that are known only later leak.
            types: column -> type, where the one found is not what is meant (empty: found out again).
            author: who does it.
        Raises:
            NotFound: no such column.
            Invalid: a type that does not exist, an id that is missing or comes twice, a target that cannot be one.
        """
        from loopworks.data.tables import choice

        return choice.choose(self, target=target, id=id, time=time, types=types, author=author)

    def counts(self) -> dict[str, Any]:
        """``items``, ``labeled`` (rows with a target), ``unlabeled``, ``by_split``, ``by_class``."""
        from loopworks.data.tables import pages

        return pages.counts(self)

    def find(self, query: str = "", *, sort: str = "", limit: int = 100, offset: int = 0) -> "Page":
        """Rows that fulfil a query (docs/query.md), such as ``age > 30 and target = 'yes'``; ``-`` sorts downwards."""
        return self.page(
            query=query, sort=sort.removeprefix("-"), descending=sort.startswith("-"), limit=limit, offset=offset
        )

    def page(
        self,
        *,
        query: str = "",
        where: "Callable[[pa.Table], Any] | None" = None,
        sort: str = "",
        descending: bool = False,
        split: str | None = None,
        limit: int = 100,
        offset: int = 0,
        columns: Sequence[str] | None = None,
    ) -> "Page":
        """Rows, a page at a time, with their number; see ``pages.page``."""
        from loopworks.data.tables import pages

        return pages.page(
            self,
            query=query,
            where=where,
            sort=sort,
            descending=descending,
            split=split,
            limit=limit,
            offset=offset,
            columns=columns,
        )

    def profile(self, *, progress: Callable[[float], None] | None = None) -> "Profile":
        """What the columns hold, and what is suspicious about them; see ``profile.profile``."""
        from loopworks.data.tables import profile

        return profile.profile(self, progress)

    def delete(self, ids: Sequence[str], *, author: str = "") -> int:
        """Delete rows by their ids; gives their number. ``undo`` brings them back.

        Raises: NotFound: no such row; nothing is deleted.
        """
        from loopworks.data.tables import choice

        return choice.delete(self, ids, author=author)

    def undo(self, *, author: str = "") -> str:
        """Take the last change back, whatever it was; gives what it was. A second ``undo`` takes the undo back.

        Raises: Conflict: there is nothing to take back.
        """
        live = self.live(with_stats=True)
        if live.state.clock == 0:
            raise Conflict("the table must have a change to take back; got none")
        earlier = self.live(live.state.clock - 1, with_stats=True)
        after = replace(earlier.state, clock=live.state.clock + 1, op="undo", author=author)
        self.commit(live, after, [s.number for s in live.segments], earlier.segments, author)
        return live.state.op

    def split(
        self,
        test: float = 0.2,
        val: float = 0.1,
        *,
        by: str = "",
        time: str = "",
        seed: int = 0,
        author: str = "",
    ) -> dict[str, int]:
        """Put the rows that have no split yet into train, val and test; see ``splitting.split``."""
        from loopworks.data.tables import splitting

        return splitting.split(self, test, val, group=by, time=time, seed=seed, author=author)

    def freeze(self, message: str = "", *, author: str = "", seed: int = 0) -> "TableVersion":
        """Keep the rows as they are now, for ever; rows without a split are split first. Same rows, same id.

        Raises: Invalid: no rows, or no target chosen.
        """
        from loopworks.data.tables import version

        return version.freeze(self, message, author=author, seed=seed)

    def versions(self) -> "list[TableVersion]":
        """All frozen versions, oldest first."""
        from loopworks.data.tables import version

        return version.every(self)

    def diff(self, old: str, new: str) -> "TableDiff":
        """What changed between two versions, by id or its beginning."""
        from loopworks.data.tables import version

        return version.diff(self, old, new)

    def export(self, path: str | Path, *, version: str = "", split: str | None = None) -> int:
        """Write the rows, in the order of import, as the name's ending says; gives their number. See ``export.py``."""
        from loopworks.data.tables import export

        return export.export(self, Path(path), version=version, split=split)

    def states(self) -> list[State]:
        """What was done, newest first."""
        with self._home.catalog.read() as tx:
            return rows.states(tx, self._dataset)

    # ---- for the modules beside this one

    @property
    def home(self) -> Home:
        """The workspace."""
        return self._home

    @property
    def dataset(self) -> str:
        """Id of the dataset."""
        return self._dataset

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self._name

    @property
    def task(self) -> str:
        """Name of the task kind."""
        return self._task

    def live(self, clock: int | None = None, *, with_stats: bool = False) -> Live:
        """The state of now or at ``clock``, with its segments."""
        with self._home.catalog.read() as tx:
            state = rows.state(tx, self._dataset, clock)
            return Live(state, tuple(rows.at(tx, self._dataset, state.clock, with_stats=with_stats)))

    def scan(self, live: Live, columns: Sequence[str] | None = None) -> "Iterator[pa.Table]":
        """The rows as text cells, a segment at a time."""
        return segments.scan(self._home.blobs, live.segments, columns)

    def commit(
        self,
        before: Live,
        after: State,
        gone: Sequence[int],
        fresh: Sequence[Segment],
        author: str,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Make ``after`` the table's state; its census is added up from the segments."""
        kept = [segment for segment in before.segments if segment.number not in set(gone)]
        live = [*kept, *fresh]
        after = replace(after, rows=sum(s.rows for s in live), body={**after.body, **_summed(live, after.body)})
        with self._home.catalog.begin() as tx:
            rows.advance(tx, self._dataset, before.state.clock, after, gone, fresh)
            said = {"state": after.clock, "rows": after.rows}
            logged = events.make(
                f"table.{after.op}",
                dataset=self._dataset,
                author=author,
                before={"state": before.state.clock, "rows": before.state.rows},
                after=said,
            )
            events.add(tx, [logged])
            if classes is not None:
                datasets.set_classes(tx, self._dataset, classes)

    def _state(self) -> State:
        with self._home.catalog.read() as tx:
            return rows.state(tx, self._dataset)

    def _merged(self, intake: Intake, session: Session, author: str) -> TableReport:
        has_id = bool(self._state().body.get("id"))
        if not has_id:
            merge.spread_equal_rows(intake.spool)
        for attempt in range(TRIES):
            live = self.live(with_stats=True)
            body = dict(live.state.body)
            if bool(body.get("id")) != has_id:
                raise Conflict("the id column must stay while rows are added; got another choice", "add them again")
            first = int(body.get("next", 0))
            old_names = list(body.get("names", []))
            names = old_names + [name for name in session.names if name not in old_names]
            with self._home.blobs.writer() as writer:
                done = merge.merge(
                    self._home.blobs,
                    writer,
                    intake.spool,
                    live.segments,
                    live.state.digits,
                    names,
                    has_id=has_id,
                    first_order=first,
                    spooled=session.rows,
                )
            fresh, gone, digits = done.fresh, done.gone, done.digits
            if segments.digits_for(done.rows) != digits and (done.added or done.changed):
                kept = [s for s in live.segments if s.number not in set(gone)]
                with self._home.blobs.writer() as writer:
                    wanted = segments.digits_for(done.rows)
                    fresh = merge.recut(self._home.blobs, writer, [*kept, *fresh], digits, wanted)
                gone, digits = [s.number for s in live.segments], wanted
            if not done.added and not done.changed and names == old_names:
                return report_of(session, done, live.state, live.state, first)
            body |= {
                "names": names,
                "next": first + session.rows,
                "declared": {**body.get("declared", {}), **session.declared},
                "dialect": body.get("dialect") or session.dialect,
            }
            after = State(clock=live.state.clock + 1, digits=digits, rows=done.rows, body=body, op="add", author=author)
            try:
                self.commit(live, after, gone, fresh, author, self._more_classes(live.state, fresh))
            except Conflict:
                if attempt == TRIES - 1:
                    raise
                continue
            return report_of(session, done, live.state, self._state(), first)
        raise Conflict("the table must hold still for an import; got changes all the time", "try again")

    def _more_classes(self, state: State, fresh: Sequence[Segment]) -> list[str] | None:
        """The dataset's classes with those that the new rows bring."""
        target = state.body.get("target")
        if not target or self._task != "tabular-classification":
            return None
        from loopworks.data.tables import choice

        found = choice.class_names(self, fresh, schema_of(state).column(target))
        with self._home.catalog.read() as tx:
            known = datasets.by_id(tx, self._dataset).schema
        more = sorted(found - set(known.classes))
        return list(replace_classes(known, more).classes) if more else None


def replace_classes(known: LabelSchema, more: Sequence[str]) -> LabelSchema:
    """The schema with more classes behind those that are there."""
    return LabelSchema(classes=(*known.classes, *more), is_multi=known.is_multi)


def schema_of(state: State) -> Schema:
    """The columns of a state."""
    body = state.body
    is_semicolon = body.get("dialect", {}).get("delimiter") == ";"
    columns = tuple(
        schema.resolve(
            name,
            Census.from_json(body["census"][name]) if name in body.get("census", {}) else Census(),
            body.get("declared", {}).get(name, ""),
            body.get("types", {}).get(name, ""),
            is_semicolon,
        )
        for name in body.get("names", [])
    )
    return Schema(
        columns=columns,
        rows=state.rows,
        target=body.get("target", ""),
        id=body.get("id", ""),
        time=body.get("time", ""),
    )


def _summed(live: Sequence[Segment], body: Mapping[str, Any]) -> dict[str, Any]:
    from loopworks.data.tables import census

    found: dict[str, Any] = {}
    for name in body.get("names", []):
        parts = []
        for segment in live:
            told = segment.stats["columns"].get(name)
            parts.append(Census.from_json(told) if told else Census(rows=segment.rows, missing={"null": segment.rows}))
        found[name] = census.merge(parts).to_json()
    splits: dict[str, int] = {}
    for segment in live:
        for split, number in segment.stats["splits"].items():
            splits[split] = splits.get(split, 0) + number
    return {"census": found, "splits": dict(sorted(splits.items()))}
