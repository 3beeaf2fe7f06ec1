"""Object detection through the whole loop: add, freeze, train, optimize, deploy, predict."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.jobs.conftest import until
from tests.train.pictures import CLASSES, picture
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.data.look import Look
from loopworks.jobs import lock
from loopworks.server.app import create_app

pytestmark = [pytest.mark.train, pytest.mark.slow]
PARAMS = {"epochs": 25, "width": 8, "blocks": 1, "batch": 16}


def coco(folder: Path, count: int) -> Path:
    """Pictures of discs and blocks with COCO's annotations; the last is stored lying (EXIF orientation 6)."""
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    things: list[dict[str, Any]] = []
    for i in range(count):
        pixels, shapes = picture(5000 + i)
        shown = Image.fromarray(pixels)
        exif = Image.Exif()
        is_lying = i == count - 1
        if is_lying:
            exif[0x0112] = 6
            shown = shown.transpose(Image.Transpose.ROTATE_90)  # which is turned back when it is shown
        shown.save(folder / f"{i:03}.jpg", quality=95, exif=exif)
        images.append({"id": i, "file_name": f"{i:03}.jpg", "width": shown.width, "height": shown.height})
        for shape in shapes:
            x, y, w, h = shape.points[0]
            box = [y, 96 - x - w, h, w] if is_lying else [x, y, w, h]
            things.append({
                "id": len(things),
                "image_id": i,
                "category_id": CLASSES.index(shape.label),
                "bbox": box,
                "area": w * h,
                "iscrowd": 0,
            })
    body = {
        "images": images,
        "annotations": things,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / "annotations.json").write_text(json.dumps(body), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a detector that was trained, optimized and deployed."""
    root = tmp_path_factory.mktemp("detect")
    with lw.open(root / "space") as ws:
        shapes = ws.dataset("shapes", task="object-detection")
        report = shapes.add(coco(root / "photos", 96), format="coco")
        assert (report.added, report.problems) == (96, ())
        shapes.split(test=0.15, val=0.2)
        model = ws.train(shapes.freeze("first"), params=PARAMS, recipe="small-detector")
        best = ws.optimize(model, max_drop=0.05, variants=["onnx-int8"])
        ws.deploy(best, name="shapes", variant="onnx-fp32")
    return root


@pytest.fixture
def ws(space: Path) -> Iterator[lw.Workspace]:
    with lw.open(space / "space") as found:
        yield found


def test_it_learnt_and_every_variant_was_measured(ws: lw.Workspace) -> None:
    scores = ws.model("shapes:1").metrics["test"]
    assert scores["map50"]["value"] > 0.7
    assert scores["map"]["low"] <= scores["map"]["value"] <= scores["map"]["high"]
    bundle = ws.bundle("shapes:2")
    assert [variant.name for variant in bundle.variants] == ["onnx-fp32", "onnx-int8"]
    int8 = bundle.variants[1]
    assert int8.size_bytes < bundle.variants[0].size_bytes
    assert int8.agreement is not None
    assert int8.agreement > 0.6
    assert set(int8.metrics) == {"val", "test"}


def test_boxes_lie_on_the_things_by_python_command_and_http(ws: lw.Workspace, space: Path, tmp_path: Path) -> None:
    pixels, shapes = picture(9000)
    photo = tmp_path / "photo.png"
    Image.fromarray(pixels).resize((192, 128)).save(photo)
    by_python = ws.predict("shapes", photo)
    assert by_python["unit"] == "px"
    assert len(by_python["labels"]) == len(shapes)
    for shape in shapes:
        x, y, w, h = (2 * side for side in shape.points[0])
        near = [row for row in by_python["labels"] if np.abs(np.subtract(row["box"], (x, y, w, h))).max() < 16]
        assert [row["label"] for row in near] == [shape.label]
    drawn = tmp_path / "drawn.png"
    words = ["predict", "shapes", str(photo), "-w", str(space / "space"), "--draw", str(drawn)]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["predictions"][0]["labels"] == by_python["labels"]
    with Image.open(drawn) as image:
        assert image.size == (192, 128)
        assert (np.asarray(image) != np.asarray(Image.open(photo).convert("RGB"))).any()
    shown = CliRunner().invoke(app, words)
    assert by_python["labels"][0]["label"] in shown.output
    with TestClient(create_app(ws), base_url="http://127.0.0.1") as client:
        posted = client.post("/predict/shapes", content=photo.read_bytes(), headers={"content-type": "image/png"})
    assert posted.status_code == 200, posted.text
    assert posted.json()["predictions"][0]["labels"] == by_python["labels"]


def test_a_photo_that_is_stored_lying_is_learnt_and_answered_as_it_is_shown(
    ws: lw.Workspace, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = ws.dataset("shapes").versions()[0]
    (row,) = [row for row in version.rows() if row.name.endswith("095.jpg")]
    assert (row.width, row.height) == (64, 96)
    place = [one.item_id for one in version.rows(row.split)].index(row.item_id)
    target = version.targets(row.split)[place]
    target = target[target[:, 0] >= 0]
    _, shapes = picture(5000 + 95)
    wanted = [[side / whole for side, whole in zip(s.points[0], (96, 64, 96, 64), strict=True)] for s in shapes]
    np.testing.assert_allclose(sorted(target[:, 1:5].tolist()), sorted(wanted), atol=1e-6)
    assert target[0, 7:9].tolist() == [96, 64]

    photo = space / "photos" / "095.jpg"
    said = ws.predict("shapes", photo)["labels"]
    for shape in shapes:
        assert any(np.abs(np.subtract(one["box"], shape.points[0])).max() < 12 for one in said), (said, shapes)
    kept: dict[str, Any] = {}
    monkeypatch.setattr(Look, "keep", lambda self, model, said: kept.update(said))
    assert ws.score("shapes", "shapes:1", query=f'name = "{row.name}"')["items"] == 1
    proposed = [shape for shape, _ in kept[row.item_id]]
    assert proposed
    for shape in row.shapes:  # in the image as it is stored, like the labels
        assert any(np.abs(np.subtract(one.points[0], shape.points[0])).max() < 12 for one in proposed)


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    params = {**PARAMS, "epochs": 8, "width": 4}
    with lw.open(tmp_path / "space") as ws:
        shapes = ws.dataset("shapes", task="object-detection")
        shapes.add(coco(tmp_path / "photos", 32), format="coco")
        shapes.split(test=0.0, val=0.25)
        version = shapes.freeze("first")
        whole = ws.train(version, params=params, recipe="small-detector", name="whole")
        job = ws.train_job(version, params=params, recipe="small-detector", name="killed")
        checkpoint = tmp_path / "space" / "jobs" / job.id / "scratch" / "last.ckpt"
        until(checkpoint.is_file, "the first checkpoint", 300)
        pid = lock.holder(tmp_path / "space" / "jobs" / "worker.lock")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        again = ws.result(job)
        assert ws.jobs.get(job.id).attempts == 2
        assert ws.bundle(again).sha256["model.safetensors"] == ws.bundle(whole).sha256["model.safetensors"]
