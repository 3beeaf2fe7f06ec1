"""Finding image files in folders, and what their folders say of them."""

import glob
import os
import stat
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loopworks.core.errors import Invalid, LoopworksError, NotFound
from loopworks.core.image import SUFFIXES
from loopworks.core.values import LabelSchema, Problem

Labels = Literal["auto", "folders", "none"]
Source = str | Path | Sequence[str | Path]
IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db", "icon\r"})
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image file."""

    path: str
    name: str
    """Path below the folder that was given, with slashes."""
    label: str = ""
    """Class that its folder names, or empty."""
    split: str = ""
    """train, val, test, or empty where no folder says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a source holds: images in order of name, the classes that folders name, and what was left out."""

    files: tuple[Found, ...]
    classes: tuple[str, ...]
    problems: tuple[Problem, ...]


def find(source: Source, labels: Labels = "auto", known: Collection[str] = ()) -> Finding:
    """Images in a folder, of a file, of a pattern with wildcards, or of a list of these.

    A folder is read as folder-per-class where it has folders with images in them (deeper levels belong to that class);
    folders called train, val and test that hold class folders give the split too. One folder around all class folders
    (as archives often have it, ``images/cat/1.jpg``) is looked through, unless it is called like a known class. Hidden
    files are ignored, links to
    folders are not followed, other files than images are listed as problems.

    Args:
        source: where to look.
        labels: auto: classes where there are class folders; folders: there must be some; none: no labels.
        known: classes that exist already.
    Raises:
        NotFound: a path does not exist.
        Invalid: no image there; two class folders that differ only in upper and lower case.
    """
    if labels not in ("auto", "folders", "none"):
        raise Invalid("labels", "auto, folders or none", labels)
    files: dict[str, Found] = {}
    problems: list[Problem] = []
    for one in [source] if isinstance(source, str | Path) else source:
        found, bad = _find_one(one, labels, known)
        files |= {file.path: file for file in found}
        problems += bad
    if not files:
        shown = ", ".join(map(str, [source] if isinstance(source, str | Path) else source)) or "an empty list"
        first = f"; the first of {len(problems)} problems: {problems[0].message}" if problems else ""
        raise Invalid(shown, "a place with images", f"no image in it{first}", f"images end in {', '.join(_suffixes())}")
    classes = tuple(sorted({file.label for file in files.values() if file.label}))
    LabelSchema(classes=classes)
    if labels == "folders" and not classes:
        raise Invalid(str(source), "a folder with one folder per class", "images without class folders")
    return Finding(
        files=tuple(sorted(files.values(), key=lambda file: (file.name, file.path))),
        classes=classes,
        problems=tuple(problems),
    )


def problem(where: str, error: LoopworksError) -> Problem:
    """An error of one file as an entry in a list."""
    return Problem(where=where, error=error.code, message=error.message, hint=error.hint)


def unreadable(where: str, error: OSError) -> Problem:
    """A file that the system does not let us read."""
    reason = error.strerror or str(error)
    return Problem(where=where, error="invalid", message=f"{where} must be readable; got: {reason}")


def _find_one(source: str | Path, labels: Labels, known: Collection[str]) -> tuple[list[Found], list[Problem]]:
    path = Path(source).expanduser()
    if not os.path.lexists(path) and glob.has_magic(str(source)):
        return _find_pattern(path, labels, known)
    try:
        root = path.resolve(strict=True)
    except FileNotFoundError:
        raise NotFound(
            "path", str(path), hint="check the spelling; relative paths start in the current folder"
        ) from None
    except (OSError, RuntimeError) as error:
        raise Invalid(str(path), "a file or folder", f"a path that leads nowhere ({error})") from None
    if root.is_file():
        walk = _Walk(root.parent)
        walk.take(str(root))
        return walk.files, walk.problems
    walk = _Walk(root)
    walk.enter(str(root))
    files = walk.files if labels == "none" else labelled(walk.files, known)
    return files, walk.problems


def _find_pattern(path: Path, labels: Labels, known: Collection[str]) -> tuple[list[Found], list[Problem]]:
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise NotFound("path", str(path), hint="no file matches the pattern")
    fixed = before_magic(path)
    files: list[Found] = []
    problems: list[Problem] = []
    for match in map(Path, matches):
        if match.is_dir():
            if "**" in path.parts:
                continue  # its files match by themselves
            found, bad = _find_one(match, labels, known)
            files += [replace(file, name=f"{match.name}/{file.name}") for file in found]
        else:
            walk = _Walk(fixed)
            walk.take(str(match.absolute()))
            found, bad = walk.files, walk.problems
            files += found
        problems += bad
    return files, problems


def before_magic(path: Path) -> Path:
    """The folder that a pattern's matches all lie below; their names are relative to it."""
    kept: list[str] = []
    for part in path.parts:
        if glob.has_magic(part):
            break
        kept.append(part)
    return Path(*kept).resolve()


