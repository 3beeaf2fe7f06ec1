"""Who answers: live revision, canary and shadow; promote and rollback without a lost request."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.core.errors import Conflict, Failed, Invalid, NotFound
from loopworks.infer.engine import Engine
from loopworks.infer.shadows import Shadows
from loopworks.server.app import create_app
from loopworks.server.run import ServerThread
from loopworks.server.serving import Serving, point

Add = Callable[..., Any]
BODY = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [9, 99, 9] * 64}]}


@pytest.fixture
def second(space: lw.Workspace, add_model: Add, colors: Any, tmp_path: Path) -> str:
    """A second model: surer of the same answers."""
    return str(add_model(space, colors.write(tmp_path / "second", weight=24.0)).ref)


@pytest.fixture
def contrary(space: lw.Workspace, add_model: Add, colors: Any, tmp_path: Path) -> str:
    """A model that takes the darkest colour for the answer."""
    return str(add_model(space, colors.write(tmp_path / "contrary", weight=-12.0)).ref)


@pytest.fixture
def serving(space: lw.Workspace) -> Iterator[Serving]:
    made = Serving(space)
    yield made
    made.close()


def revisions(serving: Serving, count: int, key: Callable[[int], str] = lambda i: f"user {i}") -> Counter[str]:
    return Counter(serving.pick("colors", key=key(i)).version for i in range(count))


def test_a_canary_gets_its_share_and_a_key_stays_with_its_revision(
    serving: Serving, space: lw.Workspace, second: str
) -> None:
    space.deploy(second, "colors", canary=20)
    serving.sync()
    # Binomial with n = 5000, p = 0.2: 1000 +- 6 standard deviations (28) at the most
    assert 830 < revisions(serving, 5000)["2"] < 1170
    assert 830 < revisions(serving, 5000, lambda _: "")["2"] < 1170  # without a key each request is one of its own
    first = {f"user {i}": serving.pick("colors", key=f"user {i}").version for i in range(300)}
    assert {key: serving.pick("colors", key=key).version for key in first} == first
    space.deploy(second, "colors", canary=60)  # the same canary for more: who met it goes on to meet it
    serving.sync()
    assert [d.revision for d in space.in_use("colors")] == [1, 2]
    later = {key: serving.pick("colors", key=key).version for key in first}
    assert all(later[key] == "2" for key, version in first.items() if version == "2")
    assert Counter(later.values())["2"] > 130


def test_where_a_key_falls_is_fixed_for_ever() -> None:
    """``printf 'shop\\0ann' | b2sum -l 64`` says 2e619c1dd717c0b4."""
    assert point("shop", "ann") == 0x2E619C1DD717C0B4 / 2**64 * 100
    assert point("shop", "ann") != point("desk", "ann")


def test_each_face_meets_the_canary_by_key_and_any_revision_by_its_number(
    space: lw.Workspace, second: str, contrary: str, photo: Callable[..., bytes]
) -> None:
    space.deploy(second, "colors", canary=50)
    space.deploy(contrary, "colors", shadow=True)
    keys = {point("colors", key) < 50: key for key in ("a", "b", "c", "d", "e", "f")}
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        for is_canary, key in keys.items():
            version = "2" if is_canary else "1"
            asked = {**BODY, "parameters": {"key": key}}
            path = "/v2/models/colors/infer"
            assert client.post(path, json=BODY, headers={"x-loopworks-key": key}).json()["model_version"] == version
            assert client.post(path, json=asked).json()["model_version"] == version
            picture: dict[str, Any] = {"content": photo("red"), "headers": {"content-type": "image/png"}}
            assert client.post(f"/predict/colors?key={key}", **picture).json()["revision"] == int(version)
        for version in "123":
            answer = client.post(f"/v2/models/colors/versions/{version}/infer", json=BODY)
            assert answer.json()["model_version"] == version
            assert client.post(f"/predict/colors?version={version}", **picture).json()["revision"] == int(version)
        assert client.get("/v2/models/colors").json()["versions"] == ["1", "2", "3"]
        answer = client.post("/v2/models/colors/versions/4/infer", json=BODY)
        assert answer.status_code == 404
        assert "known: 1, 2, 3" in answer.json()["error"]


def test_no_request_is_lost_through_deploy_canary_promote_and_rollback(space: lw.Workspace, second: str) -> None:
    stop = threading.Event()
    answers: list[tuple[float, float, int, str]] = []
    content = json.dumps(BODY)

    def ask(url: str) -> None:
        line = HTTPConnection(url.removeprefix("http://"), timeout=20)
        while not stop.is_set():
            began = time.monotonic()
            line.request("POST", "/v2/models/colors/infer", content)
            answer = line.getresponse()
            body = answer.read()
            version = json.loads(body).get("model_version", body.decode())
            answers.append((began, time.monotonic(), answer.status, version))
        line.close()

    def seen(expected: set[str]) -> None:
        """Go on until a request that began after the change was answered by each of these."""
        since, end = time.monotonic(), time.monotonic() + 20
        while {version for began, _, _, version in list(answers) if began > since} != expected:
            assert time.monotonic() < end, f"{expected} must answer"
            since = time.monotonic() if len(expected) == 1 else since
            time.sleep(0.02)

    def change(line: HTTPConnection, path: str, **body: Any) -> None:
        line.request("POST", f"/api/deployments{path}", json.dumps(body))
        answer = line.getresponse()
        assert answer.status in (200, 201), answer.read()
        answer.read()

    with ServerThread(space) as server:
        threads = [threading.Thread(target=ask, args=(server.url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        line = HTTPConnection(server.url.removeprefix("http://"), timeout=20)
        try:
            seen({"1"})
            for path, body, expected in (
                ("", {"model": second, "name": "colors", "canary": 40}, {"1", "2"}),
                ("/colors/promote", {}, {"2"}),
                ("/colors/rollback", {}, {"1"}),
                ("", {"model": second, "name": "colors"}, {"3"}),
                ("/colors/rollback", {}, {"1"}),
            ):
                change(line, path, **body)
                seen(expected)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            line.close()
    assert [entry for entry in answers if entry[2] != 200] == []
    assert {version for *_, version in answers} == {"1", "2", "3"}


def test_a_rollback_loads_nothing(serving: Serving, space: lw.Workspace, second: str, monkeypatch: Any) -> None:
    space.deploy(second, "colors")
    serving.sync()
    assert serving.pick("colors").version == "2"
    monkeypatch.setattr(Engine, "load", lambda *_, **__: pytest.fail("it is loaded already"))
    space.rollback("colors")
    serving.sync()
    assert serving.pick("colors").version == "1"


def test_the_revision_before_is_unloaded_after_a_while(
    serving: Serving, space: lw.Workspace, second: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("loopworks.server.serving.KEEP_S", -1.0)
    space.deploy(second, "colors")
    serving.sync()
    serving.sync()
    assert serving.engine.versions("colors") == ["2"]
    space.rollback("colors")  # then it is loaded before it takes over
    serving.sync()
    assert serving.pick("colors").version == "1"


def test_a_canary_that_does_not_load_leaves_the_live_one_alone(
    serving: Serving, space: lw.Workspace, second: str
) -> None:
    space.deploy(second, "colors", canary=99)
    (space.bundle(second).folder / "model.onnx").write_bytes(b"no model")
    serving.sync()
    assert revisions(serving, 50) == {"1": 50}
    assert "model.onnx" in serving.problem("colors")


def test_a_fault_after_loading_is_logged_told_and_tried_again(
    serving: Serving,
    space: lw.Workspace,
    second: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    space.deploy(second, "colors")
    with monkeypatch.context() as broken:
        broken.setattr("loopworks.server.serving.RETRY_S", -1.0)  # at once
        broken.setattr(Serving, "_route", lambda self, name: 1 / 0)
        serving.sync()
        assert "cannot take deployment=colors into use" in caplog.text
        assert "division by zero" in serving.problem("colors")
    serving.sync()
    assert not serving.problem("colors")


def test_shadows_are_compared_and_never_answer(
    space: lw.Workspace, second: str, contrary: str, photo: Callable[..., bytes]
) -> None:
    space.deploy(second, "colors", shadow=True)
    space.deploy(contrary, "colors", shadow=True)
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        serving: Serving = client.app.state.serving  # type: ignore[attr-defined]
        for color in ("red", "green", "blue", "red"):
            answer = client.post("/predict/colors", content=photo(color), headers={"content-type": "image/png"})
            assert (answer.json()["revision"], answer.json()["predictions"][0]["chosen"]) == (1, [color])
        assert serving.shadows.settle()
        told = client.get("/api/deployments/colors").json()["traffic"]
        assert [(a["revision"], a["live"], a["rows"], a["share"]) for a in told["agreements"]] == [
            (3, 1, 4, 0.0),
            (2, 1, 4, 1.0),
        ]
        lines = client.get("/metrics").text.splitlines()
        pair = 'deployment="colors",live="1",outcome="{}",version="{}"'
        assert f"loopworks_compared_rows_total{{{pair.format('agreed', 2)}}} 4.0" in lines
        assert f"loopworks_compared_rows_total{{{pair.format('differed', 3)}}} 4.0" in lines
    client.close()
    assert [a.rows for a in space.traffic("colors").agreements] == [4, 4]  # each written once


def test_what_a_canary_answers_is_compared_with_the_live_one(
    serving: Serving, space: lw.Workspace, contrary: str
) -> None:
    space.deploy(contrary, "colors", canary=50)
    serving.sync()
    inputs = {"image": np.full((3, 8, 8, 3), (9, 99, 9), np.uint8)}
    key = next(key for key in "abcdefgh" if point("colors", key) < 50)
    for _ in range(2):
        serving.pick("colors", key=key).submit(inputs, 10).result()
    serving.pick("colors", "1").submit(inputs, 10).result()  # the live one's own answers are compared with nobody's
    assert serving.shadows.settle()
    serving.write()
    (found,) = space.traffic("colors").agreements
    assert (found.revision, found.live, found.rows, found.share) == (2, 1, 6, 0.0)
    space.promote("colors")
    serving.sync()
    serving.pick("colors").submit(inputs, 10).result()
    assert serving.shadows.settle()
    serving.write()
    assert [a.rows for a in space.traffic("colors").agreements] == [6]


def test_a_slow_shadow_slows_nobody_and_what_it_misses_is_counted(
    serving: Serving, space: lw.Workspace, second: str, monkeypatch: Any
) -> None:
    space.deploy(second, "colors", shadow=True)
    serving.sync()
    gate = threading.Event()
    shadow = serving.engine.model("colors", "2")
    ask = shadow.submit
    monkeypatch.setattr(shadow, "submit", lambda *args: gate.wait(20) and ask(*args))
    serving.shadows._max_waiting = 3
    inputs = {"image": np.zeros((1, 8, 8, 3), np.uint8)}
    for _ in range(10):
        serving.pick("colors").submit(inputs, 10).result(5)  # answered while the shadow sleeps
    gate.set()
    assert serving.shadows.settle()
    (pair,) = serving.shadows.counts()
    assert pair.rows + pair.dropped == 10
    assert pair.dropped >= 6
    assert pair.failed == 0


def test_a_shadow_that_fails_is_counted(serving: Serving, space: lw.Workspace, second: str, monkeypatch: Any) -> None:
    space.deploy(second, "colors", shadow=True)
    serving.sync()

    def broken(*_: Any) -> Any:
        raise Failed("no answer")

    monkeypatch.setattr(serving.engine.model("colors", "2"), "submit", broken)
    serving.pick("colors").submit({"image": np.zeros((2, 8, 8, 3), np.uint8)}, 10).result()
    assert serving.shadows.settle()
    (pair,) = serving.shadows.counts()
    assert (pair.rows, pair.failed) == (0, 2)


def test_an_observer_that_fails_harms_no_request(colors: Any, tmp_path: Path, caplog: Any) -> None:
    class Broken:
        def saw(self, *_: Any) -> None:
            raise ZeroDivisionError

    with Engine(observe=Broken()) as engine:
        served = engine.load("colors", colors.write(tmp_path / "bundle"))
        for _ in range(3):
            served.submit({"image": np.zeros((1, 8, 8, 3), np.uint8)}, 10).result(10)
    assert served.statistics.unseen == 3
    assert len([r for r in caplog.records if "observer failed" in r.getMessage()]) == 1


def test_input_bytes_that_wait_are_bounded(serving: Serving, space: lw.Workspace, second: str) -> None:
    space.deploy(second, "colors", shadow=True)
    serving.sync()
    serving.shadows._max_bytes = 100  # an image takes 192
    serving.pick("colors").submit({"image": np.zeros((1, 8, 8, 3), np.uint8)}, 10).result()
    assert serving.shadows.settle()
    (pair,) = serving.shadows.counts()
    assert (pair.rows, pair.dropped) == (0, 1)


def test_nothing_is_kept_of_revisions_that_are_gone(serving: Serving, space: lw.Workspace, second: str) -> None:
    space.deploy(second, "colors", shadow=True)
    serving.sync()
    assert len(serving.shadows.counts()) == 1
    space.undeploy("colors", 2)
    serving.sync()
    serving.write()
    assert serving.shadows.counts() == []
    assert serving.engine.versions("colors") == ["1"]
    space.undeploy("colors")
    serving.sync()
    assert serving.engine.models() == []
    with pytest.raises(NotFound, match="model 'colors'"):
        serving.pick("colors")


def test_deployments_follow_their_alias_in_their_role(
    serving: Serving, space: lw.Workspace, second: str, contrary: str
) -> None:
    space.alias("colors:1", "champion")
    space.deploy("colors@champion", "shop")
    space.alias(second, "challenger")
    space.deploy("colors@challenger", "shop", canary=10)
    space.alias(contrary, "challenger")
    rows = [(d.role, d.number, d.share, d.alias) for d in space.in_use("shop")]
    assert rows == [("live", 1, 0.0, "champion"), ("canary", 3, 10.0, "challenger")]
    space.alias(contrary, "champion", force=True)  # the challenger won: nobody is left to be compared with
    assert [(d.role, d.number) for d in space.in_use("shop")] == [("live", 3)]
    assert [r.action for r in space.traffic("shop").rollouts] == ["follow", "follow", "canary", "deploy"]
    serving.sync()
    assert serving.pick("shop").facts["number"] == 3
    assert space.rollback("shop").number == 1
    space.alias(second, "champion", force=True)  # taken back by hand: it stays where it is
    assert space.deployment("shop").number == 1


def test_what_cannot_be_is_refused(
    space: lw.Workspace, second: str, add_model: Add, colors: Any, tmp_path: Path
) -> None:
    for share in (0, 100, -1, float("nan")):
        with pytest.raises(Invalid, match="canary must be a part in percent"):
            space.deploy(second, "colors", canary=share)
    with pytest.raises(Invalid, match="and no shadow"):
        space.deploy(second, "colors", canary=5, shadow=True)
    with pytest.raises(NotFound, match="deployment 'other'"):
        space.deploy(second, "other", canary=5)
    with pytest.raises(Conflict, match="got colors:1 as onnx-fp32, the live already"):
        space.deploy("colors:1", "colors", canary=5)
    with pytest.raises(Conflict, match="must have a canary"):
        space.promote("colors")
    with pytest.raises(Conflict, match="must have a revision before the live one"):
        space.rollback("colors")
    with pytest.raises(NotFound, match="revision in use 'colors/9'"):
        space.undeploy("colors", 9)
    with pytest.raises(Conflict, match="live revision must be replaced"):
        space.undeploy("colors", 1)
    larger = add_model(space, colors.write(tmp_path / "larger", size=16))
    with pytest.raises(Invalid, match=r"with the inputs of the live revision; got .*16, 16, 3"):
        space.deploy(larger, "colors", canary=5)
    space.alias("colors:1", "x")
    with pytest.raises(Invalid, match="left out where a deployment follows an alias"):
        space.deploy("colors@x", "shop", variant="onnx-fp32")
    assert [d.ref for d in space.in_use()] == ["colors/1"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("", {"model": "colors:1", "canary": "5"}, 422, "canary must be a part in percent"),
        ("", {"model": "colors:1", "canary": True}, 422, "canary must be a part in percent"),
        ("/colors/promote", {"revision": "2"}, 422, "revision must be a whole number from 1"),
        ("/colors/rollback", {}, 409, "must have a revision before"),
        ("/nothing/rollback", {}, 404, "deployment 'nothing' does not exist"),
    ],
)
def test_bad_changes_over_http(client: TestClient, path: str, body: Any, status: int, words: str) -> None:
    answer = client.post(f"/api/deployments{path}", json=body)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True)


def test_the_thread_of_shadows_ends_with_what_waits() -> None:
    shadows = Shadows()
    shadows.close()
    shadows.close()
    assert shadows.counts() == []
