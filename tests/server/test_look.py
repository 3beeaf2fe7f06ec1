"""Looking at a dataset: Python, the command line and HTTP give the same rows; the examples of the docs run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import NotFound
from loopworks.core.query import FIELDS, SORTS

PAGE = Path(__file__).parents[2] / "docs" / "query.md"
EXAMPLES = [
    line for block in re.findall(r"```query\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
]


@pytest.fixture
def litter(space: lw.Workspace, tmp_path: Path, pictures: Any) -> lw.Workspace:
    """A workspace with a dataset of six labeled images and two others."""
    dataset = space.dataset("litter", task="image-classification")
    dataset.add(pictures(tmp_path / "photos", {"glass": 3, "metal": 3}))
    dataset.add(pictures(tmp_path / "more", {"x": 2}, seed=5), labels="none")
    dataset.look.save_view("wide", "width >= 32", sort="-size")
    return space


def command(space: lw.Workspace, *words: str) -> Any:
    done = CliRunner().invoke(app, ["data", *words, "-w", str(space.folder), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("query", [*EXAMPLES, "wide", ""])
def test_every_face_finds_the_same_rows(client: TestClient, litter: lw.Workspace, query: str) -> None:
    dataset = litter.dataset("litter")
    rows = [item.to_json() for item in dataset.find(query, sort="-size", limit=3)]
    asked = {"query": query, "sort": "-size", "limit": "3"}
    assert client.get("/api/datasets/litter/items", params=asked).json()["items"] == rows
    assert command(litter, "find", "litter", query, "--sort", "-size", "--limit", "3")["items"] == rows
    number = dataset.look.count(query)
    assert number == len(list(dataset.ids(query)))
    expected = {"count": number, "by": dataset.look.figures(query, "label")}
    assert client.get("/api/datasets/litter/count", params={"query": query, "by": "label"}).json() == expected
    assert command(litter, "count", "litter", query, "--by", "label") == expected


def test_pages_follow_each_other(litter: lw.Workspace) -> None:
    dataset = litter.dataset("litter")
    first = dataset.find("width > 0", sort="-size", limit=5)
    rest = dataset.find("width > 0", sort="-size", limit=5, after=first[-1].id)
    assert [len(first), len(rest)] == [5, 3]
    assert [i.id for i in first + rest] == [i.id for i in dataset.find("", sort="-size")]


def test_every_face_searches_the_same_rows(client: TestClient, litter: lw.Workspace) -> None:
    rows = [item.to_json() for item in litter.dataset("litter").look.search("GLASS png")]
    assert sorted(row["name"] for row in rows) == ["glass/000.png", "glass/001.png", "glass/002.png"]
    assert client.get("/api/datasets/litter/search", params={"text": "GLASS png"}).json()["items"] == rows
    assert command(litter, "search", "litter", "GLASS png")["items"] == rows


def test_views_are_saved_listed_and_removed(client: TestClient, litter: lw.Workspace) -> None:
    made = client.post("/api/datasets/litter/views", json={"name": "glass", "query": "label = 'glass'"})
    assert made.status_code == 201
    command(litter, "save-view", "litter", "late", "added_at > '2020-01-01'")
    rows = [view.to_json() for view in litter.dataset("litter").look.views()]
    assert [row["name"] for row in rows] == ["glass", "late", "wide"]
    assert client.get("/api/datasets/litter/views").json() == {"views": rows} == command(litter, "views", "litter")
    assert len(litter.dataset("litter").find("glass")) == 3
    assert client.delete("/api/datasets/litter/views/glass").json() == {"removed": "glass"}
    command(litter, "remove-view", "litter", "late")
    with pytest.raises(NotFound, match="view 'late' does not exist"):
        litter.dataset("litter").look.remove_view("late")


def test_a_view_with_a_bad_query_is_refused(client: TestClient, litter: lw.Workspace) -> None:
    answer = client.post("/api/datasets/litter/views", json={"name": "bad", "query": "widht > 3"})
    assert answer.status_code == 422
    assert "did you mean width" in answer.json()["error"]["hint"]
    assert [view.name for view in litter.dataset("litter").look.views()] == ["wide"]


def test_figures_count_by_any_field(litter: lw.Workspace) -> None:
    look = litter.dataset("litter").look
    assert look.figures("", "label") == {"glass": 3, "metal": 3, "": 2}
    assert look.figures("label = 'glass'", "state") == {"labeled": 3}
    assert look.figures("", "tag") == {"": 8}


def test_a_changed_item_is_found_by_its_new_words(litter: lw.Workspace) -> None:
    dataset = litter.dataset("litter")
    assert dataset.look.count("match('glass')") == 3
    dataset.clear_labels([dataset.find("label = 'glass'")[0].id], author="ann")
    assert dataset.look.count("match('glass')") == 3


def test_a_model_scores_items_and_queries_see_it(litter: lw.Workspace) -> None:
    dataset = litter.dataset("litter")
    assert dataset.look.count("prediction.label is missing") == 8
    said = command(litter, "score", "litter", "colors:1")
    assert (said["model"], said["items"], said["problems"]) == ("colors:1", 8, [])
    assert [row.model for row in dataset.look.scored()] == ["colors:1"]
    assert dataset.look.count("prediction.score between 0 and 1 and prediction.model = 'colors:1'") == 8
    assert sum(dataset.look.figures("", "prediction.label").values()) == 8
    order = [item.id for item in dataset.find("", sort="prediction.score")]
    assert order == [item.id for item in dataset.find("", sort="-prediction.uncertainty")]
    litter.score("litter", "colors:1", query="label = 'glass'")
    assert dataset.look.count("prediction.label is not missing") == 8


def test_the_page_names_every_field_and_order() -> None:
    page = PAGE.read_text()
    assert [name for name in (*FIELDS, *SORTS) if f"`{name}`" not in page] == []
