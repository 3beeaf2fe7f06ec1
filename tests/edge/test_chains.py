"""Detect, crop, classify: one decode, views, one batch per node; the answers are those of the crops asked alone."""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core import image
from loopworks.core.errors import Conflict, Invalid, LoopworksError, NotFound
from loopworks.core.values import ImageRule
from loopworks.infer.chains import graph as graphs
from loopworks.infer.chains import run as running
from loopworks.server.app import create_app


@pytest.fixture(scope="module")
def client(made: lw.Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(made), base_url="http://127.0.0.1") as found:
        yield found


def cut(content: bytes, crop: list[int]) -> bytes:
    x, y, width, height = crop
    out = io.BytesIO()
    Image.open(io.BytesIO(content)).crop((x, y, x + width, y + height)).save(out, "PNG")
    return out.getvalue()


def scores(answer: Mapping[str, Any]) -> dict[str, float]:
    return {row["label"]: row["score"] for row in answer.get("labels", answer.get("regions", []))}


def test_every_crop_is_answered_as_a_picture_of_it_would_be(made: lw.Workspace, photo: Callable[..., bytes]) -> None:
    content = photo()
    answer = made.predict("street", content)
    alone = made.predict("object-detection", content)
    plain = [{key: value for key, value in row.items() if key != "then"} for row in answer["labels"]]
    assert plain == alone["labels"]
    seen = {"a": 0, "b": 0}
    for row in answer["labels"]:
        then = row.get("then", {})
        if row["label"] == "a":
            x, y, width, height = row["box"]
            if row["score"] < 0.6 or "kind" not in then:
                assert not then
                continue
            seen["a"] += 1
            crop = then["kind"]["crop"]
            assert crop[0] == max(0, round(x - 0.1 * width))
            assert crop[0] + crop[2] == min(96, round(x + 1.1 * width))
            assert crop[1] + crop[3] == min(64, round(y + 1.1 * height))
            said = made.predict("image-classification", cut(content, crop))
            assert then["kind"]["chosen"] == said["chosen"]
            assert scores(then["kind"]) == pytest.approx(scores(said), abs=2e-6)
            (inner,) = [one for one in then["kind"]["labels"] if "then" in one]
            assert inner["label"] in said["chosen"]
            assert inner["then"]["parts"]["crop"] == crop
        elif "parts" in then:
            seen["b"] += 1
            assert "regions" in then["parts"]
    assert seen["a"] >= 3
    assert seen["b"] == 2


def test_an_image_is_decoded_once_more_and_every_node_runs_once(
    made: lw.Workspace, monkeypatch: pytest.MonkeyPatch, photo: Callable[..., bytes]
) -> None:
    """Crops are views of one array, and all crops for a node are one batch."""
    decoded: list[np.ndarray[Any, Any]] = []
    fitted: list[np.ndarray[Any, Any]] = []
    whole, fit = image.whole, image.fitted

    def look(content: bytes, name: str, limit: int) -> Any:
        decoded.append(whole(content, name, limit))
        return decoded[-1]

    def watch(pixels: Any, rule: ImageRule) -> Any:
        fitted.append(pixels)
        return fit(pixels, rule)

    asked: list[tuple[str, int]] = []
    decode = running._decoded

    def count(bundle: Any, outputs: Any, sizes: Any) -> Any:
        asked.append((bundle.task, len(sizes)))
        return decode(bundle, outputs, sizes)

    monkeypatch.setattr(image, "whole", look)
    monkeypatch.setattr(image, "fitted", watch)
    monkeypatch.setattr(running, "_decoded", count)
    made.predict_many("street", [photo(1), photo(2)])
    assert len(decoded) == 2
    assert all(any(np.shares_memory(one, full) for full in decoded) for one in fitted)
    assert [task for task, _ in asked] == ["object-detection", "image-classification", "semantic-segmentation"]
    assert asked[0][1] == 2
    assert sum(count for _, count in asked[1:]) == len(fitted) > 4


