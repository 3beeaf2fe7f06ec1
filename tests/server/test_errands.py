"""Checks, rows of descriptors and scores as real durable jobs: what they do, and that they can be stopped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.jobs import Job, Jobs

pytestmark = pytest.mark.slow
BASE = "/api/datasets/litter"


@pytest.fixture(autouse=True)
def light(space: lw.Workspace) -> Iterator[None]:
    """A worker that does not import what only training needs."""
    space._jobs = Jobs(space.folder, warm=("loopworks.builtins",))
    yield
    space._jobs.close()
    space._jobs = None


def test_a_job_does_what_the_call_does(client: TestClient, space: lw.Workspace, pictures: Any, tmp_path: Path) -> None:
    dataset = space.dataset("litter", task="image-classification")
    dataset.add(pictures(tmp_path / "photos", {"glass": 4, "metal": 4}))
    dataset.add(pictures(tmp_path / "copies", {"glass": 1}, seed=0, size=30), labels="none")
    seen: list[Job] = []

    def done(name: str, **body: Any) -> Any:
        answer = client.post(f"{BASE}/{name}", json=body)
        assert answer.status_code == 202, answer.text
        told = answer.json()["job"]
        assert answer.headers["location"] == f"/api/jobs/{told['id']}"
        result = space.jobs.result(told["id"], seen.append)
        assert client.get(f"/api/jobs/{told['id']}").json()["job"]["result"] == result
        return result

    checks = ["imbalance", "odd-shape", "near-duplicates"]
    by_job = done("check", checks=checks, params={"imbalance": {"ratio": 1.0}})
    found = [one.to_json() for one in dataset.clean.findings()]
    in_python = dataset.clean.check(*checks, params={"imbalance": {"ratio": 1.0}})
    assert found == [one.to_json() for one in in_python.findings]
    told = {name: value for name, value in in_python.to_json().items() if name != "problems"}
    assert by_job == {**told, "findings": len(found), "unread": 0}
    assert {job.text for job in seen} >= {"done"}
    embedded = done("embed", descriptor="look")
    assert embedded == {
        "dataset": "litter",
        "descriptor": "built-in descriptor (look)",
        "items": 9,
        "width": 246,
        "unread": 0,
    }
    assert embedded == dataset.embed("look")
    scored = done("score", model="colors", query="label = 'metal'")
    assert scored == {"model": "colors:1", "items": 4, "unread": 0}
    assert [one.to_json()["items"] for one in dataset.look.scored()] == [4]
    left = CliRunner().invoke(app, ["data", "check", "litter", "--no-wait", "-w", str(space.folder), "--json"])
    queued = json.loads(left.stdout)["job"]
    assert (queued["step"], queued["params"]["dataset"]) == ("check", "litter")
    assert space.jobs.follow(queued["id"]).status == "done"


def test_a_check_that_runs_is_stopped(client: TestClient, space: lw.Workspace, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    (folder := tmp_path / "many").mkdir()
    for number in range(160):
        pixels = np.random.default_rng(number).integers(0, 256, (480, 640, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.bmp")
    space.dataset("litter", task="image-classification").add(folder, labels="none", by="reference")
    job = client.post(f"{BASE}/check", json={}).json()["job"]["id"]

    def stop(now: Job) -> None:
        if 0 < now.share < 0.5:
            client.post(f"/api/jobs/{job}/cancel")

    ended = space.jobs.follow(job, stop)
    assert (ended.status, space.dataset("litter").clean.findings(state="all")) == ("cancelled", [])
