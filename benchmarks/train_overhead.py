"""What our training loop costs over a bare PyTorch loop: ``python -m benchmarks.train_overhead`` prints one JSON line.

Both loops do the same work on the same network, images, batches, augmentation and optimizer; ours adds Lightning, the
learning rate, progress, cancel and the budget (checkpoints are left out: one part in fifty at most). The loops
take turns on one thread; processor seconds are compared, because neighbours change seconds on the wall by a tenth; the
ratio is the median over the turns of ours / bare.
"""

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import Figure
from loopworks.core.contracts import Context

TURNS, CLASSES = 7, 10
CASES: dict[str, dict[str, Any]] = {
    "small-cnn 32 px": {"size": 32, "batch": 32, "items": 320, "epochs": 4, "target": 1.03},
    "small-cnn 32 px, batch 16": {"size": 32, "batch": 16, "items": 160, "epochs": 8, "target": 1.03},
    "resnet18 64 px": {"size": 64, "batch": 32, "items": 128, "epochs": 3, "target": 1.03},
}


def network(case: str, size: int) -> Any:
    import torch

    torch.manual_seed(0)
    if case.startswith("small-cnn"):
        from loopworks.train.nets import CompactCnn

        return CompactCnn(CLASSES, [16, 32, 64], 1, 1, 0.1)
    import timm

    return timm.create_model("resnet18", pretrained=False, num_classes=CLASSES)


def learner(case: str, facts: dict[str, Any], epochs: int) -> Any:
    import torch

    from loopworks.train.augment import Augment, Change
    from loopworks.train.loop import Learner, Plan
    from loopworks.train.objectives import Classes

    change = Change(shift=0.08, scale=0.1, rotate_deg=8.0, light=0.1)
    middle = torch.full((3,), 127.0)
    plan = Plan(
        epochs=epochs, batch=facts["batch"], rate=1e-3, weight_decay=0.05, patience=epochs, threads=1,
       
    )  # fmt: skip
    objective = Classes(Augment(change, middle, middle, torch.device("cpu")), is_multi=False, smoothing=0.05)
    return Learner(network(case, facts["size"]), objective, plan)


def data(facts: dict[str, Any]) -> Any:
    from loopworks.train.batches import Split

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (facts["items"], facts["size"], facts["size"], 3), dtype=np.uint8)
    return Split.of(images, np.eye(CLASSES, dtype=np.float32)[np.arange(facts["items"]) % CLASSES])


def ours(case: str, facts: dict[str, Any], split: Any) -> float:
    """Processor seconds per epoch, from the end of the first to the end of the last."""
    from loopworks.train.budget import Budget
    from loopworks.train.loop import fit

    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context(
            seed=0,
            scratch=Path(folder),
            report=lambda share, text: None,
            stopped=lambda: False,
            metric=lambda name, step, value: ends.append(time.process_time()),
        )
        pupil = learner(case, facts, facts["epochs"] + 1)
        fit(pupil, split, None, lambda answers: 0.0, fingerprint="", budget=Budget(None), ctx=ctx)
    return (ends[-1] - ends[0]) / int(facts["epochs"])


def bare(case: str, facts: dict[str, Any], split: Any) -> float:
    """Processor seconds per epoch of the loop that one would write by hand, after a first epoch that does not count."""
    import torch

    from loopworks.train.batches import Batches

    pupil = learner(case, facts, 1)
    model = pupil.network.to(memory_format=torch.channels_last).train()
    optimizer = pupil.configure_optimizers()
    batches = Batches(split, facts["batch"], 0)
    ends: list[float] = []
    with one_thread():
        for epoch in range(facts["epochs"] + 1):
            batches.epoch = epoch
            for images, targets in batches:
                optimizer.zero_grad()
                x, wanted = pupil.objective.prepare(images, targets, is_training=True)
                loss = pupil.objective.loss(model(x), wanted)
                loss.backward()
                optimizer.step()
            ends.append(time.process_time())
    return (ends[-1] - ends[0]) / int(facts["epochs"])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> list[Figure]:
    figures = []
    for case, facts in CASES.items():
        split = data(facts)
        pairs = []
        for turn in range(TURNS):
            first, second = (ours, bare) if turn % 2 else (bare, ours)
            one, two = first(case, facts, split), second(case, facts, split)
            pairs.append((one, two) if turn % 2 else (two, one))
        ratio = statistics.median(mine / plain for mine, plain in pairs)
        steps = -(-facts["items"] // facts["batch"])
        step_ms = 1000 * statistics.median(plain for _, plain in pairs) / steps
        extra_ms = 1000 * statistics.median(mine - plain for mine, plain in pairs) / steps
        figures.append(
            Figure(
                name=f"training loop over bare PyTorch, {case}",
                value=round(ratio, 4),
                unit="ratio",
                target=facts["target"],
                detail=f"bare step {step_ms:.1f} ms, ours {extra_ms:+.2f} ms, median of {TURNS} turns",
            )
        )
    return figures


if __name__ == "__main__":
    print(json.dumps([figure.to_json() for figure in main()]))
