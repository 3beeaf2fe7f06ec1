"""The log of predictions, the truth that comes later, and how right a deployment is in use."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.infer.watch.conftest import Watching, answer_of, people
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Invalid
from loopworks.infer.watch import accuracy, log, reference
from loopworks.infer.watch.log import Entry, Log

Start = Callable[[lw.Workspace], Watching]
QUIET = {"drift": {"is_on": False}}


def test_accuracy_in_use_is_measured_from_truth_and_estimated_without(
    table_space: lw.Workspace, start: Start, tmp_path: Path
) -> None:
    table_space.watch("churn", {**QUIET, "key": "id"})
    on = start(table_space)
    rows = people(200, 40)
    said = on.ask_rows(rows)
    on.flush()
    before = table_space.live_accuracy("churn")
    assert (before["measured"], before["logged"]) == (None, 200)
    assert {one["how"] for one in before["estimated"]} == {"atc", "mean_confidence"}
    for one in before["estimated"]:
        assert one["note"] == "estimated from confidence, not measured"
        assert 0.8 < one["value"] < 1.0  # the training labels have one in ten wrong
    # the truth: of the first hundred by prediction id over HTTP, of the rest by key from a file; every fifth is wrong
    right = [answer_of(row) for row in rows]
    truth = [{"yes": "no", "no": "yes"}[one] if n % 5 == 0 else one for n, one in enumerate(right)]
    body = [{"id": one["id"], "label": label} for one, label in zip(said[:100], truth[:100], strict=True)]
    done = on.client.post("/api/deployments/churn/watch/truth", json={"truth": body}).json()
    assert (done["known"], done["problems"]) == (100, [])
    lines = ["id,label", *(f"{row['id']},{label}" for row, label in zip(rows[100:], truth[100:], strict=True))]
    (tmp_path / "truth.csv").write_text("\n".join([*lines, "nobody,yes", "x,perhaps"]), encoding="utf-8")
    told = CliRunner().invoke(
        app, ["watch", "truth", "churn", str(tmp_path / "truth.csv"), "-w", str(table_space.folder), "--json"]
    )
    assert told.exit_code == 3
    by_file = json.loads(told.stdout)
    assert by_file["known"] == 100
    assert [problem["where"] for problem in by_file["problems"]] == ["truth 102", "nobody"]
    measured = table_space.watched("churn")["accuracy"]["measured"]
    assert (measured["value"], measured["count"], measured["source"]) == (0.8, 200, "truth")
    assert measured["low"] < 0.8 < measured["high"]


def test_the_last_word_holds(table_space: lw.Workspace, start: Start) -> None:
    table_space.watch("churn", QUIET)
    on = start(table_space)
    (said,) = on.ask_rows([{"age": 80, "city": "bonn"}])
    on.flush()
    for label, value in (("no", 0.0), ("yes", 1.0)):
        table_space.truth("churn", [(said["id"], label)])
        measured = table_space.live_accuracy("churn")["measured"]
        assert (measured["value"], measured["count"]) == (value, 1)


def test_new_rules_lose_nothing_that_was_seen(table_space: lw.Workspace, start: Start) -> None:
    table_space.watch("churn", QUIET)
    on = start(table_space)
    on.ask_rows(people(3, 50))
    with on.watcher._turn:
        on.watcher._look(settle_s=0.0)  # seen, and not written yet
    table_space.watch("churn", {**QUIET, "key": "id"})
    on.flush()
    assert Log(table_space.home, "churn").rows() == 3
    on.ask_rows(people(2, 51))
    table_space.unwatch("churn")
    on.flush()
    on.ask_rows(people(2, 52))
    on.flush()
    assert Log(table_space.home, "churn").rows() == 3, "what waits when nobody watches any more is not looked at"


@pytest.mark.parametrize(
    ("name", "label", "told"),
    [
        ("other/1/" + "0" * 64, "yes", "must be of deployment churn"),
        ("churn/x/" + "0" * 64, "yes", "must be DEPLOYMENT/REVISION/ITEM"),
        ("0" * 64, "maybe", "must be of the classes no, yes, not 'maybe'"),
        ("0" * 64, ["no", "yes"], "must be exactly one class"),
        ("0" * 64, 3, "must be a class or a list of classes"),
    ],
)
def test_truth_that_makes_no_sense_is_listed(table_space: lw.Workspace, name: str, label: object, told: str) -> None:
    done = table_space.truth("churn", [(name, label), ("1" * 64, "no")])
    assert done["known"] == 1
    assert told in done["problems"][0].message


def entries(count: int, start: int = 0, *, at: datetime | None = None) -> list[Entry]:
    moment = at or datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Entry(item=f"{n:064x}", revision=1, key=f"k{n}", answer="a" if n % 2 else "b", score=0.5, at=moment)
        for n in range(start, start + count)
    ]


def test_small_parts_of_the_log_are_put_together(table_space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "TOGETHER", 4)
    kept = Log(table_space.home, "churn")
    blobs = set(table_space.home.blobs.keys())
    for n in range(4):
        kept.add(entries(5, n * 5))
    assert kept.rows() == 20
    assert len(set(table_space.home.blobs.keys()) - blobs) == 1, "and the small ones are gone"
    assert kept.read().column("key").to_pylist() == [f"k{n}" for n in range(20)]
    assert table_space.gc(dry_run=False, grace_s=0) is not None
    assert kept.read().num_rows == 20, "garbage collection knows the log"


def test_old_parts_go_and_so_do_single_items(table_space: lw.Workspace) -> None:
    kept = Log(table_space.home, "churn")
    kept.add(entries(3))
    kept.add(entries(3, 3, at=datetime.now(UTC)))
    assert kept.drop(datetime.now(UTC) - timedelta(days=1)) == 3
    assert kept.forget([f"{4:064x}"]) == 1
    assert kept.read().column("key").to_pylist() == ["k3", "k5"]


def test_a_number_is_judged_by_its_error() -> None:
    rows = log.table([
        Entry(item=f"{n:064x}", revision=1, key="", answer=repr(float(n)), score=1.0, at=datetime.now(UTC))
        for n in range(4)
    ])
    truths = {f"{n:064x}": (n + (1.0 if n % 2 else -1.0), None) for n in range(4)}
    found = accuracy.measured(rows, truths, frozenset({"value"}), "truth")
    assert found is not None
    assert (found["metric"], found["value"], found["rmse"], found["bias"]) == ("mae", 1.0, 1.0, 0.0)


def test_the_estimate_follows_confidence() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 4_000)
    known = reference.confidence_of(sure, rng.random(4_000) < sure)  # calibrated
    harder = np.clip(rng.uniform(0.5, 0.8, 2_000), 0, 1)
    rows = log.table([
        Entry(item=f"{n:064x}", revision=1, key="", answer="a", score=float(s), at=datetime.now(UTC))
        for n, s in enumerate(harder)
    ])
    found = {one["how"]: one for one in accuracy.estimated(rows, known)}
    assert found["mean_confidence"]["value"] == pytest.approx(0.65, abs=0.02)
    assert found["atc"]["value"] < found["atc"]["validation"]
    assert accuracy.estimated(rows.slice(0, 3), known) == []


def test_feedback_needs_something_to_say(table_space: lw.Workspace) -> None:
    with pytest.raises(Invalid, match=r"must be right \(true or false\) or a label; got neither"):
        table_space.feedback("churn/1/" + "0" * 64)
    done = table_space.feedback("churn/1/" + "0" * 64, label="yes")
    assert done["is_wrong"] is None, "nobody knows what was answered"
