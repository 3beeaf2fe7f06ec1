"""Erasing an item for good, and collecting what nothing leads to."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from loopworks.core.errors import Invalid, NotFound
from loopworks.data.stage import Dataset, open_version
from loopworks.store import garbage, tables
from loopworks.store.home import Home


@pytest.fixture
def catalog(catalog_url: str) -> str:
    """Everything here runs on SQLite and on PostgreSQL."""
    return catalog_url


def traces(home: Home, text: str) -> list[str]:
    """Blobs and tables that hold a text."""
    found = [key for key in sorted(home.blobs.keys()) if text.encode() in home.blobs.read(key)]
    with home.catalog.read() as tx:
        for table in tables.metadata.sorted_tables:
            found += [table.name for row in tx.execute(select(table)) if text in str(row)]
    return found


def test_an_erased_item_is_gone_from_everything_but_its_tombstone(home: Home, labeled: Dataset, tmp_path: Path) -> None:
    victim = labeled.items(label="cat")[0]
    labeled.describe([victim.id], {"camera": "secret-person"})
    labeled.tag_items([victim.id], "face")
    first = labeled.freeze("first")
    labeled.tag(first.id, "gold")
    other = labeled.items(label="dog")[0]
    labeled.label({other.id: [s.label for s in other.labels]}, author="bob")
    second = labeled.freeze("second")
    branch = labeled.branch("trial")
    labeled.clear_labels([victim.id], author="ann")
    third = labeled.freeze("third")
    rows = {version.id: version.rows() for version in (first, second, third)}
    report = labeled.erase([victim.id], reason="asked to be forgotten", author="ann")
    assert report.datasets == ("pets", "trial")
    assert set(report.versions) == {first.id, second.id}
    for dataset in (labeled, branch):
        with pytest.raises(NotFound, match="item"):
            dataset.item(victim.id)
        assert dataset.counts()["items"] == 19
    assert traces(home, "secret-person") == []
    assert not home.blobs.has(victim.id)
    assert set(traces(home, victim.id)) == {"event", "tombstone"}
    for old in (first, second):
        with pytest.raises(NotFound) as caught:
            open_version(home, old.id)
        new = open_version(home, report.versions[old.id])
        assert new.id in caught.value.hint
        assert [row.item_id for row in new.rows()] == [r.item_id for r in rows[old.id] if r.item_id != victim.id]
        assert new.counts["by_class"] == {"cat": 11, "dog": 8}
    assert open_version(home, report.versions[first.id]).message == "first"
    assert report.versions[second.id] == third.id  # without the item they are the same
    assert labeled.version("gold").id == report.versions[first.id]
    assert labeled.version(third.id).rows() == rows[third.id]
    assert labeled.freeze().id == third.id
    again = labeled.add(tmp_path / "labeled", author="eve")
    assert (again.added, [problem.error for problem in again.problems]) == (0, ["denied"])
    with pytest.raises(Invalid, match="reason must be given"):
        labeled.erase([other.id], reason=" ")


def test_a_collection_takes_what_nothing_leads_to_after_the_grace_period(
    home: Home, labeled: Dataset, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    version = labeled.freeze()
    labeled.label({labeled.items(label="cat")[0].id: ["dog"]}, author="bob")
    second = labeled.freeze()
    labeled.delete([item.id for item in labeled.items(limit=2)])
    lost = home.blobs.put_bytes(b"nothing leads to this")
    before = set(home.blobs.keys())
    young = garbage.collect(home.catalog, home.blobs, grace_s=3600, dry_run=False)
    assert (young.blobs, young.spared, set(home.blobs.keys())) == (0, 1, before)
    dry = garbage.collect(home.catalog, home.blobs, grace_s=0)
    assert (dry.blobs, dry.size_bytes, dry.is_dry_run, set(home.blobs.keys())) == (1, 21, True, before)
    done = garbage.collect(home.catalog, home.blobs, grace_s=0, dry_run=False)
    assert (done.blobs, set(home.blobs.keys())) == (1, before - {lost})
    assert len(version.rows()) == len(second.rows()) == 20
    assert all(row.read() for row in second.rows())


def test_what_is_written_again_is_young_again(home: Home) -> None:
    import os

    key = home.blobs.put_bytes(b"old")
    assert key == hashlib.sha256(b"old").hexdigest()
    os.utime(home.folder / "blobs" / key[:2] / key, (1, 1))
    home.blobs.put_bytes(b"old")
    assert garbage.collect(home.catalog, home.blobs, grace_s=60, dry_run=False).spared == 1
    assert home.blobs.has(key)