def test_where_nothing_passes_the_others_are_not_asked(
    made: lw.Workspace, monkeypatch: pytest.MonkeyPatch, photo: Callable[..., bytes]
) -> None:
    made.add_chain(
        "strict",
        "nodes: {find: object-detection, kind: image-classification}\nedges: [{from: find, to: kind, size: 5000}]",
    )
    monkeypatch.setattr(image, "whole", lambda *_: pytest.fail("decoded for nothing"))
    answer = made.predict("strict", photo())
    assert answer["labels"]
    assert not any("then" in row and row["then"] for row in answer["labels"])


def test_a_region_is_cut_by_the_box_around_it(made: lw.Workspace, photo: Callable[..., bytes]) -> None:
    made.add_chain("regions", "nodes: {parts: 'kinds:1', kind: image-classification}\nedges: [{from: parts, to: kind}]")
    content = photo(3)
    answer = made.predict("regions", content)
    row = answer["regions"][0]
    assert row["then"]["kind"]["crop"] == [0, 0, 96, 64]  # noise: some pixel of it at every side
    said = made.predict("image-classification", content)
    assert scores(row["then"]["kind"]) == pytest.approx(scores(said), abs=2e-6)


def test_http_command_line_and_python_say_the_same(
    made: lw.Workspace, client: TestClient, tmp_path: Path, photo: Callable[..., bytes]
) -> None:
    content = photo(4)
    expected = made.predict("street", content)
    (path := tmp_path / "a.png").write_bytes(content)
    reply = client.post("/predict/street", content=content, headers={"Content-Type": "image/png"})
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert told["models"] == {"find": "object-detection:1", "kind": "image-classification:1", "parts": "kinds:1"}
    (found,) = told["predictions"]
    assert {**found, "name": ""} == {**expected, "name": ""}
    done = CliRunner().invoke(app, ["predict", "street", str(path), "-w", str(made.folder), "--json"])
    (said,) = json.loads(done.stdout)["predictions"]
    assert {**said, "name": ""} == {**expected, "name": ""}
    out = tmp_path / "drawn.png"
    words = ["predict", "street", str(path), "-w", str(made.folder), "--top", "100", "--draw", str(out)]
    table = CliRunner().invoke(app, words, env={"COLUMNS": "10000"}).stdout
    assert "(kind: " in table
    with Image.open(out) as drawn, Image.open(io.BytesIO(made.draw("object-detection", content))) as plain:
        assert drawn.size == plain.size
        assert drawn.tobytes() != plain.tobytes()
    assert 'loopworks_requests_total{deployment="street",outcome="done"} 1.0' in client.get("/metrics").text


def test_bad_images_are_listed_and_the_good_ones_answered(client: TestClient, photo: Callable[..., bytes]) -> None:
    texts = [base64.b64encode(one).decode() for one in (photo(5), b"no image", photo(6))]
    reply = client.post("/predict/street", json={"images": texts})
    assert [one["name"] for one in reply.json()["predictions"]] == ["images[0]", "images[2]"]
    assert [one["where"] for one in reply.json()["problems"]] == ["images[1]"]
    png = client.post("/predict/street", content=photo(5), headers={"Content-Type": "image/png", "Accept": "image/png"})
    assert png.json()["error"]["message"] == "Accept must be one of application/json; got image/png"
    lone = client.post("/predict/street", content=b"no image", headers={"Content-Type": "image/png"})
    assert (lone.status_code, lone.json()["error"]["code"]) == (422, "invalid")
    assert client.post("/predict/street", content=b"", headers={"Content-Type": "image/png"}).status_code == 422
    assert client.post("/predict/nobody", content=b"x", headers={"Content-Type": "image/png"}).status_code == 404


