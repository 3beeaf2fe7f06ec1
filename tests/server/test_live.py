"""Pipelines in the server: run where they are wanted, come back after a restart, are seen and measured."""

import http.client
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.server.app import create_app
from loopworks.server.run import ServerThread

Photo = Callable[..., bytes]


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def definition(folder: Path, **more: Any) -> dict[str, Any]:
    (folder / "in").mkdir(exist_ok=True)
    return {
        "name": "belt",
        "source": {"kind": "folder", "path": str(folder / "in"), "poll_s": 0.05},
        "model": "colors",
        "sinks": [{"kind": "csv", "path": str(folder / "out.csv")}],
        **more,
    }


def state(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/live/belt").json()["pipeline"]
    return found


def test_a_pipeline_runs_stops_and_goes(client: TestClient, tmp_path: Path, photo: Photo) -> None:
    body = {"definition": definition(tmp_path)}
    assert client.post("/api/live", json={"definition": {**body["definition"], "model": "x"}}).status_code == 404
    made = client.post("/api/live", json=body)
    assert (made.status_code, made.json()["pipeline"]["name"]) == (201, "belt")
    assert client.post("/api/live", json=body).status_code == 409
    (tmp_path / "in" / "a.png").write_bytes(photo("red"))
    until(lambda: state(client).get("frames_out") == 1)
    assert state(client)["state"] == "running"
    assert [one["name"] for one in client.get("/api/live").json()["pipelines"]] == ["belt"]
    lines = client.get("/metrics").text.splitlines()
    assert 'loopworks_live_frames_out_total{pipeline="belt"} 1.0' in lines
    assert 'loopworks_live_sink_results_total{outcome="sent",pipeline="belt",sink="0-csv"} 1.0' in lines
    assert client.post("/api/live/belt/stop").json()["pipeline"]["is_wanted"] is False
    until(lambda: state(client)["state"] == "stopped")
    assert client.get("/api/live/belt/picture").status_code == 404
    assert client.post("/api/live/belt/start").json()["pipeline"]["is_wanted"] is True
    until(lambda: state(client)["state"] != "stopped")
    assert client.delete("/api/live/belt").json() == {"removed": "belt"}
    assert client.get("/api/live").json() == {"pipelines": []}
    assert ",red," in (tmp_path / "out.csv").read_text(encoding="utf-8")


def test_pipelines_come_back_with_the_next_server(space: lw.Workspace, tmp_path: Path, photo: Photo) -> None:
    space.live.add(definition(tmp_path))
    for i, color in enumerate(("red", "blue")):
        (tmp_path / "in" / f"{i}.png").write_bytes(photo(color))
        with TestClient(create_app(space), base_url="http://127.0.0.1"):
            until(lambda: (tmp_path / "out.csv").exists() and color in (tmp_path / "out.csv").read_text("utf-8"))  # noqa: B023
        assert space.live.status("belt")["state"] == "stopped"
        assert space.live.status("belt")["is_wanted"]
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[6] for row in rows[1:]] == ["red", "blue"]


def test_several_pipelines_share_a_model(client: TestClient, space: lw.Workspace, tmp_path: Path, photo: Photo) -> None:
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        space.live.add({**definition(tmp_path / str(i)), "name": f"belt{i}"})
        (tmp_path / str(i) / "in" / "a.png").write_bytes(photo("green", seed=i))
    until(lambda: [one.get("frames_out") for one in space.live.list()] == [1, 1, 1])
    assert client.app.state.serving.engine.names() == ["colors"]  # type: ignore[attr-defined]


