"""The loop: resume to the bit, stop when asked, early end, budget, a loss that is not a number, a full disk."""

import errno
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopworks.core.contracts import Arrays, Context
from loopworks.core.errors import Cancelled, Failed, NoSpace
from loopworks.train import checkpoint
from loopworks.train.augment import Augment, Change
from loopworks.train.batches import Batches, Split
from loopworks.train.budget import Budget
from loopworks.train.checkpoint import Progress
from loopworks.train.loop import Learner, Plan, fit, rate_share
from loopworks.train.nets import CompactCnn
from loopworks.train.objectives import Classes

pytestmark = pytest.mark.train
CHANGE = Change(shift=0.1, scale=0.1, rotate_deg=10, light=0.1, flip="horizontal")


def context(folder: Path, seed: int = 0, stop: Callable[[], bool] = lambda: False, **more: Any) -> Context:
    return Context(seed=seed, scratch=folder, report=more.pop("report", lambda share, text: None), stopped=stop, **more)


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "epochs": 4, "batch": 8, "rate": 5e-3, "weight_decay": 0.05, "patience": 99, "threads": 1,
        "checkpoint_every_s": 0.0,
    }  # fmt: skip
    return Plan(**{**values, **changes})


def split(count: int, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    targets = np.eye(2, dtype=np.float32)[np.arange(count) % 2]
    images[targets[:, 1] == 1, 3:9, 3:9] //= 4
    return Split.of(images, targets)


def learner(the_plan: Plan, seed: int = 0) -> Learner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CompactCnn(2, [4, 8], 1, 1, 0.2)
    ones = torch.full((3,), 127.0)
    augment = Augment(CHANGE, ones, ones, torch.device("cpu"))
    return Learner(network, Classes(augment, is_multi=False, smoothing=0.0), the_plan)


VAL = split(10, seed=9)


def accuracy(answers: Arrays) -> float:
    return float((answers["scores"].argmax(axis=1) == VAL.targets.numpy().argmax(axis=1)).mean())


def run(the_plan: Plan, ctx: Context, val: Split | None = VAL, train: Split | None = None, **more: Any) -> Any:
    pupil = learner(the_plan)
    budget = more.pop("budget", None) or Budget(None)
    progress = fit(
        pupil, train or split(20), val, accuracy, fingerprint=more.get("fingerprint", "f"), budget=budget, ctx=ctx
    )
    return pupil, progress


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def has_seen(seen: list[int], count: int) -> bool:
    return len(seen) >= count


def note_headline(seen: list[int], name: str, step: int, value: float) -> None:
    if name == "val_headline":
        seen.append(step)


def test_a_training_stopped_after_any_epoch_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, _ = run(plan(), context(tmp_path / "whole"))
    for stop_after in (1, 3):
        seen: list[int] = []
        first = context(
            tmp_path / str(stop_after),
            stop=partial(has_seen, seen, stop_after),
            metric=partial(note_headline, seen),
        )
        with pytest.raises(Cancelled):
            run(plan(), first)
        state = torch.load(first.scratch / checkpoint.CHECKPOINT, weights_only=True)
        assert state["progress"]["epoch"] == stop_after
        again: list[int] = []
        second = context(
            first.scratch,
            metric=lambda name, step, value, again=again: again.append(step) if name == "val_headline" else None,
        )
        resumed, progress = run(plan(), second)
        assert again == list(range(stop_after + 1, 5)), "epochs that were done are not done again"
        assert progress.epoch == 4
        assert same(whole.network.state_dict(), resumed.network.state_dict())


def test_a_stop_in_the_middle_of_an_epoch_loses_that_epoch_only(tmp_path: Path) -> None:
    whole, _ = run(plan(), context(tmp_path / "whole"))
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 14

    with pytest.raises(Cancelled):
        run(plan(), context(tmp_path / "part", stop=stop))
    done = torch.load(tmp_path / "part" / checkpoint.CHECKPOINT, weights_only=True)["progress"]["epoch"]
    assert 0 < done < 4
    resumed, _ = run(plan(), context(tmp_path / "part"))
    assert same(whole.network.state_dict(), resumed.network.state_dict())


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = run(plan(), context(tmp_path))
    steps: list[int] = []
    second, progress = run(plan(), context(tmp_path, metric=lambda *point: steps.append(1)))
    assert progress.is_done
    assert steps == []
    assert same(first.network.state_dict(), second.network.state_dict())


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(tmp_path: Path) -> None:
    one, _ = run(plan(), context(tmp_path / "a", seed=1))
    again, _ = run(plan(), context(tmp_path / "b", seed=1))
    other, _ = run(plan(), context(tmp_path / "c", seed=2))
    assert same(one.network.state_dict(), again.network.state_dict())
    assert not same(one.network.state_dict(), other.network.state_dict())


def test_a_checkpoint_of_another_training_is_left_aside(tmp_path: Path) -> None:
    run(plan(epochs=2), context(tmp_path), fingerprint="one")
    _, progress = run(plan(epochs=2), context(tmp_path), fingerprint="two")
    assert progress.fingerprint == "two"
    fresh, _ = run(plan(epochs=2), context(tmp_path / "fresh"), fingerprint="two")
    kept = torch.load(tmp_path / checkpoint.CHECKPOINT, weights_only=True)
    assert same(kept["progress"]["best"], fresh.network.state_dict())


def test_a_damaged_checkpoint_means_a_fresh_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _ = run(plan(epochs=2), context(tmp_path / "whole"))
    tmp_path.joinpath(checkpoint.CHECKPOINT).write_bytes(b"not a checkpoint")
    again, progress = run(plan(epochs=2), context(tmp_path))
    assert progress.epoch == 2
    assert same(whole.network.state_dict(), again.network.state_dict())
    assert "could not be read" in caplog.text


def test_the_global_state_of_torch_is_put_back(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    run(plan(epochs=1), context(tmp_path))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_nothing_is_printed_and_no_folder_is_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(plan(epochs=1), context(tmp_path / "scratch"))
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [checkpoint.CHECKPOINT, "scratch"]


def test_training_ends_early_where_validation_stops_improving(tmp_path: Path) -> None:
    _, progress = run(plan(epochs=50, patience=3, rate=1e-9), context(tmp_path))
    assert progress.ended == "patience"
    assert progress.epoch - progress.best_epoch == 3


def test_the_best_epoch_is_kept_and_loss_decides_a_tie(tmp_path: Path) -> None:
    values = iter([0.5, 0.9, 0.9, 0.7])
    seen: dict[str, list[float]] = {"val_loss": [], "val_headline": [], "train_loss": []}
    pupil = learner(plan())
    progress = fit(
        pupil, split(20), VAL, lambda answers: next(values), fingerprint="f", budget=Budget(None),
        ctx=context(tmp_path, metric=lambda name, step, value: seen[name].append(value)),
    )  # fmt: skip
    assert seen["val_headline"] == [0.5, 0.9, 0.9, 0.7]
    assert progress.best_epoch == (2 if seen["val_loss"][1] <= seen["val_loss"][2] else 3)


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    _, progress = run(plan(epochs=3), context(tmp_path), val=None)
    assert progress.best_epoch == 3


def test_a_budget_ends_training_and_the_rate_still_falls_to_its_end(tmp_path: Path) -> None:
    began = time.monotonic()
    _, progress = run(plan(epochs=100_000), context(tmp_path), budget=Budget(1.5, after_s=2.0))
    assert 0.7 < time.monotonic() - began < 1.65
    assert progress.ended == "budget"
    assert progress.epoch >= 1


def test_a_resumed_training_does_not_get_its_budget_anew(tmp_path: Path) -> None:
    progress = Progress(fingerprint="f", epoch=1, best_epoch=1, best=learner(plan()).network.state_dict(), spent_s=9.0)
    optimizer = learner(plan()).configure_optimizers().state_dict()
    state = {
        "network": progress.best,
        "optimizer": optimizer,
        "progress": {name: getattr(progress, name) for name in Progress.__slots__},
    }
    checkpoint.save_atomically(state, tmp_path / checkpoint.CHECKPOINT)
    _, after = run(plan(epochs=100_000), context(tmp_path), budget=Budget(9.0))
    assert after.ended == "budget"
    assert after.epoch == 2


def test_a_loss_that_is_not_a_number_fails_with_a_hint(tmp_path: Path) -> None:
    class Broken(CompactCnn):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * math.nan

    pupil = learner(plan())
    pupil.network = Broken(2, [4, 8], 1, 1, 0.0)
    with pytest.raises(Failed, match="loss must be finite") as caught:
        fit(pupil, split(20), VAL, accuracy, fingerprint="f", budget=Budget(None), ctx=context(tmp_path))
    assert "rate" in caught.value.hint
    assert not (tmp_path / checkpoint.CHECKPOINT).exists()


def test_a_full_disk_is_one_clear_error_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / checkpoint.CHECKPOINT
    checkpoint.save_atomically({"a": torch.ones(1)}, path)

    def full(state: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(NoSpace, match="disk is full"):
        checkpoint.save_atomically({"a": torch.zeros(1)}, path)
    monkeypatch.undo()
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(1))
    assert [file.name for file in tmp_path.iterdir()] == [checkpoint.CHECKPOINT]


def test_progress_is_told_at_least_each_epoch_and_never_falls(tmp_path: Path) -> None:
    shares: list[float] = []
    run(plan(), context(tmp_path, report=lambda share, text: shares.append(share)))
    assert len(shares) >= 4
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("count", [1, 2, 8, 9, 17])
def test_batches_cover_all_items_once_and_none_is_tiny(count: int) -> None:
    batches = Batches(split(count), 8, seed=3)
    first = [len(targets) for _, targets in batches]
    assert sum(first) == count
    assert len(first) == len(batches)
    assert max(first) - min(first) <= 1


def test_every_epoch_has_an_order_of_its_own() -> None:
    data = split(16)
    batches = Batches(data, 16, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        batches.epoch = epoch
        orders.append(next(iter(batches))[0])
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])


def test_the_rate_rises_then_falls() -> None:
    rates = [rate_share(step / 100, 0.1) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == 1.0
    assert rates[-1] <= 1e-3
