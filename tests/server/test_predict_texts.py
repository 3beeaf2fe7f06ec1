"""Predictions for people, of texts: what is taken, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.text import TextRule
from loopworks.core.values import LabelSchema, TensorSpec

pytestmark = pytest.mark.train
RULE = TextRule(words=(1, 1), chars=(0, 0), buckets=1 << 16)
CLASSES = ("street", "light")


def told(folder: Path) -> Bundle:
    """A model in which the word pothole speaks for street, and lamp for light."""
    from loopworks.train.texts import graph

    table = np.zeros(RULE.buckets, np.int32)
    for place, word in enumerate(("pothole", "lamp"), 1):
        table[RULE.counts([word])[1]] = place
    weights = {
        "table": table,
        "idf": np.array([0, 1, 1], np.float32),
        "vectors": np.array([[0, 0], [5, 0], [0, 5]], np.float32),
        "bias": np.zeros(2, np.float32),
    }
    folder.mkdir()
    graph.write(weights, folder / "model.onnx", is_multi=False)
    return write(
        Bundle(
            task="text-classification",
            schema=LabelSchema(classes=CLASSES),
            rule=RULE,
            inputs=RULE.inputs(),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),),
            version="0" * 64,
            recipe="train.ngrams",
            variants=(
                Variant(
                    name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)
                ),
            ),
            chosen="onnx-fp32",
        ),
        folder,
    )


@pytest.fixture
def told_client(client: TestClient, space: lw.Workspace, tmp_path: Path, add_model: Any) -> TestClient:
    space.deploy(add_model(space, told(tmp_path / "told"), "told"), name="told")
    assert client.post("/v2/repository/models/told/load").status_code == 200
    return client


def ask(client: TestClient, **how: Any) -> Any:
    return client.post("/predict/told", **how)


def test_a_text_comes_as_json_as_plain_text_or_as_a_file(told_client: TestClient, space: lw.Workspace) -> None:
    by_python = space.predict("told", "a Pothole")
    # One known word has weight 1, so its vector is the logit: 1 / (1 + e^-5).
    assert by_python["labels"][0] == {"label": "street", "score": pytest.approx(1 / (1 + np.exp(-5)), abs=1e-6)}
    files = [("file", ("a.txt", b"a Pothole", "text/plain")), ("file", ("b.txt", b"the lamp", "text/plain"))]
    for answer in (
        ask(told_client, json={"text": "a Pothole"}),
        ask(told_client, content=b"a Pothole", headers={"content-type": "text/plain"}),
        ask(told_client, files=files),
    ):
        assert answer.status_code == 200
        found = answer.json()["predictions"][0]
        assert (found["id"], found["labels"]) == (by_python["id"], by_python["labels"])
    assert [one["name"] for one in ask(told_client, files=files).json()["predictions"]] == ["a.txt", "b.txt"]


def test_several_texts_are_answered_in_order_also_empty_and_huge_ones(told_client: TestClient) -> None:
    texts = ["lamp", "", "pothole " * 1_300_000]  # the last one of 10 MB
    body = ask(told_client, json={"texts": texts}).json()
    assert [one["chosen"] for one in body["predictions"]] == [["light"], ["street"], ["street"]]
    assert body["predictions"][1]["labels"][0]["score"] == 0.5  # no word, no opinion
    assert body["problems"] == []


def test_bad_texts_are_listed_and_the_good_ones_answered(told_client: TestClient) -> None:
    files = [("file", ("bad.txt", b"\xff\xfe", "text/plain")), ("file", ("good.txt", b"lamp", "text/plain"))]
    body = ask(told_client, files=files).json()
    assert [one["name"] for one in body["predictions"]] == ["good.txt"]
    assert [(one["where"], one["error"]) for one in body["problems"]] == [("bad.txt", "invalid")]
    alone = ask(told_client, content=b"\xff\xfe", headers={"content-type": "text/plain"})
    assert alone.status_code == 422
    assert "text must be text in UTF-8" in alone.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", "text/plain", "items must be at least one; got none"),
        (b"{}", "application/json", "request body must be {'text': text} or {'texts': [at most 256]}"),
        (b'{"text": 3}', "application/json", "request body must be {'text': text}"),
        (b'{"texts": ["a", null]}', "application/json", "request body must be {'text': text}"),
        (b'{"image": "aaaa"}', "application/json", "request body must be {'text': text}"),
        (b"x", "image/png", "content-type must be text/plain, multipart/form-data or application/json; got image/png"),
    ],
)
def test_what_is_no_text_is_refused(told_client: TestClient, content: bytes, kind: str, words: str) -> None:
    answer = ask(told_client, content=content, headers={"content-type": kind})
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]


def test_the_protocol_says_what_a_text_model_takes(told_client: TestClient) -> None:
    assert told_client.get("/v2/models/told").json()["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["lamp", "pothole"]}
    found = told_client.post("/v2/models/told/infer", json={"inputs": [tensor]}).json()["outputs"][0]
    assert np.array(found["data"]).reshape(found["shape"]).argmax(axis=1).tolist() == [1, 0]