BAD = [
    ("{", "chain x must be YAML; got"),
    ("[]", "chain x must be an object"),
    ("{}", "nodes must be given"),
    ("nodes: {}", "nodes must be 1 to 32 nodes; got 0"),
    ("nodes: {a: 3}", "nodes.a must be the name of a deployment or model; got 3"),
    ("nodes: {a: nobody}", "deployment or model of node 'a' 'nobody' does not exist"),
    ("nodes: {a: object-detection}\nedges: [{from: a, to: b}]", "node of chain x 'b' does not exist"),
    (
        "nodes: {a: object-detection, b: image-classification, c: image-classification}\n"
        "edges: [{from: a, to: b}, {from: b, to: c}, {from: c, to: b}]",
        "edges of chain x must be without a cycle; got",
    ),
    ("nodes: {a: object-detection}\nedges: [{from: a, to: a}]", "without a cycle; got a -> a"),
    ("nodes: {a: object-detection, b: image-classification}", "of one first node, to which no edge leads; got a, b"),
    (
        "nodes: {a: object-detection, b: tabular-regression}\nedges: [{from: a, to: b}]",
        "node 'b' must be a model of images; got tabular-regression, for media row",
    ),
    (
        "nodes: {a: object-detection, b: image-classification}\nedges: [{from: a, to: b, label: z}]",
        "class of node 'a' 'z' does not exist",
    ),
    (
        "nodes: {a: object-detection, b: image-classification}\nedges: [{from: a, to: b, label: yes}]",
        "label must be a class or a list of them; got True",
    ),
    (
        "nodes: {a: object-detection, b: image-classification}\nedges: [{from: a, to: b, score: 2}]",
        r"edges\[0\].score must be in 0..1; got 2",
    ),
    (
        "nodes: {a: object-detection, b: image-classification}\nedges: [{from: a, to: b, scores: 2}]",
        "scores must be one of from, to, label, score, size, margin, most, else; got scores",
    ),
    (
        "nodes: {a: object-detection, b: image-classification}\nedges: [{from: a, to: b, size: 0}]",
        "size must be a whole number, 1 or more; got 0",
    ),
    ("nodes: {a: object-detection}\nedge: []", "edge must be one of nodes, edges"),
    ("!!python/object/apply:os.system ['true']", "must be YAML"),
    ("#" + "x" * 70_000, "at most 65536 bytes"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_a_graph_that_makes_no_sense_is_refused_in_one_sentence(made: lw.Workspace, text: str, words: str) -> None:
    with pytest.raises(LoopworksError, match=words):
        made.add_chain("x", text)
    assert "x" not in [chain.name for chain in made.chains()]


def test_chains_are_added_changed_shown_and_removed_by_command_and_route(
    made: lw.Workspace, client: TestClient, tmp_path: Path, chain: str
) -> None:
    (file := tmp_path / "chain.yaml").write_text(chain, encoding="utf-8")

    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, ["chain", *words, "-w", str(made.folder), "--json"])
        return json.loads(done.stdout)

    assert run("add", "other", str(file))["chain"]["revision"] == 1
    reply = client.post("/api/chains", json={"name": "other", "graph": chain})
    assert reply.json()["chain"]["revision"] == 1, "the same graph is no change"
    reply = client.post("/api/chains", json={"name": "other", "graph": "nodes: {a: kinds}", "author": "ana"})
    assert (reply.json()["chain"]["revision"], reply.json()["chain"]["author"]) == (2, "ana")
    assert client.post("/api/chains/other/rollback", json={"revision": "2"}).status_code == 422
    assert run("rollback", "other", "--author", "ben")["chain"]["change"] == "rollback 1"
    assert client.post("/api/chains/other/rollback", json={"revision": 2}).json()["chain"]["revision"] == 4
    assert client.post("/api/chains/other/rollback", json={}).json()["chain"]["revision"] == 5
    assert run("show", "other", "--revision", "2")["chain"]["graph"]["nodes"] == {"a": "kinds:1"}
    told = client.get("/api/chains/other").json()
    assert run("show", "other") == {"chain": told["chain"], "history": told["history"]}
    changes = [(one["revision"], one["change"], one["author"]) for one in told["history"]]
    assert changes == [
        (1, "add", ""), (2, "change", "ana"), (3, "rollback 1", "ben"), (4, "rollback 2", ""), (5, "rollback 3", "")
    ]  # fmt: skip
    assert graphs.read(run("show", "other")["chain"]["graph"]).order == ("find", "kind", "parts")
    assert run("ls")["chains"] == client.get("/api/chains").json()["chains"]
    assert run("rm", "other")["chain"]["name"] == "other"
    assert client.post("/api/chains/other/remove").status_code == 404
    assert client.post("/api/chains", json={"name": "other", "graph": chain}).json()["chain"]["revision"] == 6
    assert run("rm", "other")["chain"]["revision"] == 6
    assert run("show", "other")["error"]["code"] == "not_found"
    assert (
        client.post("/api/chains", json={"name": "x"}).json()["error"]["message"] == "graph must be text; got nothing"
    )
    (bad := tmp_path / "bad.yaml").write_bytes(b"\xff")
    assert run("add", "other", str(bad))["error"]["message"].startswith(f"{bad} must be text in UTF-8")


def test_a_chain_has_a_name_of_its_own_and_models_keep_their_number(made: lw.Workspace, chain: str) -> None:
    with pytest.raises(Conflict, match="got that of a deployment"):
        made.add_chain("object-detection", chain)
    with pytest.raises(Invalid, match="chain name must be"):
        made.add_chain("a b", chain)
    assert made.add_chain("pinned", "nodes: {a: kinds}").graph["nodes"] == {"a": "kinds:1"}


def test_a_deployment_that_got_another_medium_is_told(made: lw.Workspace, photo: Callable[..., bytes]) -> None:
    made.deploy("image-classification", "light")
    made.add_chain("changing", "nodes: {find: object-detection, kind: light}\nedges: [{from: find, to: kind}]")
    made.deploy("text-classification", "light")
    with pytest.raises(Invalid, match="node 'kind' must be a model of images; got light, for media text"):
        made.predict("changing", photo())
    with pytest.raises(NotFound):
        made.chain("none")


def test_a_chain_is_drawn_as_text(made: lw.Workspace) -> None:
    done = CliRunner().invoke(app, ["chain", "show", "street", "-w", str(made.folder)])
    assert done.stdout.splitlines()[:5] == [
        "chain street, revision 1",
        "image -> find (object-detection, now object-detection:1)",
        "|-- a, score >= 0.6, size >= 2, margin 0.1 -> kind (image-classification, now image-classification:1)",
        "|   `-- all, score >= 0.2 -> parts (kinds:1)",
        "`-- b, at most 2 -> parts (kinds:1)",
    ]


def test_lineage_goes_through_a_chain_and_its_models_are_kept(
    made: lw.Workspace, photo: Callable[..., bytes], client: TestClient
) -> None:
    id = made.predict("street", photo())["id"]
    for start in (id, "street"):
        told = [(node.kind, node.id) for node in made.lineage(start)]
        assert ("chain", "street/1") in told
        assert told.index(("node", "street.find")) < told.index(("deployment", "object-detection/1"))
        assert ("model", "kinds:1") in told
    (model,) = [node for node in made.lineage("kinds:1") if node.kind == "model"]
    assert "street" in str(model.facts["chains"])
    with pytest.raises(Conflict, match="deployment 'object-detection' must be asked by no chain; got .*street"):
        made.undeploy("object-detection")
    assert client.post("/api/deployments/object-detection/undeploy", json={}).status_code == 409
    with pytest.raises(Conflict, match="deployment 'street' must have a name of its own; got that of a chain"):
        made.deploy("kinds", "street")
    with pytest.raises(NotFound, match="chain 'street/9' does not exist"):
        made.lineage("street/9/" + "0" * 64)
    listed = CliRunner().invoke(app, ["deployments", "-w", str(made.folder)]).stdout
    assert "chain of object-detection, image-classification, kinds:1" in " ".join(listed.split())


def test_else_takes_what_no_other_edge_of_the_node_does(made: lw.Workspace, photo: Callable[..., bytes]) -> None:
    made.add_chain(
        "rest",
        "nodes: {find: object-detection, kind: image-classification, parts: kinds}\n"
        "edges:\n"
        "  - {from: find, to: kind, label: a, score: 0.7, most: 3}\n"
        "  - {from: find, to: parts, else: true, score: 0.55}\n",
    )
    seen = set()
    for row in made.predict("rest", photo())["labels"]:
        then = set(row.get("then", {}))
        assert len(then) < 2
        assert ("kind" in then) <= (row["label"] == "a" and row["score"] >= 0.7)
        if row["score"] >= 0.55 and min(row["box"][2:]) >= 1.5:
            assert then, row
        seen |= {(row["label"], *then)}
    assert {("a", "kind"), ("a", "parts"), ("b", "parts")} <= seen
    for bad in (
        "[{from: find, to: kind, else: true}]",
        "[{from: find, to: kind}, {from: kind, to: kind2, else: true}]",
    ):
        nodes = "nodes: {find: object-detection, kind: image-classification, kind2: kinds}"
        with pytest.raises(LoopworksError, match="edge with else from node '(find|kind)' must be beside one without"):
            made.add_chain("x", f"{nodes}\nedges: {bad}")


def test_many_images_go_in_parts_that_fit_into_memory(
    made: lw.Workspace, monkeypatch: pytest.MonkeyPatch, photo: Callable[..., bytes]
) -> None:
    contents = [photo(seed) for seed in range(5)]
    whole, _ = made.predict_many("street", contents)
    monkeypatch.setattr(running, "MOST_PIXELS", 2 * 96 * 64)
    parts, _ = made.predict_many("street", contents)
    assert parts == whole
    asked = [running.Picture(name="", size=(96, 64)) for _ in range(5)]
    assert list(running.batches(asked)) == [(0, 2), (2, 4), (4, 5)]


def test_whole_and_fitted_are_what_decode_does_in_one_go(photo: Callable[..., bytes]) -> None:
    content = photo(7, (50, 30))
    for fit in ("stretch", "crop", "pad"):
        rule = ImageRule(height=16, width=24, fit=fit)
        assert np.array_equal(image.fitted(image.whole(content), rule), image.decode(content, rule))
    with pytest.raises(Invalid, match="at most 100 pixels"):
        image.whole(content, "big", 100)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(np.asarray(Image.open(io.BytesIO(content))).tobytes()).digest()


def test_crops_come_into_the_inbox_of_the_classifier_as_pictures_of_their_own(
    made: lw.Workspace, client: TestClient, photo: Callable[..., bytes]
) -> None:
    made.dataset("kinds-inbox", "image-classification", classes=["a", "b", "c"])
    rules = {"dataset": "kinds-inbox", "capture": [{"when": "random", "share": 1.0}], "log": {"is_on": False}}
    made.watch("image-classification", {**rules, "drift": {"is_on": False}})
    serving = client.app.state.serving  # type: ignore[attr-defined]
    try:
        serving.watch.flush()
        reply = client.post("/predict/street", content=photo(8), headers={"Content-Type": "image/png"}).json()
        serving.watch.flush()
        then = [row.get("then", {}) for row in reply["predictions"][0]["labels"]]
        crops = [one["kind"]["crop"] for one in then if "kind" in one]
        expected = {_digest(cut(photo(8), crop)) for crop in crops}
        inbox = made.dataset("kinds-inbox")
        kept = [inbox.read(item) for item in inbox.find("tag = 'inbox'")]
        assert set(map(_digest, kept)) == expected
        assert len(kept) == len(expected) > 2
    finally:
        made.unwatch("image-classification")
        serving.watch.flush()
