"""Writing YOLO: a label file that still says the same is written as it was, line by line where only some changed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loopworks.core.errors import LoopworksError
from loopworks.core.values import Problem, Shape
from loopworks.data.formats.contract import Content, Put, Record
from loopworks.data.formats.folder import Losses, encode, normal, split_of
from loopworks.data.formats.yolo_layout import label_places
from loopworks.data.formats.yolo_lines import Task, read_line, write_line


def write(content: Content, folder: Path, put: Put, task: Task, digits: int) -> Iterator[Problem]:
    """Write a data set; see ``Yolo.write``."""
    writer = _Writer(content, folder, task, digits)
    for record in content.records:
        if record.text is not None and not record.path:
            writer.losses.add("text item", "left out")
            continue
        writer.add(record)
        if record.path:
            put(record, record.name)
    writer.finish()
    yield from writer.losses.problems()


class _Writer:
    def __init__(self, content: Content, folder: Path, task: Task, digits: int) -> None:
        self.folder, self.digits = folder, digits
        self.losses = Losses("yolo")
        kept = content.meta.get("yolo", {})
        self.meta: Mapping[str, Any] = kept if isinstance(kept, Mapping) else {}
        old = [(int(key), str(label)) for key, label in self.meta.get("names", [])]
        self.old = dict(old)
        self.numbers = _numbers(old, content.schema.classes)
        self.labels = {number: label for label, number in self.numbers.items()}
        self.keypoints = tuple(self.meta.get("keypoints", (0, 0)))
        self.kept_task: Task = self.meta.get("task", "auto")
        self.given = task
        self.images: list[tuple[str, str]] = []
        self.waiting: list[tuple[Record, str]] = []
        self.kinds: set[str] = set()
        self.has_keypoints = 0

    def add(self, record: Record) -> None:
        """Take a record; its labels are written by ``finish``, when the task is known."""
        self.images.append((record.name, record.split))
        kept = record.extra.get("yolo")
        place = kept["file"] if kept and record.name else next(label_places(record.name))
        if not kept or place not in label_places(record.name):
            place = next(label_places(record.name))
        for shape in record.shapes:
            self.kinds.add(shape.kind)
            points = shape.facts.get("keypoints") if '"keypoints"' in shape.attributes else None
            if isinstance(points, list):
                self.has_keypoints = max(self.has_keypoints, len(points))
        if record.is_labeled or record.shapes:
            self.waiting.append((record, place))

    def finish(self) -> None:
        """Write labels, names, lists and configuration."""
        task = self._task()
        used: set[str] = set()
        for record, place in self.waiting:
            if place.casefold() in used:
                self.losses.add(
                    "image whose name differs from another only in its ending", "written without its labels"
                )
                continue
            used.add(place.casefold())
            text, encoding = self._text(record, task)
            _save(self.folder / normal(place), text, encoding)
        self._config(task)

    def _task(self) -> Task:
        if self.given != "auto":
            return self.given
        if self.meta:
            if self.kept_task != "auto":
                return self.kept_task
        elif self.has_keypoints and self.has_keypoints % 3 == 0:
            return "pose"
        if "box" in self.kinds and self.kinds <= {"box", "class", "caption", "value"}:
            return "detect"
        if self.kinds & {"polygon", "mask", "ellipse"}:
            return "segment"
        return "obb" if "obb" in self.kinds else "detect"

    def _text(self, record: Record, task: Task) -> tuple[str, str]:
        kept = record.extra.get("yolo") or {}
        text: str = kept.get("text", "")
        encoding: str = kept.get("encoding", "utf-8")
        size = tuple(kept.get("size", ())) or (record.width, record.height)
        lines = text.splitlines()
        before = {at: self._old_shape(line, size) for at, line in enumerate(lines) if line.strip()}
        out: list[str] = []
        places: list[int] = []
        for shape in record.shapes:
            at = shape.origin.get("yolo", {}).get("line", -1)
            if _same(before.get(at), shape):
                out.append(lines[at])
                places.append(at)
                continue
            if shape.label not in self.numbers:
                self.losses.add(shape.kind, "left out")
                continue
            line = write_line(shape, size, self.numbers[shape.label], task, self.digits, self.losses)
            if line:
                out.append(line)
                places.append(-1)
        if kept and places == sorted(at for at, shape in before.items() if shape is not None):
            return text, encoding
        newline = "\r\n" if "\r\n" in text else "\n"
        return "".join(line + newline for line in out), encoding

    def _old_shape(self, line: str, size: tuple[int, ...]) -> Shape | None:
        try:
            task = self.given if self.given != "auto" else self.kept_task
            return read_line(line, (size[0], size[1]), self.labels, task, (self.keypoints[0], self.keypoints[1]))
        except LoopworksError:
            return None

    def _config(self, task: Task) -> None:
        files = {name: (text, encoding) for name, text, encoding in self.meta.get("files", [])}
        config = self.meta.get("config", "")
        is_same_names = self.old == self.labels and bool(self.old)
        moved = any(self._split(name) != split for name, split in self.images) if self.meta else True
        lists = [name for name in files if name != config and not name.endswith((".names", "classes.txt"))]
        if self.meta and is_same_names and not moved and self._lists_fit(files, lists):
            for name, (text, encoding) in files.items():
                _save(self.folder / normal(name), text, encoding)
            return
        for name, (text, encoding) in files.items():
            if name.endswith((".names", "classes.txt")) and is_same_names:
                _save(self.folder / normal(name), text, encoding)
        self._new_config(task)

    def _split(self, name: str) -> str:
        splits = self.meta.get("splits", {})
        for name_list, text, _ in self.meta.get("files", []):
            if name_list in splits and name_list.endswith(".txt"):
                lines = {line.strip() for line in text.splitlines()}
                if any(name == line or line.endswith("/" + name) or name.endswith("/" + line) for line in lines):
                    return str(splits[name_list])
        for place, split in splits.items():
            if not place.endswith(".txt") and (not place or name.startswith(place + "/")):
                return str(split)
        return split_of(*reversed(name.split("/")[:-1]))

    def _lists_fit(self, files: Mapping[str, tuple[str, str]], lists: list[str]) -> bool:
        splits = self.meta.get("splits", {})
        listed = sum(1 for name in lists if name in splits for line in files[name][0].splitlines() if line.strip())
        folders = [place for place in splits if not place.endswith(".txt")]
        alone = [name for name, _ in self.images if not any(not f or name.startswith(f + "/") for f in folders)]
        return len(folders) == len(splits) or listed >= len(alone)

    def _new_config(self, task: Task) -> None:
        top = max(self.labels, default=-1)
        lines = []
        for split in ("train", "val", "test"):
            found = [name for name, other in self.images if other == split]
            if found or split != "test":
                lines.append(f"{split}: {split}.txt")
                _save(self.folder / f"{split}.txt", "".join(f"./{name}\n" for name in found), "utf-8")
        rest = [name for name, split in self.images if not split]
        if rest:
            _save(self.folder / "unsplit.txt", "".join(f"./{name}\n" for name in rest), "utf-8")
            lines.append("unsplit: unsplit.txt")
        if task == "pose":
            count = self.keypoints if self.keypoints[0] else (self.has_keypoints // 3, 3)
            lines.append(f"kpt_shape: [{count[0]}, {count[1]}]")
        elif task in ("segment", "obb"):
            lines.append(f"task: {task}")
        lines += ["names:"] if self.labels else ["names: []"]
        lines += [f"  {number}: {_quote(self.labels[number])}" for number in range(top + 1) if number in self.labels]
        _save(self.folder / "data.yaml", "\n".join(["path: .", *lines]) + "\n", "utf-8")


def _numbers(old: list[tuple[int, str]], classes: tuple[str, ...]) -> dict[str, int]:
    """Class -> number: as it was, also under another name in the same place; new ones behind the last."""
    if not old:
        return {label: at for at, label in enumerate(classes)}
    numbers: dict[str, int] = {}
    was = {label for _, label in old}
    order = list(dict.fromkeys(label for _, label in old))
    renamed = {
        before: now
        for before, now in zip(order, classes, strict=False)
        if before != now and before not in classes and now not in was
    }
    for number, label in old:
        numbers.setdefault(renamed.get(label, label), number)
    for label in classes:
        numbers.setdefault(label, 1 + max(numbers.values()))
    return numbers


def _same(old: Shape | None, new: Shape) -> bool:
    return old is not None and (old.label, old.kind, old.points, old.attributes) == (
        new.label,
        new.kind,
        new.points,
        new.attributes,
    )


def _quote(text: str) -> str:
    """A name as a YAML string: JSON's is one."""
    is_plain = text.replace(" ", "").replace("_", "").isalnum() and text.isascii() and not text[0].isdigit()
    is_word = text.lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
    return text if is_plain and not is_word else json.dumps(text, ensure_ascii=False)


def _save(path: Path, text: str, encoding: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(text, encoding))
