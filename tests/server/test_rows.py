"""A table from a CSV file to answers over Python, the command line and HTTP, and back to where they came from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pc
import pytest
from starlette.testclient import TestClient
from tests.train.tables.source import table
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Invalid
from loopworks.server.app import create_app
from loopworks.server.run import ServerThread

pytestmark = [pytest.mark.train, pytest.mark.slow]
ROW = {"number": 2.5, "age": 70, "city": "Köln", "at": "2023-05-01 18:00:00", "paid": "yes", "id": "c1"}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    source = table(600, 0, 0)
    found: list[dict[str, Any]] = source.rows("train").to_pylist()
    for place, (row, yes) in enumerate(zip(found, source.answers["train"].tolist(), strict=True)):
        row |= {"id": f"c{place}", "churn": "" if place % 50 == 0 else "yes" if yes else "no"}
    return found


@pytest.fixture(scope="module")
def space(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[lw.Workspace]:
    """A workspace whose deployment ``churn`` was trained from a CSV file and optimized, as durable jobs."""
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("rows")
    pc.write_csv(pa.Table.from_pylist(rows), folder / "churn.csv")
    with lw.open(folder / "space", threads=1) as made:
        dataset = made.dataset("churn", task="tabular-classification")
        assert dataset.table.add(folder / "churn.csv").added == 600
        dataset.table.choose(target="churn", id="id")
        version = dataset.table.freeze("first")
        model = made.train(version, recipe="lightgbm", params={"rounds": 40, "costs": {"yes": 3}}, seed=1)
        best = made.optimize(model)
        made.deploy(best)
        yield made


@pytest.fixture(scope="module")
def client(space: lw.Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(space), base_url="http://127.0.0.1") as made:
        yield made


def test_the_model_says_how_it_was_made(space: lw.Workspace) -> None:
    bundle = space.bundle("churn")
    assert bundle.schema.costs == (1.0, 3.0)
    assert bundle.metrics["test"]["auc"].value > 0.75
    assert sum(count.count for count in (bundle.metrics[s]["auc"] for s in ("val", "test"))) < 200
    told = " ".join(bundle.notes)
    assert "rows without a target were left out" in told
    assert "openvino-fp32 was left out" in told
    assert {column.name for column in bundle.rule.columns} == {"number", "age", "city", "at", "paid"}  # type: ignore[attr-defined]


def test_python_command_line_and_http_give_the_same_answers(
    space: lw.Workspace, client: TestClient, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    one = space.predict("churn", ROW)
    assert one["chosen"] == ["yes"]
    assert one["labels"][0]["score"] > 0.7
    text = "number;age;city;at;paid;id\n2.5;70;Köln;01.05.2023 18:00;yes;c1\n;;NA;;;c2\n"
    text = text.replace("01.05.2023 18:00", "2023-05-01 18:00:00").replace(";", ",")
    (tmp_path / "ask.csv").write_text(text, encoding="utf-8")
    (tmp_path / "ask.json").write_text(json.dumps([ROW, {"id": "c2", "age": None}]), encoding="utf-8")
    by_csv, problems = space.predict_many("churn", [tmp_path / "ask.csv"])
    assert not problems
    assert [found["labels"] for found in by_csv][0] == one["labels"]
    by_json, _ = space.predict_many("churn", [tmp_path / "ask.json"])
    assert [found["labels"] for found in by_json] == [found["labels"] for found in by_csv]

    posts = [
        client.post("/predict/churn", json={"rows": [ROW, {"id": "c2", "age": None}]}),
        client.post("/predict/churn", content=text.encode(), headers={"content-type": "text/csv"}),
    ]
    for post in posts:
        assert post.status_code == 200, post.text
        body = post.json()
        assert [found["labels"] for found in body["predictions"]] == [found["labels"] for found in by_csv]
        assert body["problems"] == []
    assert client.post("/predict/churn", json={"row": ROW}).json()["predictions"][0]["id"] == one["id"]

    done = CliRunner().invoke(
        app, ["predict", "churn", str(tmp_path / "ask.csv"), "--workspace", str(space.folder), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert [found["labels"] for found in json.loads(done.stdout)["predictions"]] == [f["labels"] for f in by_csv]


def test_bad_rows_are_told_and_the_good_ones_answered(space: lw.Workspace, client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "ask.csv").write_text("age,city\n50,Ulm\nfifty,Ulm\n60,Rom\n", encoding="utf-8")
    answers, problems = space.predict_many("churn", [tmp_path / "ask.csv"])
    assert len(answers) == 2
    assert [problem.message.partition("ask.csv ")[2] for problem in problems] == [
        "row 2 must be a number, or missing; got fifty"
    ]
    body = client.post("/predict/churn", json={"rows": [{"age": 50}, {"age": [5]}, {"height": 3}]}).json()
    assert [found["name"] for found in body["predictions"]] == ["rows[0]"]
    assert [problem["where"] for problem in body["problems"]] == ["rows[1]", "rows[2]"]
    assert "column 'age' of rows[1] must be a number, or missing; got [5]" in body["problems"][0]["message"]
    with pytest.raises(Invalid, match="column 'paid'.* must be true or false"):
        space.predict("churn", {"paid": 7.5, "age": "x"} | {"age": 3} | {"paid": "perhaps"})


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"json": {"rows": []}}, "items must be at least one"),
        ({"json": {"rows": [3]}}, "{'row': an object} or {'rows': [at most 10000]}"),
        ({"json": {"row": {"height": 3}}}, "some of the model's (age, at, city"),
        ({"content": b"age\n", "headers": {"content-type": "text/csv"}}, "rows must be a table with a header and rows"),
        ({"content": b"age,city\n1\n2,Ulm\n", "headers": {"content-type": "text/csv"}}, "rows must be all readable"),
        (
            {"content": b"x", "headers": {"content-type": "image/png"}},
            "content-type must be text/csv or application/json",
        ),
    ],
)
def test_what_is_no_row_is_refused(client: TestClient, sent: dict[str, Any], words: str) -> None:
    found = client.post("/predict/churn", **sent)
    assert found.status_code == 422
    assert words in found.json()["error"]["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(gevent|geventhttpclient|tritonclient)")
@pytest.mark.parametrize("is_binary", [True, False])
def test_the_protocol_takes_a_tensor_per_column(space: lw.Workspace, is_binary: bool) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="needs the [demo] extra")
    told = {
        "number": ("FP64", [[2.5], [-3.0]]), "age": ("FP64", [[70.0], [20.0]]), "paid": ("FP64", [[1.0], [0.0]]),
        "city": ("BYTES", [["Köln"], [""]]), "at": ("BYTES", [["2023-05-01 18:00:00"], ["2023-05-01T18:00:00"]]),
    }  # fmt: skip
    inputs = []
    for name, (kind, values) in told.items():
        one = triton.InferInput(name, [2, 1], kind)
        cells = [[v.encode()] for (v,) in values] if kind == "BYTES" else values  # type: ignore[attr-defined]
        one.set_data_from_numpy(np.asarray(cells, object if kind == "BYTES" else np.float64), binary_data=is_binary)
        inputs.append(one)
    with ServerThread(space) as server:
        asking = triton.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            assert {i["name"] for i in asking.get_model_metadata("churn")["inputs"]} == set(told)
            found = asking.infer("churn", inputs).as_numpy("scores")
        finally:
            asking.close()
    wanted = [
        space.predict("churn", ROW),
        space.predict("churn", {**ROW, "number": -3, "age": 20, "paid": False, "city": None}),
    ]
    for scores, answer in zip(found, wanted, strict=True):
        told_scores = {one["label"]: one["score"] for one in answer["labels"]}
        np.testing.assert_allclose(scores, [told_scores["no"], told_scores["yes"]], atol=1e-6)


def test_lineage_leads_back_to_the_rows(space: lw.Workspace) -> None:
    chain = space.lineage(space.predict("churn", ROW)["id"])
    kinds = [node.kind for node in chain]
    assert kinds == ["prediction", "deployment", "model", "model", "version", "labels"]
    assert chain[-1].facts["count"] == 588
    assert chain[-2].facts["dataset"] == "churn"
