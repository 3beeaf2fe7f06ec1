"""Texts through the whole loop: a CSV file in, a served model out, and back to the labels."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.texts.source import complaints
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Invalid
from loopworks.server.run import ServerThread

pytestmark = [pytest.mark.train, pytest.mark.optimize, pytest.mark.slow]


def ask(space: Path, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "-w", str(space), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with complaints, a trained and optimized model, and a deployment."""
    root = tmp_path_factory.mktemp("complaints")
    source = complaints(140, 0, 0)
    with (root / "complaints.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(("text", "label"))
        for text, row in zip(source.said["train"], source.labels["train"], strict=True):
            out.writerow((text, source.schema.classes[int(row.argmax())]))
    with lw.open(root / "space") as ws:
        data = ws.dataset("complaints", task="text-classification")
        data.add(root / "complaints.csv")
        data.split(test=0.2, val=0.2)
        model = ws.train(data.freeze("first"), recipe="ngrams", params={"epochs": 8, "hidden": 16, "rate": 0.02})
        ws.deploy(ws.optimize(model, max_drop=0.05), name="complaints")
    return root


@pytest.fixture
def ws(city: Path) -> Iterator[lw.Workspace]:
    with lw.open(city / "space") as space:
        yield space


def test_the_model_learnt_and_its_variants_were_measured(ws: lw.Workspace) -> None:
    bundle = ws.bundle("complaints:2")
    assert ws.model("complaints:1").metrics["test"]["accuracy"]["value"] > 0.85  # chance is a third
    made = {variant.name for variant in bundle.variants}
    assert {"onnx-fp32", "openvino-fp32"} <= made
    for variant in bundle.variants:
        assert set(variant.metrics) == {"val", "test"}
        assert variant.latency_ms["p50"] > 0
        assert (variant.agreement or 0) > 0.9
    left_out = [note for note in bundle.notes if note.startswith(("onnx-int8", "openvino-int8"))]
    assert made >= {"onnx-int8", "openvino-int8"} or left_out, bundle.notes


def test_python_command_line_and_http_say_the_same(ws: lw.Workspace, city: Path) -> None:
    import httpx2 as httpx

    text = "Since Monday a big pothole near my school"
    by_python = ws.predict("complaints", text)
    assert by_python["chosen"] == ["street"]
    file = city / "complaint.txt"
    file.write_text(text, encoding="utf-8")
    assert ws.predict("complaints", file)["labels"] == by_python["labels"]
    found = ask(city / "space", "predict", "complaints", str(file), "--text", text, "--text", "垃圾桶")["predictions"]
    assert [one["chosen"] for one in found] == [["street"], ["垃圾"], ["street"]]
    assert found[0]["id"] == by_python["id"] == found[2]["id"]
    with ServerThread(ws) as server:
        url = f"{server.url}/predict/complaints"
        one = httpx.post(url, json={"text": text}).json()["predictions"][0]
        many = httpx.post(url, json={"texts": [text, "", "no lamp"]}).json()
        plain = httpx.post(url, content=text.encode(), headers={"content-type": "text/plain; charset=utf-8"}).json()
    assert one["labels"] == by_python["labels"]
    assert one["id"] == by_python["id"]
    assert [found["name"] for found in many["predictions"]] == ["texts[0]", "texts[1]", "texts[2]"]
    assert many["predictions"][2]["chosen"] == ["light"]
    assert plain["predictions"][0]["labels"] == by_python["labels"]


def test_a_client_that_nobody_here_wrote_is_answered(ws: lw.Workspace) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="needs the [demo] extra")
    texts = ["a pothole", "", "垃圾桶"]
    expected = ws.answer(ws.bundle("complaints:2"), texts, ws.deployment("complaints").variant)["scores"]
    batch = np.array([text.encode() for text in texts], dtype=object)
    with ServerThread(ws) as server:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            for is_binary in (True, False):
                tensor = triton.InferInput("text", [3], "BYTES")
                tensor.set_data_from_numpy(batch, binary_data=is_binary)
                found = client.infer("complaints", [tensor]).as_numpy("scores")
                np.testing.assert_allclose(found, expected, atol=1e-5)
            bad = triton.InferInput("text", [1], "BYTES")
            bad.set_data_from_numpy(np.array([b"\xff\xfe"], dtype=object), binary_data=True)
            with pytest.raises(Exception, match="text 1 must be UTF-8"):
                client.infer("complaints", [bad])
        finally:
            client.close()


def test_lineage_leads_from_a_prediction_to_the_labels(ws: lw.Workspace) -> None:
    row = ws.version(ws.model("complaints:1").version).rows("train")[0]
    answer = ws.predict("complaints", row.text)
    assert answer["item"] == row.item_id  # a text is the same item wherever it is seen
    chain = ws.lineage(answer["id"])
    assert [node.kind for node in chain] == ["prediction", "deployment", "model", "model", "version", "labels"]
    assert chain[-1].facts["count"] == chain[-2].facts["items"] > 100


def test_the_model_proposes_what_to_label_next_and_is_kept_beside_the_labels(ws: lw.Workspace, city: Path) -> None:
    fresh = city / "fresh.csv"
    fresh.write_text("text\na pothole here\nno lamp there\n垃圾桶\npothole or lamp\n", encoding="utf-8")
    data = ws.dataset("complaints")
    data.add(fresh)
    picks = ws.labeling("complaints").next(2, sampler="uncertain")
    assert len(picks) == 2
    assert all(len(pick.proposal) == 1 and 0 <= pick.uncertainty <= 1 for pick in picks)
    done = ws.score("complaints")
    assert done["items"] == data.counts()["items"] > 100
    assert not done["problems"]
    assert len(list(data.ids("prediction.label = '垃圾'"))) > 20


def test_what_is_no_text_is_refused(ws: lw.Workspace, city: Path) -> None:
    (city / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    answers, problems = ws.predict_many("complaints", [city / "bytes.txt", "a pothole", {"text": "row"}, "\ud800"])
    assert [answer["name"] for answer in answers] == ["text 2"]
    assert [problem.error for problem in problems] == ["invalid"] * 3
    assert "must be text in UTF-8" in problems[0].message
    with pytest.raises(Invalid, match="must be Unicode text"):
        ws.predict("complaints", "\ud800")
    error = ask(city / "space", "predict", "complaints", code=2)["error"]
    assert "at least one file, or --text" in error["message"]
