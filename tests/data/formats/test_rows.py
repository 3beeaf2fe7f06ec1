"""CSV and JSON lines: columns by their names, rows that come back byte for byte, one problem per bad row."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.data.formats.contract import Content, Record
from loopworks.data.formats.delimited import Csv
from loopworks.data.formats.lines import JsonLines

ImageFile = Callable[..., bytes]
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def put_nothing(record: Record, path: str) -> None:
    assert path == record.name


def again(form: Csv | JsonLines, content: Content, folder: Path) -> list[str]:
    content.records = list(content.records)
    folder.mkdir()
    return [problem.message for problem in form.write(content, folder, put_nothing)]


@pytest.fixture
def images(tmp_path: Path, image_file: ImageFile) -> Path:
    (tmp_path / "in" / "img").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "in" / "img" / f"{number}.png").write_bytes(image_file("PNG", seed=number))
    return tmp_path / "in"


class TestCsv:
    @pytest.mark.parametrize(
        "text",
        [
            'text,category\nhello there,greet\n"a, b",other\n',
            'text;label;lang\r\nguten Tag;greet;de\r\n\r\n"mehr\r\nzeilig";other;de\r\n',
            "\ufefflabel\ttext\ngreet\thi\nother\tno end of line",
            'text,label\n"quoted","all"\n\n\n',
            "text,label\n hi , greet \n0010,007\n",
        ],
    )
    def test_a_file_of_texts_comes_back_byte_for_byte(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "train.csv").write_bytes(text.encode())
        content = Csv().read(tmp_path)
        assert content.problems == []
        assert {record.split for record in content.records} == {"train"}
        assert again(Csv(), content, tmp_path / "out") == []
        assert (tmp_path / "out" / "train.csv").read_bytes() == text.encode()

    def test_columns_become_text_label_and_attributes(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("id,text,intent,subset\n7,hi,greet,valid\n8,bye,,test\n", encoding="utf-8")
        first, second = Csv().read(tmp_path / "a.csv").records
        assert (first.name, first.text, first.split) == ("a.csv#1", "hi", "val")
        assert first.attributes == {"id": "7"}
        assert first.shapes == (Shape(label="greet", source="import"),)
        assert (second.split, second.is_labeled, second.shapes) == ("test", False, ())

    def test_rows_of_one_image_are_its_boxes(self, images: Path, tmp_path: Path) -> None:
        text = (
            "filename,width,height,class,xmin,ymin,xmax,ymax,occluded\n"
            "img/0.png,40,30,car,1,2,11,22.5,no\nimg/1.png,40,30,bus,0,0,4,4,yes\nimg/0.png,40,30,car,5,5,6,6,no\n"
        )
        (images / "boxes.csv").write_text(text, encoding="utf-8")
        content = Csv().read(images)
        first, second = content.records
        assert [shape.points[0] for shape in first.shapes] == [(1, 2, 10, 20.5), (5, 5, 1, 1)]
        assert (first.width, first.height, first.shapes[0].facts) == (40, 30, {"occluded": "no"})
        assert content.schema.classes == ("car", "bus")
        assert second.path == str(images / "img" / "1.png")
        assert again(Csv(), content, tmp_path / "out") == []
        assert (tmp_path / "out" / "boxes.csv").read_text(encoding="utf-8") == text

    def test_only_rows_that_changed_are_written_anew(self, images: Path, tmp_path: Path) -> None:
        head = "path,label,x,y,w,h,note\n"
        (images / "b.csv").write_text(
            f'{head}img/0.png,car,1.0,2,3,4,"a"\nimg/0.png,car,5,6,7,8,b\nimg/1.png,bus,1,1,2,2,"c"\n', encoding="utf-8"
        )
        content = Csv().read(images)
        first, second = content.records
        moved = Shape(label="van", kind="box", points=((5, 6, 9, 9.5),), attributes=dump({"note": "b"}))
        content.records = [replace(first, shapes=(first.shapes[0], moved)), second]
        assert again(Csv(), content, tmp_path / "out") == []
        assert (tmp_path / "out" / "b.csv").read_text(encoding="utf-8") == (
            f'{head}img/0.png,car,1.0,2,3,4,"a"\nimg/0.png,van,5,6,9,9.5,b\nimg/1.png,bus,1,1,2,2,"c"\n'
        )

    def test_a_class_that_was_changed_is_written_in_its_row(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("n,text,label\n1,a,x\n2,b,y\n", encoding="utf-8")
        content = Csv().read(tmp_path)
        first, second = content.records
        content.records = [first, replace(second, shapes=(Shape(label="x"),))]
        assert again(Csv(), content, tmp_path / "out") == []
        assert (tmp_path / "out" / "t.csv").read_text(encoding="utf-8") == "n,text,label\n1,a,x\n2,b,x\n"

    def test_bad_rows_are_told_and_the_rest_kept(self, images: Path) -> None:
        (images / "b.csv").write_text(
            "path,label,x,y,w,h\nimg/0.png,car,1,2,3,4\nimg/9.png,car,1,2,3,4\n../x.png,car,1,2,3,4\n"
            "img/1.png,car,nan,2,3,4\nimg/1.png,car,1,2,-3,4\nimg/1.png,car,1\nimg/1.png,,1,2,3,4\n",
            encoding="utf-8",
        )
        content = Csv().read(images)
        assert [record.name for record in content.records] == ["img/0.png"]
        rows = [problem.where.removesuffix(" (line 7)") for problem in content.problems]
        assert rows == [f"b.csv row {number}" for number in range(2, 8)]
        assert "no such file" in " ".join(problem.message for problem in content.problems)

    @pytest.mark.parametrize("data", [b"", b"\x00\x01\x02", b"text,label\n\xff\xfe", b"a,b\n1,2\n", b'"'])
    def test_what_is_no_such_file_is_one_error(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "x.csv").write_bytes(data)
        with pytest.raises(Invalid, match="with rows of images or texts"):
            Csv().read(tmp_path)

    def test_another_source_gets_columns_and_is_told_what_is_lost(self, tmp_path: Path) -> None:
        box = Shape(label="car", kind="polygon", points=((0, 0, 4, 0, 4, 3),))
        content = Content(
            schema=LabelSchema(classes=("car",)), records=[Record(name="a/b.png", path="x", shapes=(box,), split="val")]
        )
        assert "more than the box around a polygon" in again(Csv(), content, tmp_path / "out")[0]
        assert (tmp_path / "out" / "data.csv").read_text(encoding="utf-8") == (
            "file_name,label,split,x,y,width,height\na/b.png,car,val,0,0,4,3\n"
        )

    @QUIET
    @given(st.binary(max_size=200))
    def test_any_bytes_give_problems_or_one_error(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "x.csv").write_bytes(b"text,label\n" + data)
        try:
            content = Csv().read(tmp_path / "x.csv")
        except LoopworksError:
            return
        assert all(problem.message for problem in content.problems)

    @QUIET
    @given(
        st.lists(
            st.tuples(
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip),
                st.sampled_from(["a", "b", 'c"d', "e,f"]),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def test_what_is_written_reads_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
    ) -> None:
        folder = tmp_path_factory.mktemp("csv")
        records = [
            Record(name=f"x#{i}", text=text, shapes=(Shape(label=label),)) for i, (text, label) in enumerate(rows)
        ]
        classes = tuple(dict.fromkeys(label for _, label in rows))
        again(Csv(), Content(schema=LabelSchema(classes=classes), records=records), folder / "out")
        back = Csv().read(folder / "out")
        assert [(one.text, one.shapes[0].label) for one in back.records] == rows
        again(Csv(), back, folder / "twice")
        assert (folder / "twice" / "data.csv").read_bytes() == (folder / "out" / "data.csv").read_bytes()


class TestJsonLines:
    def test_our_own_form_keeps_everything(self, images: Path, tmp_path: Path) -> None:
        shapes = (
            Shape(label="car", source="person", author="ann", kind="box", points=((1.5, 2.0, 3.0, 4.0),)),
            Shape(label="", kind="caption", attributes=dump({"text": "a car"}), extra=dump({"coco": {"id": 7}})),
        )
        records = [
            Record(
                name="img/0.png",
                path=str(images / "img" / "0.png"),
                width=40,
                height=30,
                split="test",
                tags=("night",),
                attributes={"camera": "A3", "deep": [1, {"x": None}]},
                shapes=shapes,
                extra={"coco": {"id": 12}},
            ),
            Record(name="img/1.png", path=str(images / "img" / "1.png"), is_labeled=False),
        ]
        schema = LabelSchema(classes=("car", "bus"), is_multi=True)
        content = Content(schema=schema, records=records, meta={"coco": {"info": {"year": 2024}}})
        assert again(JsonLines(), content, images / "out") == []
        (images / "img").rename(images / "out" / "img")
        back = JsonLines().read(images / "out")
        assert (back.schema, back.meta) == (schema, content.meta)
        found = list(back.records)
        assert [one.extra.pop("jsonl") for one in found] == [{"n": 2}, {"n": 3}]  # type: ignore[attr-defined]
        expected = [replace(one, path=found[i].path) for i, one in enumerate(records)]
        assert found == expected
        again(JsonLines(), back, tmp_path / "twice")
        first, second = ((folder / "data.jsonl").read_bytes() for folder in (images / "out", tmp_path / "twice"))
        assert first == second

    @pytest.mark.parametrize(
        "text",
        [
            '{"text": "hi", "label": "greet", "n": 1}\n{"text":"bye","label":"part","n":1.0}\n',
            '{"file_name": "img/0.png", "objects": {"bbox": [[1, 2, 3.0, 4]], "category": ["car"]}}\r\n',
            '\n{"image": "img/1.png", "labels": ["a", "b"]}',
        ],
    )
    def test_lines_of_others_come_back_byte_for_byte(self, images: Path, tmp_path: Path, text: str) -> None:
        (images / "d.jsonl").write_bytes(text.encode())
        content = JsonLines().read(images)
        assert content.problems == []
        assert all(record.shapes for record in content.records)
        assert again(JsonLines(), content, tmp_path / "out") == []
        assert (tmp_path / "out" / "d.jsonl").read_bytes() == text.encode()

    def test_bad_lines_are_told_and_the_rest_kept(self, images: Path) -> None:
        head = json.dumps({"loopworks": 1, "classes": ["a"], "is_multi": False})
        bad = [
            "{",
            '{"name": "img/9.png"}',
            '{"name": "/etc/passwd"}',
            '{"name": "img/1.png", "labels": [{"label": "a"}]}',
            '{"name": "img/1.png", "split": "tset"}',
            '{"name": "img/0.png"}',
        ]
        (images / "d.jsonl").write_text("\n".join([head, '{"name": "img/0.png"}', *bad]), encoding="utf-8")
        content = JsonLines().read(images)
        assert [(one.name, one.is_labeled) for one in content.records] == [("img/0.png", False), ("img/1.png", False)]
        assert [problem.where for problem in content.problems] == [f"d.jsonl line {n}" for n in range(3, 9)]

    @QUIET
    @given(st.binary(max_size=200))
    def test_any_bytes_give_problems_or_one_error(self, tmp_path: Path, data: bytes) -> None:
        for head in (b"", b'{"loopworks": 1, "classes": ["a"], "is_multi": false}\n'):
            (tmp_path / "x.jsonl").write_bytes(head + data)
            try:
                content = JsonLines().read(tmp_path / "x.jsonl")
            except LoopworksError:
                continue
            assert all(problem.message for problem in content.problems)
