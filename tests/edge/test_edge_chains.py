"""A chain in an edge bundle answers as the server does, with a runtime, numpy and Pillow alone."""

import base64
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Damaged, Invalid, NotFound
from loopworks.server.app import create_app
from loopworks_edge import __main__ as command
from loopworks_edge import bench, chained, manifest, model
from loopworks_edge.answers import Answers, Asked

ALONE = Path(__file__).with_name("alone.py")
Photo = Callable[..., bytes]


@pytest.fixture(scope="module")
def packed(made: lw.Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The edge bundle of ``street``, not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "street"
    return made.pack_edge("street", out, container=True, kserve=True).path


@pytest.fixture
def answers(packed: Path) -> Iterator[Answers]:
    found = Answers(model.open(packed))
    yield found
    found.close()


def ask(answers: Answers, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
    named = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    reply = answers.answer(Asked(method, path, named, body))
    return reply.status, json.loads(reply.body)


def test_it_answers_alone_as_the_workspace(made: lw.Workspace, tmp_path: Path, photo: Photo) -> None:
    done = made.pack_edge("street", tmp_path / "street.zip", is_zip=True)
    with zipfile.ZipFile(done.path) as archive:
        archive.extractall(tmp_path / "there")
    folder = tmp_path / "there" / "street"
    contents = [photo(seed) for seed in range(3)]
    (folder.parent / "contents.json").write_text(json.dumps([one.hex() for one in contents]), encoding="utf-8")
    told = subprocess.run(
        [sys.executable, str(ALONE), str(folder)],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    site = {"__main__", "_distutils_hack"}
    assert set(found["loaded"]) - site == {"numpy", "PIL", "onnxruntime", "loopworks", "loopworks_edge"}
    expected, _ = made.predict_many("street", contents)
    assert found["found"]["chain"]["answers"] == json.loads(json.dumps(expected))
    assert found["found"]["chain"]["problems"] == []
    plain = [{**one, "name": ""} for one in found["found"]["chain"]["tensors"]]
    assert plain == [{**one, "name": ""} for one in json.loads(json.dumps(expected))]


def test_what_lies_in_it(packed: Path) -> None:
    assert {path.name for path in (packed / "models").iterdir()} == {
        "object-detection-1-first", "image-classification-1-first", "kinds-1-first"
    }  # fmt: skip
    about = manifest.verify(packed)
    assert (about.format, about.is_chain, about.ref, about.variants) == (2, True, "street/1", ("chain",))
    readme = (packed / "README.md").read_text(encoding="utf-8")
    assert "    image -> find (object-detection)" in readme
    assert "| kind | image-classification:1 | image-classification | onnxruntime |" in readme
    assert "`models/kinds-1-first/`: the model kinds:1" in (packed / "NOTICE.md").read_text(encoding="utf-8")
    assert (packed / "Containerfile").exists()
    assert "image: street:1" in (packed / "kserve.yaml").read_text(encoding="utf-8")


def test_its_server_answers_as_the_studio(made: lw.Workspace, answers: Answers, photo: Photo) -> None:
    content = photo(4)
    texts = [base64.b64encode(one).decode() for one in (content, b"none", photo(5))]
    body = json.dumps({"images": texts}).encode()
    with TestClient(create_app(made), base_url="http://127.0.0.1") as client:
        there = client.post("/predict/street", content=body, headers={"Content-Type": "application/json"}).json()
        about = client.get("/v2/models/street").json()
        infer = json.dumps({
            "inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "data": texts[:1]}]
        }).encode()
        answer = client.post("/v2/models/street/infer", content=infer).json()
    status, here = ask(answers, "POST", "/predict/street", body, content_type="application/json")
    assert status == 200
    for key in ("deployment", "revision", "models", "predictions", "problems"):
        assert here[key] == there[key], key
    assert ask(answers, "GET", "/v2/models/street") == (200, about)
    assert ask(answers, "POST", "/v2/models/street/infer", infer) == (200, answer)
    assert ask(answers, "GET", "/v2/models/street/versions/1/ready") == (200, {"name": "street", "ready": True})
    for path in ("/v2/models/kinds:1", "/v2/models/find", "/v2/models/street/versions/2"):
        assert ask(answers, "GET", path)[0] == 404, "nodes are asked by way of the chain alone"
    status, said = ask(answers, "POST", "/v2/models/street/infer", b"{}")
    assert (status, said["error"].startswith("inputs must be")) == (400, True)


def test_commands(
    packed: Path, tmp_path: Path, photo: Photo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "a.png").write_bytes(photo(6))
    folder = ["--folder", str(packed)]
    assert command.main(["predict", *folder, str(file), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    assert any("then" in row for row in answer["labels"])
    assert command.main(["verify", *folder]) == 0
    assert command.main(["predict", *folder, str(file), "--variant", "first"]) == 2
    assert "variant of a chain 'first' does not exist" in capsys.readouterr().err
    monkeypatch.setattr(bench, "BATCHES", (1, 2))
    monkeypatch.setattr(bench, "_apart", lambda *asked: {**bench.one(*asked), "start_s": 0.1})
    out = tmp_path / "bench.json"
    words = ["bench", *folder, "--seconds", "0.01", "--rounds", "1", "--threads", "1", "--out", str(out)]
    assert command.main([*words, str(file)]) == 0
    body = json.loads(out.read_text())
    assert (body["kind"], body["model"]) == ("loopworks-bench-chain", {"name": "street", "number": 1})
    (told,) = body["variants"]
    assert told["asked"]["find"] == 1
    assert told["asked"]["kind"] > 0
    assert told["size_bytes"] == sum((one / "model.onnx").stat().st_size for one in (packed / "models").iterdir())


def test_a_changed_chain_is_refused_and_bad_ones_are_told(packed: Path, made: lw.Workspace, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed, tmp_path / "street"))
    body = json.loads((folder / chained.FILE).read_text())
    (folder / chained.FILE).write_text(json.dumps(body))
    with pytest.raises(Damaged, match=r"chain.json must be as it was signed"):
        model.open(folder)
    found = manifest.read(packed)
    body["nodes"]["kind"]["folder"] = "../elsewhere"
    (folder / chained.FILE).write_text(json.dumps(body))
    with pytest.raises(Invalid, match=r"nodes.kind.folder must be one of the bundle; got ../elsewhere"):
        chained.open(folder, found)
    del body["nodes"]["kind"]
    (folder / chained.FILE).write_text(json.dumps(body))
    with pytest.raises(Invalid, match=r"nodes must be those of the graph"):
        chained.open(folder, found)
    (folder / chained.FILE).write_text("{")
    with pytest.raises(Invalid, match="chain.json must be JSON"):
        chained.open(folder, found)
    with pytest.raises(Invalid, match="variants of a chain must be left out; got first"):
        made.pack_edge("street", tmp_path / "x", variants=["first"])
    with pytest.raises(NotFound):
        made.pack_edge("nobody", tmp_path / "x")
    done = CliRunner().invoke(app, ["bundle", "street", "-w", str(made.folder), "--out", str(tmp_path / "y"), "--json"])
    assert json.loads(done.stdout)["bundle"]["is_chain"] is True
