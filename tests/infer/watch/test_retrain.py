"""When to train again, and what becomes of the model."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.infer.watch.conftest import Watching, kept, of_version

import loopworks as lw
from loopworks.core.errors import NotFound
from loopworks.infer.watch.retrain import Facts, decide
from loopworks.infer.watch.rules import Retrain
from loopworks.jobs import Job
from loopworks.server.upkeep import Upkeep
from loopworks.store import lineage
from loopworks.store.lineage import Node

Start = Callable[[lw.Workspace], Watching]
Photo = Callable[..., bytes]
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def facts(**given: Any) -> Facts:
    return Facts(**{
        "now": NOW,
        "trained_at": NOW - timedelta(days=3),
        "new_labels": 40,
        "alarms": 0,
        "accuracy": None,
        **given,
    })


@pytest.mark.parametrize(
    ("rules", "given", "is_due", "told"),
    [
        ({"new_labels": 40}, {}, True, "40 new labels (from 40 on)"),
        ({"new_labels": 41}, {}, False, ""),
        ({"on_drift": True}, {}, False, ""),
        ({"on_drift": True}, {"alarms": 2}, True, "2 alarms of drift"),
        ({"every": "2d"}, {}, True, "3.0 days since"),
        ({"every": "4d"}, {}, False, ""),
        ({"every": "2d", "cool_down": "4d"}, {}, False, "cool-down: 24.0 h left"),
        ({"every": "2d"}, {"new_labels": 0}, False, "nothing new is labelled"),
        (
            {"accuracy_below": 0.9},
            {"accuracy": {"metric": "accuracy", "value": 0.8, "low": 0.7, "high": 0.89}},
            True,
            "live accuracy 0.800 [0.700, 0.890] is below 0.9",
        ),
        (
            {"accuracy_below": 0.9},
            {"accuracy": {"metric": "accuracy", "value": 0.8, "low": 0.6, "high": 0.93}},
            False,
            "",
        ),
    ],
)
def test_a_decision_has_its_reasons(rules: dict[str, Any], given: dict[str, Any], is_due: bool, told: str) -> None:
    found = decide(Retrain(**rules), facts(**given))
    assert found.is_due is is_due
    assert told in "; ".join([*found.reasons, found.held_back])


class Trainer:
    """Jobs whose trainings end when the test says so, with the model that the test has made."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.job = Job(id="j1", step="train", title="", params={}, status="running", created_at=NOW)

    def submit(self, step: str, params: dict[str, Any], *, title: str = "", key: str | None = None) -> str:
        self.asked.append({"step": step, "key": key, **params})
        return "j1"

    def get(self, _job: str) -> Job:
        return self.job

    def end(self, **how: Any) -> None:
        self.job = Job(id="j1", step="train", title="", params={}, created_at=NOW, **how)

    def wake(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def trainer(space: lw.Workspace) -> Any:
    made = Trainer()
    space._jobs = made  # type: ignore[assignment]
    yield made
    space._jobs = None


def label_more(space: lw.Workspace, photo: Photo, tmp_path: Any, count: int = 6) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for n in range(count):
        (folder / f"{n}.png").write_bytes(photo("red", seed=5_000 + n))
    photos = space.dataset("photos")
    photos.add(folder, labels="none")
    photos.label({item.id: ["red"] for item in photos.items(state="unlabeled")}, author="ann")


RULES: dict[str, Any] = {"retrain": {"new_labels": 5, "cool_down": "0.001s", "recipe": "small-cnn", "budget": "1m"}}


def test_new_labels_start_a_training_whose_model_becomes_the_challenger(
    space: lw.Workspace, trainer: Trainer, photo: Photo, tmp_path: Any, colors: Any
) -> None:
    space.watch("colors")
    with pytest.raises(NotFound, match="retrain rules"):
        space.retrain("colors")
    space.watch("colors", RULES)
    assert space.retrain("colors")["state"] == "idle"
    label_more(space, photo, tmp_path)
    tried = space.retrain("colors", dry_run=True)
    assert (tried["state"], tried["is_due"], tried["reasons"]) == ("idle", True, ["6 new labels (from 5 on)"])
    assert trainer.asked == []
    begun = space.retrain("colors")
    assert begun["state"] == "started"
    (asked,) = trainer.asked
    assert (asked["step"], asked["recipe"], asked["budget_s"], asked["name"]) == ("train", "small-cnn", 60.0, "colors")
    assert space.version(asked["version"]).counts["items"] == 156
    assert space.retrain("colors")["state"] == "running"
    assert len(trainer.asked) == 1
    better = of_version(colors.write(tmp_path / "better", weight=11.0), asked["version"])
    trainer.end(status="done", result={"model": kept(space, better, "colors")})
    done = space.retrain("colors")
    assert (done["state"], done["model"], done["against"]) == ("challenger", "colors:2", "colors:1")
    assert done["verdict"] == "not separable", "both answer all test items"
    assert space.aliases()["colors:2"] == ["challenger"]
    assert space.deployment("colors").number == 1, "nothing is promoted unless the rules say so"
    states = [event.body["state"] for event in space.watch_events("colors", "retrain")]
    assert states == ["challenger", "started"]
    with space.home.catalog.read() as tx:
        assert Node("job", "j1") in lineage.targets(tx, Node("deployment", "colors/1"))
    assert space.retrain("colors")["state"] == "idle", "the labels are in the version that was trained on"


def test_a_worse_model_and_a_failed_training_change_nothing(
    space: lw.Workspace, trainer: Trainer, photo: Photo, tmp_path: Any, colors: Any
) -> None:
    space.watch("colors", RULES)
    label_more(space, photo, tmp_path)
    version = space.retrain("colors")["version"]
    worse = of_version(colors.write(tmp_path / "worse", weight=-9.0), version)
    trainer.end(status="done", result={"model": kept(space, worse, "colors")})
    assert space.retrain("colors")["state"] == "worse"
    assert space.aliases() == {}
    assert space.retrain("colors", force=True)["state"] == "started"
    trainer.end(status="failed", error={"error": {"code": "no_space", "message": "disk full", "hint": ""}})
    assert space.retrain("colors")["error"] == "disk full"


def test_a_better_model_is_put_to_use_where_the_rules_say_so(
    space: lw.Workspace, trainer: Trainer, photo: Photo, tmp_path: Any, colors: Any
) -> None:
    bad = of_version(colors.write(tmp_path / "bad", weight=-5.0), space.bundle("colors").version)
    space.deploy(kept(space, bad, "colors"), name="colors")
    space.watch("colors", {"retrain": {**RULES["retrain"], "promote": True}})
    label_more(space, photo, tmp_path)
    version = space.retrain("colors")["version"]
    good = of_version(colors.write(tmp_path / "good", weight=13.0), version)
    trainer.end(status="done", result={"model": kept(space, good, "colors")})
    upkeep = Upkeep(space)  # as the server does it
    upkeep.look()
    upkeep.close()
    (last, _) = space.watch_events("colors", "retrain")
    assert (last.body["state"], last.body["verdict"]) == ("promoted", "better")
    assert space.deployment("colors").number == space.model("colors@champion").number == 3


def test_the_server_says_what_would_be_done(space: lw.Workspace, start: Start) -> None:
    space.watch("colors", RULES)
    on = start(space)
    client: TestClient = on.client
    told = client.post("/api/deployments/colors/watch/retrain", json={"dry_run": True}).json()
    assert (told["state"], told["is_due"]) == ("idle", False)
    assert [one["deployment"] for one in client.get("/api/watches").json()["watches"]] == ["colors"]
