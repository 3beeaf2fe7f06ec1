"""The workspace over HTTP: the same rows as through Python, and every route in the OpenAPI document."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.server.app import ROUTES, create_app

Photo = Callable[..., bytes]


@pytest.fixture
def litter(space: lw.Workspace, tmp_path: Path, pictures: Any) -> lw.Workspace:
    """A workspace with a dataset of six labeled images."""
    dataset = space.dataset("litter", task="image-classification")
    dataset.add(pictures(tmp_path / "photos", {"glass": 3, "metal": 3}))
    return space


def get(client: TestClient, path: str, status: int = 200) -> Any:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


def post(client: TestClient, path: str, body: Any = None, status: int = 200) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_rows_are_those_of_the_python_api(client: TestClient, litter: lw.Workspace) -> None:
    assert get(client, "/api/health") == {"status": "ok"}
    assert get(client, "/api/workspace") == litter.info()
    assert get(client, "/api/datasets") == {"datasets": litter.datasets()}
    assert get(client, "/api/datasets/litter") == litter.dataset("litter").to_json()
    assert get(client, "/api/models")["models"] == [model.to_json() for model in litter.models()]
    assert get(client, "/api/models/colors:1")["bundle"] == litter.bundle("colors").to_json()
    assert get(client, "/api/deployments")["deployments"] == [d.to_json() for d in litter.deployments()]


def test_a_dataset_is_made_labeled_and_frozen(client: TestClient, litter: lw.Workspace) -> None:
    made = post(client, "/api/datasets", {"name": "new", "task": "image-classification", "classes": ["a"]}, 201)
    assert (made["name"], made["classes"]) == ("new", ["a"])
    wrong = get(client, "/api/datasets/litter/items?label=glass&limit=1")["items"][0]["id"]
    post(client, "/api/datasets/litter/labels", {"labels": {wrong: ["metal"]}, "author": "ann"})
    shapes = litter.dataset("litter").item(wrong).labels
    assert [(shape.label, shape.author) for shape in shapes] == [("metal", "ann")]
    version = post(client, "/api/datasets/litter/freeze", {"message": "first"}, 201)
    assert version["message"] == "first"
    assert [v["id"] for v in get(client, "/api/datasets/litter/versions")["versions"]] == [version["id"]]


def test_items_come_in_pages(client: TestClient, litter: lw.Workspace) -> None:
    seen: list[str] = []
    after = ""
    while page := get(client, f"/api/datasets/litter/items?limit=4&after={after}")["items"]:
        assert len(page) <= 4
        seen += [item["id"] for item in page]
        after = seen[-1]
    assert sorted(seen) == sorted(item.id for item in litter.dataset("litter").items(limit=100))
    assert get(client, "/api/datasets/litter/items?state=unlabeled")["items"] == []
    assert len(get(client, "/api/datasets/litter/items?label=glass")["items"]) == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "state=some", "limit=\u0664"])
def test_a_wrong_page_is_refused(client: TestClient, litter: lw.Workspace, query: str) -> None:
    assert get(client, f"/api/datasets/litter/items?{query}", 422)["error"]["code"] == "invalid"


def test_an_image_comes_with_its_type_and_is_kept_by_browsers(client: TestClient, litter: lw.Workspace) -> None:
    item = litter.dataset("litter").items()[0]
    answer = client.get(f"/api/datasets/litter/items/{item.id}/image")
    assert answer.content == litter.dataset("litter").read(item)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{item.id}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = client.get(f"/api/datasets/litter/items/{item.id}/image", headers={"if-none-match": f'"{item.id}"'})
    assert (again.status_code, again.content) == (304, b"")
    assert get(client, f"/api/datasets/litter/items/{'0' * 64}/image", 404)["error"]["code"] == "not_found"


def test_lineage_leads_back(client: TestClient) -> None:
    answer = client.get("/api/lineage?of=colors:9")
    assert answer.status_code == 404
    assert get(client, "/api/lineage", 422)["error"]["message"].startswith("of must be a prediction")


def test_a_training_is_a_job(client: TestClient, litter: lw.Workspace, jobs: Any) -> None:
    version = litter.dataset("litter").freeze("first")
    answer = client.post("/api/train", json={"version": version.id, "recipe": "small-cnn", "budget": "5m", "seed": 3})
    assert (answer.status_code, answer.headers["location"]) == (202, "/api/jobs/j1")
    assert answer.json()["job"]["status"] == "queued"
    ((step, params),) = jobs.submitted
    assert step == "train"
    assert (params["version"], params["recipe"], params["budget_s"], params["seed"]) == (
        version.id,
        "small-cnn",
        300.0,
        3,
    )


def test_an_optimization_is_a_job(client: TestClient, jobs: Any) -> None:
    post(client, "/api/optimize", {"model": "colors:1", "max_drop": 0.02, "target": "size"}, 202)
    ((step, params),) = jobs.submitted
    assert (step, params["model"], params["max_drop"], params["target"]) == ("optimize", "colors:1", 0.02, "size")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/train", {}, 422, "version must be text; got nothing"),
        ("/api/train", {"version": 3}, 422, "version must be text; got int"),
        ("/api/train", {"version": "abc"}, 404, "does not exist"),
        ("/api/optimize", {"model": "colors:9"}, 404, "does not exist"),
        ("/api/optimize", {"model": "colors", "max_drop": "much"}, 422, "max_drop must be a number in 0..1"),
        ("/api/optimize", {"model": "colors", "max_drop": True}, 422, "max_drop must be a number in 0..1"),
        ("/api/optimize", {"model": "colors", "max_drop": 1.1}, 422, "max_drop must be a number in 0..1"),
        ("/api/train", {"version": "litter", "seed": -1}, 422, "seed must be a whole number"),
        ("/api/train", {"version": "litter", "budget": []}, 422, "budget must be a duration"),
        ("/api/train", {"version": "litter", "budget": "soon"}, 422, "budget must be a duration"),
        ("/api/train", {"version": "litter", "params": []}, 422, "params must be an object"),
        ("/api/deployments", {"model": "none"}, 404, "model 'none' does not exist"),
        ("/api/deployments", {"model": "colors", "variant": "none"}, 404, "variant 'none' does not exist"),
        ("/api/deployments", {"model": "colors", "name": "a/b"}, 422, "deployment name must be"),
        ("/api/deployments", {"model": "colors", "name": "stats"}, 422, "deployment name must be another than"),
        ("/api/datasets", {"name": "x"}, 422, "task must be text"),
        ("/api/datasets", {"name": "x", "task": "none"}, 404, "plug-in 'task.none' does not exist"),
        ("/api/datasets", {"name": "x", "task": "image-classification", "classes": [1]}, 422, "classes must be a list"),
        ("/api/datasets/none/freeze", {}, 404, "dataset 'none' does not exist"),
        ("/api/datasets/litter/labels", {}, 422, "labels must be an object"),
        ("/api/datasets/litter/labels", {"labels": {"0": "glass"}}, 422, "labels must be an object"),
        ("/api/jobs/none/cancel", None, 404, "job 'none' does not exist"),
    ],
)
def test_what_is_wrong_is_named(
    client: TestClient, litter: lw.Workspace, jobs: Any, path: str, body: Any, status: int, words: str
) -> None:
    error = post(client, path, body, status)["error"]
    assert words in error["message"]
    assert jobs.submitted == []


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"3"])
def test_a_body_that_is_no_object_is_refused(client: TestClient, content: bytes) -> None:
    answer = client.post("/api/datasets", content=content)
    assert answer.status_code == 422
    assert "request body must be" in answer.json()["error"]["message"]


def test_jobs_are_listed_shown_and_cancelled(client: TestClient, jobs: Any) -> None:
    assert [job["id"] for job in get(client, "/api/jobs")["jobs"]] == ["j1"]
    assert get(client, "/api/jobs/j1")["job"]["title"] == "train litter"
    assert post(client, "/api/jobs/j1/cancel")["job"]["id"] == "j1"
    assert jobs.cancelled == ["j1"]


def test_progress_is_streamed_until_the_job_ends(
    client: TestClient, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loopworks.server.routes import events

    monkeypatch.setattr(events, "LOOK_S", 0.001)
    queued = jobs.script[0]
    running = replace(queued, status="running", share=0.5)
    jobs.script = [queued, queued, running, running, replace(running, status="done", share=1.0)]
    with client.stream("GET", "/api/jobs/j1/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert [(job["status"], job["share"]) for job in told] == [("queued", 0), ("running", 0.5), ("done", 1)]
    assert get(client, "/api/jobs/none/events", 404)["error"]["code"] == "not_found"


def test_a_deployment_answers_when_the_call_returns(
    client: TestClient, space: lw.Workspace, tmp_path: Path, colors: Any, add_model: Any, photo: Photo
) -> None:
    other = colors.write(tmp_path / "other", classes=("rot", "gruen", "blau"))
    model = add_model(space, other, "farben")
    made = post(client, "/api/deployments", {"model": model.ref, "name": "colors"}, 201)["deployment"]
    assert (made["name"], made["revision"], made["model"]) == ("colors", 2, "farben")
    answer = client.post("/predict/colors", content=photo("red")).json()
    assert (answer["revision"], answer["predictions"][0]["chosen"]) == (2, ["rot"])


def test_a_deployment_that_cannot_be_loaded_says_why_and_the_old_one_goes_on(
    client: TestClient, space: lw.Workspace, tmp_path: Path, colors: Any, add_model: Any, photo: Photo
) -> None:
    bad = colors.write(tmp_path / "bad")
    (tmp_path / "bad" / "model.onnx").write_bytes(b"no model")
    from loopworks.core.bundle import write

    model = add_model(space, write(bad, tmp_path / "bad"), "bad")
    error = post(client, "/api/deployments", {"model": model.ref, "name": "colors"}, 422)["error"]
    assert "must be an ONNX model" in error["message"]
    assert client.post("/predict/colors", content=photo("red")).json()["revision"] == 1
    post(client, "/api/deployments", {"model": model.ref, "name": "fresh"}, 422)
    listed = {entry["name"]: entry for entry in post(client, "/v2/repository/index")}
    assert listed["colors"]["state"] == "READY"
    assert (listed["fresh"]["state"], "ONNX" in listed["fresh"]["reason"]) == ("UNAVAILABLE", True)
    answer = client.post("/predict/fresh", content=photo("red"))
    assert answer.status_code == 404
    assert "could not be loaded" in answer.json()["error"]["hint"]


def test_what_another_process_deploys_is_found(
    space: lw.Workspace, tmp_path: Path, colors: Any, add_model: Any, monkeypatch: pytest.MonkeyPatch, photo: Photo
) -> None:
    from loopworks.server import serving

    monkeypatch.setattr(serving, "LOOK_S", 0.01)
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        space.deploy(add_model(space, colors.write(tmp_path / "more"), "more"))
        state = client.app.state  # type: ignore[attr-defined]
        while "more" not in state.serving.engine.names():
            state.serving.stopping.wait(0.01)
        assert client.post("/predict/more", content=photo("blue")).json()["predictions"][0]["chosen"] == ["blue"]


def test_every_route_is_in_the_document(client: TestClient) -> None:
    document = get(client, "/openapi.json")
    validate(document)
    application: Any = client.app
    served = {(route.path, method) for route in application.routes for method in route.methods - {"HEAD"}}
    documented = {(path, method.upper()) for path, one in document["paths"].items() for method in one}
    assert served == documented
    assert len(served) == len(ROUTES)
    names = [operation["operationId"] for one in document["paths"].values() for operation in one.values()]
    assert len(set(names)) == len(names)


def test_the_page_is_whole_and_may_load_nothing_else(client: TestClient) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer = client.get(path)
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        for word in ("http://", "https://", "innerHTML", "eval("):
            assert word not in answer.text
