"""A search as a durable job: a run per trial in MLflow, the board through every face, a cancel that stops it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Cancelled
from loopworks.server.app import create_app
from loopworks.store.runs import Runs

pytestmark = [pytest.mark.train, pytest.mark.slow]
QUICK = {"epochs": 2, "image_size": 16, "batch": 8}


def test_a_search_leaves_a_model_a_board_and_a_run_per_trial(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    with lw.open(tmp_path / "space", threads=1) as ws:
        photos = ws.dataset("photos", task="image-classification")
        photos.add(pictures(tmp_path / "in", {"a": 20, "b": 20}, size=16))
        photos.split(test=0.25, val=0.25)
        version = photos.freeze("first")
        model = ws.search(version, trials=3, params=QUICK, seed=1)
        board = ws.board(model)
        assert len(board["trials"]) == 3
        assert model.metrics["val"]["accuracy"]["value"] == board["trials"][0]["value"]
        runs = Runs(f"sqlite:///{ws.folder / 'runs' / 'mlflow.db'}")
        children = runs.children(model.run)
        assert [runs.tags(child)["loopworks.trial"] for child in children] == ["0", "1", "2"]
        assert all(runs.curve(child, "val_headline") for child in children)
        assert "loopworks.warnings" in runs.tags(model.run)  # the test split is small
        result = CliRunner().invoke(app, ["models", "board", model.ref, "-w", str(ws.folder), "--json"])
        assert json.loads(result.stdout)["board"] == board
        with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
            assert client.get(f"/api/models/{model.ref}/board").json()["board"] == board
            assert client.post("/api/search", json={"version": version.id}).status_code == 422
            assert client.post("/api/search", json={"version": version.id, "trials": "3"}).status_code == 422
        job = ws.search_job(version, budget="10m", name="long", seed=1)
        _until(lambda: "trial" in ws.jobs.get(job.id).text)
        ws.jobs.cancel(job.id)
        began = time.monotonic()
        with pytest.raises(Cancelled):
            ws.result(job)
        assert time.monotonic() - began < 4.0  # two seconds on a machine that does nothing else


def _until(is_so: Callable[[], Any], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
