"""Restoring a version, branching off from one, and merging back: three-way, item by item and part by part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from loopworks.core.errors import Conflict, Invalid
from loopworks.core.values import LabelSchema
from loopworks.store import annotations, changes, datasets, events, items, operations, parts
from loopworks.store.changes import PARTS, Facts
from loopworks.store.frozen import FrozenRow, Manifest
from loopworks.store.home import Home
from loopworks.store.ids import batches, new_id, now
from loopworks.store.versions import VersionRow

Rule = Literal["fail", "ours", "theirs", "newest"]
"""Which side a conflict takes: fail: none, nothing is merged; newest: the side that changed the item last."""
_NOTHING = Facts(is_here=False, labels=None, split="", tags=(), attributes={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """A part of an item that both sides changed, and not to the same."""

    item: str
    part: str
    """is_here, labels, split, tags or attributes."""
    base: Any
    ours: Any
    theirs: Any
    taken: str
    """ours or theirs; empty where the rule is to fail."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did, or would do."""

    operation: str
    """For ``undo``; empty where nothing was written."""
    base: str
    """The version that both sides had in common."""
    added: int
    changed: int
    """Items that were here, and are not as they were."""
    kept_in_test: int
    """Items that the other side has in another split, and that stay in the test set (or go there)."""
    conflicts: tuple[Clash, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "operation": self.operation,
            "base": self.base,
            "added": self.added,
            "changed": self.changed,
            "kept_in_test": self.kept_in_test,
            "conflicts": [clash.to_json() for clash in self.conflicts],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """What restoring a version did."""

    operation: str
    changed: int
    kept_in_test: int
    """Items that the version has in another split, and that stay in the test set."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"operation": self.operation, "changed": self.changed, "kept_in_test": self.kept_in_test}


def restore(home: Home, dataset: str, row: VersionRow, *, author: str) -> RestoreReport:
    """Make the live set what a version holds; see ``Dataset.restore``."""
    op, kept, count = new_id(), 0, 0
    with home.catalog.begin() as tx:
        manifest = parts.read_manifest(home.blobs, row.id)
        wanted = {found.item_id: _facts(found) for found in parts.rows(tx, home.blobs, manifest)}
        for batch in batches(items.every(tx, dataset)):
            target: dict[str, Facts] = {}
            live = items.among(tx, dataset, batch, deleted=True)
            for key, item in live.items():
                if key not in wanted:
                    # Versions hold labelled items: one that was there then had no label, one that came later goes.
                    if item.state == "labeled":
                        came_later = item.added_at > row.created_at
                        target[key] = Facts(is_here=False) if came_later else Facts(labels=None)
                    continue
                target[key] = wanted[key]
                if item.split == "test" and wanted[key]["split"] != "test":
                    target[key]["split"] = "test"
                    kept += 1
            count += changes.apply(tx, dataset, target, author=author, op=op)
        more = {"version": row.id}
        operations.record(tx, dataset, op, "restore", count=count, author=author, reason=row.id[:12], more=more)
    return RestoreReport(operation=op if count else "", changed=count, kept_in_test=kept)


def branch(home: Home, dataset: str, name: str, row: VersionRow, *, author: str) -> datasets.DatasetRow:
    """A new dataset that holds what a version holds; media are shared, not copied. See ``Dataset.branch``."""
    manifest: Manifest = parts.read_manifest(home.blobs, row.id)
    with home.catalog.begin() as tx:
        made = datasets.add(tx, name, manifest.task, manifest.schema)
        datasets.set_origin(tx, made.id, dataset, row.id)
        datasets.set_meta(tx, made.id, datasets.meta(tx, dataset))
        for batch in batches(parts.rows(tx, home.blobs, manifest), 5000):
            insert(tx, made.id, batch, author)
        clock = items.tick(tx, made.id)
        parts.set_base(tx, made.id, row.id, clock)
        after = {"name": name, "origin": dataset, "version": row.id}
        events.add(tx, [events.make("dataset.branch", dataset=made.id, author=author, after=after)])
    return made


def merge(
    home: Home, ours: str, theirs: str, *, rule: Rule, author: str, dry_run: bool, theirs_now: str = ""
) -> MergeReport:
    """Bring what was done in ``theirs`` since both began from one version into ``ours``; see ``Dataset.merge``.

    ``theirs_now`` is the version of ``theirs`` as it is, where the next merge is to begin from.
    """
    if rule not in get_args(Rule):
        raise Invalid("rule", "fail, ours, theirs or newest", rule)
    op = new_id()
    with home.catalog.begin() as tx:
        base = _base(tx, ours, theirs)
        rows = parts.rows(tx, home.blobs, parts.read_manifest(home.blobs, base))
        then = {row.item_id: _facts(row) for row in rows}
        here, there = (changes.read(tx, side, items.every(tx, side)) for side in (ours, theirs))
        newest = _newest(tx, ours, theirs) if rule == "newest" else {}
        wanted: dict[str, Facts] = {}
        clashes: list[Clash] = []
        kept = 0
        for key in sorted(there):
            side = newest.get(key, "ours") if rule == "newest" else "" if rule == "fail" else rule
            mine, other, old = here.get(key, _NOTHING), there[key], then.get(key, _NOTHING)
            found, bad = _merged(key, old, mine, other, side)
            clashes += bad
            if "test" in (mine["split"], found.get("split")) and mine["split"] != other["split"]:
                kept += mine["split"] == "test"
                found["split"] = "test"
            if found:
                wanted[key] = found
        fresh = [key for key in wanted if key not in here and wanted[key].get("is_here")]
        wanted = {key: facts for key, facts in wanted.items() if key in here or key in fresh}
        if clashes and rule == "fail" and not dry_run:
            first = clashes[0]
            raise Conflict(
                f"both sides must agree on what both changed; got {len(clashes)} conflicts, such as the "
                f"{first.part} of {first.item[:12]}",
                "look at them with dry_run, and choose a rule: ours, theirs or newest",
            )
        report = MergeReport(
            operation="" if dry_run or not wanted else op,
            base=base,
            added=len(fresh),
            changed=len(wanted) - len(fresh),
            kept_in_test=kept,
            conflicts=tuple(clashes),
        )
        if dry_run:
            return report
        _grow(tx, ours, theirs, author)
        for batch in batches(fresh, 5000):
            plain = [
                {**row, "dataset": ours, "split": "", "state": "unlabeled", "rev": 1}
                for row in items.rows_of(tx, theirs, batch)
            ]
            items.add(tx, ours, plain, author=author, op=op)
        changes.apply(tx, ours, wanted, author=author, op=op)
        more = {"from": theirs, "base": base, "rule": rule}
        operations.record(tx, ours, op, "merge", count=len(wanted), author=author, more=more)
        if theirs_now:
            _set_base(tx, ours, theirs, theirs_now)
    return report


def _merged(key: str, old: Facts, mine: Facts, other: Facts, side: str) -> tuple[Facts, list[Clash]]:
    """What ours must become, and where both changed the same part."""
    found, clashes = Facts(), []
    for part in PARTS:
        was, our, their = (changes.to_json(part, facts[part]) for facts in (old, mine, other))  # type: ignore[literal-required]
        if their in (was, our):
            continue
        if our != was and part == "attributes":
            both, disagree = _both(was, our, their, side)
            if not disagree or side:
                found["attributes"] = both
            if not disagree:
                continue
        elif our != was and part == "tags":
            found["tags"] = tuple(sorted(({*our} | {*their}) - ({*was} - ({*our} & {*their}))))
            continue
        if our == was:
            found[part] = other[part]  # type: ignore[literal-required]
            continue
        clashes.append(Clash(item=key, part=part, base=was, ours=our, theirs=their, taken=side))
        if side == "theirs" and part != "attributes":
            found[part] = other[part]  # type: ignore[literal-required]
    return found, clashes


def _both(was: dict[str, Any], our: dict[str, Any], their: dict[str, Any], side: str) -> tuple[dict[str, Any], bool]:
    """Attributes merged name by name, and whether some name was changed by both sides to different values."""
    merged, disagree = dict(our), False
    for name in {*was, *their}:
        if their.get(name) == was.get(name):
            continue
        if our.get(name) not in (was.get(name), their.get(name)):
            disagree = True
            if side != "theirs":
                continue
        if name in their:
            merged[name] = their[name]
        else:
            merged.pop(name, None)
    return merged, disagree


def _base(tx: Any, ours: str, theirs: str) -> str:
    (origin, base), (other, other_base) = datasets.origin(tx, ours), datasets.origin(tx, theirs)
    if other == ours:
        return other_base
    if origin == theirs:
        return base
    if origin and origin == other and base == other_base:
        return base
    raise Invalid(
        "datasets to merge",
        "a dataset and its branch, or two branches of one version",
        "two without a version in common",
        "loopworks data branch makes a branch",
    )


def _set_base(tx: Any, ours: str, theirs: str, version: str) -> None:
    """From now on both have in common what theirs is at this moment."""
    origin, _ = datasets.origin(tx, theirs)
    if origin == ours:
        datasets.set_origin(tx, theirs, ours, version)
    elif datasets.origin(tx, ours)[0] == theirs:
        datasets.set_origin(tx, ours, theirs, version)


def _newest(tx: Any, ours: str, theirs: str) -> dict[str, str]:
    """Item -> the side that changed it last, by the time of its newest event."""
    here, there = events.latest(tx, ours), events.latest(tx, theirs)
    return {key: "theirs" if at > here.get(key, "") else "ours" for key, at in there.items()}


def _grow(tx: Any, ours: str, theirs: str, author: str) -> None:
    """Classes that only theirs has, after ours."""
    old, other = datasets.by_id(tx, ours).schema, datasets.by_id(tx, theirs).schema
    fresh = tuple(name for name in other.classes if name not in old.classes)
    if fresh:
        grown = LabelSchema(classes=old.classes + fresh, is_multi=old.is_multi)
        datasets.set_classes(tx, ours, grown.classes)
        before, after = list(old.classes), list(grown.classes)
        events.add(tx, [events.make("dataset.classes", dataset=ours, author=author, before=before, after=after)])


def _facts(row: FrozenRow) -> Facts:
    return Facts(is_here=True, labels=row.shapes, split=row.split, tags=row.tags, attributes=row.facts)


def insert(tx: Any, dataset: str, found: list[FrozenRow], author: str, *, hidden: bool = False) -> None:
    """Insert a version's items, with all that it says of them; ``hidden``: out of sight, until they are restored."""
    moment = now()
    gone = {"deleted_at": moment} if hidden else {}
    names = ("name", "blob", "uri", "mime", "width", "height", "size_bytes", "split", "text")
    rows: list[Mapping[str, Any]] = [
        {
            **{name: getattr(row, name) for name in names},
            "dataset": dataset,
            "id": row.item_id,
            "stamp": "",
            "state": "labeled",
            "added_at": moment,
            "rev": 1,
            "attributes": row.facts,
            "extra": row.origin,
            **gone,
        }
        for row in found
    ]
    items.add(tx, dataset, rows)
    labels = {row.item_id: row.shapes for row in found}
    annotations.write(tx, dataset, labels, before={}, author=author, at=moment)
    items.add_tags(tx, dataset, {row.item_id: row.tags for row in found if row.tags})
