"""A training that meets the machine's limits: memory that runs out, a disk that is full, precision, pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.train.pictures import things
from tests.train.segmentation.scenes import scenes

from loopworks.core.contracts import Arrays, Context
from loopworks.core.errors import Cancelled, Failed, NoSpace
from loopworks.testing.context import Recorder
from loopworks.train import checkpoint, loop, machine, stage
from loopworks.train.augment import Augment, Change
from loopworks.train.batches import Batches, Split
from loopworks.train.budget import Budget
from loopworks.train.checkpoint import Progress
from loopworks.train.loop import Learner, Plan, fit
from loopworks.train.nets import CompactCnn
from loopworks.train.objectives import Classes

pytestmark = pytest.mark.train


def split(count: int, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    targets = np.eye(2, dtype=np.float32)[np.arange(count) % 2]
    images[targets[:, 1] == 1, 3:9, 3:9] //= 4
    return Split.of(images, targets)


TRAIN, VAL = split(32), split(8, seed=9)


class Cramped(CompactCnn):
    """A network on a machine that has room for so many images at once."""

    room = 99
    seen: list[int]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x)


def learner(room: int, *, epochs: int = 3, batch: int = 16, has_norm: bool = True) -> Learner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Cramped(2, [4, 8], 1, 1, 0.0)
    network.room, network.seen = room, []
    if not has_norm:
        for block in network.modules():
            for name, part in list(block.named_children()):
                if isinstance(part, torch.nn.BatchNorm2d):
                    setattr(block, name, torch.nn.Identity())
    ones = torch.full((3,), 127.0)
    plan = Plan(
        epochs=epochs, batch=batch, rate=5e-3, weight_decay=0.05, patience=99, threads=1, checkpoint_every_s=0.0
    )
    objective = Classes(Augment(Change(), ones, ones, torch.device("cpu")), is_multi=False, smoothing=0.0)
    return Learner(network, objective, plan)


def accuracy(answers: Arrays) -> float:
    return float((answers["scores"].argmax(1) == VAL.targets.argmax(1).numpy()).mean())


def run(pupil: Learner, context: Context, **more: Any) -> Progress:
    return fit(pupil, TRAIN, VAL, accuracy, fingerprint="f", budget=Budget(None), ctx=context, **more)


def weights(pupil: Learner) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in pupil.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float = 0.0) -> bool:
    return all(torch.allclose(x.float(), other[name].float(), atol=within, rtol=0) for name, x in one.items())


def test_a_batch_without_room_is_halved_until_it_fits(tmp_path: Path) -> None:
    pupil = learner(room=5)
    progress = run(pupil, Recorder().context(tmp_path))
    assert progress.pieces == 4
    assert progress.epoch == 3
    assert max(pupil.network.seen[-20:]) <= 5  # type: ignore[index]


def test_added_gradients_of_parts_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Without batch norm, which sees the parts alone, the weights are the same to rounding."""
    whole, parts = learner(room=99, has_norm=False), learner(room=8, has_norm=False)
    run(whole, Recorder().context(tmp_path / "whole"))
    assert run(parts, Recorder().context(tmp_path / "parts")).pieces == 2
    assert same(weights(whole), weights(parts), within=2e-4)
    assert not same(weights(whole), weights(learner(room=99, has_norm=False)), within=2e-3), "nothing was learnt"


