"""Tokens: who may ask what, on every route; and how often."""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.server.raw import Line
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app as cli
from loopworks.core.errors import Conflict, Denied, Invalid, NotFound, TooMany, Unauthorized
from loopworks.server.app import ROUTES, create_app
from loopworks.server.guard import Rules
from loopworks.server.rates import Rate
from loopworks.server.run import ServerThread
from loopworks.server.scopes import OPEN
from loopworks.server.tokens import Tokens

SCOPES = ("predict", "read", "write", "admin")
TENSOR = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [9] * 192}]}


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


@pytest.fixture
def texts(space: lw.Workspace) -> dict[str, str]:
    """One token per scope, and one that may ask another deployment alone."""
    made = {scope: space.add_token(scope, [scope]).text for scope in SCOPES}
    return made | {"other": space.add_token("other", deployments=["shop"]).text}


@pytest.fixture
def closed(space: lw.Workspace, texts: dict[str, str]) -> Iterator[TestClient]:
    with TestClient(create_app(space), base_url="http://127.0.0.1") as made:
        yield made


def expected(method: str, path: str) -> set[str]:
    """Which tokens may, written down by hand and not by the code that is tested."""
    asks = {"predict", "write", "admin"}
    if path.startswith("/api/tokens"):
        return {"admin"}
    if path in ("/openapi.json", "/v2"):
        return {*SCOPES, "other"}
    if path == "/api/feedback":  # of which deployment, the route looks at
        return asks | {"other"}
    if path.startswith("/predict/") or path.endswith("/infer"):
        return asks
    if (path.startswith("/v2/models") and method == "GET") or path == "/v2/repository/index":
        return asks | {"read"}
    return {"write", "admin"} if method != "GET" else {"read", "write", "admin"}


@pytest.mark.parametrize("api", ROUTES, ids=lambda api: f"{api.method} {api.path}")
def test_every_route_asks_for_its_scope(space: lw.Workspace, texts: dict[str, str], api: Any) -> None:
    path = api.path.replace("{model}", "colors").replace("{deployment}", "colors").replace("{version}", "1")
    rules = Rules(space.settings, Tokens(space))
    if path in OPEN:
        rules.allowed({"host": "127.0.0.1"}, api.method, path)
        return
    with pytest.raises(Unauthorized):
        rules.allowed({"host": "127.0.0.1"}, api.method, path)
    let_in = set()
    for name, text in texts.items():
        with contextlib.suppress(Denied):
            let_in.add(rules.allowed({"host": "127.0.0.1", **bearer(text)}, api.method, path).name)
            assert name in let_in
    assert let_in == expected(api.method, path)


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/new"), ("DELETE", "/x"), ("PUT", "/v2/models/colors")])
def test_what_nobody_has_classified_is_for_writers(
    space: lw.Workspace, texts: dict[str, str], method: str, path: str
) -> None:
    rules = Rules(space.settings, Tokens(space))
    for name in ("predict", "read", "other"):
        with pytest.raises(Denied):
            rules.admitted(f"Bearer {texts[name]}", method, path)
    assert rules.admitted(f"Bearer {texts['write']}", method, path).name == "write"


def test_a_token_of_one_deployment_asks_that_one_alone(space: lw.Workspace, closed: TestClient) -> None:
    space.deploy("colors:1", "shop")
    text = space.add_token("shop-only", deployments=["shop"]).text
    closed.app.state.serving.sync()  # type: ignore[attr-defined]
    closed.app.state.serving.tokens.refresh()  # type: ignore[attr-defined]
    assert closed.post("/v2/models/shop/infer", json=TENSOR, headers=bearer(text)).status_code == 200
    assert closed.get("/v2/models/shop", headers=bearer(text)).status_code == 200
    for path in ("/v2/models/colors/infer", "/v2/models/colors/versions/1/infer", "/predict/colors"):
        answer = closed.post(path, json=TENSOR, headers=bearer(text))
        assert answer.status_code == 403
        assert "scope predict of deployment 'colors'" in answer.text or "predict" in answer.text
    for path in ("/v2/models/stats", "/v2/models/colors", "/v2/models/colors/ready", "/api/models", "/metrics"):
        assert closed.get(path, headers=bearer(text)).status_code == 403
    assert closed.post("/v2/repository/index", json={}, headers=bearer(text)).status_code == 403