def pick(paths: Iterable[str], root: Path) -> Finding:
    """Images among single files, without labels; the others are problems. Names are relative to ``root``."""
    walk = _Walk(root)
    for path in paths:
        walk.take(path)
    return Finding(files=tuple(walk.files), classes=(), problems=tuple(walk.problems))


class _Walk:
    """Collects images below a folder in order of name; meets each folder once, because it follows no links to them."""

    def __init__(self, root: Path) -> None:
        self.root = str(root).rstrip("/") + "/"
        self.files: list[Found] = []
        self.problems: list[Problem] = []

    def enter(self, folder: str) -> None:
        waiting = [folder]
        while waiting:
            at = waiting.pop()
            try:
                with os.scandir(at) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                self.problems.append(unreadable(at, error))
                continue
            folders = []
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in IGNORED:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_symlink() and os.path.isdir(entry.path):  # entry.is_dir() raises on a loop
                    self._refuse(entry.path, "a file or folder, not a link to a folder", "a link; it was not followed")
                else:
                    self.take(entry.path)
            waiting += reversed(folders)

    def take(self, path: str) -> None:
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            self.problems.append(unreadable(path, error))
            return
        suffix = os.path.splitext(path)[1]
        if not stat.S_ISREG(mode):
            self._refuse(path, "a file", "something else, such as a pipe or device")
        elif suffix.lower() not in SUFFIXES:
            self._refuse(path, f"an image ({', '.join(_suffixes())})", suffix or "a name without an ending")
        else:
            self.files.append(Found(path=path, name=_name(path, self.root)))

    def _refuse(self, where: str, expected: str, got: str) -> None:
        self.problems.append(problem(where, Invalid(where, expected, got)))


def labelled(files: list[Found], known: Collection[str]) -> list[Found]:
    """The files with the class and split that their folders say."""
    depth = _wrappers(files, known)
    tops = {parts[depth] for file in files if len(parts := file.name.split("/")) > depth + 1}
    has_splits = bool(tops) and all(top.lower() in SPLITS for top in tops)
    has_splits = has_splits and any(file.name.count("/") >= depth + 2 for file in files)
    done = []
    for file in files:
        parts = file.name.split("/")[depth:]
        split = SPLITS[parts.pop(0).lower()] if has_splits and len(parts) > 1 else ""
        label = unicodedata.normalize("NFC", parts[0]) if len(parts) > 1 else ""
        done.append(replace(file, label=label, split=split))
    return done


def _wrappers(files: list[Found], known: Collection[str]) -> int:
    """How many folders lie around the class folders: each holds all images, none of them directly."""
    folders = [file.name.split("/")[:-1] for file in files]
    shallowest = min(map(len, folders), default=0)
    depth = 0
    while depth + 1 < shallowest and len({folder[depth] for folder in folders}) == 1:
        if folders[0][depth] in known or folders[0][depth].lower() in SPLITS:
            break
        depth += 1
    # With one folder at the bottom too, nothing tells a wrapper from a class: the outermost is the class.
    return depth if len({folder[depth] for folder in folders if len(folder) > depth}) > 1 else 0


def _name(path: str, root: str) -> str:
    """The name as text that every database takes: bytes that are no UTF-8 are shown as escapes."""
    relative = path.removeprefix(root) if path.startswith(root) else os.path.basename(path)
    return relative if relative.isascii() else relative.encode("utf-8", "backslashreplace").decode()


def _suffixes() -> list[str]:
    return sorted(SUFFIXES)
