"""What a frozen version is: its rows, their one canonical spelling, the leaves they are cut into, the manifest.

The id of a version is the SHA-256 of its manifest, the manifest names the digests of its leaves, and a leaf's digest is
taken of the *rows* of the items whose id begins alike, not of bytes that some library writes. So the same state has the
same id on every machine, whatever its history, and a change touches the digest of one leaf alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, TooNew
from loopworks.core.values import LabelSchema, Shape
from loopworks.store.ids import canonical

FORMAT = 2
LEAF = 64
"""At most so many rows a leaf on average; a sixteenth of it at least, because ids are cut by whole hex digits."""
DIGEST = 32  # bytes of a SHA-256; a leaf without rows has zeros
COLUMNS = (
    "item_id", "name", "blob", "uri", "mime", "width", "height", "size_bytes", "split", "text", "tags", "attributes",
    "extra", "shapes",
)  # fmt: skip
SHAPE = ("label", "source", "author", "kind", "points", "mask", "attributes", "extra")
Line = list[Any]
"""A row as plain values in the order of ``COLUMNS``: texts and whole numbers alone (numbers of shapes as the JSON text
that the catalog keeps), so that no two writers of JSON can differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenRow:
    """One item of a version."""

    item_id: str
    name: str
    blob: str
    uri: str
    mime: str
    width: int
    height: int
    split: str
    shapes: tuple[Shape, ...]
    size_bytes: int = 0
    text: str = ""
    tags: tuple[str, ...] = ()
    attributes: str = "{}"
    """Canonical JSON text, as in a Shape."""
    extra: str = "{}"

    @property
    def facts(self) -> dict[str, Any]:
        """``attributes`` as a mapping."""
        return dict(orjson.loads(self.attributes))

    @property
    def origin(self) -> dict[str, Any]:
        """``extra`` as a mapping."""
        return dict(orjson.loads(self.extra))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of a version of format 1: the items whose id begins with ``prefix``."""

    prefix: str
    digest: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that a version is; when and by whom it was frozen is in the catalog, because that is not its content."""

    task: str
    schema: LabelSchema
    digits: int
    """Items whose ids agree in so many digits share a leaf."""
    leaves: str
    """Key of the blob that holds the leaves' digests one after the other; empty in format 1."""
    counts: Mapping[str, Any]
    """``items``, ``by_split``, ``by_class`` and ``by_split_class`` (split -> class -> items)."""
    is_by_reference: bool
    """Whether some bytes are not in the blob store but where ``uri`` says, so that they may change or vanish."""
    format: int = FORMAT
    parts: tuple[Part, ...] = ()
    """Of format 1, which had no leaves."""

    def to_bytes(self) -> bytes:
        """The canonical JSON; its SHA-256 is the id."""
        body: dict[str, Any] = {
            "format": self.format,
            "task": self.task,
            "schema": self.schema.to_json(),
            "digits": self.digits,
            "counts": self.counts,
            "is_by_reference": self.is_by_reference,
        }
        if self.format == 1:
            body["parts"] = [{"prefix": part.prefix, "digest": part.digest, "rows": part.rows} for part in self.parts]
        else:
            body["leaves"] = self.leaves
        return canonical(body)

    @property
    def id(self) -> str:
        """The id of the version."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def read_manifest(blobs: Blobs, version: str) -> Manifest:
    """The manifest of a version.

    Raises:
        NotFound: it is not among the blobs.
        Damaged: its bytes are not those of its id.
        TooNew: written by a newer Loopworks.
    """
    data = blobs.read(version)
    if (actual := hashlib.sha256(data).hexdigest()) != version:
        raise Damaged(f"manifest of version {version[:12]} must have that SHA-256; got {actual}", "restore a backup")
    body = orjson.loads(data)
    if body["format"] > FORMAT:
        raise TooNew(f"version {version[:12]} must be of format {FORMAT} or older; got {body['format']}")
    return Manifest(
        task=body["task"],
        schema=LabelSchema.from_json(body["schema"]),
        digits=body["digits"],
        leaves=body.get("leaves", ""),
        counts=body["counts"],
        is_by_reference=body["is_by_reference"],
        format=body["format"],
        parts=tuple(Part(**part) for part in body.get("parts", ())),
    )


def digits(count: int) -> int:
    """By how many digits of their ids ``count`` items are cut into leaves: a pure function, so that ids repeat."""
    found = 1
    while LEAF * 16**found < count:
        found += 1
    return found


def leaf_of(item: str, size: int) -> int:
    """Number of the leaf that an item lies in where leaves are cut by ``size`` digits."""
    return int(item[:size], 16)


def digest(lines: Sequence[Line]) -> bytes:
    """SHA-256 of a leaf's rows in the order of their ids; zeros where there are none."""
    if not lines:
        return bytes(DIGEST)
    return hashlib.sha256(b"\n".join(map(orjson.dumps, lines))).digest()


def read_leaves(blobs: Blobs, manifest: Manifest) -> NDArray[np.uint8]:
    """Digests of all leaves, shape ``(leaves, 32)``; ``Damaged`` where the blob is not what was written."""
    data = blobs.read(manifest.leaves)
    is_whole = hashlib.sha256(data).hexdigest() == manifest.leaves and len(data) == DIGEST * 16**manifest.digits
    if not is_whole:
        raise Damaged(f"leaves of version {manifest.id[:12]} must have SHA-256 {manifest.leaves}", "restore a backup")
    return np.frombuffer(data, np.uint8).reshape(-1, DIGEST)


def said(row: FrozenRow) -> dict[str, Any]:
    """What a change of an item is about, as plain JSON."""
    return {
        "split": row.split,
        "labels": [shape.label for shape in row.shapes],
        "tags": list(row.tags),
        "attributes": row.facts,
    }
