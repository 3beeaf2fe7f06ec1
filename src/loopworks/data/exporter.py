"""From rows to files: the items of a version or of the live set as records, written by a format into a new folder."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

from loopworks.core.errors import Conflict, Invalid
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data import media
from loopworks.data.formats import detect
from loopworks.data.formats.contract import Content, Record
from loopworks.store import datasets as rows
from loopworks.store import items
from loopworks.store.blobs import LocalBlobs, write_error
from loopworks.store.home import Home

By = Literal["copy", "link"]
PAGE = 5000  # items in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item as the exporter needs it, of a version or of the live set."""

    item: str
    name: str
    uri: str
    split: str
    width: int
    height: int
    shapes: tuple[Shape, ...]
    text: str = ""
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    is_labeled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did."""

    folder: str
    """Where it lies."""
    format: str
    items: int
    """Items that were given to the format."""
    files: int
    """Files in the folder, annotations and media."""
    problems: tuple[Problem, ...]
    """What the format cannot hold, and media that could not be read."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "folder": self.folder,
            "format": self.format,
            "items": self.items,
            "files": self.files,
            "problems": [one.to_json() for one in self.problems],
        }


def export(
    home: Home,
    dataset: str,
    schema: LabelSchema,
    found: Iterable[Row],
    folder: str | Path,
    *,
    format: str = "folders",
    options: Mapping[str, Any] | None = None,
    by: By = "copy",
    has_media: bool = True,
) -> ExportReport:
    """Write items into a new folder. A failure leaves nothing behind: all is written beside it, then renamed.

    Args:
        home: the workspace.
        dataset: id of the dataset, whose ``meta`` keeps what the formats said of it as a whole.
        schema: the classes.
        found: the items.
        folder: empty or not there yet.
        format: name of a format (``detect.names``).
        options: of the format.
        by: copy, or link: hard links to the workspace's own (read-only) files where the disk allows it.
        has_media: whether images are written too; without, annotations alone.
    Raises:
        NotFound: no such format.
        Conflict: the folder holds something.
        Damaged: the bytes of an item are gone.
        NoSpace, Denied: it cannot be written.
    """
    if by not in ("copy", "link"):
        raise Invalid("by", "copy or link", by)
    chosen = detect.build(format, options)
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} must be an empty or new folder; got one with files", "choose another folder")
    with home.catalog.read() as tx:
        meta = rows.meta(tx, dataset)
    problems: list[Problem] = []
    records, behind = _records(home, found, problems)
    content = Content(schema=schema, records=records, meta=meta)
    temp = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        temp.mkdir(parents=True)
        problems += chosen.write(content, temp, _putter(home, behind, temp, by, has_media))
        count = sum(len(names) for _, _, names in os.walk(temp))
        _rename(temp, target)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return ExportReport(folder=str(folder), format=format, items=len(records), files=count, problems=tuple(problems))


def live(home: Home, dataset: str) -> Iterator[Row]:
    """All items of the live set as they are now, by name, in pages, so that they are not all in memory twice."""
    after: str | None = None
    with home.catalog.read() as tx:
        while page := items.page(tx, dataset, limit=PAGE, after=after):
            for item in page:
                yield Row(
                    item=item.id,
                    name=item.name,
                    uri=item.uri,
                    split=item.split,
                    width=item.width,
                    height=item.height,
                    shapes=item.labels,
                    text=item.text,
                    tags=item.tags,
                    attributes=item.attributes,
                    extra=item.extra,
                    is_labeled=item.state == "labeled",
                )
            after = page[-1].id if len(page) == PAGE else None
            if after is None:
                break


def _records(home: Home, found: Iterable[Row], problems: list[Problem]) -> tuple[list[Record], dict[str, Row]]:
    """The items as records, each with a name of its own, and the item behind each name."""
    records: list[Record] = []
    behind: dict[str, Row] = {}
    for row in found:
        name = row.name
        if name in behind:
            pure = PurePosixPath(name)
            name = str(pure.with_name(f"{pure.stem}-{row.item[:12]}{row.item[64:]}{pure.suffix}"))
            message = f"names of items must differ; got two called {row.name}"
            problems.append(
                Problem(where=row.name, error="conflict", message=message, hint=f"one is written as {name}")
            )
        behind[name] = row
        records.append(
            Record(
                name=name,
                path="" if row.text else _path(home, row),
                text=row.text or None,
                width=row.width,
                height=row.height,
                split=row.split,
                tags=row.tags,
                attributes=row.attributes,
                shapes=row.shapes,
                is_labeled=row.is_labeled,
                extra=row.extra,
            )
        )
    return records, behind


def _path(home: Home, row: Row) -> str:
    """Where the bytes lie on this machine, for formats that put them into a file of theirs; empty: not here."""
    if row.uri:
        return unquote(row.uri.removeprefix("file://")) if row.uri.startswith("file:///") else ""
    return str(home.blobs.path(media.content_of(row.item))) if isinstance(home.blobs, LocalBlobs) else ""


def _putter(
    home: Home, behind: Mapping[str, Row], folder: Path, by: By, has_media: bool
) -> Callable[[Record, str], None]:
    made: set[Path] = set()

    def put(record: Record, path: str) -> None:
        if not has_media or record.text is not None:
            return
        row = behind[record.name]
        target = folder / inside(path)
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        if by == "copy" or not media.link(home, row.item, row.uri, target):
            target.write_bytes(media.read(home, row.item, row.uri, row.name))

    return put


def inside(path: str) -> str:
    """``path``, refused where it would lead out of the folder that is written."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if not pure.name or pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", path):
        raise Invalid("place of a file", "inside the folder that is written", path)
    return str(pure)


def _rename(temp: Path, target: Path) -> None:
    """Put the whole folder in place; one that cannot be replaced (the current folder, a mount) is filled instead."""
    try:
        os.replace(temp, target)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EINVAL, errno.EXDEV) or not target.is_dir():
            raise
        for entry in temp.iterdir():
            os.replace(entry, target / entry.name)
        with contextlib.suppress(OSError):
            temp.rmdir()