def test_a_token_of_one_deployment_may_complain_of_that_ones_answers_alone(
    space: lw.Workspace, closed: TestClient
) -> None:
    text = space.add_token("mine", deployments=["colors"]).text
    closed.app.state.serving.tokens.refresh()  # type: ignore[attr-defined]
    for name, status in (("colors", 200), ("shop", 403), ("", 403)):
        body = {"id": f"{name}/1/{'0' * 64}", "right": False}
        answer = closed.post("/api/feedback", json=body, headers=bearer(text))
        assert answer.status_code == status, answer.text
    assert "must be one of deployment ''; it is of colors" in answer.text


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer lw_nonsense", "Basic x", "Bearer \N{SNOWMAN}", "lw_x"])
def test_no_other_text_lets_in(space: lw.Workspace, texts: dict[str, str], given: str) -> None:
    rules = Rules(space.settings, Tokens(space))
    with pytest.raises(Unauthorized, match="must carry a token"):
        rules.admitted(given, "GET", "/api/workspace")


def test_an_expired_token_is_refused_and_opens_nothing(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    text = space.add_token("short", ["admin"], expires="1h").text
    tokens = Tokens(space)
    rules = Rules(space.settings, tokens)
    assert rules.admitted(f"Bearer {text}", "GET", "/api/workspace").name == "short"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    for given in (f"Bearer {text}", ""):  # not even to those without: it is still a server with tokens
        with pytest.raises(Unauthorized):
            rules.admitted(given, "GET", "/api/workspace")


def test_a_revoked_token_ends_at_once_over_http_and_elsewhere_at_the_next_look(
    space: lw.Workspace, closed: TestClient, texts: dict[str, str]
) -> None:
    assert closed.get("/api/workspace", headers=bearer(texts["read"])).status_code == 200
    assert closed.post("/api/tokens/read/revoke", headers=bearer(texts["write"])).status_code == 403
    assert closed.post("/api/tokens/read/revoke", headers=bearer(texts["admin"])).status_code == 200
    assert closed.get("/api/workspace", headers=bearer(texts["read"])).status_code == 401
    space.revoke_token("write")
    closed.app.state.serving.tokens.refresh()  # type: ignore[attr-defined]
    assert closed.get("/api/workspace", headers=bearer(texts["write"])).status_code == 401
    with pytest.raises(NotFound, match="token 'read' does not exist"):
        space.revoke_token("read")
    assert [t.name for t in space.tokens(revoked=True) if t.revoked_at] == ["read", "write"]


def test_a_token_is_shown_once_and_kept_nowhere(space: lw.Workspace, closed: TestClient, texts: dict[str, str]) -> None:
    body = {"name": "fresh", "scopes": ["read", "predict"], "expires": "90d"}
    answer = closed.post("/api/tokens", json=body, headers=bearer(texts["admin"]))
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    made = answer.json()["token"]
    assert len(made["token"]) == 46  # lw_ and 256 bits in base64
    assert (made["scopes"], made["author"]) == (["predict", "read"], "admin")
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert closed.get("/api/workspace", headers=bearer(made["token"])).status_code == 200
    listed = closed.get("/api/tokens", headers=bearer(texts["admin"])).text
    assert made["token"] not in listed
    assert "digest" not in listed
    database = sqlite3.connect(space.folder / "catalog.db")
    dump = "\n".join(database.iterdump())
    database.close()
    assert "fresh" in dump
    assert [text for text in (*texts.values(), made["token"]) if text.removeprefix("lw_") in dump] == []


def test_when_a_token_was_used_is_noted(space: lw.Workspace, closed: TestClient, texts: dict[str, str]) -> None:
    closed.get("/api/workspace", headers=bearer(texts["read"]))
    found = closed.get("/api/tokens", headers=bearer(texts["admin"])).json()["tokens"]
    used = {token["name"]: token["used_at"] for token in found}
    assert used["read"] is not None
    assert used["write"] is None
    assert abs(datetime.now(UTC) - datetime.fromisoformat(used["read"])) < timedelta(minutes=1)


def test_the_setting_stays_an_admins_token(space: lw.Workspace, texts: dict[str, str]) -> None:
    settings = space.settings.model_copy(update={"token": "s3cret"})
    with TestClient(create_app(space, settings), base_url="http://127.0.0.1") as client:
        assert client.get("/api/tokens", headers=bearer("s3cret")).status_code == 200
        assert client.get("/api/workspace", headers=bearer(texts["read"])).status_code == 200


def test_a_server_for_the_world_without_any_token_answers_nobody(space: lw.Workspace) -> None:
    rules = Rules(space.settings.model_copy(update={"host": "0.0.0.0"}), Tokens(space))
    with pytest.raises(Unauthorized):
        rules.admitted("", "GET", "/api/workspace")
    assert Rules(space.settings, Tokens(space)).admitted("", "GET", "/api/workspace").name == ""


def test_inference_past_asgi_checks_tokens_and_who_did_what_is_told(space: lw.Workspace, texts: dict[str, str]) -> None:
    content = json.dumps(TENSOR).encode()

    def ask(line: Line, path: str, text: str, body: bytes = content) -> Any:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {text}\r\n" if text else ""
        line.send(head.encode() + b"\r\n" + body)
        return line.read()

    with ServerThread(space) as server:
        line = Line(server.url)
        statuses = [ask(line, "/v2/models/colors/infer", text).status for text in (*texts.values(), "")]
        # `write` includes predict; `read` does not; `other` is for another deployment
        assert statuses == [200, 403, 200, 200, 403, 401]
        body = b'{"model": "colors:1", "name": "shop", "author": "somebody"}'
        got = ask(line, "/api/deployments", texts["write"], body)
        assert got.json["deployment"]["author"] == "write"
        line.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name must be text"),
        ({"name": "a b"}, "token name must be 1 to 64 letters"),
        ({"name": "x", "scopes": []}, "scopes must be some of predict, read, write, admin; got none"),
        ({"name": "x", "scopes": ["root"]}, "got root"),
        ({"name": "x", "scopes": "read"}, "scopes must be a list of text"),
        ({"name": "x", "scopes": ["read"], "deployments": ["a"]}, "with the scope predict alone"),
        ({"name": "x", "deployments": ["a b"]}, "deployment name must be"),
        ({"name": "x", "expires": "soon"}, "expires must be a duration"),
        ({"name": "x", "expires": True}, "expires must be a duration"),
        ({"name": "x", "expires": -1}, "expires must be a duration"),
    ],
)
def test_bad_tokens_are_refused(client: TestClient, body: Any, words: str) -> None:
    answer = client.post("/api/tokens", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]


