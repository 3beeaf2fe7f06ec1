"""Formats over HTTP: the same rows as in Python and on the command line, an upload, an export as a zip."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks
from loopworks.cli.main import app as cli
from loopworks.data.formats import detect
from loopworks.server.app import create_app
from loopworks.workspace import Workspace

Pictures = Callable[..., Path]


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Workspace]:
    with loopworks.open(tmp_path / "space") as made:
        yield made


@pytest.fixture
def client(space: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def archive(tmp_path: Path, pictures: Pictures) -> bytes:
    folder = pictures(tmp_path / "in", {"cat": 3, "dog": 2}, size=8)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for path in sorted(folder.rglob("*.png")):
            packed.write(path, path.relative_to(folder))
        packed.writestr("cat/broken.png", b"no image")
    return out.getvalue()


def command(*words: str, code: int = 0) -> object:
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_formats_are_the_same_on_every_face(client: TestClient) -> None:
    assert client.get("/api/formats").json() == {"formats": detect.describe()} == command("data", "formats")


def test_an_archive_is_added_as_the_command_line_adds_it(
    client: TestClient, space: Workspace, archive: bytes, tmp_path: Path
) -> None:
    sent = client.post("/api/datasets/web/add?name=pets.zip", content=archive).json()
    (tmp_path / "pets.zip").write_bytes(archive)
    told = command("data", "add", "line", str(tmp_path / "pets.zip"), "-w", str(tmp_path / "space"), code=3)
    assert isinstance(told, dict)
    assert (sent["added"], sent["classes"], sent["formats"]) == (5, ["cat", "dog"], ["folders"])
    assert {**sent, "dataset": "", "problems": 1} == {**told, "dataset": "", "problems": 1}
    assert len(sent["problems"]) == len(told["problems"]) == 1
    assert sent["problems"][0]["where"] == "pets.zip/cat/broken.png"
    rows = [[(i.id, i.name, i.labels) for i in space.dataset(name).items()] for name in ("web", "line")]
    assert rows[0] == rows[1]
    assert list((space.home.cache / "uploads").iterdir()) == []


def test_files_of_a_form_are_added(client: TestClient, tmp_path: Path) -> None:
    files = {"file": ("train.csv", b"text,label\nhello,greet\nbye,part\n")}
    sent = client.post("/api/datasets/intents/add?format=csv&option.text=text", files=files).json()
    assert (sent["added"], sent["formats"], sent["problems"]) == (2, ["csv"], [])


def test_paths_of_the_server_are_added_by_reference(
    client: TestClient, space: Workspace, pictures: Pictures, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "in", {"cat": 3, "dog": 2}, size=8)
    body = {"paths": [str(folder)], "by": "reference"}
    sent = client.post("/api/datasets/near/add-paths?split=train", json=body).json()
    assert (sent["added"], sent["classes"]) == (5, ["cat", "dog"])
    told = command("data", "add", "line", str(folder), "--by", "reference", "--split", "train", "-w", str(space.folder))
    assert {**sent, "dataset": ""} == {**dict(told), "dataset": ""}  # type: ignore[call-overload]
    near, line = (space.dataset(name).items() for name in ("near", "line"))
    assert [(i.uri, i.split) for i in near] == [(i.uri, i.split) for i in line]
    for wrong, where in (({}, ""), (body, "?scenes=7"), (body, "?scenes=x"), (body, "?jpeg=90"), (body, "?every=-1")):
        assert client.post(f"/api/datasets/near/add-paths{where}", json=wrong).status_code == 422


def test_the_frames_of_a_video_that_is_sent_are_chosen(client: TestClient, space: Workspace, tmp_path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in range(0, 250, 25):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    sent = client.post("/api/datasets/v/add?name=a.mp4&frames=0,3-5", content=(tmp_path / "a.mp4").read_bytes()).json()
    assert sent["added"] == 4
    assert sorted(item.attributes["frame"] for item in space.dataset("v").items()) == [0, 3, 4, 5]


@pytest.mark.parametrize("name", ["../x.zip", "/x.zip", "a/../../x", "C:/x"])
def test_a_name_that_leads_out_is_refused(client: TestClient, name: str) -> None:
    answer = client.post("/api/datasets/d/add", params={"name": name}, content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")


def test_an_export_is_a_zip_that_can_be_added_again(client: TestClient, space: Workspace, archive: bytes) -> None:
    client.post("/api/datasets/web/add?name=pets.zip", content=archive)
    sent = client.get("/api/datasets/web/export?format=jsonl")
    assert sent.headers["content-type"] == "application/zip"
    assert (sent.headers["x-loopworks-items"], sent.headers["x-loopworks-problems"]) == ("5", "0")
    assert sent.content == client.get("/api/datasets/web/export?format=jsonl").content
    back = client.post("/api/datasets/again/add?name=web.zip", content=sent.content).json()
    assert (back["added"], back["formats"], back["problems"]) == (5, ["jsonl"], [])
    first, second = ([(i.id, i.name, i.labels) for i in space.dataset(name).items()] for name in ("web", "again"))
    assert first == second
    assert client.get("/api/datasets/web/export?format=nope").json()["error"]["code"] == "not_found"
    assert list((space.home.cache / "exports").iterdir()) == []
