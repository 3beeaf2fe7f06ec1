"""What the tests of the formats share: made-up data sets, a writer to disk, and what must come back."""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from loopworks.core import mask
from loopworks.core.errors import LoopworksError
from loopworks.core.values import LabelSchema, Problem, Shape, dump
from loopworks.data.formats.contract import Content, Format, Put, Record

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
PLACES = (
    # Not closer to 0 than a billionth of a pixel: a share of a share of 1e-280 pixels is beyond what numbers hold.
    st.floats(-50, 5000, allow_nan=False).map(lambda x: x if abs(x) > 1e-9 else 0.0)
    | st.integers(0, 640).map(float)
    | st.integers(0, 64000).map(lambda n: n / 100)
)
SIZES = st.floats(1e-9, 5000, allow_nan=False) | st.just(0.0) | st.integers(0, 64000).map(lambda n: n / 100)
WORDS = st.text(
    st.characters(
        min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc", "Cf", "Zs", "Zl", "Zp", "Cn")
    ),
    min_size=1,
    max_size=8,
)
PLAIN: st.SearchStrategy[dict[str, object]] = st.just({})
FILES = st.text("abcdefgh0123456789_- äß", min_size=1, max_size=8).map(lambda s: s.strip() or "a")


def draw(path: Path, width: int = 8, height: int = 6, color: tuple[int, int, int] = (10, 20, 30)) -> Path:
    """A small image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), color).save(path)
    return path


def putter(folder: Path) -> Put:
    """Copies media as the exporter does."""

    def put(record: Record, name: str) -> None:
        path = folder / name
        assert path.resolve().is_relative_to(folder.resolve())
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.path, path)

    return put


def load(form: Format, root: Path) -> tuple[Content, list[Record]]:
    """All records of a data set, in a list."""
    content = form.read(root)
    records = list(content.records)
    content.records = records
    return content, records


def save(form: Format, content: Content, folder: Path) -> list[Problem]:
    """Write a data set; what could not be said."""
    folder.mkdir(parents=True, exist_ok=True)
    return list(form.write(content, folder, putter(folder)))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_files(form: Format, root: Path, out: Path, skip: Sequence[str] = ()) -> None:
    """What is read and written again is the same, byte for byte."""
    content, _ = load(form, root)
    assert save(form, content, out) == []
    base = root if root.is_dir() else root.parent
    before = {name: data for name, data in files(base).items() if name not in skip}
    assert files(out) == before


def said(shapes: Iterable[Shape]) -> list[tuple[object, ...]]:
    """What shapes say, without who says it and what only a format knows."""
    return [(s.label, s.kind, s.points, s.mask, s.attributes) for s in shapes]


def shapes(
    classes: Sequence[str], kinds: Sequence[str], facts: st.SearchStrategy[dict[str, object]], size: tuple[int, int]
) -> st.SearchStrategy[Shape]:
    """Shapes of some kinds in an image of ``size`` (width, height)."""
    pairs = st.tuples(PLACES, PLACES)

    def points(kind: str) -> st.SearchStrategy[tuple[tuple[float, ...], ...]]:
        if kind == "box":
            return st.tuples(PLACES, PLACES, SIZES, SIZES).map(lambda row: (row,))
        if kind == "ellipse":
            return st.tuples(PLACES, PLACES, SIZES, SIZES, st.floats(0, 359.5)).map(lambda row: (row,))
        if kind in ("polygon", "polyline", "points"):
            few = 3 if kind == "polygon" else 1
            return st.lists(pairs, min_size=few, max_size=6).map(lambda rows: (tuple(n for row in rows for n in row),))
        if kind == "mask":
            return st.just(((float(size[1]), float(size[0])),))
        return st.just(())

    def one(kind: str) -> st.SearchStrategy[Shape]:
        def build(label: str, place: tuple[tuple[float, ...], ...], more: dict[str, object], seed: int) -> Shape:
            rng = np.random.default_rng(seed)
            runs = mask.encode(rng.random((size[1], size[0])) < 0.4) if kind == "mask" else ""
            return Shape(
                label="" if kind == "caption" else label,
                source="import",
                kind=kind,  # type: ignore[arg-type]
                points=place,
                mask=runs,
                attributes=dump(more),
            )

        return st.builds(build, st.sampled_from(list(classes)), points(kind), facts, st.integers(0, 99))

    return st.sampled_from(list(kinds)).flatmap(one)


@st.composite
def contents(
    draw_: st.DrawFn,
    kinds: Sequence[str],
    facts: st.SearchStrategy[dict[str, object]] = PLAIN,
    names: st.SearchStrategy[str] = FILES,
) -> Content:
    """A made-up data set without media; every image is 7 x 5 pixels."""
    classes = draw_(st.lists(WORDS, min_size=1, max_size=4, unique_by=lambda s: s.casefold()))
    schema = LabelSchema(classes=tuple(classes))
    stems = draw_(st.lists(names, max_size=4, unique=True))
    records = [
        Record(
            name=f"{stem}.png",
            width=7,
            height=5,
            split=draw_(st.sampled_from(("", "train", "val", "test"))),
            shapes=tuple(draw_(st.lists(shapes(classes, kinds, facts, (7, 5)), max_size=4))),
        )
        for stem in stems
    ]
    return Content(schema=schema, records=records)


def survives(form: Format, root: Path) -> None:
    """Bad input gives problems or an error of ours, nothing else."""
    with contextlib.suppress(LoopworksError):
        form.detect(root)
        content = form.read(root)
        for record in content.records:
            assert record.name
        assert all(problem.message for problem in content.problems)


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """The file cut off, or with some bytes changed, left out, or put in."""

    def edit(edits: list[tuple[int, int, bytes]]) -> bytes:
        out = data
        for at, length, new in edits:
            at %= len(out) + 1
            out = out[:at] + new + out[at + length :]
        return out

    snippets = st.sampled_from([
        b"",
        b"0",
        b"-1",
        b"nan",
        b'"',
        b"<",
        b">",
        b"[",
        b"{",
        b"null",
        b"1e999",
        b"\xff",
        b"\x00",
        b"../",
    ])
    edits = st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 12), snippets | st.binary(max_size=4)), min_size=1, max_size=4
    )
    return edits.map(edit) | st.integers(0, len(data)).map(lambda n: data[:n])
