"""Chains: a detector, then classifiers on what it found; branches, places, and the faces."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.infer.chains.ask import _grown
from loopworks.infer.chains.definition import read
from loopworks.server.app import create_app
from loopworks.store import bundles, models

CHAIN: dict[str, Any] = {
    "name": "sorter",
    "steps": [
        {"name": "find", "model": "balls"},
        {"name": "color", "model": "colors", "of": "find", "labels": ["ball"]},
        {"name": "cats", "model": "colors", "of": "find", "labels": ["cat"]},
        {"name": "again", "model": "colors", "of": "color", "labels": ["red"]},
    ],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, colors: Any, balls: Any) -> Path:
    root = tmp_path_factory.mktemp("chains")
    with lw.open(root / "space") as made:
        for name, bundle in (("balls", balls(root / "balls")), ("colors", colors.write(root / "colors"))):
            key = bundles.save(made.home.blobs, bundle.folder)
            with made.home.catalog.begin() as tx:
                models.add(tx, name, bundle=key, run="", version="0" * 64, task=bundle.task, variant=bundle.chosen)
            made.deploy(name)
    return root / "space"


@pytest.fixture
def space(tmp_path: Path, template: Path) -> Iterator[lw.Workspace]:
    import shutil

    shutil.copytree(template, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
        yield made


@pytest.fixture
def photo(paint: Callable[..., NDArray[np.uint8]]) -> bytes:
    """A blue picture of 128 x 64 with a red square of 16 in its right half."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[24:40, 80:96] = (230, 20, 20)
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


def test_what_is_found_is_cut_out_and_asked_about(space: lw.Workspace, photo: bytes) -> None:
    space.chains.add(CHAIN)
    told = space.chains.ask("sorter", photo)
    (ball,) = told["objects"]
    assert ball["label"] == "ball"
    assert ball["box"] == pytest.approx([80, 24, 16, 16], abs=2.1)  # the model sees 64 x 64
    assert set(ball["then"]) == {"color"}  # nothing was a cat
    color = ball["then"]["color"]
    assert color["answer"]["chosen"] == ["red"]  # the whole picture would be blue
    assert color["model"] == "colors/1"
    assert color["objects"][0]["then"]["again"]["answer"]["chosen"] == ["red"]
    assert space.predict("colors", photo)["chosen"] == ["blue"]


def test_a_margin_shows_more_and_stays_inside() -> None:
    assert _grown((10, 10, 30, 20), 0.5, 100, 100) == (0, 5, 40, 25)
    assert _grown((90, 90, 110, 120), 0.0, 100, 100) == (90, 90, 100, 100)
    assert _grown((200, 200, 200, 200), 0.0, 100, 100) == (99, 99, 100, 100)  # never empty


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "steps must be"),
        ([{"name": "a"}], r"steps\.0\.model must be given"),
        ([{"name": "a", "model": "balls", "of": "b"}], "first step is asked about the picture"),
        ([{"name": "a", "model": "balls"}] * 2, "names of their own, not two called a"),
        ([{"name": "a", "model": "balls"}, {"name": "b", "model": "balls"}], "step b says an earlier step"),
        ([{"name": "a", "model": "balls"}, {"name": "b", "model": "m", "of": "b"}], "step b says an earlier step"),
        ([{"name": "a", "model": "balls", "colour": 1}], r"steps\.0\.colour must be a known field"),
    ],
)
def test_a_fault_is_named(steps: list[Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        read({"name": "c", "steps": steps})


def test_what_cannot_work_is_refused_when_it_is_added(space: lw.Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="deployment 'dogs'"):
        space.chains.add({"name": "c", "steps": [{"name": "a", "model": "dogs"}]})
    with pytest.raises(Conflict, match="called like a deployment"):
        space.chains.add({"name": "balls", "steps": [{"name": "a", "model": "balls"}]})
    space.chains.add(CHAIN)
    with pytest.raises(Conflict, match="must not exist yet"):
        space.chains.add(CHAIN)
    assert [chain.name for chain in space.chains.list()] == ["sorter"]
    with pytest.raises(Invalid, match="must be an image"):
        space.chains.ask("sorter", b"no image")
    space.chains.remove("sorter")
    with pytest.raises(NotFound, match="chain 'sorter'"):
        space.chains.get("sorter")


def test_the_faces_say_the_same(space: lw.Workspace, tmp_path: Path, photo: bytes) -> None:
    (tmp_path / "photo.png").write_bytes(photo)
    (tmp_path / "c.json").write_text(json.dumps(CHAIN), encoding="utf-8")
    where = ["-w", str(space.folder), "--json"]
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        assert client.post("/api/chains", json={"definition": CHAIN}).status_code == 201
        by_http = client.post("/api/chains/sorter/predict", content=photo).json()
        assert client.get("/api/chains/sorter").json()["chain"] == space.chains.get("sorter").to_json()
        assert client.post("/api/chains/none/predict", content=photo).status_code == 404
        assert client.delete("/api/chains/sorter").json() == {"removed": "sorter"}
        assert client.get("/api/chains").json() == {"chains": []}
    added = CliRunner().invoke(app, ["chain", "add", str(tmp_path / "c.json"), *where])
    assert added.exit_code == 0, added.output
    by_command = CliRunner().invoke(app, ["chain", "ask", "sorter", str(tmp_path / "photo.png"), *where])
    assert json.loads(by_command.stdout) == by_http == space.chains.ask("sorter", photo)
    listed = CliRunner().invoke(app, ["chain", "list", *where])
    assert [one["name"] for one in json.loads(listed.stdout)["chains"]] == ["sorter"]
    assert CliRunner().invoke(app, ["chain", "remove", "sorter", *where]).exit_code == 0


@pytest.mark.live
def test_a_pipeline_goes_through_a_chain(space: lw.Workspace, tmp_path: Path, make_film: Callable[..., Path]) -> None:
    space.chains.add(CHAIN)
    source = {"kind": "file", "path": str(make_film(tmp_path / "walk.mp4", [0, 4, None, 12]))}
    sink = {"kind": "folder", "path": str(tmp_path / "out"), "images": False}
    space.live.add({"name": "belt", "source": source, "model": "sorter", "track": {}, "sinks": [sink]})
    told = space.live.run("belt")
    assert (told["state"], told["frames_out"], told["sinks"][0]["sent"]) == ("done", 4, 3)
    for path in (tmp_path / "out").iterdir():
        (ball,) = json.loads(path.read_text(encoding="utf-8"))["objects"]
        assert ball["track"] == 1
        assert ball["then"]["color"]["answer"]["chosen"] == ["red"]
