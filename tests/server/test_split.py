"""Splits over HTTP are those of the Python API and the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app


@pytest.fixture
def pets(space: lw.Workspace, pictures: Callable[..., Path], tmp_path: Path) -> str:
    space.dataset("pets", task="image-classification").add(pictures(tmp_path / "pets", {"cat": 10, "dog": 10}, size=8))
    return "/api/datasets/pets/split"


def test_the_three_faces_tell_the_same(client: TestClient, space: lw.Workspace, pets: str) -> None:
    answer = client.post(pets, json={"test": 0.3, "val": 0.1, "time": "added_at", "author": "ann"})
    assert answer.status_code == 200
    body = answer.json()
    assert body["time"] == "added_at"
    assert client.get(pets).json() == body
    assert {"dataset": "pets", **space.dataset("pets").split_figures().to_json()} == body
    words = ["data", "split", "pets", "-w", str(space.home.folder), "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout) == body


def test_plain_shares_are_stratified(client: TestClient, pets: str) -> None:
    body = client.post(pets, json={}).json()
    assert body["splits"] == {"train": 14, "val": 2, "test": 4}
    assert body["by_class"]["cat"] == {"train": 7, "val": 1, "test": 2}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"test": "much"}, "test must be a share"),
        ({"test": 0.9, "val": 0.2}, "together must be below 1"),
        ({"by": 3}, "by must be text"),
        ({"by": "camera"}, "by must be an attribute of the items"),
        ({"by": "folder", "time": "added_at"}, "one at a time"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(client: TestClient, pets: str, body: dict[str, object], message: str) -> None:
    answer = client.post(pets, json=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]
    assert client.get(pets).json()["unsplit"] == 20
