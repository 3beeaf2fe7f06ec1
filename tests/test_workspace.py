"""The whole loop through the Python API, the command line and HTTP, on one small trained workspace."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Conflict, Invalid, NotFound

pytestmark = [pytest.mark.train, pytest.mark.slow]

Pictures = Callable[..., Path]


def call(space: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "-w", str(space), "--json"])


def ask(space: Path, *words: str) -> Any:
    result = call(space, *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    """A workspace with a dataset, a trained and optimized model, and a deployment."""
    root = tmp_path_factory.mktemp("city")
    photos = pictures(root / "photos", {"glass": 30, "metal": 30, "paper": 30})
    with lw.open(root / "space") as ws:
        litter = ws.dataset("litter", task="image-classification")
        litter.add(photos)
        litter.split(test=0.2, val=0.2)
        v1 = litter.freeze("first batch")
        model = ws.train(v1, params={"epochs": 8}, seed=1)
        best = ws.optimize(model, max_drop=0.05, variants=["onnx-int8"])
        ws.deploy(best, name="litter")
    return root


@pytest.fixture
def ws(city: Path) -> Iterator[lw.Workspace]:
    with lw.open(city / "space") as space:
        yield space


def test_the_model_learnt(ws: lw.Workspace) -> None:
    score = ws.model("litter:1").metrics["test"]["accuracy"]
    assert score["value"] > 0.8  # three clearly different colours; chance is 0.33
    assert score["low"] <= score["value"] <= score["high"]


def test_every_variant_was_measured_on_both_splits(ws: lw.Workspace) -> None:
    bundle = ws.bundle("litter:2")
    assert [v.name for v in bundle.variants] == ["onnx-fp32", "onnx-int8"]
    for variant in bundle.variants:
        assert set(variant.metrics) == {"val", "test"}
        assert variant.latency_ms["p50"] > 0
        assert variant.size_bytes > 1000
    assert bundle.chosen in {"onnx-fp32", "onnx-int8"}


def test_predictions_are_those_of_the_raw_graph(ws: lw.Workspace, city: Path) -> None:
    photo = sorted((city / "photos" / "glass").iterdir())[0]
    answer = ws.predict("litter", photo)
    bundle = ws.bundle("litter:2")
    raw = ws.answer(bundle, [photo.read_bytes()])["scores"][0]
    assert answer["labels"][0]["score"] == pytest.approx(float(raw.max()), abs=1e-5)
    assert answer["chosen"] == [bundle.schema.classes[int(raw.argmax())]]


def test_lineage_leads_from_a_prediction_to_the_labels(ws: lw.Workspace, city: Path) -> None:
    photo = sorted((city / "photos" / "paper").iterdir())[0]
    chain = ws.lineage(ws.predict("litter", photo)["id"])
    assert [node.kind for node in chain] == ["prediction", "deployment", "model", "model", "version", "labels"]
    assert chain[-1].facts["count"] == 90
    assert chain[2].id == "litter:2"
    assert chain[3].id == "litter:1"


def test_runs_are_in_mlflow(ws: lw.Workspace) -> None:
    from loopworks.store.runs import Runs

    runs = Runs(f"sqlite:///{ws.folder / 'runs' / 'mlflow.db'}")
    curve = runs.curve(ws.model("litter:1").run, "val_headline")
    assert len(curve) >= 1


def test_python_command_line_and_http_say_the_same(ws: lw.Workspace, city: Path) -> None:
    from starlette.testclient import TestClient

    from loopworks.server.app import create_app

    space, photo = city / "space", sorted((city / "photos" / "metal").iterdir())[3]
    by_python = ws.predict("litter", photo)
    by_command = ask(space, "predict", "litter", str(photo))["predictions"][0]
    with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
        posted = client.post("/predict/litter", content=photo.read_bytes(), headers={"content-type": "image/png"})
        by_http = posted.json()["predictions"][0]
        datasets = client.get("/api/datasets").json()
        models = client.get("/api/models").json()
    for other in (by_command, by_http):
        assert other["chosen"] == by_python["chosen"]
        assert other["item"] == by_python["item"]
        assert other["labels"][0]["score"] == pytest.approx(by_python["labels"][0]["score"], abs=1e-5)
    assert datasets["datasets"] == ask(space, "data", "ls")["datasets"] == ws.datasets()
    shown = ask(space, "models")["models"]
    assert [m["ref"] for m in models["models"]] == [m["ref"] for m in shown] == [m.ref for m in ws.models()]


def test_the_same_key_gives_the_same_job(ws: lw.Workspace) -> None:
    version = ws.dataset("litter").versions()[0]
    first = ws.train(version, params={"epochs": 1}, key="once", name="again")
    second = ws.train(version, params={"epochs": 1}, key="once", name="again")
    assert first.ref == second.ref == "again:1"


def test_a_model_proposes_labels_and_csv_files_carry_them(tmp_path: Path, pictures: Pictures) -> None:
    with lw.open(tmp_path / "space") as space:
        ds = space.dataset("d", task="image-classification", classes=("a", "b"))
        ds.add(pictures(tmp_path / "new", {"a": 6, "b": 6}, seed=5), labels="none")
        picks = space.labeling("d").next(4)
        assert len({p.item for p in picks}) == 4
        table = tmp_path / "labels.csv"
        table.write_text(
            "item,labels\n" + "".join(f"{p.item},{Path(p.name).parts[0]}\n" for p in picks) + "nosuch,a\n"
            f"{picks[0].item},zebra\n",
            encoding="utf-8",
        )
        report = space.labeling("d").read_csv(table, author="ann")
        assert report.labeled == 4
        assert [(p.where, p.error) for p in report.problems] == [
            ("labels.csv line 6", "not_found"),
            ("labels.csv line 7", "not_found"),
        ]
        assert space.labeling("d").write_csv(tmp_path / "out.csv") == 4
        with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["item"] for row in rows} == {p.item for p in picks}
        assert {row["author"] for row in rows} == {"ann"}


def test_the_trained_model_proposes_what_to_label_next(ws: lw.Workspace, pictures: Pictures, tmp_path: Path) -> None:
    fresh = ws.dataset("fresh", task="image-classification", classes=("glass", "metal", "paper"))
    fresh.add(pictures(tmp_path / "fresh", {"glass": 3, "paper": 3}, seed=9), labels="none")
    picks = ws.labeling("fresh", "litter:1").next(6)
    assert len(picks) == 6
    assert all(p.proposal and p.proposal[0] in ("glass", "metal", "paper") for p in picks)
    assert all(0 <= p.uncertainty <= 1 for p in picks)


@pytest.mark.parametrize(
    ("words", "code", "error", "text"),
    [
        (("data", "ls", "nope"), 2, "not_found", "dataset 'nope' does not exist"),
        (("data", "add", "litter", "no/such/folder"), 2, "not_found", "no/such/folder"),
        (("train", "0000"), 2, "not_found", "0000"),
        (("train", "litter", "--budget", "soon"), 2, "invalid", "budget must be a duration"),
        (("train", "litter", "--recipe", "magic"), 2, "not_found", "train.magic"),
        (("train", "litter", "--set", "epochs=-1"), 2, "invalid", "epochs"),
        (("train", "litter", "--set", "epochs"), 2, "invalid", "NAME=VALUE"),
        (("optimize", "litter:9"), 2, "not_found", "litter:9"),
        (("optimize", "litter:1", "--target", "beauty"), 2, "invalid", "target"),
        (("deploy", "litter:2", "--variant", "x"), 2, "not_found", "variant 'x' does not exist"),
        (("predict", "nope", "x.jpg"), 2, "not_found", "deployment 'nope' does not exist"),
        (("label", "set", "litter", "zzz", "glass"), 2, "not_found", "zzz"),
        (("lineage", "nothing"), 2, "not_found", "nothing"),
        (("jobs", "show", "zzz"), 2, "not_found", "zzz"),
    ],
)
def test_each_mistake_gets_one_clear_error(
    city: Path, words: tuple[str, ...], code: int, error: str, text: str
) -> None:
    result = call(city / "space", *words)
    assert result.exit_code == code, result.output
    body = json.loads(result.stdout)
    assert body["error"]["code"] == error
    assert text in body["error"]["message"]
    assert "Traceback" not in result.output


def test_bad_images_are_listed_and_good_ones_answered(ws: lw.Workspace, city: Path, tmp_path: Path) -> None:
    bad = tmp_path / "note.jpg"
    bad.write_text("not a picture", encoding="utf-8")
    good = sorted((city / "photos" / "glass").iterdir())[0]
    answers, problems = ws.predict_many("litter", [bad, good, tmp_path / "absent.jpg"])
    assert [a["name"] for a in answers] == [str(good)]
    assert [p.where for p in problems] == [str(bad), str(tmp_path / "absent.jpg")]
    with pytest.raises(Invalid, match="must be an image"):
        ws.predict("litter", bad)


def test_redeploying_makes_a_revision_and_old_predictions_keep_theirs(ws: lw.Workspace, city: Path) -> None:
    photo = sorted((city / "photos" / "glass").iterdir())[0]
    ws.deploy("litter:1", name="shop")
    old = ws.predict("shop", photo)["id"]
    ws.deploy("litter:2", name="shop")
    new = ws.predict("shop", photo)["id"]
    assert ws.lineage(old)[2].id == "litter:1"
    assert ws.lineage(new)[2].id == "litter:2"


def test_names_and_aliases_find_models(ws: lw.Workspace) -> None:
    ws.alias("litter:1", "champion")
    assert ws.model("litter@champion").ref == "litter:1"
    assert ws.model("litter").ref == "litter:2"
    with pytest.raises(NotFound, match="litter@nobody"):
        ws.model("litter@nobody")


def test_a_dataset_name_belongs_to_one_task(ws: lw.Workspace) -> None:
    with pytest.raises(NotFound, match=r"task\.dream"):
        ws.dataset("other", task="dream")
    with pytest.raises(NotFound, match="nowhere"):
        ws.dataset("nowhere")


def test_a_model_of_other_classes_cannot_propose(ws: lw.Workspace) -> None:
    ws.dataset("cats", task="image-classification", classes=("cat", "dog"))
    with pytest.raises(Conflict, match="classes"):
        ws.labeling("cats", "litter:1")


def test_doctor_finds_the_workspace_sound_and_notices_damage(city: Path, tmp_path: Path, pictures: Pictures) -> None:
    report = ask(city / "space", "doctor")
    assert report["is_sound"] is True
    assert {"loopworks", "python", "cpu", "memory", "gpu", "disk", "media", "models", "jobs"} <= {
        check["what"] for check in report["checks"]
    }
    with lw.open(tmp_path / "space") as space:
        ds = space.dataset("d", task="image-classification")
        ds.add(pictures(tmp_path / "p", {"a": 2, "b": 2}))
        key = ds.items()[0].id
    blob = next(
        p for p in (tmp_path / "space" / "blobs").rglob("*") if p.is_file() and key in p.as_posix().replace("/", "")
    )
    blob.chmod(0o644)
    blob.write_bytes(b"changed")
    result = call(tmp_path / "space", "doctor")
    assert result.exit_code == 1
    damaged = [c for c in json.loads(result.stdout)["checks"] if not c["is_ok"] and c["is_needed"]]
    assert [c["what"] for c in damaged] == ["media"]
