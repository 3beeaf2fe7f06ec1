"""Items one by one and by query, versions looked into: the same rows through Python, the command line and HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Conflict

BASE = "/api/datasets/litter"


@pytest.fixture
def litter(space: lw.Workspace, tmp_path: Path, pictures: Any) -> lw.Workspace:
    """A workspace with a dataset of eight labeled images."""
    space.dataset("litter", task="image-classification").add(
        pictures(tmp_path / "photos", {"glass": 4, "metal": 4}), author="ann"
    )
    return space


def run(space: lw.Workspace, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "-w", str(space.folder), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def post(client: TestClient, name: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(f"{BASE}/{name}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_item_is_the_same_on_all_faces(client: TestClient, litter: lw.Workspace) -> None:
    dataset = litter.dataset("litter")
    item = dataset.items()[0]
    wanted = {"dataset": "litter", "item": item.to_json(), "is_verified": False}
    assert run(litter, "data", "show", "litter", item.name) == wanted
    assert client.get(f"{BASE}/items/{item.id[:12]}").json() == wanted
    sound = {**wanted, "is_verified": True}
    assert run(litter, "data", "show", "litter", item.name, "--verify") == sound
    assert client.get(f"{BASE}/items/{item.id}?verify=true").json() == sound
    events = [event.to_json() for event in dataset.history(item.id)]
    assert run(litter, "label", "history", "litter", item.id)["events"] == events
    assert client.get(f"{BASE}/items/{item.id}/history").json()["events"] == events
    blob = next(path for path in (litter.folder / "blobs").rglob("*") if path.name.endswith(item.id[2:]))
    blob.chmod(0o644)
    blob.write_bytes(b"changed")
    assert run(litter, "data", "show", "litter", item.id, "--verify", code=1)["error"]["code"] == "damaged"
    assert client.get(f"{BASE}/items/{item.id}?verify=true").json()["error"]["code"] == "damaged"


def test_items_are_changed_by_query_or_one_by_one(client: TestClient, litter: lw.Workspace) -> None:
    dataset = litter.dataset("litter")
    metal = sorted(dataset.ids("label = 'metal'"))
    done = run(litter, "data", "tag-items", "litter", "--query", "label = 'metal'", "--tag", "shiny", "--tag", "new")
    assert sorted(done["items"]) == metal
    assert dataset.item(metal[0]).tags == ("new", "shiny")
    assert sorted(post(client, "untag-items", query="label = 'metal'", tags=["new"])["items"]) == metal
    assert dataset.item(metal[0]).tags == ("shiny",)
    run(litter, "data", "untag-items", "litter", metal[0], "--tag", "shiny")
    assert dataset.item(metal[0]).tags == ()
    dataset.undo(post(client, "tag-items", items=[metal[0][:12]], tags=["x"])["operation"])
    assert dataset.item(metal[0]).tags == ()
    run(litter, "data", "describe", "litter", metal[0], "--set", "camera=north", "--set", "lux=7.5")
    post(client, "describe", items=[metal[0]], attributes={"lux": None, "wet": True})
    assert dataset.item(metal[0]).attributes == {"camera": "north", "wet": True}
    run(litter, "data", "assign", "litter", "val", metal[0])
    post(client, "assign", items=metal[1:2], split="test")
    assert [dataset.item(one).split for one in metal[:2]] == ["val", "test"]
    with pytest.raises(Conflict, match="test set"):
        dataset.assign(metal[1:2], "train")
    assert run(litter, "data", "assign", "litter", "train", metal[1], code=2)["error"]["code"] == "conflict"
    assert post(client, "assign", 409, items=metal[1:2], split="train")["error"]["code"] == "conflict"
    run(litter, "data", "assign", "litter", "train", metal[1], "--force")
    assert dataset.item(metal[1]).split == "train"
    cleared = post(client, "clear-labels", query="label = 'metal'")
    dataset.undo(cleared["operation"])
    again = run(litter, "label", "clear", "litter", "--query", "label = 'metal'")
    assert sorted(again["cleared"]) == sorted(cleared["cleared"]) == metal
    assert dataset.counts()["labeled"] == 4
    assert sorted(post(client, "delete", query="state = 'unlabeled'")["items"]) == metal


def test_which_items_are_meant_is_said_once(client: TestClient, litter: lw.Workspace) -> None:
    item = litter.dataset("litter").items()[0].id
    wrong: tuple[dict[str, Any], ...] = ({}, {"items": []}, {"items": [item], "query": "true"})
    for body in wrong:
        assert post(client, "tag-items", 422, tags=["x"], **body)["error"]["code"] == "invalid"
    assert run(litter, "data", "tag-items", "litter", "--tag", "x", code=2)["error"]["code"] == "invalid"
    assert post(client, "tag-items", 422, items=[item])["error"]["message"].startswith("tags must be one or more")
    assert post(client, "describe", 422, items=[item], attributes=[1])["error"]["code"] == "invalid"
    assert run(litter, "data", "describe", "litter", item, "--set", "x", code=2)["error"]["code"] == "invalid"
    assert litter.dataset("litter").operations()[0].what == "add"


def test_classes_and_an_empty_dataset_are_made_on_all_faces(client: TestClient, litter: lw.Workspace) -> None:
    made = run(litter, "data", "create", "tone", "image-classification", "--class", "a", "--class", "b", "--multi")
    assert made == litter.dataset("tone").to_json() == client.get("/api/datasets/tone").json()
    assert (made["classes"], made["is_multi"]) == (["a", "b"], True)
    wanted = post(client, "classes", add=["paper"], author="ann")
    assert wanted["classes"] == ["glass", "metal", "paper"]
    assert client.get(f"{BASE}/classes").json() == wanted == run(litter, "label", "classes", "litter")


def test_a_version_is_looked_into_on_all_faces(client: TestClient, litter: lw.Workspace) -> None:
    dataset = litter.dataset("litter")
    version = dataset.freeze("first")
    dataset.tag(version.id, "v1")
    wanted: dict[str, Any] = {
        "dataset": "litter",
        "version": version.to_json(),
        "authors": [{"author": "ann", "source": "import", "count": 8}],
    }
    assert run(litter, "data", "version", "litter", "v1") == wanted == client.get(f"{BASE}/versions/v1").json()
    rows = {"dataset": "litter", "items": [row.to_json() for row in version.rows()[2:5]], "count": 8}
    assert run(litter, "data", "version-items", "litter", "v1", "--limit", "3", "--offset", "2") == rows
    assert client.get(f"{BASE}/versions/v1/items?limit=3&offset=2").json() == rows
    assert client.get(f"{BASE}/versions/v1/items?split=test").json()["count"] == len(version.rows("test"))
    item = version.rows()[0].item_id
    facts: dict[str, Any] = {"dataset": "litter", "annotations": [node.to_json() for node in version.facts(item)]}
    assert facts["annotations"][0]["author"] == "ann"
    assert run(litter, "data", "version-items", "litter", "v1", item) == facts
    assert client.get(f"{BASE}/versions/v1/items/{item}").json() == facts
    assert client.get(f"{BASE}/versions/v1/items/{'0' * 64}").status_code == 404


def test_findings_one_by_one_and_their_page(client: TestClient, litter: lw.Workspace, tmp_path: Path) -> None:
    with Image.open(tmp_path / "photos" / "glass" / "000.png") as picture:
        picture.save(tmp_path / "photos" / "glass" / "copy.bmp")
    litter.dataset("litter").add(tmp_path / "photos")
    clean = litter.dataset("litter").clean
    (one,) = clean.check("near-duplicates").findings
    wanted = {"dataset": "litter", "findings": [one.to_json()]}
    assert run(litter, "data", "findings", "litter", one.id[:12]) == wanted
    assert client.get(f"{BASE}/findings/{one.id}").json() == wanted
    page = client.get(f"{BASE}/findings?report=true&kind=near-duplicates")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert clean.report(tmp_path / "page.html", kind="near-duplicates", limit=100) == 1
    assert page.text == (tmp_path / "page.html").read_text(encoding="utf-8") == clean.page(kind="near-duplicates")
    assert "data:image/jpeg" in page.text