def test_two_tokens_in_use_have_two_names(space: lw.Workspace) -> None:
    space.add_token("ci")
    with pytest.raises(Conflict, match="a name of its own; got 'ci'"):
        space.add_token("ci")
    space.revoke_token("ci")
    assert space.add_token("ci").name == "ci"
    with pytest.raises(Invalid):
        space.add_token("forever", expires="")


def test_the_command_line_adds_lists_and_revokes(space: lw.Workspace) -> None:
    def run(*words: str) -> Any:
        done = CliRunner().invoke(cli, ["token", *words, "-w", str(space.folder), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    made = run("add", "phone", "--deployment", "colors", "--expires", "1d")["token"]
    assert Rules(space.settings, Tokens(space)).admitted(f"Bearer {made['token']}", "POST", "/predict/colors")
    (listed,) = run("list")["tokens"]
    assert listed == {key: value for key, value in made.items() if key != "token"}
    assert run("revoke", "phone")["token"]["revoked_at"]
    assert run("list")["tokens"] == []
    assert len(run("list", "--revoked")["tokens"]) == 1


def test_a_bucket_lets_a_burst_through_and_then_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    rate = Rate("a token", 2.0, burst=3)

    def taken(caller: str = "a") -> int:
        for count in range(100):
            try:
                rate.take(caller)
            except TooMany as error:
                waits.append(error.retry_after_s)
                return count
        return 100

    waits: list[float] = []
    assert taken() == 3
    assert taken() == 0
    assert taken("b") == 3  # each has a bucket of their own
    moment += 0.5
    assert taken() == 1
    moment += 60
    assert taken() == 3  # it does not fill beyond the burst
    assert waits == pytest.approx([0.5] * 5)
    assert Rate("a token", 0.0).take("a") is None  # type: ignore[func-returns-value]


def test_those_who_ask_no_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    monkeypatch.setattr("loopworks.server.rates.MANY", 10)
    rate = Rate("an address", 1.0)
    for i in range(1000):
        moment += 1.0
        rate.take(f"address {i}")
    assert len(rate._full) <= 11


def test_limits_hold_on_every_way_in(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    text = space.add_token("ci", ["write"]).text
    settings = space.settings.model_copy(update={"requests_per_s": 0.01, "request_burst": 2})
    with TestClient(create_app(space, settings), base_url="http://127.0.0.1") as client:
        for path in ("/api/workspace", "/v2/models/colors"):
            assert client.get(path, headers=bearer(text)).status_code == 200
        for path in ("/metrics", "/v2", "/nothing"):
            answer = client.get(path, headers=bearer(text))
            assert answer.status_code == 429
            assert 90 <= int(answer.headers["retry-after"]) <= 100
            assert "a token may ask 0.01 times a second" in answer.text
        assert client.get("/api/health").status_code == 200
    by_address = space.settings.model_copy(update={"requests_per_s_address": 0.01, "request_burst": 2})
    monkeypatch.setattr(type(space), "settings", property(lambda self: by_address))
    with ServerThread(space) as server:
        line = Line(server.url)
        asked = f"POST /v2/models/colors/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {text}\r\n"
        content = json.dumps(TENSOR).encode()
        found = []
        for _ in range(3):
            line.send(asked.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content)
            found.append(line.read())
        line.send(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        found.append(line.read())
        line.close()
    assert [got.status for got in found] == [200, 200, 429, 429]
    assert "an address may ask" in found[2].json["error"]
