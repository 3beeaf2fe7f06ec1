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


def test_a_version_goes_over_by_every_face(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    with (
        loopworks.open(tmp_path / "space") as space,
        loopworks.open(tmp_path / "there") as there,
        TestClient(create_app(space), base_url="http://127.0.0.1") as client,
    ):
        pets = space.dataset("pets", "image-classification")
        pets.add(pictures(tmp_path / "in", {"cat": 8, "dog": 6}, size=8), author="ann")
        first = pets.freeze("first")
        pets.tag(first.id, "v1")

        def run(*words: str, code: int = 0) -> dict[str, Any]:
            done = CliRunner().invoke(app, ["data", *words, "-w", str(space.folder), "--json"])
            assert done.exit_code == code, done.output
            return dict(json.loads(done.stdout))

        def told(report: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in report.items() if name not in ("seconds", "bytes_per_second")}

        pushed = run("push", "pets", "v1", str(there.folder))
        assert (pushed["blobs_sent"], pushed["is_new"], pushed["tags"]) == (17, True, ["v1"])
        body = {"version": "v1", "target": str(there.folder)}
        again = client.post("/api/datasets/pets/push", json=body).json()
        assert (again["blobs_sent"], again["blobs_known"], again["is_new"]) == (0, 17, False)
        assert (
            told(again) == told(pets.push("v1", there).to_json()) == told(run("push", "pets", "v1", str(there.folder)))
        )
        asked = {"version": first.id, "source": str(there.folder), "name": "copy"}
        pulled = client.post("/api/datasets/pets/pull", json=asked).json()
        assert (pulled["dataset"], pulled["is_new"], pulled["blobs_known"]) == ("copy", True, 17)
        assert run("pull", "pets", "v1", str(there.folder), "--name", "copy")["is_new"] is False
        assert space.dataset("copy").versions()[0].id == first.id
        assert run("push", "pets", "v1", str(tmp_path / "nothing"), code=2)["error"]["code"] == "not_found"
        assert client.post("/api/datasets/pets/push", json={"version": "v1"}).status_code == 422
        words = CliRunner().invoke(app, ["data", "push", "pets", "v1", str(there.folder), "-w", str(space.folder)])
        assert "0 blobs sent, 17 there already" in words.output


def test_a_server_for_others_opens_no_path_of_its_machine(tmp_path: Path) -> None:
    with (
        loopworks.open(tmp_path / "space", host="0.0.0.0", token="secret") as space,  # noqa: S104, S106
        TestClient(create_app(space), headers={"Authorization": "Bearer secret"}) as client,
    ):
        for name in ("push", "pull", "add-paths", "table/add", "table/export"):
            body = {"version": "v1", "target": "/", "source": "/", "paths": ["/"], "path": "/x.csv"}
            done = client.post(f"/api/datasets/pets/{name}", json=body)
            assert (done.status_code, done.json()["error"]["code"]) == (403, "denied")
        done = client.post("/api/models", json={"path": "/model.onnx", "name": "guest"})
        assert (done.status_code, done.json()["error"]["code"]) == (403, "denied")
