"""Where a YOLO data set keeps its images, labels, splits and names of classes."""

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopworks.core.errors import Invalid, LoopworksError, NotFound
from loopworks.core.values import Problem
from loopworks.data.formats.folder import SMALL_LIMIT, Tree, bad, is_image, normal, peek, read_text, split_of
from loopworks.data.formats.yolo_lines import Task

_KEYS = re.compile(r"^(?:names|nc)\s*:", re.MULTILINE)
_PLACES = re.compile(r"^(?:train|val|test|path)\s*:", re.MULTILINE)
_DARKNET = re.compile(r"^\s*names\s*=", re.MULTILINE)
_LISTS = {"train.txt": "train", "val.txt": "val", "valid.txt": "val", "test.txt": "test"}
_NAMES = ("obj.names", "classes.txt", "classes.names", "labels.txt", "predefined_classes.txt")


@dataclass(slots=True)
class Layout:
    """A YOLO data set as its configuration tells it."""

    tree: Tree
    config: str = ""
    """data.yaml or obj.data below the root; empty where there is none."""
    names: dict[int, str] = field(default_factory=dict)
    """Number -> name of a class."""
    places: dict[str, list[str]] = field(default_factory=dict)
    """Split -> folders or lists of images, as they are written in the configuration."""
    base: str = ""
    """Folder below the root that ``places`` are seen from."""
    task: Task = "auto"
    keypoints: tuple[int, int] = (0, 0)
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Configuration, names and lists as they are: path -> (text, encoding)."""
    problems: list[Problem] = field(default_factory=list)

    def meta(self, labels: Mapping[int, str]) -> dict[str, Any]:
        """What an export needs to write the same files, as plain JSON."""
        return {
            "config": self.config,
            "task": self.task,
            "keypoints": list(self.keypoints),
            "files": [[name, text, encoding] for name, (text, encoding) in self.texts.items()],
            "names": [[key, label] for key, label in labels.items()],
            "splits": self.splits(),
        }

    def splits(self) -> dict[str, str]:
        """Folder or list of images, below the root -> its split."""
        found: dict[str, str] = {}
        for split, places in self.places.items():
            for place in places:
                found.setdefault(place, split)
        return found

    def images(self, problems: list[Problem]) -> Iterator[tuple[str, str]]:
        """Path below the root and split of every image, each once."""
        seen: set[str] = set()
        if not any(self.places.values()):
            for name in self.tree.images():
                yield name, split_of(*reversed(name.split("/")[:-1]))
            return
        for split, places in self.places.items():
            for place in places:
                twice: list[str] = []
                for name in self._below(place, problems):
                    if name in seen:
                        twice.append(name)
                        continue
                    seen.add(name)
                    yield name, split
                if twice:
                    told = f"{split or 'place'} {place or '.'}"
                    got = f"{twice[0]}" + (f" and {len(twice) - 1} more" if len(twice) > 1 else "")
                    hint = "they stay in the split that named them first"
                    problems.append(bad(place or ".", f"images of {told}", "named once", got, hint))

    def orphans(self, used: Collection[str]) -> Iterator[str]:
        """Label files in folders called ``labels`` whose image is not there."""
        for name in self.tree.files:
            if name.endswith(".txt") and "/labels/" in f"/{name}" and name not in used:
                yield name

    def _below(self, place: str, problems: list[Problem]) -> Iterator[str]:
        if place.endswith(".txt"):
            yield from self._listed(place, problems)
            return
        prefix = "" if place in ("", ".") else place.rstrip("/") + "/"
        yield from (name for name in self.tree.images() if name.startswith(prefix))

    def _listed(self, place: str, problems: list[Problem]) -> Iterator[str]:
        text, _ = self.texts.get(place, ("", ""))
        for at, line in enumerate(text.splitlines()):
            if not line.strip():
                continue
            where = f"{place} line {at + 1}"
            try:
                plain = normal(line.strip())
            except Invalid as error:
                plain = self._end_of(line.strip())
                if not plain:
                    problems.append(Problem(where=where, error=error.code, message=f"{where}: {error.message}"))
                    continue
            folder = posixpath.dirname(place)
            known = [name for name in _seen_from(plain, folder) if name in self.tree.files]
            if not is_image(plain):
                problems.append(bad(where, where, "the path of an image", line[:80]))
                continue
            yield known[0] if known else plain

    def _end_of(self, line: str) -> str:
        """The one image whose path ends an absolute path of another machine; empty where none or ``..`` is in it."""
        words = line.replace("\\", "/").split("/")
        if ".." in words:
            return ""
        for at in range(1, len(words)):
            name = "/".join(words[at:])
            if name in self.tree.files:
                return name
        return ""


def label_places(name: str) -> Iterator[str]:
    """Where the labels of an image may lie, by the rule of Ultralytics and by that of older tools."""
    stem = posixpath.splitext(name)[0] + ".txt"
    before, sign, after = f"/{stem}".rpartition("/images/")
    if sign:
        yield f"{before}/labels/{after}"[1:]
    before, sign, after = f"/{stem}".rpartition("/Images/")
    if sign:
        yield f"{before}/Annotations/{after}"[1:]
        yield f"{before}/Labels/{after}"[1:]
    yield stem


def find_layout(root: Path) -> Layout:
    """The layout of a folder, a data.yaml or an obj.data.

    Raises: NotFound, Invalid: nothing there, or a file that is no configuration.
    """
    if not root.exists():
        raise NotFound("path", root, hint="check the path")
    layout = Layout(Tree.of(root.parent if root.is_file() else root))
    files = layout.tree.files
    named = [root.name] if root.is_file() else [name for name in files if name.count("/") <= 1]
    for name in sorted(named, key=lambda name: (name.count("/"), posixpath.basename(name) != "data.yaml", name)):
        if name.endswith((".yaml", ".yml")):
            text = peek(root.parent / name if root.is_file() else Path(files[name]))
            if _KEYS.search(text) and _PLACES.search(text):
                _read_yaml(layout, name)
                break
        elif name.endswith(".data") and _DARKNET.search(peek(Path(files[name]))):
            _read_darknet(layout, name)
            break
    if root.is_file() and not layout.config:
        raise Invalid(str(root), "a data.yaml with names and train, or an obj.data", "neither")
    if not layout.config:
        _read_plain(layout)
    for place in layout.splits():
        if place.endswith(".txt"):
            try:
                layout.texts[place] = read_text(Path(files[place]), place, SMALL_LIMIT)
            except Invalid as error:
                layout.problems.append(Problem(where=place, error=error.code, message=error.message, hint=error.hint))
    return layout


def _read_yaml(layout: Layout, name: str) -> None:
    import yaml

    text, encoding = read_text(Path(layout.tree.files[name]), name, SMALL_LIMIT)
    layout.config, layout.texts[name] = name, (text, encoding)
    try:
        body = yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # all values stay text: "on", "1.0"
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Invalid(name, "YAML", " ".join(str(error).split())) from None
    if not isinstance(body, dict):
        raise Invalid(name, "fields such as names and train", str(body)[:80])
    _read_names(layout, body.get("names"), body.get("nc"), name)
    shape = body.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(x, str) and x.isdecimal() for x in shape):
        layout.task, layout.keypoints = "pose", (int(shape[0][:4]), int(shape[1][:4]))
    elif body.get("task") in ("detect", "segment", "obb"):
        layout.task = body["task"]
    given = body.get("path", "")
    folder = posixpath.dirname(name)
    layout.base = _base(layout, given if isinstance(given, str) else "", folder)
    for split in ("train", "val", "test", "unsplit"):
        found = body.get(split, body.get("valid") if split == "val" else None)
        for place in found if isinstance(found, list) else [found] if found else []:
            _add_place(layout, "" if split == "unsplit" else split, place, f"{name} {split}")


def _read_names(layout: Layout, names: Any, count: Any, where: str) -> None:
    if isinstance(names, list):
        layout.names = {at: str(text) for at, text in enumerate(names)}
    elif isinstance(names, dict):
        for key, text in names.items():
            if isinstance(key, str) and key.strip().isdecimal() and len(key) < 8:
                layout.names[int(key)] = str(text)
            else:
                layout.problems.append(bad(where, f"names of {where}", "number: name", f"{key!r}"[:80]))
    elif isinstance(names, str) and names in layout.tree.files:
        text, encoding = read_text(Path(layout.tree.files[names]), names, SMALL_LIMIT)
        layout.texts[names] = text, encoding
        layout.names = {at: line.strip() for at, line in enumerate(text.splitlines()) if line.strip()}
    elif isinstance(count, str) and count.isdecimal() and len(count) < 6:
        layout.names = {at: str(at) for at in range(int(count))}
    if isinstance(count, str) and count.isdecimal() and len(count) < 9 and int(count) != len(layout.names):
        layout.problems.append(bad(where, f"nc of {where}", f"the number of names ({len(layout.names)})", count))


def _base(layout: Layout, given: str, folder: str) -> str:
    """The folder that ``path:`` names: often the data set's own name, or a place of another machine."""
    plain = given.strip().replace("\\", "/").rstrip("/")
    if plain in ("", "."):
        return folder
    try:
        inner = normal(plain, folder)
    except Invalid:
        return folder
    return inner if any(name.startswith(inner + "/") for name in layout.tree.files) else folder


