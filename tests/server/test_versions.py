"""Delete, undo, tags, branch, merge, restore, erase and gc: the same rows from Python, command line and HTTP."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks
from loopworks.cli.main import app
from loopworks.server.app import create_app


def test_three_faces_one_result(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    folder = tmp_path / "space"
    with loopworks.open(folder) as space, TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        pets = space.dataset("pets", "image-classification")
        pets.add(pictures(tmp_path / "in", {"cat": 8, "dog": 6}, size=8), author="ann")
        first = pets.freeze("first")

        def ask(name: str, /, **body: Any) -> dict[str, Any]:
            done = client.post(f"/api/datasets/pets/{name}", json=body)
            assert done.status_code == 200, done.text
            return dict(done.json())

        def run(*words: str) -> dict[str, Any]:
            done = CliRunner().invoke(app, ["data", *words, "-w", str(folder), "--json"])
            assert done.exit_code == 0, done.output
            return dict(json.loads(done.stdout))

        victim = pets.items(label="cat", split="train")[0]
        gone = ask("delete", items=[victim.id[:12]], reason="dark")
        assert gone["items"] == [victim.id]
        assert run("undo", "pets", gone["operation"][:20])["operation"]["undoes"] == gone["operation"]
        again = run("delete", "pets", victim.name, "--reason", "dark")
        assert ask("undo", operation=again["operation"])["operation"]["items"] == 1
        listed = [one.to_json() for one in pets.operations()]
        assert run("operations", "pets", "--limit", "100")["operations"] == listed
        assert client.get("/api/datasets/pets/operations").json()["operations"] == listed
        assert ask("tags", version=first.id, tag="v1") == run("tags", "pets") == run("tag", "pets", first.id[:12], "v1")
        assert run("branch", "pets", "trial")["counts"]["items"] == 14
        assert ask("branch", name="other", version="v1")["counts"]["items"] == 14
        space.dataset("trial").label({victim.id: ["dog"]}, author="bob")
        planned = pets.merge("trial", dry_run=True).to_json()
        assert ask("merge", other="trial", dry_run=True) == {"dataset": "pets", **planned}
        assert run("merge", "pets", "trial", "--dry-run") == {"dataset": "pets", **planned}
        assert run("merge", "pets", "trial")["changed"] == 1
        second = pets.freeze("second")
        found = first.diff(second).to_json()
        assert run("diff", "pets", "v1", second.id)["diff"] == found
        asked = client.get("/api/datasets/pets/diff", params={"old": "v1", "new": second.id})
        assert asked.json()["diff"] == found
        assert ask("restore", version="v1")["changed"] == 1
        assert run("restore", "pets", "v1")["changed"] == 0
        assert run("gc") == client.post("/api/gc", json={}).json() == space.gc().to_json()
        report = run("erase", "pets", victim.id, "--reason", "asked")
        assert report["datasets"] == ["other", "pets", "trial"]
        bad = client.post("/api/datasets/pets/erase", json={"items": [victim.id], "reason": "asked"})
        assert bad.status_code == 404
