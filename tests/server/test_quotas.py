"""Quotas of deployments: together and by token, a second and a day, on every way in, and over a restart."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from starlette.testclient import TestClient
from tests.server.raw import Line
from tests.server.test_access import TENSOR, bearer
from tests.server.test_grpc_told import SERVICE, call, message, stream
from tests.server.test_telling import infer

import loopworks as lw
from loopworks.core.errors import TooMany
from loopworks.core.settings import Settings
from loopworks.server.app import create_app
from loopworks.server.guard import Rules
from loopworks.server.protos import inference_pb2 as pb
from loopworks.server.quotas import Quotas
from loopworks.server.run import ServerThread
from loopworks.server.tokens import ANYONE, Who

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()
ANN, BOB = (Who(name, name, frozenset({"predict"})) for name in ("ann", "bob"))


@pytest.fixture
def settle(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """``settle(limit=value)`` limits the deployment ``colors`` of ``space``."""

    def change(**limits: Any) -> Settings:
        settings = space.settings.model_validate({**space.settings.model_dump(), "limits_of": {"colors": limits}})
        monkeypatch.setattr(type(space), "settings", property(lambda self: settings))
        return settings

    return change


def quotas(**limits: Any) -> Quotas:
    made = Quotas(Settings.model_validate({"limits_of": {"colors": limits}}))
    made.names = ("colors", "shop")
    return made


def taken(found: Quotas, who: Who = ANYONE, deployment: str = "colors") -> int:
    for count in range(50):
        try:
            found.take(deployment, who)
        except TooMany:
            return count
    return 50


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``clock(seconds)`` moves the time, which stands still otherwise, from noon on."""
    now = [NOON, 100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[1])

    def move(seconds: float) -> None:
        now[:] = [value + seconds for value in now]

    return move


def test_a_day_is_one_of_utc_and_says_when_it_ends(clock: Callable[[float], None]) -> None:
    found = quotas(requests_per_day=3)
    assert (taken(found, ANN), taken(found, BOB), taken(found)) == (3, 0, 0)
    assert taken(found, deployment="shop") == 50
    with pytest.raises(TooMany, match="deployment 'colors' may be asked 3 times a day; got more") as caught:
        found.take("colors", ANN)
    assert caught.value.retry_after_s == 12 * 3600
    clock(12 * 3600 - 1)
    assert taken(found) == 0
    clock(1)
    assert taken(found) == 3


def test_each_token_has_its_own_part_and_a_refused_request_takes_nothing(clock: Callable[[float], None]) -> None:
    found = quotas(requests_per_day=5, requests_per_day_token=3)
    assert taken(found, ANN) == 3
    assert taken(found, BOB) == 2  # and then the deployment's own day is over
    assert taken(found) == 0
    by_second = quotas(requests_per_s=4, requests_per_s_token=2, requests_per_day=5)
    assert (taken(by_second, ANN), taken(by_second, BOB)) == (2, 2)
    with pytest.raises(TooMany, match="a token of deployment 'colors' may ask 2 times a second") as caught:
        by_second.take("colors", ANN)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    clock(10)
    assert taken(by_second, ANN) == 1  # of the day's five, the refused ones took none


def test_limits_of_all_hold_for_each_deployment_and_not_for_names_that_clients_make_up() -> None:
    all_and_one = {"limits": {"requests_per_day": 2}, "limits_of": {"shop": {"requests_per_day": 4}}}
    found = Quotas(Settings.model_validate(all_and_one))
    found.names = ("colors", "shop")
    assert [taken(found, deployment=name) for name in ("colors", "shop", "made up")] == [2, 4, 50]


def test_without_quotas_nobody_is_asked(space: lw.Workspace) -> None:
    assert not Quotas(Settings()).are_any
    assert not Quotas(Settings.model_validate({"limits_of": {"colors": {"max_batch": 4}}})).are_any
    assert Quotas(Settings.model_validate({"limits": {"requests_per_s": 4}})).are_any
    assert Rules(space.settings, None, Quotas(Settings()))._quotas is None


def test_counts_of_a_day_go_on_after_a_restart_and_are_shared(
    space: lw.Workspace, clock: Callable[[float], None]
) -> None:
    first, second = quotas(requests_per_day=10), quotas(requests_per_day=10)
    for _ in range(4):
        first.take("colors", ANN)
        second.take("colors", BOB)
    first.write(space)
    second.write(space)
    assert taken(second) == 2
    assert taken(first) == 6  # it has not heard of the others' yet
    second.write(space)
    first.write(space)
    assert taken(first) == 0
    again = quotas(requests_per_day=10)
    again.write(space)
    assert taken(again) == 0
    day = datetime.fromtimestamp(NOON, UTC).date().isoformat()
    assert space.asked(day) == {("colors", ""): 16, ("colors", "ann"): 4, ("colors", "bob"): 4}
    clock(86_400)
    assert taken(again) == 10
    again.write(space)
    assert space.asked(day) == {}  # days that are over are forgotten


def test_every_way_in_counts_and_only_asking_does(space: lw.Workspace, settle: Callable[..., Settings]) -> None:
    settle(requests_per_day=3)
    with ServerThread(space, grpc=True) as server:
        line = Line(server.url)
        statuses = [infer(line).status]
        for _ in range(5):
            line.send(b"GET /v2/models/colors HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert line.read().status == 200
        line.send(b"POST /predict/colors HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
        statuses.append(line.read().status)
        good = call(server.grpc, f"{SERVICE}/ModelInfer", message().SerializeToString())
        refused = infer(line)
        line.close()
        over = call(server.grpc, f"{SERVICE}/ModelInfer", message().SerializeToString())
        (part,) = stream(server.grpc, [message()])
    assert statuses == [200, 422]
    assert good.code() is grpc.StatusCode.OK
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert "deployment 'colors' may be asked 3 times a day; got more" in refused.json["error"]
    assert over.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing: dict[str, Any] = dict(over.trailing_metadata())
    assert abs(int(trailing["retry-after"]) - int(refused.headers["retry-after"])) < 60
    assert "3 times a day" in pb.ModelStreamInferResponse.FromString(part).error_message
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:  # it knows what the one before counted
        answer = client.post("/v2/models/colors/infer", json=TENSOR)
        assert answer.status_code == 429


def test_a_token_has_its_quota_on_a_deployment(space: lw.Workspace, settle: Callable[..., Settings]) -> None:
    space.deploy("colors:1", "shop")
    texts = [space.add_token(name).text for name in ("ann", "bob")]
    settle(requests_per_day_token=1)
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:

        def ask(name: str, text: str) -> int:
            return client.post(f"/v2/models/{name}/infer", json=TENSOR, headers=bearer(text)).status_code

        assert [ask("colors", text) for text in (*texts, *texts)] == [200, 200, 429, 429]
        assert ask("shop", texts[0]) == 200