def test_the_picture_and_the_stream_show_what_was_found(space: lw.Workspace, tmp_path: Path, photo: Photo) -> None:
    space.live.add(definition(tmp_path, preview={"clients": 1, "rate": 30}))
    with ServerThread(space) as server:
        host = server.url.removeprefix("http://")
        (tmp_path / "in" / "a.png").write_bytes(photo("red"))
        until(lambda: space.live.status("belt").get("frames_out") == 1)

        def ask(path: str) -> tuple[int, http.client.HTTPResponse, http.client.HTTPConnection]:
            connection = http.client.HTTPConnection(host, timeout=20)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer, connection

        status, answer, connection = ask("/api/live/belt/picture")
        (tmp_path / "shown.jpg").write_bytes(answer.read())
        connection.close()
        assert status == 200
        with Image.open(tmp_path / "shown.jpg") as shown:
            assert shown.height > shown.width == 320  # the class stands in a bar below the picture
            assert np.asarray(shown)[:320].mean(axis=(0, 1)).argmax() == 0
        status, stream, watching = ask("/api/live/belt/preview")
        assert (status, stream.getheader("content-type")) == (200, "multipart/x-mixed-replace; boundary=frame")
        assert _part(stream) == (tmp_path / "shown.jpg").read_bytes()
        assert stream.readline() == b"--frame\r\n"  # at once, and then once more: browsers show it when the next begins
        assert _part(stream) == (tmp_path / "shown.jpg").read_bytes()
        refused, answer, connection = ask("/api/live/belt/preview")
        assert (refused, answer.getheader("retry-after")) == (503, "1")
        connection.close()
        (tmp_path / "in" / "b.png").write_bytes(photo("blue"))
        assert _part(stream) != (tmp_path / "shown.jpg").read_bytes()
        watching.close()
        stream.close()
        until(lambda: space.live.status("belt")["viewers"] == 0)


def _part(stream: http.client.HTTPResponse) -> bytes:
    """The next picture of a stream."""
    size = 0
    while line := stream.readline().strip():
        if line.lower().startswith(b"content-length"):
            size = int(line.split()[1])
    data = stream.read(size)
    stream.readline()
    return data


def test_a_pipeline_is_kept_by_clients_on_the_same_machine_alone(space: lw.Workspace, tmp_path: Path) -> None:
    far = space.settings.model_copy(update={"host": "0.0.0.0", "token": "t"})
    space.home.settings = far
    head = {"authorization": "Bearer t"}
    with TestClient(create_app(space, far), base_url="http://127.0.0.1") as client:
        answer = client.post("/api/live", json={"definition": definition(tmp_path)}, headers=head)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "denied")


def test_a_score_is_a_job(client: TestClient, jobs: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    body = {"name": "colors", "source": str(tmp_path / "in"), "out": str(tmp_path / "out.csv")}
    answer = client.post("/api/score", json=body)
    assert (answer.status_code, answer.headers["location"]) == (202, "/api/jobs/j1")
    ((step, params),) = jobs.submitted
    assert (step, params["model"], params["author"]) == ("batch", "colors:1", "colors/1")
    assert client.post("/api/score", json={**body, "out": str(tmp_path / "in" / "x.xls")}).status_code == 422


@pytest.mark.parametrize("words", [["list"], ["status", "belt"], ["stop", "belt"], ["start", "belt"]])
def test_the_command_line_says_what_python_says(space: lw.Workspace, tmp_path: Path, words: list[str]) -> None:
    import json

    from typer.testing import CliRunner

    from loopworks.cli.main import app

    (tmp_path / "p.json").write_text(json.dumps(definition(tmp_path)), encoding="utf-8")
    where = ["-w", str(space.folder), "--json"]
    added = CliRunner().invoke(app, ["live", "add", str(tmp_path / "p.json"), "--no-start", *where])
    assert added.exit_code == 0, added.output
    done = CliRunner().invoke(app, ["live", *words, *where])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    told = told["pipelines"][0] if words == ["list"] else told["pipeline"]
    assert told == space.live.status("belt")
    gone = CliRunner().invoke(app, ["live", "remove", "belt", *where])
    assert json.loads(gone.stdout) == {"removed": "belt"}


def test_counts_are_told_in_words() -> None:
    from loopworks.cli.live import _counted

    assert _counted({"in": {}, "out": {"小汽车": 7, "bus": 1}}) == ["in 0", "out 小汽车 7, bus 1"]
    told = {"now": {"bus": 1}, "mean_stay_s": {"bus": 2.18}, "longest_stay_s": 5.68}
    assert _counted(told) == ["now bus 1", "mean stay bus 2.18 s", "longest stay 5.68 s"]
