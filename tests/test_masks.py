"""Semantic segmentation through the whole loop: pictures and masks in, a served model out."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.train.segmentation.scenes import scene

import loopworks as lw
from loopworks.core import mask
from loopworks.server.run import ServerThread

pytestmark = [pytest.mark.train, pytest.mark.optimize, pytest.mark.slow]
PARAMS = {"epochs": 40, "width": 8, "blocks": 1, "decoder": 16, "patience": 99}


def write(root: Path, count: int = 36) -> Path:
    """Pictures and their masks as CamVid has them; 255 is of no class."""
    for i in range(count):
        split = ("train", "train", "train", "val", "test")[i % 5]
        picture, classes = scene(i)
        for folder, pixels in (
            (split, picture),
            (f"{split}annot", np.where(classes == 2, 255, classes).astype(np.uint8)),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"scene {i:02}.png")
    (root / "classes.csv").write_text("id,name,r,g,b\n0,disc,200,60,50\n1,bar,50,80,210\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with masks, a trained and optimized model, and a deployment."""
    root = tmp_path_factory.mktemp("masks")
    with lw.open(root / "space") as ws:
        data = ws.dataset("street", task="semantic-segmentation")
        report = data.add(write(root / "pictures"))
        assert not report.problems
        model = ws.train(data.freeze("first"), recipe="small-segmenter", params=PARAMS)
        ws.deploy(ws.optimize(model, max_drop=0.05), name="street")
    return root


@pytest.fixture
def ws(street: Path) -> Iterator[lw.Workspace]:
    with lw.open(street / "space") as space:
        yield space


def test_the_model_learnt_and_its_variants_were_measured(ws: lw.Workspace) -> None:
    assert ws.model("street:1").metrics["test"]["miou"]["value"] > 0.75
    bundle = ws.bundle("street:2")
    made = {variant.name for variant in bundle.variants}
    assert {"onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8"} <= made, bundle.notes
    for variant in bundle.variants:
        assert set(variant.metrics) == {"val", "test"}
        assert (variant.agreement or 0) > 0.9, variant
    assert any("no class" in note for note in bundle.notes)


def test_python_and_http_say_where_things_are(ws: lw.Workspace, street: Path) -> None:
    import httpx2 as httpx

    picture, classes = scene(500, 192, 128)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    by_python = ws.predict("street", out.getvalue())
    found = {row["label"]: row for row in by_python["regions"]}
    assert set(found) == {"disc", "bar"}
    for i, name in enumerate(("disc", "bar")):
        assert found[name]["mask"]["size"] == [128, 192]
        said, truth = mask.decode(found[name]["mask"]["counts"], 128, 192), classes == i
        assert (said & truth).sum() / (said | truth).sum() > 0.6
        assert found[name]["share"] == pytest.approx(said.mean(), abs=1e-5)
    with ServerThread(ws) as server:
        reply = httpx.post(
            f"{server.url}/predict/street", content=out.getvalue(), headers={"content-type": "image/png"}
        )
    assert reply.json()["predictions"][0]["regions"] == by_python["regions"]


def test_pictures_of_the_training_are_kept_with_its_run(ws: lw.Workspace, street: Path) -> None:
    files = sorted((street / "space" / "runs").rglob("samples/val-*.png"))
    assert files[0].name == "val-00001.png"
    with Image.open(files[0]) as picture:
        assert picture.width == 3 * 96
