"""Heads that are not parsed again: the same bytes get the same answer, and nothing else does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.infer import small
from tests.server import raw
from tests.server.conftest import register
from tests.server.raw import INFER, Line, body, head, post

import loopworks as lw
from loopworks.server.heads import LONGEST, MOST, Head, Heads
from loopworks.server.run import ServerThread

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\n"
FIELDS = [(b"host", b"127.0.0.1"), (b"content-length", b"3")]


def of(fields: list[tuple[bytes, bytes]], **named: bool) -> Head:
    headers = {name.decode(): value.decode() for name, value in fields}
    return Head("/v2/models/m/infer", "m", "", headers, **named)


def test_a_head_is_found_by_all_its_bytes_and_with_its_whole_body() -> None:
    heads = Heads(100)
    assert heads.find(HEAD + b"abc") is None
    heads.keep(HEAD + b"a", kept := of(FIELDS), FIELDS)
    assert heads.find(HEAD + b"abc") == (kept, b"abc")
    for other in (
        HEAD + b"ab",
        HEAD + b"abcd",
        HEAD.replace(b"m/infer", b"n/infer") + b"abc",
        HEAD.replace(b"Host", b"host") + b"abc",
        b"\r\n" + HEAD + b"abc",
        HEAD[:-2] + b"X: 1\r\n\r\nabc",
        HEAD,
        b"",
    ):
        assert heads.find(other) is None


@pytest.mark.parametrize(
    ("data", "fields", "named"),
    [
        (HEAD, FIELDS, {"keep_alive": False}),
        (HEAD, FIELDS, {"expects": True}),
        (HEAD, [*FIELDS, (b"transfer-encoding", b"chunked")], {}),
        (HEAD, [(b"host", b"127.0.0.1"), (b"content-length", b"")], {}),
        (HEAD, [(b"host", b"127.0.0.1"), (b"content-length", b"101")], {}),
        (HEAD, [(b"host", b"127.0.0.1"), (b"x", b"1")], {}),
        (HEAD.replace(b"\r\nHost", b"\nHost"), FIELDS, {}),
        (HEAD.replace(b"127.0.0.1\r\n", b"127.0.0.1\r\n folded\r\n"), FIELDS, {}),
        (b"\r\n" + HEAD, FIELDS, {}),
        (HEAD[:20], FIELDS, {}),
        (HEAD.replace(b"127.0.0.1", b"1" * LONGEST), FIELDS, {}),
    ],
)
def test_what_could_mean_something_else_is_not_kept(
    data: bytes, fields: list[tuple[bytes, bytes]], named: dict[str, bool]
) -> None:
    heads = Heads(100)
    heads.keep(data, of(fields, **named), fields)
    assert heads.find(data + b"abc") is None
    assert len(heads) == 0


def test_so_many_heads_are_kept_and_no_more() -> None:
    heads = Heads(100)
    given = [HEAD.replace(b"Host", b"H%d" % i) for i in range(MOST + 5)]
    for one in given:
        heads.keep(one, of(FIELDS), FIELDS)
    assert len(heads) == MOST
    assert heads.find(given[4] + b"abc") is None
    assert heads.find(given[5] + b"abc") is not None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    root = tmp_path_factory.mktemp("heads")
    with lw.open(root / "space") as space:
        space.deploy(register(space, small.linear(root / "one"), "linear"), name="linear")
        with ServerThread(space) as made:
            yield made


@pytest.fixture
def line(server: ServerThread) -> Iterator[Line]:
    with raw.line(server.url) as made:
        yield made


def test_a_known_head_answers_as_the_parser_does(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []

    find = Heads.find

    def noted(self: Heads, data: bytes) -> tuple[Head, bytes] | None:
        found = find(self, data)
        known.append(found is not None)
        return found

    monkeypatch.setattr(Heads, "find", noted)
    answers = []
    for _ in range(3):
        line.send(post(body([1, 2, 3, 4])))
        answers.append(line.read())
    assert known[1:] == [True, True]
    assert answers[0].json == answers[1].json == answers[2].json
    assert [got.status for got in answers] == [200] * 3
    assert answers[1].headers.keys() == answers[0].headers.keys()


def test_a_known_head_in_pieces_or_followed_by_more(line: Line) -> None:
    whole = post(body([1, 2, 3, 4]))
    line.send(whole)
    assert line.read().status == 200
    line.send(whole[:-5])
    line.send(whole[-5:])
    assert line.read().status == 200
    line.send(whole * 3)
    assert [line.read().status for _ in range(3)] == [200] * 3
    line.send(whole, whole[:30])
    assert line.read().status == 200
    line.send(whole[30:] + head(method="GET", path="/api/health"))
    assert [line.read().status for _ in range(2)] == [200, 200]


def test_what_is_wrong_in_a_body_with_a_known_head_is_told(line: Line) -> None:
    good = body([1, 2, 3, 4])
    line.send(post(good))
    assert line.read().status == 200
    line.send(post(b"{" + good[1:-1] + b" "))
    got = line.read()
    assert (got.status, "JSON" in got.json["error"]) == (400, True)
    line.send(post(good))
    assert line.read().status == 200


def test_a_refused_head_is_not_kept(line: Line) -> None:
    for _ in range(2):
        line.send(post(body(), headers={"host": "evil.example"}))
        assert line.read().status == 403


def test_a_token_is_asked_for_with_every_request(tmp_path: Path) -> None:
    with lw.open(tmp_path / "space") as space:
        space.deploy(register(space, small.linear(tmp_path / "one"), "linear"), name="linear")
        text = space.add_token("caller", scopes=["predict"]).text
        space.add_token("other", scopes=["read"])
        with ServerThread(space) as server, raw.line(server.url) as line:
            asked = post(body(), path=INFER, headers={"authorization": f"Bearer {text}"})
            for _ in range(2):
                line.send(asked)
                assert line.read().status == 200
            space.revoke_token("caller")
            server.serving.tokens.refresh()
            line.send(asked)
            assert line.read().status == 401
