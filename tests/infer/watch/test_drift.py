"""Drift of what a model in use is asked and answers, and who is told of it."""

import dataclasses
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.infer.watch.conftest import Watching, people
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Invalid
from loopworks.infer.watch import alerts, drift, traits, watched, windows
from loopworks.infer.watch.reference import Reference
from loopworks.infer.watch.rules import Alert, Drift
from loopworks.infer.watch.traits import Traits

Start = Callable[[lw.Workspace], Watching]
Photo = Callable[..., bytes]


class Hook:
    """A webhook that fails as often as it is told to."""

    def __init__(self, fails: int) -> None:
        self.fails = fails
        self.got: list[tuple[dict[str, str], bytes]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802 - the library's name
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.got.append((dict(self.headers), body))
                self.send_response(500 if len(hook.got) <= hook.fails else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?a=1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Callable[..., Hook]]:
    made: list[Hook] = []

    def make(fails: int = 0) -> Hook:
        made.append(Hook(fails))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_same_people_are_no_drift_and_older_ones_are(table_space: lw.Workspace, start: Start) -> None:
    table_space.watch("churn", {"drift": {"window": 200}})
    on = start(table_space)
    on.ask_rows(people(1, 5))
    on.flush()
    on.settle("churn")
    on.ask_rows(people(250, 6))
    on.flush()
    first = table_space.watched("churn")["drift"]
    assert (first["items"], first["is_drift"]) == (250, False)
    assert table_space.watch_events("churn", "alarm") == []
    on.watcher._watched["churn"]._compared_at.clear()  # a minute later
    on.ask_rows(people(250, 7, age=60))
    on.flush()
    second = table_space.watched("churn")["drift"]
    moved = {column["name"] for column in second["columns"] if column["is_drift"]}
    assert moved == {"age", "answer", "whole items"} | (moved & {"confidence"})
    (alarm,) = table_space.watch_events("churn", "alarm")
    assert "drift in 250 items: age (mean 49.37, sd 9.61 -> mean 58.42" in alarm.body["text"]
    assert on.metric("loopworks_drift_alarms_total")["churn",] == 1
    on.watcher._watched["churn"]._compared_at.clear()
    on.ask_rows(people(250, 8, age=60))
    on.flush()
    assert len(table_space.watch_events("churn", "alarm")) == 1, "the same drift is told once a day"


def test_a_window_goes_on_after_a_restart_and_so_does_an_alarm(table_space: lw.Workspace, start: Start) -> None:
    table_space.watch("churn", {"drift": {"window": 200}})
    for seed, count in ((6, 120), (7, 90)):  # two servers, neither of which sees a whole window
        on = start(table_space)
        on.ask_rows(people(1, 5))
        on.flush()
        on.settle("churn")
        assert table_space.watch_events("churn", "drift") == []
        on.ask_rows(people(count, seed, age=60))
        on.flush()
        on.serving.close()
    (window,) = table_space.watch_events("churn", "drift")
    assert 210 <= window.body["items"] <= 212  # the single rows count where the training data was looked at in time
    assert "whole items" in {column["name"] for column in window.body["columns"] if column["is_drift"]}
    assert list(Path(table_space.home.cache).glob("watch/window-*")) == []
    on = start(table_space)
    on.ask_rows(people(1, 5))
    on.flush()
    on.settle("churn")
    on.ask_rows(people(250, 8, age=60))
    on.flush()
    assert len(table_space.watch_events("churn", "drift")) == 2
    assert len(table_space.watch_events("churn", "alarm")) == 1, "the same drift is told once a day"


@pytest.mark.parametrize("privacy", [{"keep": "off"}, {"drop": ["age"]}])
def test_a_kept_window_holds_nothing_private(table_space: lw.Workspace, start: Start, privacy: dict[str, Any]) -> None:
    table_space.watch("churn", {"drift": {"window": 200}, "privacy": privacy})
    on = start(table_space)
    on.ask_rows(people(1, 5))
    on.flush()
    on.settle("churn")
    on.ask_rows(people(60, 6))
    on.flush()
    on.serving.close()
    found = list(Path(table_space.home.cache).glob("watch/window-*"))
    if privacy == {"keep": "off"}:
        assert found == []
        return
    kept = windows.take(found[0], 200)
    assert kept is not None
    inputs, answers = kept.window.seen()
    assert (set(inputs.numbers), set(inputs.categories), inputs.points) == (set(), {"city"}, None)
    assert answers.count == 60
    found[0].write_bytes(b"half a file")
    assert windows.take(found[0], 200) is None
    assert not found[0].exists()


def test_an_alarm_is_signed_sent_and_tried_again(
    table_space: lw.Workspace, start: Start, hook: Callable[..., Hook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "FIRST_PAUSE_S", 0.01)
    there = hook(fails=2)
    table_space.home.settings = table_space.settings.model_copy(update={"watch_secret": "s3cret"})
    table_space.watch("churn", {"drift": {"window": 100}, "alerts": [{"url": there.url}]})
    on = start(table_space)
    on.ask_rows(people(1, 5))
    on.flush()
    on.settle("churn")
    on.ask_rows(people(150, 7, age=70))
    on.flush()
    on.serving.watch._alerts.wait()
    assert len(there.got) == 3
    headers, body = there.got[-1]
    told = json.loads(body)
    assert (told["kind"], told["deployment"], told["is_drift"]) == ("drift", "churn", True)
    expected = hmac.new(b"s3cret", headers[alerts.MOMENT].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers[alerts.SIGNATURE] == f"sha256={expected}"
    (event,) = table_space.watch_events("churn", "alert")
    assert (event.body["is_delivered"], event.body["tries"]) == (True, 3)


def test_an_alert_that_nobody_takes_is_given_up_and_told(hook: Callable[..., Hook]) -> None:
    told: list[dict[str, Any]] = []
    sender = alerts.Alerts("", lambda _name, body: told.append(dict(body)), first_pause_s=0.001)
    there = hook(fails=9)
    sender.send(Alert(url=there.url, tries=2), "d", {"a": 1})
    sender.send(Alert(url="http://127.0.0.1:1/x", tries=1, timeout_s=1), "d", {"a": 1})
    sender.wait()
    sender.close()
    assert [(one["is_delivered"], one["tries"]) for one in told] == [(False, 2), (False, 1)]
    assert told[0]["error"] == "status 500"
    assert alerts.SIGNATURE not in there.got[0][0], "nothing is signed by an empty secret"


def test_a_window_of_pictures(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {"drift": {"window": 60}})
    on = start(space)
    on.ask(photo("red"))
    on.flush()
    on.settle("colors")
    form = [("file", (f"{n}.png", photo("red", strength=20, seed=n), "image/png")) for n in range(60)]
    assert on.client.post("/predict/colors", files=form).status_code == 200
    on.flush()
    found = space.watched("colors")["drift"]
    moved = {column["name"] for column in found["columns"] if column["is_drift"]}
    assert {"brightness", "answer", "confidence", "whole items"} <= moved


def test_files_are_compared_without_a_server(table_space: lw.Workspace, tmp_path: Path) -> None:
    for name, age in (("same", 50.0), ("older", 65.0)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in people(300, 21, age=age)), encoding="utf-8"
        )
    assert not table_space.drift("churn", [tmp_path / "same.jsonl"])["is_drift"]
    done = CliRunner().invoke(
        app, ["watch", "drift", "churn", str(tmp_path / "older.jsonl"), "-w", str(table_space.folder), "--json"]
    )
    assert json.loads(done.stdout)["columns"][0]["name"] in ("age", "whole items", "answer")
    assert json.loads(done.stdout)["is_drift"] is True
    with pytest.raises(Invalid, match="must be at least 50; got 3"):
        table_space.drift("churn", people(3, 1))


def test_missing_values_are_drift(table_space: lw.Workspace) -> None:
    rows = people(300, 31)
    for row in rows[:90]:
        row["age"] = None
    found = table_space.drift("churn", rows)
    age = next(column for column in found["columns"] if column["name"] == "age")
    assert age["is_drift"]
    assert "30.0% missing" in age["now"]
    bundle = table_space.bundle("churn")
    ready = watched.reference_of(table_space.home, bundle, "")
    quiet = Drift(ignore=("age", "answer", "confidence"))
    live = Traits({"age": np.full(100, np.nan)}, {"city": ["bonn", "trier"] * 50})
    assert [c.name for c in drift.compare(ready, live, Traits(), quiet).columns] == ["city"]


def test_the_training_data_is_looked_at_once_and_read_again_the_same(table_space: lw.Workspace) -> None:
    bundle = table_space.bundle("churn")
    made = watched.reference_of(table_space.home, bundle, "")
    (path,) = (table_space.home.cache / "watch").glob("*.npz")
    stamp = path.stat().st_mtime_ns
    again = watched.reference_of(table_space.home, bundle, "")
    assert path.stat().st_mtime_ns == stamp
    assert (again.version, again.split, again.confidence) == (made.version, made.split, made.confidence)
    assert again.inputs.numbers["age"].tolist() == made.inputs.numbers["age"].tolist()
    assert again.far.tolist() == made.far.tolist()
    path.write_bytes(b"broken")
    assert watched.reference_of(table_space.home, bundle, "").version == made.version


def test_a_new_topic_in_a_tenth_of_the_texts_is_seen_by_its_words() -> None:
    """Sentences of forty words; where the whole hardly moves, MMD sees nothing and the new topic's own words do."""
    rng = np.random.default_rng(0)
    ends = ("ra", "no", "vel", "dis", "ge", "pu", "wi", "za")
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "su", "te") for b in ends]

    def some(count: int, topic: str = "kara") -> Traits:
        lists = [[*rng.choice(words, 11), topic if n % 10 == 0 else rng.choice(words)] for n in range(count)]
        told = [" ".join(one) for one in lists]
        return traits._of_texts(told)

    def reported(live: Traits) -> drift.Report:
        assert before.points is not None
        scale = traits.Scale.fit(before.points, is_scaled=True)
        points = scale.apply(before.points)[:500]
        ready = Reference(
            version="",
            inputs=dataclasses.replace(before, points=points),
            answers=Traits(),
            split="val",
            scale=scale,
            far=np.zeros(0),
            confidence=None,
        )
        return drift.compare(ready, live, Traits(), Drift())

    before = some(1_000)
    assert not reported(some(500)).is_drift
    found = {column.name: column for column in reported(some(500, "qyxf")).columns}
    assert [name for name, column in found.items() if column.is_drift] == ["words"]
    assert found["words"].value > 0.05
    assert found["words"].test == "fisher"
