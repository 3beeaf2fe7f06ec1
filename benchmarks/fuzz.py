"""Broken input for every reader: files are damaged at random, read, and what was read is written again.

A reader may refuse (an error of ours) or tell problems; anything else that it raises is a fault, and so is a problem
without a place, one of several lines, or an input that takes longer than two seconds of the processor.

``python -m benchmarks.fuzz [SECONDS] [SEED] [FORMAT ...]``; ``python -m benchmarks fuzz`` runs a minute of it. With
``TMPDIR`` in memory (``/dev/shm``) it tries many times as many.
"""

import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import loopworks.builtins  # noqa: F401 registers the formats
from benchmarks.figure import Figure
from loopworks.core import mask
from loopworks.core.errors import LoopworksError
from loopworks.core.values import LabelSchema, Problem, Shape
from loopworks.data.formats import detect
from loopworks.data.formats.contract import Content, Record

LIMIT_S = 2.0
HEIGHT, WIDTH = 6, 8
TOKENS = (
    *(
        b"",
        b"0",
        b"-1",
        b"nan",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-1e-999",
        b"99999999999999999999",
        b"0.5",
        b"1" * 5000,
    ),
    *(b'"', b"'", b"<", b">", b"</", b"/>", b"[", b"]", b"{", b"}", b",", b":", b"\n", b"\r", b"\t", b" ", b"|"),
    *(b"null", b"true", b"[]", b"{}", b'""', b"[[", b"[" * 3000, b'{"a":' * 2000, b"<a>" * 500, b"&amp;", b"&x;"),
    *(b"../", b"/etc/passwd", b"C:\\x", b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"<![CDATA[", b"&#0;", b"%s", b"{0}", b"1_000", "é".encode(), "人".encode()),
)
MIN = '[{"image":"/data/upload/1/a.png","id":7,"label":[{"x":5,"y":5,"width":10.5,"height":20,"rotation":30,"rectanglelabels":["car"],"original_width":8,"original_height":6}],"choice":"day","annotator":1,"annotation_id":3}]'  # noqa: E501
RICH = (
    '{"info":{"year":2020},"licenses":[{"id":1}],"images":[{"id":"x","file_name":"a.png","width":8,"height":6}],'
    '"annotations":[{"id":1,"image_id":"x","category_id":1.0,"bbox":[1,1,2,2],"segmentation":{"size":[6,8],'
    '"counts":"0012"},"iscrowd":1,"area":4},{"id":2,"image_id":"x","category_id":1,"keypoints":[1,1,2,0,0,0],'
    '"num_keypoints":1,"bbox":[0,0,3,3]},{"id":3,"image_id":"x","caption":"a cat"},{"id":4,"image_id":"x",'
    '"category_id":1,"segmentation":[[1,1,3,1,3,3]],"bbox":[1,1,2,2]},{"id":5,"image_id":"x","category_id":1,'
    '"segmentation":{"size":[6,8],"counts":[3,5,40]},"bbox":[0,3,1,3]}],"categories":[{"id":1,"name":"car",'
    '"supercategory":"v","keypoints":["a","b"],"skeleton":[[1,2]]}]}'
)


@dataclass(slots=True)
class Report:
    """What a run found."""

    inputs: int = 0
    refused: int = 0
    told: int = 0
    """Inputs of which a part was left out."""
    slowest_s: float = 0.0
    by_format: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    """The last line of each kind of fault -> how it came about."""

    def line(self) -> str:
        """In one sentence."""
        return (
            f"{self.inputs} inputs, {self.refused} refused, {self.told} with problems, {len(self.faults)} faults, "
            f"slowest {self.slowest_s:.2f} s"
        )