def test_training_goes_on_from_the_last_checkpoint_and_keeps_its_parts(tmp_path: Path) -> None:
    """Memory runs out in the second epoch; the first is not learnt again, and a killed run resumes to the bit."""

    class Later(Cramped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.room = 8 if (tmp_path / "one" / checkpoint.CHECKPOINT).exists() else 99
            return super().forward(x)

    pupil = learner(room=99)
    pupil.network.__class__ = Later
    progress = run(pupil, Recorder().context(tmp_path / "one"))
    assert (progress.pieces, progress.epoch) == (2, 3)
    # The first epoch in whole batches and validation at once; then one failure; then parts.
    assert pupil.network.seen[:4] == [16, 16, 8, 16]  # type: ignore[index]

    small = learner(room=8)
    run(small, Recorder().context(tmp_path / "two"))
    killed = learner(room=8)
    recorder = Recorder(stop_after=12)
    with pytest.raises(Cancelled):
        run(killed, recorder.context(tmp_path / "three"))
    again = learner(room=8)
    assert run(again, Recorder().context(tmp_path / "three")).pieces == 2
    assert same(weights(again), weights(small))


def test_no_room_for_the_smallest_batch_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="must fit into memory; got out of memory") as caught:
        run(learner(room=1), Recorder().context(tmp_path))
    assert "image_size" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, is_memory: bool) -> None:
    assert machine.is_out_of_memory(error) is is_memory


def test_other_errors_are_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Cramped, "forward", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(learner(room=99), Recorder().context(tmp_path))


def test_parts_hold_every_item_once() -> None:
    batches = Batches(split(31), 8, 0, pieces=2)
    sizes = [len(images) for images, _ in batches]
    assert len(sizes) == len(batches) == 8
    assert sum(sizes) == 31
    assert min(sizes) == batches.least == 3


def test_a_full_disk_costs_checkpoints_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any, path: Path) -> None:
        raise NoSpace("checkpoint must be written; the disk is full")

    fine = learner(room=99)
    run(fine, Recorder().context(tmp_path / "fine"))
    monkeypatch.setattr(loop, "save_atomically", full)
    recorder, pupil = Recorder(), learner(room=99)
    progress = run(pupil, recorder.context(tmp_path / "full"))
    assert progress.unsaved == 3
    assert same(weights(pupil), weights(fine))
    assert any("the disk is full: no checkpoint" in text for _, text in recorder.ticks)


@pytest.mark.parametrize(
    ("has_gpu", "has_bf16", "capability", "wanted"),
    [
        (False, True, (9, 0), "32-true"),
        (True, True, (9, 0), "bf16-mixed"),
        (True, False, (7, 5), "16-mixed"),
        (True, False, (6, 1), "32-true"),
    ],
)
def test_precision_is_what_the_machine_computes_well_in(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, has_bf16: bool, capability: tuple[int, int], wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert machine.precision() == wanted


def test_mixed_precision_learns_and_keeps_full_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 on the processor, which computes as a GPU would, slower."""
    monkeypatch.setattr(machine, "precision", lambda: "bf16-mixed")
    pupil = learner(room=99, epochs=40)
    progress = run(pupil, Recorder().context(tmp_path))
    assert progress.best_value >= 0.9
    assert {x.dtype for x in weights(pupil).values()} == {torch.float32, torch.int64}


def test_pictures_of_validation_items_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SHOW_EVERY_S", 0.0)
    asked: list[tuple[int, int, int]] = []

    def show(images: NDArray[np.uint8], targets: NDArray[Any], answers: Arrays) -> bytes:
        asked.append((len(images), len(targets), len(answers["scores"])))
        return b"png"

    recorder = Recorder()
    run(learner(room=99), recorder.context(tmp_path), show=show)
    assert recorder.pictures == [("val", 1, b"png"), ("val", 2, b"png"), ("val", 3, b"png")]
    assert asked == [(4, 4, 4)] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "source"), [("small-detector", things(16, 4, 4)), ("small-segmenter", scenes(8, 4, 4))]
)
def test_every_objective_takes_what_mixed_precision_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, source: Any
) -> None:
    monkeypatch.setattr(machine, "precision", lambda: "bf16-mixed")
    params = {"epochs": 1, "width": 8, "blocks": 1, "batch": 8}
    recorder = Recorder()
    stage.train(
        source, recipe=recipe, params=params, folder=tmp_path / "b", ctx=recorder.context(tmp_path / "s"), threads=1
    )
    assert [step for name, step, value in recorder.metrics if name == "train_loss" and np.isfinite(value)] == [1]
