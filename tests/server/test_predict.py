"""Predictions for people, and the metrics of them."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.server.app import create_app

Photo = Callable[..., bytes]


def ask(client: TestClient, content: bytes, kind: str = "image/png") -> Any:
    return client.post("/predict/colors", content=content, headers={"content-type": kind})


@pytest.mark.parametrize("color", ["red", "green", "blue"])
def test_an_image_gets_its_label(client: TestClient, photo: Photo, color: str) -> None:
    answer = ask(client, photo(color))
    assert answer.status_code == 200
    body = answer.json()
    assert (body["deployment"], body["revision"], body["model"], body["variant"]) == (
        "colors",
        1,
        "colors:1",
        "onnx-fp32",
    )
    (found,) = body["predictions"]
    item = hashlib.sha256(photo(color)).hexdigest()
    assert (found["item"], found["id"]) == (item, f"colors/1/{item}")
    assert found["chosen"] == [color]
    assert found["labels"][0]["label"] == color
    assert sum(label["score"] for label in found["labels"]) == pytest.approx(1, abs=1e-5)
    assert body["problems"] == []
    times = body["timings_ms"]
    assert 0 < times["compute"] <= times["total"]


def test_http_and_python_say_the_same(client: TestClient, space: lw.Workspace, photo: Photo) -> None:
    by_python = space.predict("colors", photo("blue"))
    (by_http,) = ask(client, photo("blue")).json()["predictions"]
    assert by_http["labels"] == by_python["labels"]
    assert by_http["id"] == by_python["id"]


@pytest.mark.parametrize("kind", ["application/octet-stream", "", "image/jpeg; q=1"])
def test_the_type_of_an_image_is_found_in_its_bytes(client: TestClient, photo: Photo, kind: str) -> None:
    assert ask(client, photo("red"), kind).json()["predictions"][0]["chosen"] == ["red"]


def test_files_of_a_form_are_answered_in_order(client: TestClient, photo: Photo) -> None:
    files = [("file", (f"{color}.png", photo(color), "image/png")) for color in ("blue", "red")]
    body = client.post("/predict/colors", files=files).json()
    assert [(found["name"], found["chosen"]) for found in body["predictions"]] == [
        ("blue.png", ["blue"]),
        ("red.png", ["red"]),
    ]


def test_one_or_more_images_come_as_base64(client: TestClient, photo: Photo) -> None:
    texts = [base64.b64encode(photo(color)).decode() for color in ("green", "blue")]
    one = client.post("/predict/colors", json={"image": texts[0]}).json()
    assert [found["chosen"] for found in one["predictions"]] == [["green"]]
    many = client.post("/predict/colors", json={"images": texts}).json()
    assert [found["chosen"] for found in many["predictions"]] == [["green"], ["blue"]]


def test_bad_images_are_listed_and_the_good_ones_answered(client: TestClient, photo: Photo) -> None:
    files = [
        ("file", ("good.png", photo("red"), "image/png")),
        ("file", ("cut.png", photo("red")[:200], "image/png")),
        ("file", ("notes.txt", b"no image", "text/plain")),
    ]
    answer = client.post("/predict/colors", files=files)
    assert answer.status_code == 200
    body = answer.json()
    assert [found["name"] for found in body["predictions"]] == ["good.png"]
    assert [(problem["where"], problem["error"]) for problem in body["problems"]] == [
        ("cut.png", "invalid"),
        ("notes.txt", "invalid"),
    ]


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", "image/png", "items must be at least one; got none"),
        (b"no image", "image/png", "image must be an image"),
        (b"{}", "application/json", "request body must be {'image': base64}"),
        (b'{"image": 3}', "application/json", "request body must be {'image': base64}"),
        (b'{"image": "?"}', "application/json", "image must be base64"),
        (b'{"images": ["", "\xc3\xa9"]}', "application/json", "images[1] must be base64"),
        (b"{", "application/json", "request body must be JSON"),
        (b"x", "text/csv", "content-type must be image/*"),
        (b"x", "multipart/form-data", "content-type must be multipart/form-data with a boundary"),
        (b"--b\r\nbroken", "multipart/form-data; boundary=b", "form must be whole"),
        (b"--b\r\nbroken\r\n--b--", "multipart/form-data; boundary=b", "request must be well-formed"),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            "field 'file' must be a file; got text",
        ),
    ],
)
def test_what_is_no_image_is_refused(client: TestClient, content: bytes, kind: str, words: str) -> None:
    answer = ask(client, content, kind)
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]


def test_an_unknown_deployment_lists_the_known_ones(client: TestClient, photo: Photo) -> None:
    answer = client.post("/predict/other", content=photo("red"))
    assert (answer.status_code, answer.json()["error"]["hint"]) == (404, "known: colors")


def test_a_pixel_bomb_is_refused_before_it_is_decoded(space: lw.Workspace, tmp_path: Path, monkeypatch: Any) -> None:
    Image.fromarray(np.zeros((300, 300), np.uint8)).save(tmp_path / "large.png")
    small = space.settings.model_copy(update={"max_image_pixels": 80_000})
    monkeypatch.setattr(type(space), "settings", property(lambda self: small))
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        answer = ask(client, (tmp_path / "large.png").read_bytes())
    assert answer.status_code == 422
    assert "at most 80000 pixels" in answer.json()["error"]["message"]


def test_metrics_count_what_was_asked(client: TestClient, photo: Photo) -> None:
    ask(client, photo("red"))
    ask(client, b"no image")
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 8, 8, 3], "data": [7] * 384}
    client.post("/v2/models/colors/infer", json={"inputs": [tensor]})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    for line in (
        'loopworks_requests_total{deployment="colors",outcome="done"} 2.0',
        'loopworks_requests_total{deployment="colors",outcome="invalid"} 1.0',
        'loopworks_request_seconds_count{deployment="colors"} 3.0',
        'loopworks_rows_total{deployment="colors",version="1"} 3.0',
        'loopworks_runs_total{deployment="colors",version="1"} 2.0',
        'loopworks_waiting{deployment="colors",version="1"} 0.0',
    ):
        assert line in lines
