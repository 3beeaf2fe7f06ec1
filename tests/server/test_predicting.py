"""Pictures over a socket: answered past the application, as the application answers them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.infer import small
from tests.server import raw
from tests.server.conftest import register
from tests.server.raw import Got, Line, post

import loopworks as lw
from loopworks.core.limits import Limits
from loopworks.infer.served import Served
from loopworks.server import predicting
from loopworks.server.app import create_app
from loopworks.server.run import ServerThread

Photo = Callable[..., bytes]
PATH = "/predict/colors"


@pytest.fixture
def server(space: lw.Workspace) -> Iterator[ServerThread]:
    with ServerThread(space) as made:
        yield made


@pytest.fixture
def line(server: ServerThread) -> Iterator[Line]:
    with raw.line(server.url) as made:
        yield made


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[predicting.Picture]:
    """Those that were answered past the application."""
    found: list[predicting.Picture] = []

    class Noted(predicting.Picture):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            found.append(self)

    monkeypatch.setattr(predicting, "Picture", Noted)
    return found


def picture(content: bytes, path: str = PATH, **headers: str) -> bytes:
    return post(content, path=path, headers={"content-type": "image/png", **headers})


def ask(line: Line, content: bytes, **headers: str) -> Got:
    line.send(picture(content, **headers))
    return line.read()


def without_times(answer: Any) -> Any:
    return {**answer, "timings_ms": sorted(answer["timings_ms"])}


def test_the_answer_is_the_applications(
    line: Line, space: lw.Workspace, photo: Photo, pictures: list[predicting.Picture]
) -> None:
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        for color in ("red", "blue", "green"):
            got = ask(line, photo(color))
            other = client.post(PATH, content=photo(color), headers={"content-type": "image/png"})
            assert (got.status, got.headers["content-type"]) == (200, "application/json")
            assert without_times(got.json) == without_times(other.json())
            assert 0 < got.json["timings_ms"]["decode"] < got.json["timings_ms"]["total"]
        assert len(pictures) == 3
        for bad in (b"no picture", photo("red")[:-40], b""):
            got = ask(line, bad)
            other = client.post(PATH, content=bad, headers={"content-type": "image/png"})
            assert (got.status, got.json) == (other.status_code, other.json())
            assert got.status == 422


def test_bad_pictures_fail_alone(line: Line, photo: Photo) -> None:
    line.send(b"".join(picture(photo("red") if i % 3 else b"none") for i in range(12)))
    assert [line.read().status for _ in range(12)] == [200 if i % 3 else 422 for i in range(12)]


@pytest.mark.parametrize(
    "headers",
    [{"accept": "text/csv"}, {"content-type": "application/octet-stream"}, {"accept": "application/json, */*"}],
)
def test_any_other_request_is_the_applications(
    line: Line, photo: Photo, pictures: list[predicting.Picture], headers: dict[str, str]
) -> None:
    assert ask(line, photo("red"), **headers).status == 200
    line.send(picture(photo("red"), path=f"{PATH}?key=me"))
    assert line.read().status == 200
    assert pictures == []


def test_an_unknown_deployment_is_told(line: Line, photo: Photo) -> None:
    line.send(picture(photo("red"), path="/predict/none"))
    assert line.read().status == 404


def test_a_deployment_that_takes_no_pictures_any_more(
    server: ServerThread, line: Line, space: lw.Workspace, photo: Photo, tmp_path: Path
) -> None:
    asked = picture(photo("red"))
    line.send(asked)
    assert line.read().status == 200
    space.deploy(register(space, small.rows(tmp_path / "rows"), "rows"), name="colors")
    server.serving.sync()
    line.send(asked)  # with a head that is known
    got = line.read()
    assert (got.status, got.json["error"]["code"]) == (422, "invalid")


def test_fewer_workers_than_cores_decode_beside_them(
    server: ServerThread, line: Line, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    decode = predicting.Picture.decode

    def noted(self: predicting.Picture) -> Any:
        threads.append(threading.current_thread().name)
        return decode(self)

    monkeypatch.setattr(predicting.Picture, "decode", noted)
    served: Served = server.serving.engine.model("colors")
    for cores in (1, 64):
        server.serving.cores = cores
        served.limits = Limits(workers=1)
        assert ask(line, photo("green")).json["predictions"][0]["chosen"] == ["green"]
    assert threads[0].startswith("infer-colors")
    assert not threads[1].startswith("infer-colors")


def test_a_client_that_goes_away_costs_no_answer(server: ServerThread, photo: Photo) -> None:
    with raw.line(server.url) as line:
        line.send(picture(photo("red")) * 3)
    with raw.line(server.url) as line:
        assert ask(line, photo("red")).status == 200


def test_what_was_asked_is_offered_to_the_watch(
    server: ServerThread, line: Line, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Any] = []
    monkeypatch.setattr(server.serving.watch, "offer", lambda *given: offered.append(given))
    item = ask(line, photo("red")).json["predictions"][0]["item"]
    assert ask(line, photo("blue")).status == 200
    (served, items, inputs, outputs), _ = offered
    assert (served.name, items[0].item, items[0].content) == ("colors", item, photo("red"))
    assert (len(inputs["image"]), len(outputs["scores"])) == (1, 1)
