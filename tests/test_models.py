"""Comparing, crowning and showing models, through Python, the command line and HTTP; no training."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core import bundle as bundles
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.values import LabelSchema
from loopworks.data.learning import source_of
from loopworks.server.app import create_app
from loopworks.store import bundles as stored
from loopworks.store import models
from loopworks.store import runs as tracking
from loopworks.train import card, judge
from loopworks.workspace import Model

CLASSES = ("red", "green", "blue")


def draw(folder: Path, counts: int, seed: int = 0, strength: int = 90) -> Path:
    """Photos of three colours under noise: hard enough that a weak model errs."""
    rng = np.random.default_rng(seed)
    for place, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(counts):
            pixels = rng.integers(0, 100, (16, 16, 3))
            pixels[..., place] += strength
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{seed}-{n:03}.png")
    return folder


def keep(ws: lw.Workspace, bundle: bundles.Bundle, version: str, name: str = "colors", run: str = "") -> Model:
    """Record a bundle as a model that learnt from a version, with its evaluation and card."""
    frozen = ws.version(version)
    source = source_of(frozen)
    bundle = replace(bundle, version=version)
    outputs = ws.answer(bundles.write(bundle, bundle.folder), [row.read() for row in frozen.rows("test")])
    if bundle.schema == source.schema:
        metrics, body = judge.evaluate(
            source.task, source.schema, source.targets("test"), outputs, source.facts("test"), seed=0
        )
        written = judge.write(source.task, {"test": body}, {"val_loss": [[1, 0.5], [2, 0.4]]}, bundle.folder)
        bundle = replace(bundle, metrics={"test": metrics})
        (bundle.folder / card.FILE).write_text(card.markdown(bundle, written), encoding="utf-8")
    done = bundles.write(bundle, bundle.folder)
    key = stored.save(ws.home.blobs, done.folder)
    with ws.home.catalog.begin() as tx:
        return models.add(
            tx,
            name,
            bundle=key,
            run=run,
            version=version,
            task=bundle.task,
            variant=bundle.chosen,
            metrics=done.to_json()["metrics"],
        )


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[lw.Workspace]:
    with lw.open(tmp_path / "space") as space:
        photos = space.dataset("photos", task="image-classification", classes=CLASSES)
        photos.add(draw(tmp_path / "in", 40))
        photos.split(test=0.5, val=0.2)
        photos.freeze("first")
        yield space


@pytest.fixture
def first(ws: lw.Workspace) -> str:
    return ws.dataset("photos").versions()[0].id


@pytest.fixture
def pair(ws: lw.Workspace, first: str, tmp_path: Path, colors: Any) -> tuple[Model, Model]:
    """A model that takes red for green and blue for red (its weight is negative), and one that is right."""
    bad = keep(ws, colors.write(tmp_path / "bad", weight=-12.0), first)
    good = keep(ws, colors.write(tmp_path / "good", weight=12.0), first)
    return bad, good


def test_a_better_model_is_told_from_a_worse_one(ws: lw.Workspace, pair: tuple[Model, Model]) -> None:
    bad, good = pair
    found = ws.compare(good, bad)
    assert found.verdict == "better"
    apart = found.metrics["accuracy"].difference
    assert 0 < apart.low <= apart.value <= apart.high
    assert apart.value == pytest.approx(found.metrics["accuracy"].left.value - found.metrics["accuracy"].right.value)
    turned = ws.compare(bad, good)
    assert turned.verdict == "worse"
    assert turned.metrics["accuracy"].difference.value == pytest.approx(-apart.value)
    assert (found.items, found.left_out, found.notes) == (60, 0, ())
    assert "colors:2 is better than colors:1: accuracy" in found.sentence()


def test_the_same_answers_are_not_separable(
    ws: lw.Workspace, pair: tuple[Model, Model], first: str, colors: Any, tmp_path: Path
) -> None:
    again = keep(ws, colors.write(tmp_path / "again", weight=11.0), first)
    found = ws.compare(again, pair[1])
    assert found.verdict == "not separable"
    assert found.metrics["accuracy"].difference.to_json() == {"value": 0.0, "low": 0.0, "high": 0.0, "count": 60}


def test_an_alias_stands_in_the_registry_of_mlflow_too(
    ws: lw.Workspace, first: str, colors: Any, tmp_path: Path
) -> None:
    runs = tracking.Runs(*tracking.place(ws.home.runs, ""))
    run = runs.start("mirrored", "train")
    runs.register("mirrored", run, "loopworks-bundle:x")
    known = keep(ws, colors.write(tmp_path / "known"), first, "mirrored", run)
    other = keep(ws, colors.write(tmp_path / "other"), first, "mirrored")
    ws.alias(known, "challenger")
    assert runs.alias("mirrored", "challenger") == 1
    ws.alias(other, "challenger")
    assert runs.alias("mirrored", "challenger") is None
    with ws.home.catalog.begin() as tx:
        lost = models.add(
            tx, "mirrored", bundle=known.bundle, run="gone", version="", task=known.task, variant="", metrics={}
        )
    ws.alias(lost, "latest")  # a word that MLflow keeps for itself
    assert ws.model("mirrored@latest").ref == lost.ref


def test_a_champion_must_be_beaten(
    ws: lw.Workspace, pair: tuple[Model, Model], first: str, colors: Any, tmp_path: Path
) -> None:
    bad, good = pair
    assert ws.champion("colors") is None
    assert ws.alias(bad, "champion") is None
    assert ws.alias(bad, "champion") is None  # it is already
    told = ws.alias(good, "champion")
    assert told is not None
    assert told.verdict == "better"
    assert ws.model("colors@champion").ref == good.ref
    with pytest.raises(
        Conflict, match=r"must be better than colors:2; got: colors:1 is worse than colors:2: accuracy"
    ) as caught:
        ws.alias(bad, "champion")
    assert "--force" in caught.value.hint
    again = keep(ws, colors.write(tmp_path / "again", weight=11.0), first)
    with pytest.raises(Conflict, match="not separable from"):
        ws.alias(again, "champion")
    assert ws.model("colors@champion").ref == good.ref
    ws.alias(bad, "challenger")
    forced = ws.alias(bad, "champion", force=True)
    assert forced is not None
    assert forced.verdict == "worse"
    assert ws.aliases() == {"colors:1": ["challenger", "champion"]}


def test_models_of_two_versions_meet_on_items_that_neither_learnt_from(
    ws: lw.Workspace, pair: tuple[Model, Model], colors: Any, tmp_path: Path
) -> None:
    photos = ws.dataset("photos")
    photos.add(draw(tmp_path / "more", 20, seed=1))
    photos.split(test=0.5, val=0.2)
    moved = [row.item_id for row in ws.version(pair[0].version).rows("train")[:7]]
    photos.assign(moved, "test")
    second = photos.freeze("second")
    newer = keep(ws, colors.write(tmp_path / "new", weight=12.0), second.id)
    found = ws.compare(newer, pair[0])
    old = {row.item_id for split in ("train", "val") for row in ws.version(pair[0].version).rows(split)}
    test = {row.item_id for row in second.rows("test")}
    assert found.version == second.id
    assert found.items == len(test - old)
    assert found.left_out == len(test & old) == 7
    assert any("different versions" in note for note in found.notes)
    assert ws.compare(pair[0], newer).items == found.items


def test_a_model_with_fewer_classes_is_wrong_on_the_new_one_and_that_is_said(
    ws: lw.Workspace, first: str, colors: Any, tmp_path: Path
) -> None:
    good = keep(ws, colors.write(tmp_path / "good"), first)
    other = keep(ws, colors.write(tmp_path / "other", classes=("red", "green", "teal")), first)
    found = ws.compare(other, good)
    assert found.verdict == "worse"
    assert found.notes == (f"{other.ref} does not know blue: it is wrong on each of their items",)
    assert found.metrics["accuracy"].left.value < 0.7


def test_what_cannot_be_compared_says_why(ws: lw.Workspace, first: str, colors: Any, tmp_path: Path) -> None:
    good = keep(ws, colors.write(tmp_path / "good"), first)
    many = colors.write(tmp_path / "many")
    many = bundles.write(replace(many, schema=LabelSchema(classes=CLASSES, is_multi=True)), many.folder)
    other = keep(ws, many, first)
    with pytest.raises(Conflict, match="must answer the same question; got image-classification and image-class"):
        ws.compare(good, other)
    ws.alias(good, "champion")
    with pytest.raises(Conflict, match="they cannot be compared: models to compare must answer"):
        ws.alias(other, "champion")
    assert ws.alias(other, "champion", force=True) is None
    small = ws.dataset("small", task="image-classification", classes=CLASSES)
    small.add(draw(tmp_path / "few", 4, seed=9))
    small.split(test=0, val=0.3)
    lone = models_on(ws, small.freeze("x").id, colors.write(tmp_path / "lone"))
    with pytest.raises(Invalid, match="version to compare by must be one with test items"):
        ws.compare(lone, lone)
    with pytest.raises(NotFound):
        ws.compare("nope", good)


def models_on(ws: lw.Workspace, version: str, bundle: bundles.Bundle) -> Model:
    done = bundles.write(replace(bundle, version=version), bundle.folder)
    key = stored.save(ws.home.blobs, done.folder)
    with ws.home.catalog.begin() as tx:
        return models.add(tx, "lone", bundle=key, run="", version=version, task=done.task, variant=done.chosen)


def test_the_card_shows_the_worst_mistakes(ws: lw.Workspace, pair: tuple[Model, Model]) -> None:
    bad, _ = pair
    ws.alias(bad, "champion")
    page = ws.card(bad)
    assert page.count("data:image/jpeg;base64,") == judge.MISTAKES
    for words in ("Model colors:1", "champion", "Calibration", "Confusion", bad.version, "0.000 [0.000, 0.000]"):
        assert words in page
    text = ws.card(bad, form="markdown")
    assert text.startswith("# colors:1\n")
    with pytest.raises(Invalid, match="form of a card must be html or markdown; got pdf"):
        ws.card(bad, form="pdf")


def test_a_card_is_made_of_a_model_that_was_never_measured_here(
    ws: lw.Workspace, first: str, colors: Any, tmp_path: Path
) -> None:
    lone = models_on(ws, first, colors.write(tmp_path / "lone"))
    assert "Not measured" in ws.card(lone)
    with pytest.raises(NotFound, match="evaluation"):
        ws.evaluation(lone)


def test_python_command_line_and_http_say_the_same(ws: lw.Workspace, pair: tuple[Model, Model], tmp_path: Path) -> None:
    bad, good = pair

    def ask(*words: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*words, "-w", str(ws.folder), "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    told = ws.compare(good, bad).to_json()
    assert ask("models", "compare", good.ref, bad.ref)["comparison"] == told
    assert ask("models", "alias", good.ref, "champion")["comparison"] is None
    assert ask("models", "alias", bad.ref, "champion", code=2)["error"]["code"] == "conflict"
    page = tmp_path / "card.html"
    assert ask("models", "card", bad.ref, "--html", str(page))["html"] == str(page)
    assert page.read_text(encoding="utf-8") == ws.card(bad)
    listed = ask("models")
    assert listed["aliases"] == {good.ref: ["champion"]}
    assert [one["ref"] for one in listed["models"]] == [good.ref, bad.ref]
    with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
        assert client.get("/api/compare", params={"left": good.ref, "right": bad.ref}).json()["comparison"] == told
        assert client.get("/api/compare", params={"left": good.ref}).status_code == 422
        refused = client.post(f"/api/models/{bad.ref}/alias", json={"alias": "champion"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert client.post(f"/api/models/{bad.ref}/alias", json={"alias": 3}).status_code == 422
        taken = client.post(f"/api/models/{bad.ref}/alias", json={"alias": "champion", "force": True})
        assert taken.json()["comparison"]["verdict"] == "worse"
        shown = client.get(f"/api/models/{bad.ref}/card")
        assert shown.text == ws.card(bad)
        assert "sandbox" in shown.headers["content-security-policy"]
        assert client.get(f"/api/models/{bad.ref}/card?form=markdown").text.startswith("# colors:1")
        assert client.get(f"/api/models/{bad.ref}/evaluation").json()["evaluation"] == ws.evaluation(bad)
        assert client.get("/api/models").json()["aliases"] == {bad.ref: ["champion"]}
        recipes = client.get("/api/recipes", params={"task": "image-classification"}).json()["recipes"]
    assert recipes == json.loads(json.dumps(ws.recipes("image-classification")))
    assert [one["name"] for one in ask("train", "--list")["recipes"]] == [one["name"] for one in ws.recipes()]


def test_a_model_from_elsewhere_goes_the_same_way_as_ours(
    ws: lw.Workspace, first: str, colors: Any, tmp_path: Path
) -> None:
    theirs = colors.write(tmp_path / "theirs").path("model.onnx")
    found = ws.register(theirs, "guest", version=first)
    assert found.metrics["test"]["accuracy"]["value"] == 1.0
    assert ws.compare(found, keep(ws, colors.write(tmp_path / "ours"), first)).verdict == "not separable"
    ws.deploy(found, name="guest")
    photo = next(iter(sorted((tmp_path / "in" / "red").iterdir())))
    answer = ws.predict("guest", photo)
    assert answer["chosen"] == ["red"]
    assert [node.kind for node in ws.lineage(answer["id"])][:4] == ["prediction", "deployment", "model", "version"]
    reasons = ws.explain("guest", photo)
    assert reasons.label == "red"
    assert reasons.picture.startswith(b"\x89PNG")
    with pytest.raises(Invalid, match="model name must be"):
        ws.register(theirs, "no name", version=first)
    with pytest.raises(Invalid, match="task must be image-classification, as the version's"):
        ws.register(theirs, "guest", task="text-classification", version=first)


def test_adding_and_explaining_say_the_same_through_all_faces(
    ws: lw.Workspace, first: str, colors: Any, tmp_path: Path
) -> None:
    theirs = colors.write(tmp_path / "theirs").path("model.onnx")
    photo = next(iter(sorted((tmp_path / "in" / "blue").iterdir())))
    by_python = ws.register(theirs, "guest", version=first)

    def ask(*words: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*words, "-w", str(ws.folder), "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    by_command = ask("models", "add", str(theirs), "guest", "--version", first[:12])["model"]
    assert by_command["metrics"] == by_python.metrics
    lone = ask("models", "add", str(theirs), "lone", "--class", "a", "--class", "b", "--class", "c")["model"]
    assert (lone["version"], lone["metrics"]) == ("", {})
    assert [node.kind for node in ws.lineage("lone:1")] == ["model"]
    assert ask("models", "add", str(tmp_path), "bad", code=2)["error"]["code"] == "invalid"
    with pytest.raises(Invalid, match="lone:1 to optimize must be one with a dataset version"):
        ws.optimize_job("lone")
    with pytest.raises(Invalid, match="lone:1 must be one with a version"):
        ws.compare("lone", by_python)
    told = ws.explain("guest", photo).to_json()
    picture = tmp_path / "map.png"
    assert ask("explain", "guest", str(photo), "--picture", str(picture))["reasons"] == told
    assert picture.read_bytes() == ws.explain("guest", photo).picture
    assert ask("explain", "guest", str(photo), "--label", "teal", code=2)["error"]["code"] == "not_found"
    body = base64.b64encode(photo.read_bytes()).decode()
    with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
        added = client.post("/api/models", json={"path": str(theirs), "name": "guest", "version": first})
        assert (added.status_code, added.json()["model"]["metrics"]) == (201, by_python.metrics)
        assert client.post("/api/models", json={"path": 3, "name": "x"}).status_code == 422
        shown = client.post("/api/models/guest/explain", json={"image": body})
        assert shown.json()["reasons"] == told
        assert base64.b64decode(shown.json()["picture"]) == picture.read_bytes()
        for bad in ({}, {"image": "?"}, {"image": body, "text": "x"}, {"text": str(photo)}):
            assert client.post("/api/models/guest/explain", json=bad).status_code == 422


def test_a_search_is_queued_with_what_it_may_take(
    ws: lw.Workspace, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Queue:
        def submit(self, step: str, params: dict[str, Any], *, title: str = "", key: str | None = None) -> str:
            asked.append((step, params))
            return "j"

        def get(self, job: str) -> str:
            return job

        def close(self) -> None:
            """Nothing runs."""

    monkeypatch.setattr(ws, "_jobs", Queue())
    ws.search_job(first, trials=3, recipes=["small-cnn"], params={"width": 8}, seed=4)
    ws.train_job(first, recipe="search", budget="10m")
    monkeypatch.setattr(ws.home, "settings", ws.settings.model_copy(update={"price_per_hour": 2.0}))
    ws.search_job(first, money=1.0, budget="1h")
    steps, params = zip(*asked, strict=True)
    assert set(steps) == {"search"}
    assert [one["budget_s"] for one in params] == [None, 600.0, 1800.0]
    assert (params[0]["trials"], params[0]["recipes"], params[0]["params"], params[0]["seed"]) == (
        3, ["small-cnn"], {"width": 8}, 4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "search must be given a budget, a number of trials or money"),
        ({"budget": "3s"}, "budget of a search must be at least 30 s"),
        ({"money": 1.0}, "price_per_hour must be set where a search is given money"),
        ({"money": -1.0, "budget": "1m"}, "money must be above zero"),
        ({"trials": 3, "recipes": ["nope"]}, r"train\.nope"),
        ({"trials": 3, "params": {"width": -1}}, r"train\.small-cnn\.width"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_is_queued(
    ws: lw.Workspace, first: str, given: dict[str, Any], words: str
) -> None:
    with pytest.raises((Invalid, NotFound), match=words):
        ws.search_job(first, **given)
