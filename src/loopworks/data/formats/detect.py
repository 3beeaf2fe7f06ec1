"""Which format a file or folder is of: every ``format.*`` plug-in is asked how sure it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from loopworks.core import params
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.data.formats.contract import Format

STAGE = "format"
SURE = 0.5
"""From here on a format has seen signs of its own; below, it only could be."""
_PAPERS = frozenset({"license", "licence", "copying", "notice", "readme", "changelog", "citation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A format, and where it begins."""

    name: str
    """Without ``format.``."""
    score: float
    root: Path
    """The place that was asked about, or the only folder in it."""


def names() -> list[str]:
    """All formats that are registered, without ``format.``."""
    return [name.removeprefix(f"{STAGE}.") for name in plugins.names(STAGE)]


def describe() -> list[dict[str, Any]]:
    """Every format: ``name``, ``text`` (what it is), ``options`` (name -> what it does)."""
    found = []
    for name in names():
        plugin = kind(name)
        fields = params.schema(plugin).get("properties", {})
        text = (plugin.__doc__ or "").strip().split("\n")[0]
        options = {key: str(field.get("description", "")) for key, field in fields.items() if key != "known"}
        found.append({"name": name, "text": text, "options": options})
    return found


def kind(name: str) -> type[Any]:
    """The plug-in's class; ``NotFound`` lists the formats."""
    known = names()
    if name not in known:
        raise NotFound("format", name, known)
    return cast("type[Any]", plugins.get(f"{STAGE}.{name}"))


def build(name: str, options: Mapping[str, Any] | None = None) -> Format:
    """A format with its options.

    Raises:
        NotFound: no such format.
        Invalid: an option that it does not have, or a value that it does not take.
    """
    return cast(Format, params.build(kind(name), options or {}, f"{STAGE}.{name}"))


def scores(root: Path) -> dict[str, float]:
    """Format -> how sure it is, in 0..1, the surest first; formats that are sure it is not theirs are left out."""
    found = {name: build(name).detect(root) for name in names()}
    return dict(sorted(((n, s) for n, s in found.items() if s > 0), key=lambda pair: (-pair[1], pair[0])))


def detect(root: Path) -> Match:
    """The format of ``root``; one folder around everything, as archives often have it, is looked through.

    Args:
        root: a file or folder.
    Raises: Invalid: no format knows it, or two are equally sure; the sentence lists them with their scores.
    """
    at, best = root, scores(root)
    while max(best.values(), default=0.0) < SURE and (inner := _only_folder(at)) is not None:
        deeper = scores(inner)
        if max(deeper.values(), default=0.0) >= SURE:
            at, best = inner, deeper
            break
        at = inner
    if not best:
        hint = f"name the format with --format (datumaro-bridge reads many more); known: {', '.join(names())}"
        raise Invalid(str(root), "of a known format", "signs of none", hint)
    first, *others = best.items()
    if others and others[0][1] == first[1]:
        listed = ", ".join(f"{name} {score:.2f}" for name, score in best.items())
        raise Invalid(str(root), "of one format", f"signs of several: {listed}", "name the format with --format")
    return Match(name=first[0], score=first[1], root=at if first[1] >= SURE else root)


def _only_folder(root: Path) -> Path | None:
    """The one folder in a folder that holds nothing else but what comes with any download (licence, readme)."""
    if not root.is_dir():
        return None
    entries = [one for one in root.iterdir() if not one.name.startswith(".") and one.name != "__MACOSX"]
    entries = [one for one in entries if one.is_dir() or one.stem.casefold() not in _PAPERS]
    inner = entries[0] if len(entries) == 1 else None
    return inner if inner is not None and inner.is_dir() and not inner.is_symlink() else None
