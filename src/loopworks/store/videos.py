"""Videos that frames were taken from, when a frame is erased: a video that is kept would hold it still.

The video's bytes (or the note of where it lies, by reference) and its table of frames are removed, in every dataset;
the other frames stay, because each is an image of its own.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Text, or_, select
from sqlalchemy.engine import Connection

from loopworks.store import datasets, tables

_KEY = re.compile(r"[0-9a-f]{64}")
Frame = tuple[str, Any]
"""SHA-256 of a video, and the index of the frame."""


def frames_of(tx: Connection, contents: Iterable[str]) -> tuple[set[Frame], set[str]]:
    """Which frames items are, and the videos that they are of: by their attributes, or by their names."""
    known = _known(tx)
    frames: set[Frame] = set()
    videos: set[str] = set()
    for _, name, attributes in _items(tx, contents):
        if (key := _video(attributes)) and "frame" in attributes:
            frames.add((key, attributes["frame"]))
        videos.update(one for one, called in known if one == key or any(name.startswith(f"{c}/") for c in called))
    return frames, videos | {key for key, _ in frames}


def same(tx: Connection, frames: set[Frame]) -> set[str]:
    """SHA-256s of all items that are one of these frames, also where another import encoded it in another way."""
    table, found = tables.item, set()
    for key in {video for video, _ in frames}:
        query = select(table.c.id, table.c.attributes).where(table.c.attributes.cast(Text).contains(f'"{key}"'))
        for item, attributes in tx.execute(query):
            if (_video(attributes), attributes.get("frame")) in frames:
                found.add(item[:64])
    return found


def forget(tx: Connection, videos: set[str]) -> set[str]:
    """Take the videos out of what the datasets remember; gives the keys of blobs that were theirs alone."""
    gone = set(videos)
    for dataset in datasets.every(tx):
        meta = datasets.meta(tx, dataset.id)
        held = meta.get("video", {})
        for key in videos & set(held):
            gone |= {held[key].get("blob", ""), held[key].get("frames", "")}
        if videos & set(held):
            left = {key: facts for key, facts in held.items() if key not in videos}
            rest = {name: value for name, value in meta.items() if name != "video"}
            datasets.set_meta(tx, dataset.id, {**rest, "video": left} if left else rest)
    kept = json.dumps([datasets.meta(tx, dataset.id) for dataset in datasets.every(tx)])
    return {key for key in gone if key and key not in kept}


def _known(tx: Connection) -> list[tuple[str, set[str]]]:
    """Each video that a dataset remembers, and what it is called."""
    found: dict[str, set[str]] = {}
    for dataset in datasets.every(tx):
        for key, facts in datasets.meta(tx, dataset.id).get("video", {}).items():
            found.setdefault(key, set()).add(facts["name"])
    return list(found.items())


def _items(tx: Connection, contents: Iterable[str]) -> Iterable[Any]:
    table = tables.item
    same_bytes = [or_(table.c.id == key, (table.c.id > key + "-") & (table.c.id < key + ".")) for key in contents]
    return tx.execute(select(table.c.id, table.c.name, table.c.attributes).where(or_(*same_bytes))).all()


def _video(attributes: dict[str, Any]) -> str:
    found = attributes.get("video", "")
    return found if isinstance(found, str) and _KEY.fullmatch(found) else ""