def _add_place(layout: Layout, split: str, place: Any, where: str) -> None:
    if not isinstance(place, str) or not place.strip():
        layout.problems.append(bad(where, where, "a folder or a list of images", str(place)[:80]))
        return
    plain = place.strip().replace("\\", "/").rstrip("/")
    for name in _places(plain, layout.base):
        if name in layout.tree.files or any(file.startswith(name + "/") for file in layout.tree.files) or name == ".":
            layout.places.setdefault(split, []).append("" if name == "." else name)
            return
    layout.problems.append(bad(where, where, "a folder or list below the root", place))


def _places(plain: str, base: str) -> Iterator[str]:
    """Where a path of data.yaml may be. Roboflow writes ``../train/images`` for a folder beside the file."""
    words = [word for word in plain.split("/") if word not in ("", ".")]
    while words and words[0] == "..":
        words.pop(0)
    if ".." in words:
        return
    for start in range(len(words)) if plain.startswith("/") or ":" in plain else (0,):
        tail = "/".join(words[start:])
        if base:
            yield posixpath.join(base, tail)
        yield tail
    if not words:
        yield base or "."


def _read_darknet(layout: Layout, name: str) -> None:
    text, encoding = read_text(Path(layout.tree.files[name]), name, SMALL_LIMIT)
    layout.config, layout.texts[name] = name, (text, encoding)
    layout.base = posixpath.dirname(name)
    for at, line in enumerate(text.splitlines()):
        key, sign, value = (part.strip() for part in line.partition("="))
        where = f"{name} line {at + 1}"
        if not sign or not value:
            continue
        if key == "names":
            found = next((place for place in _seen_from(value, layout.base) if place in layout.tree.files), "")
            if not found:
                layout.problems.append(bad(where, where, "a file with names of classes", value))
                continue
            _read_list(layout, found)
        elif key in ("train", "valid", "val", "test"):
            found = next((place for place in _seen_from(value, layout.base) if place in layout.tree.files), "")
            if found:
                layout.places.setdefault("val" if key == "valid" else key, []).append(found)
            else:
                layout.problems.append(bad(where, where, "a list of images below the root", value))


