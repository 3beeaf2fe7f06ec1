"""Any data set through COCO, YOLO, VOC, KITTI and LabelMe and back; broken files give problems, never a crash."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.formats.passage import Got, draw, plain, read, write

from loopworks.core import mask
from loopworks.core.errors import LoopworksError
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.data.formats.coco import Coco
from loopworks.data.formats.contract import Format, Record
from loopworks.data.formats.kitti import Kitti
from loopworks.data.formats.labelme import LabelMe
from loopworks.data.formats.voc import Voc
from loopworks.data.formats.yolo import Yolo

WIDTH, HEIGHT = 20, 10
ODD = ("inside", "wider and higher")
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
COORDINATES = st.integers(0, 800).map(lambda value: value / 100)
LABELS = ("cat", "traffic light", "人", "d&g <x>")
FACTS = st.dictionaries(
    st.sampled_from(["color", "ok", "note", "n"]),
    st.one_of(st.integers(-5, 5), st.booleans(), st.sampled_from(["red", "1", "", " a ", "é\n"]), st.floats(0, 1)),
    max_size=2,
)


@st.composite
def boxes(draw_: Any) -> tuple[tuple[float, ...], ...]:
    return (tuple(draw_(COORDINATES) for _ in range(4)),)


@st.composite
def rings(draw_: Any, parts: int = 1) -> tuple[tuple[float, ...], ...]:
    count = draw_(st.integers(1, parts))
    return tuple(
        tuple(value for _ in range(draw_(st.integers(3, 6))) for value in (draw_(COORDINATES), draw_(COORDINATES)))
        for _ in range(count)
    )


@st.composite
def masks(draw_: Any) -> str:
    bits = draw_(st.lists(st.booleans(), min_size=WIDTH * HEIGHT, max_size=WIDTH * HEIGHT))
    bits[draw_(st.integers(0, WIDTH * HEIGHT - 1))] = True
    return mask.encode(np.array(bits, np.bool_).reshape(HEIGHT, WIDTH))


@st.composite
def shapes(draw_: Any, kinds: tuple[str, ...], parts: int, has_facts: bool) -> Shape:
    kind = draw_(st.sampled_from(kinds))
    label = draw_(st.sampled_from(LABELS))
    facts = dump(draw_(FACTS)) if has_facts else "{}"
    if kind == "caption":
        return Shape(label="", source="import", kind="caption", attributes=dump({"text": draw_(st.text(max_size=9))}))
    if kind == "mask":
        size = ((float(HEIGHT), float(WIDTH)),)
        return Shape(label=label, source="import", kind="mask", points=size, mask=draw_(masks()), attributes=facts)
    if kind == "class":
        return Shape(label=label, source="import")
    if kind == "polyline":
        row = tuple(draw_(COORDINATES) for _ in range(2 * draw_(st.integers(2, 4))))
        return Shape(label=label, source="import", kind="polyline", points=(row,), attributes=facts)
    points = draw_(boxes() if kind == "box" else rings(parts))
    return Shape(label=label, source="import", kind=kind, points=points, attributes=facts)


def sets(kinds: tuple[str, ...], *, parts: int = 1, has_facts: bool = True) -> st.SearchStrategy[list[Any]]:
    one = st.tuples(
        st.sampled_from(["train", "val", "test", ""]), st.lists(shapes(kinds, parts, has_facts), max_size=4)
    )
    return st.lists(one, min_size=1, max_size=4)


def make(folder: Path, found: list[Any], name: Callable[[int], str]) -> Got:
    records = []
    for at, (split, inside) in enumerate(found):
        path = draw(folder / f"{at}.png", (WIDTH, HEIGHT))
        records.append(
            Record(name=name(at), path=str(path), width=WIDTH, height=HEIGHT, split=split, shapes=tuple(inside))
        )
    return Got(LabelSchema(classes=LABELS), records, {}, [])


def passes(form: Format, found: list[Any], *, splits: bool = True) -> tuple[Got, Got]:
    """Write a made-up data set, read it, write what was read, read that; the last two folders must be the same."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        before = make(folder / "in", found, lambda at: f"some/p {at}.png")
        write(form, before, folder / "one")
        after = read(form, folder / "one")
        assert [problem.message for problem in after.problems if not any(word in problem.message for word in ODD)] == []
        write(form, after, folder / "two")
        for path in sorted((folder / "one").rglob("*")):
            if path.is_file():
                assert (folder / "two" / path.relative_to(folder / "one")).read_bytes() == path.read_bytes()
        return before, after


