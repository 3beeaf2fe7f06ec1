"""The search: chosen by val alone, in its budget, resumed after a kill, cancelled at once."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.train import means
from tests.train.marked import Marked, marked

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Failed, Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.testing import Recorder, context
from loopworks.train import search, stage
from loopworks.train.contracts import Draw, Lesson, Made
from loopworks.train.trial import Order, Trial, attempt

pytestmark = pytest.mark.train


@pytest.fixture(scope="module", autouse=True)
def _means() -> None:
    pytest.importorskip("optuna")
    means.load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """As good as its rate; takes what time it is given."""

    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})
    rate: float = 0.1

    @classmethod
    def space(cls, draw: Draw, source: Source) -> Mapping[str, Any]:
        return {"rate": draw.number("rate", 0, 1)}

    def run(self, source: Lesson, ctx: Context) -> Made:
        began = time.monotonic()
        budget = source.budget_s or 0.2
        step = 0
        while (spent := time.monotonic() - began) < budget:
            step += 1
            ctx.tick(spent / budget, "slow")
            ctx.metric("val_headline", step, self.rate)
            time.sleep(0.02)
        found: Made = plugins.get("train.means")(shrink=1 - self.rate).run(replace(source, budget_s=None), ctx)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Fails with every rate above a half."""

    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})
    rate: float = 1.0

    def run(self, source: Lesson, ctx: Context) -> Made:
        raise Failed("training loss must be finite; got nan in epoch 1", "lower the rate")


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.names()
    monkeypatch.setitem(plugins._found, "train.slow", Slow)
    monkeypatch.setitem(plugins._found, "train.broken", Broken)


def run(folder: Path, source: Marked | None = None, **more: Any) -> Bundle:
    given: dict[str, Any] = {"trials": 12, "names": ["means"], "ctx": context(folder / "scratch", seed=3)}
    return search.search(source or marked(), folder=folder / "bundle", **{**given, **more})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Marked, list[Trial]]:
    source = marked()
    told: list[Trial] = []
    return run(tmp_path_factory.mktemp("found"), source, on_trial=told.append), source, told


def test_the_best_on_val_wins_and_the_board_says_so(found: tuple[Bundle, Marked, list[Trial]]) -> None:
    bundle, _, told = found
    board = search.board(bundle)
    ended = [one for one in board["trials"] if one["state"] == "done"]
    assert len(board["trials"]) == len(told) == 12
    assert board["best"] == board["trials"][0]["number"]
    assert board["trials"][0]["value"] == max(one["value"] for one in ended)
    assert bundle.metrics["val"]["accuracy"].value == board["trials"][0]["value"]
    assert bundle.recipe == "train.means"
    assert bundle.notes[0].startswith("found by a search of 12 trials (")
    for name, value in board["trials"][0]["params"].items():
        assert bundle.params[name] == value


def test_the_first_trial_has_the_recipes_own_defaults(found: tuple[Bundle, Marked, list[Trial]]) -> None:
    _, _, told = found
    assert told[0].number == 0
    assert told[0].params == {}
    assert all(set(one.params) == {"size", "sharpness", "shrink"} for one in told[1:])


def test_the_test_split_is_read_once_after_all_trials(found: tuple[Bundle, Marked, list[Trial]]) -> None:
    _, source, _ = found
    first = min(i for i, (_, split) in enumerate(source.asked) if split == "test")
    assert {split for _, split in source.asked[first:]} == {"test"}
    assert [what for what, split in source.asked if split == "test"] == ["inputs", "targets", "facts"]


def test_other_test_labels_change_no_choice(found: tuple[Bundle, Marked, list[Trial]], tmp_path: Path) -> None:
    bundle, source, _ = found
    turned = replace(source, labels={**source.labels, "test": np.roll(source.labels["test"], 1, axis=0)})
    again = run(tmp_path, turned)
    assert _figures(again) == _figures(bundle)
    assert again.sha256["model.onnx"] == bundle.sha256["model.onnx"]
    assert again.metrics["test"] != bundle.metrics["test"]


def _figures(bundle: Bundle) -> list[tuple[Any, ...]]:
    return [(one["number"], one["params"], one["value"], one["state"]) for one in search.board(bundle)["trials"]]


class Killed(BaseException):
    """Ends a search as a kill would: nothing cleans up."""


@pytest.mark.parametrize("moment", [20, 55])
def test_a_killed_search_goes_on_with_the_trial_it_was_at(
    found: tuple[Bundle, Marked, list[Trial]], tmp_path: Path, moment: int
) -> None:
    ticks = 0

    def report(share: float, text: str) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == moment:
            raise Killed

    ctx = replace(context(tmp_path / "scratch", seed=3), report=report)
    with pytest.raises(Killed):
        run(tmp_path, ctx=ctx)
    state = json.loads((tmp_path / "scratch" / "search" / "state.json").read_text(encoding="utf-8"))
    before = len(state["trials"])
    assert 0 < before < 12
    told: list[Trial] = []
    again = run(tmp_path, on_trial=told.append)
    assert _figures(again) == _figures(found[0])
    assert [one.number for one in told] == list(range(12))