def _read_list(layout: Layout, name: str) -> None:
    text, encoding = read_text(Path(layout.tree.files[name]), name, SMALL_LIMIT)
    layout.texts[name] = text, encoding
    layout.names = {at: line.strip() for at, line in enumerate(text.splitlines()) if line.strip()}


def _seen_from(given: str, folder: str) -> Iterator[str]:
    """Where a path of a darknet file may be: darknet's own are seen from above, as ``data/train.txt``."""
    plain = given.replace("\\", "/")
    plain = plain.removeprefix("./")
    if plain.startswith("/") or ".." in plain.split("/"):
        return
    for tail in (plain, plain.partition("/")[2]):
        if tail:
            yield posixpath.normpath(posixpath.join(folder, tail))
            yield posixpath.normpath(tail)


def _read_plain(layout: Layout) -> None:
    """Images and labels with no configuration: names from classes.txt, splits from lists or folders."""
    for name in layout.tree.files:
        base = posixpath.basename(name)
        if base in _NAMES and not layout.names and name.count("/") <= 2:
            try:
                _read_list(layout, name)
            except LoopworksError as error:
                layout.problems.append(Problem(where=name, error=error.code, message=error.message, hint=error.hint))
        if name in _LISTS and is_image(peek(Path(layout.tree.files[name])).partition("\n")[0].strip()):
            layout.places.setdefault(_LISTS[name], []).append(name)
