"""Checks, findings, fixes, likeness and the map: the same rows through Python, the command line and HTTP."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import NotFound
from loopworks.store import models

Photo = Callable[..., bytes]


@pytest.fixture
def litter(space: lw.Workspace, tmp_path: Path, pictures: Any, photo: Photo) -> lw.Workspace:
    """A dataset of six labeled images, and two that are the same but for one pixel's worth of noise."""
    folder = pictures(tmp_path / "photos", {"glass": 3, "metal": 3})
    from PIL import Image

    with Image.open(folder / "glass" / "000.png") as one:
        one.save(folder / "glass" / "copy.bmp")
    space.dataset("litter", task="image-classification").add(folder)
    return space


def by_command(space: lw.Workspace, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["data", *words, "-w", str(space.folder), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_check_and_findings_are_the_same_on_all_faces(client: TestClient, litter: lw.Workspace) -> None:
    clean = litter.dataset("litter").clean
    through_python = clean.check("near-duplicates", "duplicates").to_json()
    assert len(through_python["findings"]) == 1
    assert by_command(litter, "check", "litter", "--only", "near-duplicates", "--only", "duplicates") == through_python
    listed = {"dataset": "litter", "findings": through_python["findings"], "count": 1}
    assert by_command(litter, "findings", "litter") == listed
    assert client.get("/api/datasets/litter/findings").json() == listed


def test_a_fix_over_http_is_undone_in_python_and_done_again_by_command(
    client: TestClient, litter: lw.Workspace
) -> None:
    dataset = litter.dataset("litter")
    (found,) = dataset.clean.check("near-duplicates").findings
    body = client.post(f"/api/datasets/litter/findings/{found.id}/fix", json={"author": "ann"}).json()
    assert body["findings"][0]["state"] == "fixed"
    assert len(dataset.items()) == 6
    dataset.undo(body["findings"][0]["op"])
    fixed = by_command(litter, "fix", "litter", found.id[:10])
    assert fixed["findings"][0]["op"]
    assert len(dataset.items()) == 6
    again = client.post(f"/api/datasets/litter/findings/{found.id}/fix")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


def test_ignoring_is_the_same_on_both_faces(client: TestClient, litter: lw.Workspace) -> None:
    (found,) = litter.dataset("litter").clean.check("near-duplicates").findings
    ignored = by_command(litter, "ignore", "litter", found.id)
    assert ignored["findings"][0]["state"] == "ignored"
    opened = client.post(f"/api/datasets/litter/findings/{found.id}/ignore", json={"reopen": True}).json()
    assert opened["findings"][0]["state"] == "open"
    assert client.get("/api/datasets/litter/findings?state=ignored").json()["count"] == 0


def test_similar_and_map_are_the_same_on_all_faces(
    client: TestClient, litter: lw.Workspace, tmp_path: Path, photo: Photo
) -> None:
    dataset = litter.dataset("litter")
    wanted = {"dataset": "litter", **dataset.similar("glass/copy.bmp", k=2).to_json()}
    assert wanted["hits"][0]["name"] == "glass/000.png"
    assert by_command(litter, "similar", "litter", "glass/copy.bmp", "-k", "2") == wanted
    assert client.get("/api/datasets/litter/similar?item=glass/copy.bmp&k=2").json() == wanted
    (tmp_path / "example.png").write_bytes(example := photo("red"))
    wanted = {"dataset": "litter", **dataset.similar(image=example, k=1).to_json()}
    assert by_command(litter, "similar", "litter", "--image", str(tmp_path / "example.png"), "-k", "1") == wanted
    assert client.post("/api/datasets/litter/similar?k=1", content=example).json() == wanted
    places = {"dataset": "litter", **dataset.map(seed=2).to_json()}
    assert by_command(litter, "map", "litter", "--seed", "2") == places
    assert client.get("/api/datasets/litter/map?seed=2").json() == places


def test_the_newest_model_of_the_dataset_is_what_auto_compares_by(litter: lw.Workspace) -> None:
    version = litter.dataset("litter").freeze("first")
    known = litter.model("colors")
    with litter.home.catalog.begin() as tx:
        models.add(tx, "mine", bundle=known.bundle, run="", version=version.id, task=known.task, variant=known.variant)
    found = litter.dataset("litter").similar("glass/copy.bmp", k=1)
    assert found.descriptor == "model mine:1"
    assert found.hits[0].name == "glass/000.png"
    assert litter.dataset("litter").similar("glass/copy.bmp", descriptor="look").descriptor.startswith("built-in")


def test_a_model_that_is_not_there_is_told(litter: lw.Workspace) -> None:
    with pytest.raises(NotFound, match="model 'of this dataset' does not exist"):
        litter.dataset("litter").similar("glass/copy.bmp", descriptor="model")


def test_a_check_is_a_job(client: TestClient, litter: lw.Workspace, jobs: Any) -> None:
    answer = client.post("/api/datasets/litter/check", json={"checks": ["dark"], "params": {"dark": {"share": 0.9}}})
    assert (answer.status_code, answer.headers["location"]) == (202, "/api/jobs/j1")
    assert by_command(litter, "check", "litter", "--only", "nope", code=2)["error"]["code"] == "not_found"
    client.post("/api/datasets/litter/embed", json={"descriptor": "look"})
    client.post("/api/datasets/litter/score", json={"model": "colors", "query": "label = 'glass'"})
    assert jobs.submitted == [
        ("check", {"dataset": "litter", "checks": ["dark"], "params": {"dark": {"share": 0.9}}, "seed": 0}),
        ("embed", {"dataset": "litter", "descriptor": "look"}),
        ("score", {"dataset": "litter", "model": "colors:1", "query": "label = 'glass'"}),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("check", {"checks": ["nope"]}, 404),
        ("check", {"params": {"dark": {"nope": 1}}}, 422),
        ("score", {"model": "nope"}, 404),
        ("score", {}, 404),  # nothing has learnt from this dataset
        ("score", {"model": "colors", "query": "width >"}, 422),
        ("embed", {"descriptor": 3}, 422),
    ],
)
def test_what_cannot_be_done_is_told_before_a_job_is_made(
    client: TestClient, litter: lw.Workspace, jobs: Any, path: str, body: Any, status: int
) -> None:
    assert client.post(f"/api/datasets/litter/{path}", json=body).status_code == status
    assert jobs.submitted == []


@pytest.mark.parametrize(
    ("path", "body"),
    [("check", {"checks": "all"}), ("check", {"params": {"dark": 3}}), ("check", {"seed": -1})],
)
def test_a_wrong_body_is_refused(client: TestClient, litter: lw.Workspace, path: str, body: Any) -> None:
    answer = client.post(f"/api/datasets/litter/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")


def test_wrong_words_on_the_command_line_are_refused(litter: lw.Workspace) -> None:
    words = ["data", "check", "litter", "--set", "dark", "-w", str(litter.folder), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"].startswith("--set must be CHECK.PARAMETER=VALUE")


def test_a_report_is_written_by_command(litter: lw.Workspace, tmp_path: Path) -> None:
    by_command(litter, "check", "litter", "--only", "near-duplicates", "--report", str(tmp_path / "report.html"))
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text(encoding="utf-8")
