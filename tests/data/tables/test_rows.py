"""Adding rows: nothing twice, nothing lost, every fault with its line."""

import csv
import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.data.stage import Dataset, create_dataset
from loopworks.data.tables import segments, spool
from loopworks.data.tables.delimited import DelimitedReader
from loopworks.data.tables.table import Table
from loopworks.data.tables.text import open_text
from loopworks.store.home import Home, create_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with create_home(tmp_path / "workspace") as made:
        yield made


@pytest.fixture
def dataset(home: Home) -> Dataset:
    return create_dataset(home, "customers", "tabular-classification")


@pytest.fixture
def table(dataset: Dataset) -> Table:
    return dataset.table


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def made(text: str | bytes, name: str = "rows.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return made


def cells(table: Table) -> list[dict[str, Any]]:
    return [row["cells"] for row in table.page().rows]


def test_adding_twice_adds_nothing_and_a_grown_file_its_new_rows(table: Table, write: Callable[..., Path]) -> None:
    path = write("a,b\n1,x\n2,y\n")
    assert table.add(path).added == 2
    again = table.add(path)
    assert (again.added, again.known, again.rows) == (0, 2, 2)
    write("a,b\n1,x\n2,y\n3,z\n")
    grown = table.add(path)
    assert (grown.added, grown.known) == (1, 2)
    assert [row["a"] for row in cells(table)] == [1, 2, 3]


def test_equal_rows_of_a_file_stay_and_are_the_same_in_another_file(table: Table, write: Callable[..., Path]) -> None:
    assert table.add(write("a,b\n1,x\n1,x\n1,x\n")).added == 3
    assert table.add(write("b,a\nx,1\nx,1\n", "other.csv")).added == 0
    assert table.profile().duplicates == 2


def test_a_row_has_one_id_whatever_the_order_of_columns_and_rows(home: Home, write: Callable[..., Path]) -> None:
    ids = []
    for name, text in (("one", "a,b\n1,x\n2,y\n"), ("two", "b,a\ny,2\nx,1\n")):
        table = create_dataset(home, name, "tabular-classification").table
        table.add(write(text, f"{name}.csv"))
        ids.append({(row["id"], row["cells"]["a"]) for row in table.page().rows})
    assert ids[0] == ids[1]


def test_ragged_lines_cost_themselves_and_are_told_with_their_line(table: Table, write: Callable[..., Path]) -> None:
    path = write('a,b\n1,x\n2\n3,z\n4,"two\nlines"\n5,u,v\n6,w\n')
    report = table.add(path)
    assert [problem.where for problem in report.problems] == [f"{path}:3", f"{path}:7"]
    assert report.left_out == 2
    assert [row["a"] for row in cells(table)] == [1, 3, 4, 6]
    assert cells(table)[2]["b"] == "two\nlines"


def test_a_quote_that_is_never_closed_costs_its_line_alone(table: Table, write: Callable[..., Path]) -> None:
    path = write('a,b\n1,x\n2,"never closed\n3,z\n4,a 5" pipe\n5,w\n')
    report = table.add(path)
    assert [problem.where for problem in report.problems] == [f"{path}:3"]
    assert [row["b"] for row in cells(table)] == ["x", "z", 'a 5" pipe', "w"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "gb18030"])
def test_encodings_are_found_out(table: Table, write: Callable[..., Path], encoding: str) -> None:
    words = ["城市管理", "客户服务"] if encoding == "gb18030" else ["Zürich", "Málaga"]
    table.add(write(f"name,n\n{words[0]},1\n{words[1]},2\n".encode(encoding)))
    assert [row["name"] for row in cells(table)] == words


def test_bytes_that_are_no_text_cost_their_line(table: Table, write: Callable[..., Path]) -> None:
    path = write("name,n\nZürich,1\n".encode() + b"bad \xff byte,2\n" + "Málaga,3\nBern,4\n".encode())
    report = table.add(path)
    assert [problem.where for problem in report.problems] == [f"{path}:3"]
    assert [row["n"] for row in cells(table)] == [1, 3, 4]


def test_json_lines_keep_text_as_text_and_tell_bad_lines(table: Table, write: Callable[..., Path]) -> None:
    path = write('{"zip": "8001", "n": 1.50, "ok": true}\nnot json\n[1]\n{"n": 2, "more": null}\n', "rows.jsonl")
    report = table.add(path)
    assert [problem.where for problem in report.problems] == [f"{path}:2", f"{path}:3"]
    assert {column.name: column.type for column in table.schema.columns}["zip"] == "category"
    assert [row["n"] for row in cells(table)] == [1.5, 2.0]


def test_parquet_and_packed_csv_are_read(table: Table, tmp_path: Path) -> None:
    made = pa.table({"n": [1, 2, None], "when": pa.array([0, 1, 2], pa.timestamp("us")), "code": ["01", "02", "3"]})
    pq.write_table(made, tmp_path / "rows.parquet")
    assert table.add(tmp_path / "rows.parquet").added == 3
    kinds = {column.name: column.type for column in table.schema.columns}
    assert (kinds["n"], kinds["when"], kinds["code"]) == ("int", "datetime", "category")
    (tmp_path / "more.csv.gz").write_bytes(gzip.compress(b"n,code\n9,07\n"))
    assert table.add(tmp_path / "more.csv.gz").added == 1


def test_a_packed_file_that_is_cut_off_is_refused_and_the_table_is_as_it_was(table: Table, tmp_path: Path) -> None:
    text = "n,t\n" + "".join(f"{n},{n * 7919 % 1009}\n" for n in range(20_000))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode())[:-2000])
    with pytest.raises(Invalid, match="whole"):
        table.add(tmp_path / "cut.csv.gz")
    assert table.rows == 0


