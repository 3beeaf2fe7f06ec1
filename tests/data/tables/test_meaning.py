"""Types, profile, leaks, splits and versions of tables."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loopworks.core.errors import Invalid
from loopworks.data.stage import create_dataset, open_version
from loopworks.data.tables.leaks import auc
from loopworks.data.tables.sketch import Distinct, Frequent, Quantiles, number_hashes
from loopworks.data.tables.table import Table
from loopworks.store.home import Home, create_home

DATA = next(
    (up / "shared" / "data" for up in Path(__file__).resolve().parents if (up / "shared" / "data").is_dir()), None
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with create_home(tmp_path / "workspace") as made:
        yield made


@pytest.fixture
def make(home: Home, tmp_path: Path) -> Callable[..., Table]:
    def made(text: str, name: str = "rows", task: str = "tabular-classification") -> Table:
        path = tmp_path / f"{name}.csv"
        path.write_text(text, encoding="utf-8")
        table = create_dataset(home, name, task).table
        table.add(path)
        return table

    return made


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "+3"], "int"),
        (["1", "2.5", "1e3", "NA"], "float"),
        (["yes", "no", "?"], "bool"),
        (["007", "010", "12"], "category"),
        (["2024-02-29", "", "2023-01-01"], "date"),
        (["2024-02-29 10:00", "2024-03-01T11:12:13.5"], "datetime"),
        (["31/12/2024", "01/02/2024"], "datetime"),
        (["10:30", "23:59:59"], "time"),
        (["12 kg", "3.5 kg", "900 g"], "category"),
        (["12345678901234567890", "1"], "category"),
        (["", "NA", "null"], "empty"),
    ],
)
def test_the_type_is_that_of_all_values(make: Callable[..., Table], values: list[str], kind: str) -> None:
    table = make("v,w\n" + "".join(f"{value},1\n" for value in values))
    assert table.schema.column("v").type == kind


def test_units_are_reported_and_the_cells_left_alone(make: Callable[..., Table]) -> None:
    table = make("weight,n\n12 kg,1\n3.5 kg,2\n900 g,3\n")
    assert dict(table.schema.column("weight").units) == {"kg": 2, "g": 1}
    assert [row["cells"]["weight"] for row in table.page().rows] == ["12 kg", "3.5 kg", "900 g"]


def test_decimal_commas_and_thousands_are_read(make: Callable[..., Table]) -> None:
    table = make("price;n\n1.234,50;1\n0,5;2\n12;3\n")
    assert [row["cells"]["price"] for row in table.page().rows] == [1234.5, 0.5, 12.0]


def test_days_first_are_told_from_months_first(make: Callable[..., Table]) -> None:
    table = make("d,n\n03/04/2024,1\n31/12/2024,2\n")
    assert [row["cells"]["d"] for row in table.page().rows] == ["2024-04-03T00:00:00", "2024-12-31T00:00:00"]


def test_a_later_value_widens_the_type_and_its_line_is_told(make: Callable[..., Table], tmp_path: Path) -> None:
    table = make("n,t\n1,x\n2,y\n")
    late = tmp_path / "late.csv"
    late.write_text("n,t\n3,z\nmany,z\n", encoding="utf-8")
    notes = table.add(late).notes
    assert any("was int and is" in note and f"first 'many' in {late}:3" in note for note in notes)
    assert table.choose(types={"n": "int"}).column("n").type == "int"
    assert [row["cells"]["n"] for row in table.page().rows] == [1, 2, 3, None]


def test_namibia_is_not_missing(make: Callable[..., Table]) -> None:
    assert not make("c,n\nNA,1\nDE,2\nZA,3\n").schema.column("c").missing


def test_quantiles_stay_within_their_error() -> None:
    found, values = Quantiles(), np.random.default_rng(1).gamma(2.0, 3.0, 1_000_000)
    for start in range(0, len(values), 37_000):
        found.add(values[start : start + 37_000])
    ordered = np.sort(values)
    for share, value in zip((0.01, 0.5, 0.99), found.at([0.01, 0.5, 0.99]), strict=True):
        assert abs(np.searchsorted(ordered, value) / len(values) - share) < 0.001
    assert found.points()[1].sum() == len(values)


def test_distinct_values_are_exact_when_few_and_near_when_many() -> None:
    few, many = Distinct(), Distinct()
    few.add(number_hashes(np.arange(5_000.0)))
    for start in range(0, 300_000, 50_000):
        many.add(number_hashes(np.arange(float(start), start + 60_000.0)))
    assert (few.count, few.is_exact) == (5_000, True)
    assert abs(many.count / 310_000 - 1) < 0.03
    assert not many.is_exact


def test_frequent_values_are_low_by_their_error_at_most() -> None:
    found = Frequent()
    for start in range(0, 60_000, 1_000):
        found.add(["often", *range(start, start + 1_000)], [50, *[1] * 1_000])
    (value, number), *_ = found.top(1)
    assert value == "often"
    assert 3_000 - found.error <= number <= 3_000


def test_auc_is_that_of_a_hand_made_case() -> None:
    # Pairs (hit, other): 0.8 beats 0.6 and 0.4; 0.4 loses to 0.6 and ties with 0.4: (2 + 0.5) / 4.
    assert auc(np.array([0.8, 0.4, 0.6, 0.4]), np.array([True, True, False, False])) == 0.625


def planted(count: int = 2_000) -> str:
    rng = np.random.default_rng(0)
    hit = rng.random(count) < 0.3
    lines = ["key,clean,copy,gap,flat,target"]
    for n in range(count):
        gap = "" if hit[n] else f"{rng.integers(5)}"
        lines.append(f"k{n:05d},{rng.normal() + hit[n]:.3f},{int(hit[n]) * 2 + rng.random():.3f},{gap},1,{int(hit[n])}")
    return "\n".join(lines) + "\n"


def test_planted_leaks_are_found_and_clean_columns_are_not(make: Callable[..., Table]) -> None:
    table = make(planted())
    table.choose(target="target")
    found = table.profile()
    assert {(leak.column, leak.kind) for leak in found.leaks} == {("copy", "predicts"), ("gap", "missing")}
    kinds = {(warning.kind, warning.column) for warning in found.warnings}
    assert {("constant", "flat"), ("id_like", "key")} <= kinds
    page = found.to_html()
    assert page.count("<svg") == 5
    assert "each value once" in page  # of the key
    assert "<script" not in page


def test_histograms_have_axes(make: Callable[..., Table]) -> None:
    days = "".join(f"2024-01-{n % 27 + 1:02d},{n % 50 * 2}\n" for n in range(1, 201))
    page = make("day,weight\n" + days).profile().to_html()
    day, weight = page.split("<section>")[1:]
    for text in ("2024-01-01", "2024-01-14", "2024-01-27"):
        assert f">{text}</text>" in day
    assert [f">{text}</text>" in weight for text in ("0", "49", "98", "rows")] == [True] * 4
    assert "1 / 5 / 25 / 50 / 75 / 95 / 99 %" in weight


def test_a_time_after_the_row_leaks(make: Callable[..., Table]) -> None:
    rows = "".join(f"2024-01-{n % 27 + 1:02d},2024-03-{n % 27 + 1:02d},{n % 2}\n" for n in range(100))
    table = make("opened,closed,late\n" + rows)
    table.choose(target="late", time="opened")
    assert [(leak.column, leak.kind) for leak in table.profile().leaks] == [("closed", "later")]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "task", "target", "leaking"),
    [
        ("telco-churn/telco_customer_churn.csv", "classification", "Churn", set()),
        ("credit-default/uci_credit_card.csv", "classification", "default.payment.next.month", set()),
        ("bikeshare-hourly/bikeshare.csv", "regression", "count", {"casual", "registered"}),
        ("hillstrom-email/hillstrom.csv", "classification", "conversion", {"spend"}),
        ("cdnow-transactions/cdnow_transactions.csv", "regression", "amount", set()),
    ],
)
def test_leaks_of_real_tables(home: Home, file: str, task: str, target: str, leaking: set[str]) -> None:
    assert DATA is not None
    table = create_dataset(home, "real", f"tabular-{task}").table
    table.add(DATA / file)
    table.choose(target=target)
    assert {leak.column for leak in table.profile().leaks} == leaking


@pytest.mark.shared
def test_telco_is_read_and_written_as_it_is(home: Home, tmp_path: Path) -> None:
    assert DATA is not None
    source = DATA / "telco-churn" / "telco_customer_churn.csv"
    table = create_dataset(home, "telco", "tabular-classification").table
    table.add(source)
    charges = table.schema.column("TotalCharges")
    assert (charges.type, dict(charges.missing)) == ("float", {"": 11})
    table.choose(target="Churn", id="customerID")
    assert table.counts()["by_class"] == {"No": 5174, "Yes": 1869}
    table.export(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == source.read_bytes()


def test_splits_keep_the_shares_of_each_class_and_never_move(make: Callable[..., Table], tmp_path: Path) -> None:
    table = make("n,t\n" + "".join(f"{n},{'ab'[n % 10 == 0]}\n" for n in range(1_000)))
    table.choose(target="t")
    assert table.split(0.2, 0.1) == {"train": 700, "val": 100, "test": 200}
    before = {row["id"]: row["split"] for row in table.page(limit=2_000).rows}
    assert sum(row["split"] == "test" and row["cells"]["t"] == "b" for row in table.page(limit=2_000).rows) == 20
    more = tmp_path / "more.csv"
    more.write_text("n,t\n" + "".join(f"{n},a\n" for n in range(5_000, 5_500)), encoding="utf-8")
    table.add(more)
    table.split(0.2, 0.1, seed=7)
    after = {row["id"]: row["split"] for row in table.page(limit=2_000).rows}
    assert {key: after[key] for key in before} == before
    assert "" not in after.values()


def test_groups_stay_together_also_later(make: Callable[..., Table], tmp_path: Path) -> None:
    table = make("who,n\n" + "".join(f"p{n % 50},{n}\n" for n in range(500)))
    table.split(by="who")
    more = tmp_path / "more.csv"
    more.write_text("who,n\n" + "".join(f"p{n % 60},{n}\n" for n in range(500, 700)), encoding="utf-8")
    table.add(more)
    table.split(0.5, 0.3, by="who", seed=3)
    found: dict[str, set[str]] = {}
    for row in table.page(limit=1_000).rows:
        found.setdefault(row["cells"]["who"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in found.values())


def test_by_time_the_newest_rows_are_the_test_set(make: Callable[..., Table]) -> None:
    table = make("day,n\n" + "".join(f"2024-{n // 25 + 1:02d}-{n % 25 + 1:02d},{n}\n" for n in range(200)))
    table.split(0.2, 0.1, time="day")
    days = {split: [r["cells"]["day"] for r in table.page(split=split, limit=500).rows] for split in ("train", "test")}
    assert max(days["train"]) < min(days["test"])


def test_the_same_rows_are_the_same_version_however_they_came(make: Callable[..., Table], tmp_path: Path) -> None:
    lines = [f"{n},{'ab'[n % 2]}" for n in range(200)]
    one = make("n,t\n" + "\n".join(lines) + "\n", "one")
    two = make("n,t\n" + "\n".join(lines[:-121:-1]) + "\n", "two")
    rest = tmp_path / "rest.csv"
    rest.write_text("t,n\n" + "".join(f"{t},{n}\n" for n, t in (line.split(",") for line in lines)), encoding="utf-8")
    assert two.add(rest).added == 80
    for table in (one, two):
        table.choose(target="t")
    assert one.freeze("a").id == two.freeze("b").id
    assert len(one.versions()) == 1
    assert one.freeze("again").number == 1


def test_versions_differ_by_their_rows(home: Home, make: Callable[..., Table], tmp_path: Path) -> None:
    table = make("id,n,t\n" + "".join(f"k{n},{n},{'ab'[n % 2]}\n" for n in range(60)))
    with pytest.raises(Invalid, match="target"):
        table.freeze()
    table.choose(target="t", id="id")
    first = table.freeze("first")
    table.delete(["k3"])
    more = tmp_path / "more.csv"
    more.write_text("id,n,t\nk5,999,b\nk77,7,a\n", encoding="utf-8")
    table.add(more)
    diff = table.diff(first.id, table.freeze("second").id)
    assert (diff.added_ids, diff.removed_ids, diff.changed_ids) == (("k77",), ("k3",), ("k5",))
    assert open_version(home, first.id).counts["items"] == 60
    assert sum(part.num_rows for part in first.tables("train")) == first.counts["by_split"]["train"]


def test_exports_have_all_rows_in_order(
    make: Callable[..., Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make("n,t\n" + "".join(f"{n},{n % 7}\n" for n in range(900)))
    monkeypatch.setattr("loopworks.data.tables.export.ROWS", 100)
    assert table.export(tmp_path / "out.parquet") == 900
    assert pq.read_table(tmp_path / "out.parquet").column("n").to_pylist() == list(range(900))
    assert pq.read_schema(tmp_path / "out.parquet").field("t").type == pa.int64()
    table.export(tmp_path / "out.csv")
    again = create_again(table, tmp_path / "out.csv")
    assert again == 0


def create_again(table: Table, path: Path) -> int:
    return table.add(path).added