def seeds(folder: Path, names: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """A small data set in each format: format (and variant) -> path -> bytes."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 2, 3)).save(folder / f"{'ab'[number]}.png")
    found = {name: _written(folder, name, index) for index, name in enumerate(names)}
    image = (folder / "a.png").read_bytes()
    if "coco" in names:
        found["coco:rich"] = {"annotations/instances_val2017.json": RICH.encode(), "images/val2017/a.png": image}
    if "label-studio" in names:
        found["label-studio:min"] = {"min.json": MIN.encode(), "a.png": image}
    if "csv" in names:
        found["csv:texts"] = {"train.csv": b'text,label,n\n"a, ""b""",x,1\nc,y,2.50\n'}
    return found


def _written(folder: Path, name: str, index: int) -> dict[str, bytes]:
    masks = name in ("color-masks", "cityscapes")
    eye = np.eye(HEIGHT, WIDTH, dtype=np.bool_)
    shapes = (
        Shape(label="car", source="import", kind="mask", points=((6.0, 8.0),), mask=mask.encode(eye)),
        *(
            ()
            if masks
            else (
                Shape(label="car", source="import", kind="box", points=((1.0, 2.0, 5.0, 3.0),)),
                Shape(label="bus", source="import", kind="polygon", points=((1.0, 1.0, 7.0, 1.5, 7.0, 5.0),)),
            )
        ),
    )
    records = [
        Record(
            name=f"{stem}.png",
            path=str(folder / f"{stem}.png"),
            width=WIDTH,
            height=HEIGHT,
            split=split,
            shapes=shapes,
            attributes={"camera": "A3"},
        )
        for stem, split in (("a", "train"), ("b", "val"))
    ]
    out = folder / f"seed{index}"
    out.mkdir()
    _write(name, Content(schema=LabelSchema(classes=("car", "bus")), records=iter(records)), out)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def _write(name: str, content: Content, out: Path) -> list[Problem]:
    def put(record: Record, place: str) -> None:
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        if record.data is not None:
            (out / place).write_bytes(record.data)
        elif record.path:
            shutil.copyfile(record.path, out / place)

    return list(detect.build(name).write(content, out, put))


def damaged(data: bytes, dice: random.Random) -> bytes:
    """The bytes, cut off or changed in a few places."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        at = dice.randrange(len(out) + 1)
        how = dice.randrange(8)
        if how == 0:
            del out[at:]
        elif how == 1 and out:
            out[at % len(out)] = dice.randrange(256)
        elif how == 2:
            del out[at : at + dice.choice((1, 2, 8, 40))]
        elif how == 3:
            out[at:at] = dice.choice(TOKENS)
        elif how == 4:
            start = dice.randrange(len(out) + 1)
            out[at:at] = out[start : start + dice.choice((4, 30, 200))]
        else:
            _replace_word(out, at, dice)
    return bytes(out)


def _replace_word(out: bytearray, at: int, dice: random.Random) -> None:
    """Put a token in the place of a number or word."""
    signs = b"0123456789.-+abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
    start = end = min(at, len(out))
    while start > 0 and out[start - 1] in signs:
        start -= 1
    while end < len(out) and out[end] in signs:
        end += 1
    out[start:end] = dice.choice(TOKENS)


def inputs(found: dict[str, dict[str, bytes]], dice: random.Random) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Without end: format, name of the file that was damaged, and all files."""
    names = sorted(found)
    while True:
        name = dice.choice(names)
        files = found[name]
        notes = [file for file in files if not file.endswith(".png")] or list(files)
        file = dice.choice(notes if dice.random() < 0.9 else list(files))
        yield name.partition(":")[0], file, {**files, file: damaged(files[file], dice)}


def attempt(name: str, files: dict[str, bytes], folder: Path, report: Report) -> None:
    """Read one input, write what was read, and note what went wrong."""
    root = folder / "in"
    shutil.rmtree(folder, ignore_errors=True)
    for file, data in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)
    started = time.process_time()
    try:
        form = detect.build(name)
        score = form.detect(root)
        if not 0 <= score <= 1:
            raise AssertionError(f"detect gave {score}")
        content = form.read(root)
        records = list(content.records)
        _check(content.problems)
        json.dumps([content.meta, *(dict(record.extra) for record in records)], allow_nan=False)
        report.told += bool(content.problems)
        (folder / "out").mkdir()
        content.records = records
        _write(name, content, folder / "out")
    except LoopworksError:
        report.refused += 1
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{name}: {type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:120]}"
        report.faults.setdefault(key, traceback.format_exc(limit=-6))
    taken = time.process_time() - started
    report.inputs += 1
    report.by_format[name] += 1
    report.slowest_s = max(report.slowest_s, taken)
    if taken > LIMIT_S:
        report.faults.setdefault(f"{name}: slower than {LIMIT_S} s", f"{taken:.1f} s")


def _check(problems: Sequence[Problem]) -> None:
    for problem in problems:
        if not (problem.where and problem.message) or "\n" in problem.message:
            raise AssertionError(f"a problem must have a place and one line; got {problem}")


def run(
    seconds: float, seed: int, names: Sequence[str], keep: Callable[[dict[str, bytes]], None] | None = None
) -> Report:
    """Damage and read until the time is over."""
    report, dice = Report(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="loopworks-fuzz-") as temp:
        found = seeds(Path(temp) / "seeds", names)
        deadline = time.monotonic() + seconds
        for name, _, files in inputs(found, dice):
            if time.monotonic() > deadline:
                break
            before = len(report.faults)
            attempt(name, files, Path(temp) / "try", report)
            if keep and len(report.faults) > before:
                keep(files)
    return report


def formats() -> list[str]:
    """All formats with readers of our own for annotations."""
    return [name for name in detect.names() if name not in ("folders", "datumaro-bridge")]


def main(seconds: float = 60.0, seed: int = 1, names: Sequence[str] = ()) -> list[Figure]:
    """A minute of it."""
    report = run(seconds, seed, names or formats())
    for key, trace in report.faults.items():
        print(f"fault: {key}\n{trace}", file=sys.stderr)
    by_format = ", ".join(f"{name} {count}" for name, count in sorted(report.by_format.items()))
    detail = f"{report.line()}; {by_format}"
    return [Figure(name="faults in readers", value=len(report.faults), unit="faults", target=0, detail=detail)]


if __name__ == "__main__":
    words = sys.argv[1:]
    for figure in main(float(words[0]) if words else 60.0, int(words[1]) if words[1:] else 1, words[2:]):
        print(figure.line())