def test_a_file_that_is_no_table_is_told_and_the_others_are_kept(table: Table, write: Callable[..., Path]) -> None:
    good, bad = write("a,b\n1,2\n"), write(b"PAR1 no", "bad.parquet")
    report = table.add([bad, good])
    assert report.added == 1
    assert [problem.where for problem in report.problems] == [str(bad)]


def test_a_killed_import_goes_on_where_it_was(
    table: Table, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("n,t\n" + "".join(f"{n},row {n}\n" for n in range(5_000)))
    monkeypatch.setattr(DelimitedReader.__init__, "__kwdefaults__", _small())
    monkeypatch.setattr(spool, "FLUSH", 1)
    done: list[int] = []

    def stop(at: int, total: int) -> None:
        done.append(at)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.add(path, progress=stop)
    assert table.rows == 0
    seen: list[int] = []
    report = table.add(path, progress=lambda at, total: seen.append(at))
    assert report.added == 5_000
    assert seen[0] > done[1]
    assert table.export(path.with_name("out.csv")) == 5_000
    assert path.with_name("out.csv").read_bytes() == path.read_bytes()


def _small() -> dict[str, Any]:
    return {"delimiter": "", "quote": "", "header": None, "size": 4096}


def test_many_segments_hold_the_same_rows_as_one(
    home: Home, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "n,t\n" + "".join(f"{n % 700},{n % 3}\n" for n in range(3_000))
    monkeypatch.setattr(segments, "TARGET", 100)
    table = create_dataset(home, "cut", "tabular-classification").table
    assert table.add(write("n,t\n7,7\n", "first.csv")).added == 1
    assert table.add(write(text)).added == 3_000
    assert len(table.live().segments) > 16
    assert table.add(write(text)).added == 0
    assert table.page(limit=1).count == 3_001
    doomed = [row["id"] for row in table.page(limit=2_950).rows]
    assert table.delete(doomed) == 2_950
    assert (table.rows, table.live().state.digits) == (51, 0)
    assert table.undo() == "delete"
    assert table.rows == 3_001


def test_an_id_column_says_who_a_row_is(table: Table, write: Callable[..., Path]) -> None:
    table.add(write("id,n\na1,1\na2,2\n"))
    table.choose(id="id", target="n")
    report = table.add(write("id,n\na2,5\na3,3\n,9\n", "more.csv"))
    assert (report.added, report.changed, report.left_out) == (1, 1, 1)
    assert [(row["id"], row["cells"]["n"]) for row in table.page().rows] == [("a1", 1), ("a2", 5), ("a3", 3)]
    assert table.delete(["a1"]) == 1
    with pytest.raises(NotFound):
        table.delete(["a1"])


def test_an_id_that_comes_twice_is_refused(table: Table, write: Callable[..., Path]) -> None:
    table.add(write("id,n\na1,1\na1,2\n"))
    with pytest.raises(Invalid, match="several rows"):
        table.choose(id="id")
    assert table.schema.id == ""


def test_undo_goes_back_and_forth(table: Table, write: Callable[..., Path]) -> None:
    with pytest.raises(Conflict):
        table.undo()
    table.add(write("a,b\n1,x\n"))
    table.add(write("a,b\n2,x\n", "more.csv"))
    assert (table.undo(), table.rows) == ("add", 1)
    assert (table.undo(), table.rows) == ("undo", 2)


def test_other_tasks_have_no_table(home: Home) -> None:
    with pytest.raises(Invalid, match="tabular"):
        assert create_dataset(home, "pets", "image-classification").table


def test_pages_sort_filter_and_count(table: Table, write: Callable[..., Path]) -> None:
    import pyarrow.compute as pc

    table.add(write("n,t\n3,c\n1,a\n,x\n2,b\n"))
    assert [row["n"] for row in cells(table)] == [3, 1, None, 2]
    page = table.page(sort="n", descending=True, limit=2, offset=1, columns=["n"])
    assert [row["cells"] for row in page.rows] == [{"n": 2}, {"n": 1}]
    found = table.page(where=lambda rows: pc.greater(rows["n"], 1))
    assert (found.count, [row["cells"]["t"] for row in found.rows]) == (2, ["c", "b"])
    with pytest.raises(NotFound):
        table.page(sort="nope")


CELLS = st.text(st.sampled_from("ab1.5 ,;\"\n'\té中-"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=12),
    delimiter=st.sampled_from(",;\t"),
    size=st.integers(16, 200),
)
def test_what_a_csv_writer_writes_is_read_whatever_the_block(
    rows: list[tuple[str, str, str]], delimiter: str, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("x", "y", "z"), *rows])
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    reader = DelimitedReader(open_text(path), delimiter=delimiter, quote='"', header=True, size=size)
    found: list[tuple[str, ...]] = []
    for block in reader.blocks():
        assert not block.problems
        found += zip(*(block.cells.column(name).to_pylist() for name in "xyz"), strict=True)
    assert found == [tuple(row) for row in rows]
    os.unlink(path)


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=300), size=st.integers(8, 100))
def test_any_bytes_are_read_or_refused_in_our_words(
    data: bytes, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(data)
    rows, said = 0, str(path)
    try:
        reader = DelimitedReader(open_text(path), size=size)
        rows = sum(block.cells.num_rows for block in reader.blocks())
    except Invalid as error:
        said = error.message
    assert rows <= len(data)
    assert str(path) in said