def same(before: Got, after: Got, *, splits: bool = True, ordered: bool = True) -> None:
    assert set(after.by_name) == set(before.by_name)
    for name, record in before.by_name.items():
        other = after.by_name[name]
        ours, theirs = [plain(shape) for shape in record.shapes], [plain(shape) for shape in other.shapes]
        assert theirs == ours if ordered else sorted(theirs) == sorted(ours)
        assert other.is_labeled
        if splits:
            assert other.split == record.split


@SLOW
@given(sets(("box", "polygon", "mask", "caption", "class"), parts=3))
def test_coco_gives_any_data_set_back(found: list[Any]) -> None:
    before, after = passes(Coco(), found)
    assert after.schema == before.schema
    same(before, after, ordered=False)


@SLOW
@given(sets(("box",), has_facts=False))
def test_yolo_gives_any_boxes_back(found: list[Any]) -> None:
    before, after = passes(Yolo(task="detect"), found)
    assert after.schema == before.schema
    same(before, after)


@SLOW
@given(sets(("polygon",), has_facts=False))
def test_yolo_gives_any_polygons_back(found: list[Any]) -> None:
    before, after = passes(Yolo(task="segment"), found)
    same(before, after)


@SLOW
@given(sets(("box", "polygon")))
def test_voc_gives_any_boxes_and_facts_back(found: list[Any]) -> None:
    before, after = passes(Voc(), found)
    assert {shape.label for record in after.records for shape in record.shapes} == set(after.schema.classes)
    told = {"pose", "truncated", "difficult"}
    for record in after.records:
        for shape in record.shapes:
            assert told <= shape.facts.keys()
    bare = [
        Record(
            name=record.name,
            split=record.split,
            is_labeled=record.is_labeled,
            shapes=tuple(
                Shape(
                    label=shape.label,
                    kind=shape.kind,
                    points=shape.points,
                    attributes=dump({key: value for key, value in shape.facts.items() if key not in told}),
                )
                for shape in record.shapes
            ),
        )
        for record in after.records
    ]
    same(before, Got(after.schema, bare, {}, []))


@SLOW
@given(sets(("box",), has_facts=False))
def test_kitti_gives_any_boxes_back(found: list[Any]) -> None:
    before, after = passes(Kitti(), found)
    for record in before.records:
        theirs = [shape.points for shape in after.by_name[record.name].shapes]
        for shape, points in zip(record.shapes, theirs, strict=True):
            assert points[0] == pytest.approx(shape.points[0])


@SLOW
@given(sets(("box", "polygon", "polyline", "mask")))
def test_labelme_gives_any_shapes_back(found: list[Any]) -> None:
    before, after = passes(LabelMe(), found)
    same(before, after, splits=False)


def seed(form: Format, folder: Path) -> Path:
    """A small data set in a format."""
    row = (1.0, 1.0, 8.0, 1.0, 8.0, 6.0)
    kinds = [
        Shape(label="cat", source="import", kind="box", points=((1.0, 2.0, 5.0, 4.0),)),
        Shape(label="cat", source="import", kind="polygon", points=(row,), attributes='{"color":"red"}'),
        Shape(
            label="人",
            source="import",
            kind="mask",
            points=((10.0, 20.0),),
            mask=mask.encode(np.eye(HEIGHT, WIDTH, dtype=np.bool_)),
        ),
    ]
    write(form, make(folder / "in", [("train", kinds), ("", kinds[:1])], lambda at: f"p{at}.png"), folder / "out")
    return folder / "out"


FORMATS = [Coco(), Yolo(), Voc(), Kitti(), LabelMe()]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: type(form).__name__)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_give_problems_and_never_a_crash(form: Format, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = seed(form, Path(place))
        files = sorted(path for path in root.rglob("*") if path.is_file())
        path = data.draw(st.sampled_from([file for file in files if file.suffix != ".png"] or files))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            if not content:
                break
            at = data.draw(st.integers(0, len(content) - 1))
            how = data.draw(st.sampled_from(["cut", "byte", "drop", "insert"]))
            if how == "cut":
                del content[at:]
            elif how == "byte":
                content[at] = data.draw(st.integers(0, 255))
            elif how == "drop":
                del content[at : at + data.draw(st.integers(1, 40))]
            else:
                content[at:at] = data.draw(
                    st.sampled_from([b"NaN", b"-1", b"1e999", b"[" * 3000, b'"', b"\x00", b"<a>", b"null", b"../../x"])
                )
        path.write_bytes(bytes(content))
        assert 0 <= form.detect(root) <= 1
        try:
            got = read(form, root)
        except LoopworksError:
            return
        assert all(problem.where and problem.message for problem in got.problems)
        shutil.rmtree(Path(place) / "again", ignore_errors=True)
        write(form, got, Path(place) / "again")
        json.dumps([dict(record.extra) for record in got.records], allow_nan=False)