@pytest.mark.usefixtures("others")
def test_a_cancel_stops_within_a_moment_and_leaves_no_bundle(tmp_path: Path) -> None:
    asked: list[float] = []

    def stopped() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 20

    ctx = replace(context(tmp_path / "scratch"), stopped=stopped)
    with pytest.raises(Cancelled):
        run(tmp_path, names=["slow"], budget_s=600.0, ctx=ctx)
    assert time.monotonic() - asked[20] < 1.0
    assert not [path for path in tmp_path.iterdir() if "bundle" in path.name]


@pytest.mark.usefixtures("others")
@pytest.mark.slow
def test_a_budget_is_kept_and_the_rest_of_it_trains_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LEAST_S", 1.0)
    monkeypatch.setattr(search, "SHORTEST_S", 0.5)
    monkeypatch.setattr(search, "RESERVE_S", 0.3)
    began = time.monotonic()
    bundle = run(tmp_path, names=["slow"], trials=None, budget_s=10.0)
    assert 8.0 < time.monotonic() - began < 12.0  # 11 on a machine that does nothing else
    board = search.board(bundle)
    states = [one["state"] for one in board["trials"]]
    assert "pruned" in states  # its curve is flat, so a lower rate is seen early
    assert len(states) >= search.TRIALS - 3
    assert board["is_refitted"]
    assert "trained again with the rest of the time" in bundle.notes[0]
    rates = {
        state: [one["params"]["rate"] for one in board["trials"] if one["state"] == state and one["params"]]
        for state in ("done", "pruned")
    }
    assert np.mean(rates["pruned"]) < np.mean(rates["done"])


@pytest.mark.usefixtures("others")
def test_trials_that_fail_are_listed_and_the_others_go_on(tmp_path: Path) -> None:
    bundle = run(tmp_path, names=["broken", "means"], trials=6)
    trials = search.board(bundle)["trials"]
    failed = [one for one in trials if one["state"] == "failed"]
    assert failed
    assert "loss must be finite" in failed[0]["note"]
    assert bundle.recipe == "train.means"
    with pytest.raises(Failed, match="all 3 trials failed: training loss must be finite"):
        run(tmp_path / "none", names=["broken"], trials=3)


def test_fixed_parameters_hold_for_all_trials(tmp_path: Path) -> None:
    bundle = run(tmp_path, trials=4, params={"size": 4})
    assert {one["params"]["size"] for one in search.board(bundle)["trials"]} == {4}
    assert bundle.params["size"] == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": None}, "search must be given a budget or a number of trials; got neither"),
        ({"budget_s": 5.0}, r"budget of a search must be at least 30 s; got 5\.0 s"),
        ({"trials": 0}, "trials must be between 1 and 10000; got 0"),
        ({"source": marked(val=0)}, "val split must be of at least one item"),
        ({"params": {"size": 1000}}, r"train\.means\.size"),
    ],
)
def test_what_no_search_can_do_is_refused_first(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        run(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_recipes_that_suit_the_data_badly_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopworks.train.timm.has_weights", lambda: False)
    assert search.suited(marked(), 60.0, {}) == ["train.small-cnn"]
    monkeypatch.setattr("loopworks.train.timm.has_weights", lambda: True)
    assert search.suited(marked(), 60.0, {}) == ["train.small-cnn", "train.timm"]
    assert search.suited(marked(), 60.0, {"shrink": 0.1}) == ["train.means"]


def test_a_model_of_one_training_has_no_board(tmp_path: Path) -> None:
    bundle = stage.train(marked(), recipe="means", folder=tmp_path / "b", ctx=context(tmp_path / "s"))
    with pytest.raises(NotFound, match="search of model"):
        search.board(bundle)


def test_a_cluster_runs_trials_side_by_side(tmp_path: Path) -> None:
    widths = []

    def cluster(orders: Sequence[Order], tick: Any) -> Any:
        tick()
        widths.append(len(orders))
        for order in reversed(orders):  # they may end in any order
            folder = tmp_path / f"node-{order.number}"
            done = attempt(order, marked(), folder, context(tmp_path / "s"))
            yield (
                done,
                {
                    path.relative_to(folder).as_posix(): path.read_bytes()
                    for path in folder.rglob("*")
                    if path.is_file()
                },
            )

    bundle = run(tmp_path, trials=7, cluster=cluster, lanes=3)
    assert widths == [3, 3, 1]
    assert len(search.board(bundle)["trials"]) == 7
    assert bundle.metrics["val"]["accuracy"].value == search.board(bundle)["trials"][0]["value"]


def test_progress_ends_at_one(tmp_path: Path) -> None:
    recorder = Recorder()
    run(tmp_path, trials=2, ctx=recorder.context(tmp_path / "s"))
    shares = [share for share, _ in recorder.ticks]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
