"""Tables through Python, the command line and HTTP: the same rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.server.app import create_app

ROWS = "id,n,t\n" + "".join(f"k{n:03d},{n * 7 % 50},{'ab'[n % 2]}\n" for n in range(60)) + "bad\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with lw.open(tmp_path / "tables") as space:
        space.dataset("http", "tabular-classification")
    return tmp_path / "tables"


@pytest.fixture
def http(folder: Path) -> Iterator[TestClient]:
    with (
        lw.open(folder, create=False) as space,
        TestClient(create_app(space), base_url="http://127.0.0.1") as made,
    ):
        yield made


def cli(folder: Path, *words: str) -> Any:
    result = CliRunner().invoke(app, ["data", "table", *words, "-w", str(folder), "--json"])
    assert result.exit_code == (3 if words[0] == "add" else 0), result.output  # one line is left out
    return json.loads(result.stdout)


def bare(body: dict[str, Any]) -> dict[str, Any]:
    """Without what differs by name and moment."""
    return {key: value for key, value in body.items() if key not in ("dataset", "created_at", "path", "number")}


def test_the_three_faces_say_the_same(folder: Path, http: TestClient, source: Path, tmp_path: Path) -> None:
    base = "/api/datasets/http/table"
    with lw.open(folder, create=False) as space:
        table = space.dataset("python", "tabular-classification").table
        said = table.add(source).to_json()
        assert said["left_out"] == 1
        assert bare(cli(folder, "add", "cli", str(source))) == said
        assert bare(http.post(f"{base}/add", json={"paths": [str(source)]}).json()) == said
        chosen = table.choose(target="t", id="id").to_json()
        assert bare(cli(folder, "choose", "cli", "--target", "t", "--id", "id")) == chosen
        assert bare(http.post(f"{base}/choose", json={"target": "t", "id": "id"}).json()) == chosen
        assert bare(cli(folder, "schema", "cli")) == chosen == bare(http.get(f"{base}/schema").json())
        profile = bare(table.profile().to_json())
        assert bare(cli(folder, "profile", "cli")) == profile == bare(http.get(f"{base}/profile").json())
        splits = table.split(0.25, 0.25)
        assert cli(folder, "split", "cli", "--test", "0.25", "--val", "0.25")["splits"] == splits
        assert http.post(f"{base}/split", json={"test": 0.25, "val": 0.25}).json()["splits"] == splits
        page = table.page(sort="n", limit=7, offset=3, split="train").to_json()
        words = ("--sort", "n", "--limit", "7", "--offset", "3", "--split", "train")
        asked: dict[str, str | int] = {"sort": "n", "limit": 7, "offset": 3, "split": "train"}
        assert bare(cli(folder, "rows", "cli", *words)) == page == bare(http.get(f"{base}/rows", params=asked).json())
        query = "n > 20 and t = 'a' and split != 'test'"
        page = table.find(query, sort="-n", limit=5).to_json()
        assert [row["cells"]["n"] for row in page["rows"]] == sorted(
            (row["cells"]["n"] for row in table.page(limit=100).to_json()["rows"]
             if row["cells"]["n"] > 20 and row["cells"]["t"] == "a" and row["split"] not in ("", "test")), reverse=True
        )[:5]  # fmt: skip
        asked = {"query": query, "sort": "n", "descending": "true", "limit": 5}
        more = ("--query", query, "--sort", "n", "--descending", "--limit", "5")
        assert bare(cli(folder, "rows", "cli", *more)) == page == bare(http.get(f"{base}/rows", params=asked).json())
        first = table.freeze("one").id
        assert cli(folder, "freeze", "cli", "-m", "one")["id"] == first
        assert http.post(f"{base}/freeze", json={"message": "one"}).json()["id"] == first
        assert table.delete(["k003"]) == cli(folder, "delete", "cli", "k003")["deleted"] == 1
        assert http.post(f"{base}/delete", json={"ids": ["k003"]}).json() == {
            "dataset": "http",
            "deleted": 1,
            "rows": 59,
        }
        second = table.freeze("two").id
        assert cli(folder, "freeze", "cli")["id"] == second == http.post(f"{base}/freeze", json={}).json()["id"]
        diff = table.diff(first, second).to_json()
        assert diff["removed"] == ["k003"]
        assert cli(folder, "diff", "cli", first, second)["diff"] == diff
        assert http.get(f"{base}/diff", params={"old": first, "new": second}).json()["diff"] == diff
        files = [tmp_path / f"{name}.csv" for name in ("python", "cli", "http")]
        assert table.export(files[0]) == cli(folder, "export", "cli", str(files[1]))["rows"] == 59
        assert http.post(f"{base}/export", json={"path": str(files[2])}).json()["rows"] == 59
        assert len({file.read_bytes() for file in files}) == 1
        assert table.undo() == cli(folder, "undo", "cli")["undone"] == "delete"
        assert http.post(f"{base}/undo", json={}).json() == {"dataset": "http", "undone": "delete", "rows": 60}


def test_data_add_takes_rows_for_a_tabular_dataset(folder: Path, source: Path) -> None:
    words = ["data", "add", "rows", str(source), "--task", "tabular-classification", "-w", str(folder), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3, result.output  # one line was left out
    assert json.loads(result.stdout)["added"] == 60
    with lw.open(folder, create=False) as space:
        assert space.dataset("rows").counts()["items"] == 60


def test_a_profile_is_a_page_that_runs_nothing(http: TestClient, source: Path) -> None:
    http.post("/api/datasets/http/table/add", json={"paths": [str(source)]})
    page = http.get("/api/datasets/http/table/profile", params={"report": "true"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<svg" in page.text


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("add", {}),
        ("add", {"paths": ["x.csv"], "header": 1}),
        ("choose", {"target": 3}),
        ("choose", {"types": {"n": "nonsense"}}),
        ("split", {"test": "much"}),
        ("split", {"seed": -1}),
        ("delete", {"ids": []}),
        ("export", {}),
    ],
)
def test_wrong_requests_are_told(http: TestClient, source: Path, route: str, body: dict[str, Any]) -> None:
    http.post("/api/datasets/http/table/add", json={"paths": [str(source)]})
    answer = http.post(f"/api/datasets/http/table/{route}", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "invalid"
