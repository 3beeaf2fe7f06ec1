"""What lies in an edge bundle, and who says so: ``manifest.json`` and its Ed25519 signature."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopworks.core.errors import Damaged, Invalid, NotFound, TooNew
from loopworks.core.fields import Fields
from loopworks_edge import ed25519

FILE = "manifest.json"
SIGNATURE = "manifest.sig"
KIND = "loopworks-edge"
FORMAT = 2
"""2 is a chain; one model alone is still 1, so that older code reads it."""
CHAIN = "chain"
"""The one variant of a chain."""
MODEL = "bundle"
"""Folder of the model inside an edge bundle."""
_HEX = re.compile("[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an edge bundle holds. ``key`` is the public key that its signature is checked with, in hex."""

    name: str
    """Name that answers requests."""
    revision: int
    """Of the deployment; 0 where a model was bundled that is not deployed."""
    model: str
    number: int
    variants: tuple[str, ...]
    """The first answers by default."""
    max_pixels: int
    """Larger images are refused."""
    loopworks: str
    """Version of Loopworks that wrote it."""
    key: str
    format: int = 1
    """1 is a model, 2 a chain."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Relative path -> SHA-256 of every file but this one and its signature."""

    @property
    def is_chain(self) -> bool:
        """Whether it holds a chain: ``model`` and ``number`` are then its name and revision."""
        return self.format == 2

    @property
    def ref(self) -> str:
        """What answers, as ids of predictions begin: ``name/revision``, or ``model:number``."""
        return f"{self.name}/{self.revision}" if self.revision else f"{self.model}:{self.number}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "format": self.format,
            "kind": KIND,
            "name": self.name,
            "revision": self.revision,
            "model": self.model,
            "number": self.number,
            "variants": list(self.variants),
            "max_pixels": self.max_pixels,
            "loopworks": self.loopworks,
            "key": self.key,
            "sha256": dict(sorted(self.sha256.items())),
        }

    def to_bytes(self) -> bytes:
        """The file's content, which is what is signed."""
        return (json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n").encode()


def read(folder: Path) -> Manifest:
    """The manifest in ``folder``, as it says, unchecked.

    Raises: NotFound, Invalid, TooNew: there is none, or of another form.
    """
    return _parse(_content(folder / FILE))


def verify(folder: Path, key: str = "") -> Manifest:
    """The manifest of ``folder``, whose signature holds, and whose files are as they were signed, and no others.

    Args:
        folder: the edge bundle.
        key: public key that it must be signed with, in hex; empty: the one that the manifest itself names, which shows
            that nothing broke on the way, and not who made it.
    Raises:
        Damaged: something was changed, is missing or was added.
        Invalid, NotFound, TooNew: no edge bundle.
    """
    content = _content(folder / FILE)
    found = _parse(content)
    if key and key.lower() != found.key:
        raise Damaged(f"{FILE} must be signed by key {key.lower()}; got one of key {found.key}", "who sent the bundle?")
    try:
        signature = bytes.fromhex(_content(folder / SIGNATURE).decode("ascii").strip())
    except ValueError:
        raise Damaged(f"{SIGNATURE} must be 128 hex digits; got something else") from None
    if not ed25519.is_signed(bytes.fromhex(found.key), signature, content):
        raise Damaged(f"{FILE} must be as it was signed; got another content or signature", "fetch the bundle again")
    for path, relative in _files(folder):
        if relative not in found.sha256:
            raise Damaged(f"an edge bundle must hold signed files alone; got {relative} besides", "remove it")
        if path.is_symlink():
            raise Damaged(f"{relative} must be a file; got a link", "fetch the bundle again")
    for relative, expected in found.sha256.items():
        path = folder / relative
        if not path.is_file():
            raise Damaged(f"{relative} must be there; got nothing", "fetch the bundle again")
        if sha256(path) != expected:
            raise Damaged(f"{relative} must be as it was signed; got another content", "fetch the bundle again")
    return found


def caches(folder: Path) -> int:
    """How many files of compiled Python lie beside the signed ones; these are not signed."""
    return sum(1 for path in folder.rglob("__pycache__/*.pyc"))


def sha256(path: Path) -> str:
    """A file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        is_cache = path.parent.name == "__pycache__" and path.suffix == ".pyc"
        if (path.is_file() or path.is_symlink()) and relative not in (FILE, SIGNATURE) and not is_cache:
            yield path, relative


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("edge bundle", str(path.parent), hint=f"it is a folder with a {path.name}") from None
    except OSError as error:
        raise Invalid(str(path), "a file that can be read", error.strerror or str(error)) from None


def _parse(content: bytes) -> Manifest:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Invalid(FILE, "JSON in UTF-8", str(error)) from None
    fields = Fields(Fields.of(body, FILE).body, f"{FILE} ")
    if (kind := fields.text("kind")) != KIND:
        raise Invalid(fields.path("kind"), KIND, kind)
    if (format_ := fields.whole("format", 1)) > FORMAT:
        raise TooNew(f"{FILE} must be of format {FORMAT} or older; got {format_}", "update loopworks")
    found = Manifest(
        name=fields.text("name"),
        revision=fields.whole("revision"),
        model=fields.text("model"),
        number=fields.whole("number"),
        variants=fields.texts("variants"),
        max_pixels=fields.whole("max_pixels", 1),
        loopworks=fields.text("loopworks"),
        key=_hex(fields.text("key"), fields.path("key")),
        format=format_,
        sha256={name: _hex(sum_, fields.path(f"sha256.{name}")) for name, sum_ in fields.object("sha256").items()},
    )
    for name in found.sha256:
        if name.startswith("/") or "\\" in name or ":" in name or {"", ".", ".."} & set(name.split("/")):
            raise Invalid(fields.path("sha256"), "relative paths inside the bundle", name)
    if not found.variants:
        raise Invalid(fields.path("variants"), "at least one", "none")
    return found


def _hex(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) != 64 or not _HEX.fullmatch(value):
        raise Invalid(where, "64 hex digits in lower case", value)
    return value
