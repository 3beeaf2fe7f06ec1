"""The tournament: how much faster the best variant is than torch, whether it answers alike, and how long it takes.

Speed: timm's mobilenetv3_large_100, resnet18 and vit_tiny_patch16_224 with random weights (norms calibrated on images
like those that they are asked with, so that activations have sensible ranges), 224 x 224, one thread, one image at a
time, torch and the variants taking turns. Random weights have no accuracy to lose: of the answers the signal-to-noise
ratio against fp32 is told, and beside it that of fp32 itself on images with as little noise as rounding them makes: a
network that turns that into few decibels does so with INT8 too. Accuracy: scikit-learn's digits, small networks trained
here from three seeds; the choice is made on val, what is told here is test. The tournament's time is told in seconds of
processor time too, which other work on the machine changes less.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import Figure
from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.data.source import Progress
from loopworks.optimize.stage import optimize
from loopworks.tasks.answers import answers
from loopworks.train.stage import train

NETS = {"mobilenetv3_large_100": 4.0, "resnet18": 4.0, "vit_tiny_patch16_224": 0.0}
"""Network -> how many times as fast as torch its best variant must be; 0: told, not judged."""
CLASSES, SIZE = 10, 224
COUNTS = {"train": 64, "val": 64, "test": 0}
ROUNDS = 7
MAX_DROP = 0.01
LEAST_DB = 15.0
"""Signal-to-noise ratio under which a variant is another model."""
LIMIT_S = 180.0
SEEDS = (0, 1, 2)
EPOCHS = 15
TOLD, SPLIT = 597, 2026
"""Test items of digits, and the seed that picks them: they are the same in every run."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Items in memory."""

    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[np.float32]]
    schema: LabelSchema
    id: str = "0" * 64
    task: Learnable = field(default_factory=lambda: plugins.get("task.image-classification"))

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(images) for split, images in self.images.items()}

    @property
    def typical_size(self) -> tuple[int, int]:
        height, width = self.images["train"].shape[1:3]
        return width, height

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        from PIL import Image

        assert isinstance(rule, ImageRule)
        size = (rule.width, rule.height)
        return {"image": np.stack([np.asarray(Image.fromarray(x).resize(size)) for x in self.images[split]])}

    def targets(self, split: str) -> NDArray[np.float32]:
        return self.labels[split]

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": f"{split} {place}"} for place in range(len(self.images[split]))]


def context(folder: Path, seed: int = 0) -> Context:
    return Context(seed=seed, scratch=folder, report=lambda share, text: None, stopped=lambda: False)


# ---- speed


def network(name: str, images: NDArray[np.uint8]) -> Any:
    """The network with random weights and norms that know its activations, as it is asked: uint8 in, chances out."""
    import timm
    import torch

    from loopworks.train.export import Served

    torch.manual_seed(0)
    net: Any = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    mean, std = torch.full((3,), 127.5), torch.full((3,), 60.0)
    served = Served(net, mean, std, lambda raw: {"scores": raw.softmax(1)}, ["scores"])
    served.train()
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = None  # the mean over all batches
        for start in range(0, len(images), 16):
            served(torch.from_numpy(images[start : start + 16]))
    served.eval()
    return served


def shapes(count: int, seed: int) -> NDArray[np.uint8]:
    """Images with something in them: soft blobs of colour under noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 7, 7, 3)).astype(np.float32)
    fine = coarse.repeat(SIZE // 7, axis=1).repeat(SIZE // 7, axis=2)
    return np.clip(fine + rng.normal(0, 25, fine.shape), 0, 255).astype(np.uint8)


def model(name: str, served: Any, folder: Path) -> Bundle:
    """The network as a bundle."""
    from loopworks.train.export import export

    folder.mkdir(parents=True)
    rule = ImageRule(height=SIZE, width=SIZE)
    export(served, rule, folder / "model.onnx")
    task: Learnable = plugins.get("task.image-classification")
    schema = LabelSchema(classes=tuple(f"c{i}" for i in range(CLASSES)))
    variant = Variant(
        name="onnx-fp32",
        runtime="onnxruntime",
        precision="fp32",
        file="model.onnx",
        files=("model.onnx",),
        size_bytes=(folder / "model.onnx").stat().st_size,
    )
    return bundles.write(
        Bundle(
            task=task.name,
            schema=schema,
            rule=rule,
            inputs=rule.inputs(),
            outputs=task.outputs(schema),
            version="0" * 64,
            recipe=f"timm.{name}",
            variants=(variant,),
            chosen=variant.name,
        ),
        folder,
    )


def times(asked: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Milliseconds of one call: the median of the rounds' medians, taking turns."""
    found: dict[str, list[float]] = {name: [] for name in asked}
    for call in asked.values():
        for _ in range(3):
            call()
    for _ in range(ROUNDS):
        for name, call in asked.items():
            calls: list[float] = []
            end = time.perf_counter() + 0.3
            while len(calls) < 5 or time.perf_counter() < end:
                began = time.perf_counter()
                call()
                calls.append(time.perf_counter() - began)
            found[name].append(1000 * float(np.median(calls)))
    return {name: float(np.median(rounds)) for name, rounds in found.items()}


def speed(name: str, floor: float, folder: Path) -> list[Figure]:
    import torch

    torch.set_num_threads(1)
    images = {split: shapes(count, seed) for seed, (split, count) in enumerate(COUNTS.items()) if count}
    served = network(name, images["train"])
    plain = model(name, served, folder / "plain")
    base = predictors.load(plain.variants[0], plain.folder, plain.rule, threads=1)
    labels = {split: np.eye(CLASSES, dtype=np.float32)[_scores(base, x).argmax(1)] for split, x in images.items()}
    base.close()
    source = Pictures(images=images, labels=labels, schema=plain.schema)
    began, spent = time.perf_counter(), _processor_s()
    # Answers of random weights hang on little; whether accuracy holds is measured on the digits below.
    best = optimize(plain, source, folder=folder / "best", max_drop=1.0, ctx=context(folder), threads=1)
    took, worked = time.perf_counter() - began, _processor_s() - spent
    same = [v for v in best.variants if not v.name.startswith("lower")]
    loaded = {v.name: predictors.load(v, best.folder, best.rule, threads=1) for v in same}
    wanted = _scores(loaded["onnx-fp32"], images["val"])
    noise = {name: _decibel(wanted, _scores(predictor, images["val"])) for name, predictor in loaded.items()}
    step = np.random.default_rng(0).integers(-1, 2, images["val"].shape)
    nearly = np.clip(images["val"].astype(np.int16) + step, 0, 255).astype(np.uint8)
    floor_db = _decibel(wanted, _scores(loaded["onnx-fp32"], nearly))
    sound = [v for v in same if noise[v.name] >= LEAST_DB]
    quickest = min(sound, key=lambda one: one.latency_ms["p50"]).name
    one = np.ascontiguousarray(images["val"][:1])

    def eager() -> None:
        with torch.inference_mode():
            served(torch.from_numpy(one))

    ms = times({"torch": eager, "best": lambda: loaded[quickest].predict({"image": one})})
    for predictor in loaded.values():
        predictor.close()
    ratio = ms["torch"] / ms["best"]
    table = ", ".join(
        f"{v.name} {v.latency_ms['p50']:.2f} ms"
        + (f" {noise[v.name]:.0f} dB" if np.isfinite(noise.get(v.name, np.inf)) else "")
        for v in best.variants
    )
    detail = f"torch eager {ms['torch']:.1f} ms, {quickest} {ms['best']:.2f} ms; in the tournament: {table}"
    return [
        Figure(
            name=f"optimize {name} against torch", value=ratio, unit="ratio", target=floor, at_least=True, detail=detail
        ),
        Figure(
            name=f"optimize {name} answers like fp32",
            value=min(noise[quickest], 200.0),
            unit="dB",
            target=LEAST_DB,
            at_least=True,
            detail=f"{quickest}, last layer on {COUNTS['val']} images; fp32 itself on pixels that are one up or down: "
            f"{floor_db:.0f} dB",
        ),
        Figure(
            name=f"optimize {name} tournament",
            value=took,
            unit="s",
            target=LIMIT_S,
            detail=f"{len(best.variants)} variants, {worked:.0f} s of processor time",
        ),
    ]


def _processor_s() -> float:
    """Seconds of processor time of this process and those that it started."""
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def _decibel(wanted: NDArray[Any], given: NDArray[Any]) -> float:
    """Signal-to-noise ratio of what the last layer gives (up to a constant per image, which chances do not tell)."""
    left, right = (
        np.log(np.maximum(scores, 1e-30)) for scores in (wanted.astype(np.float64), given.astype(np.float64))
    )
    left, right = left - left.mean(1, keepdims=True), right - right.mean(1, keepdims=True)
    noise = float(((left - right) ** 2).sum())
    return 10 * float(np.log10(float((left**2).sum()) / noise)) if noise else float("inf")


def _scores(predictor: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(answers(predictor, {"image": images}, batch=16)["scores"])


# ---- accuracy


def digits(seed: int) -> Pictures:
    """597 to tell, the same for every seed; of the others 800 to learn from and 400 to choose by."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(SPLIT).permutation(len(found.images))
    order[TOLD:] = np.random.default_rng(seed).permutation(order[TOLD:])
    pictures = np.repeat((found.images[order] * 255 / 16).astype(np.uint8)[..., None], 3, axis=-1)
    rows = np.eye(10, dtype=np.float32)[found.target[order]]
    cuts = {"test": slice(0, TOLD), "train": slice(TOLD, TOLD + 800), "val": slice(TOLD + 800, None)}
    return Pictures(
        images={split: pictures[cut] for split, cut in cuts.items()},
        labels={split: rows[cut] for split, cut in cuts.items()},
        schema=LabelSchema(classes=tuple("0123456789")),
    )


def accuracy(folder: Path) -> list[Figure]:
    """Accuracy that the choice loses on the frozen test set, and the most that any variant inside the budget loses.

    Each item counts once: what it loses is the mean over the seeds, so that the interval is that of the items.
    """
    lost: dict[str, list[NDArray[np.float64]]] = {}
    told = []
    for seed in SEEDS:
        source = digits(seed)
        place = folder / f"digits-{seed}"
        began = time.perf_counter()
        params = {"image_size": 32, "epochs": EPOCHS}
        plain = train(
            source, recipe="small-cnn", params=params, folder=place / "plain", ctx=context(place, seed), threads=2
        )
        ready = time.perf_counter()
        best = optimize(plain, source, folder=place / "best", max_drop=MAX_DROP, ctx=context(place, seed), threads=1)
        took = time.perf_counter() - ready
        right = {v.name: _right(best, v, source) for v in best.variants if not v.is_refused}
        base = right["onnx-fp32"]
        for name, found in right.items():
            if name != "onnx-fp32":
                lost.setdefault(name, []).append(base - found)
        lost.setdefault("chosen", []).append(base - right[best.chosen])
        refused = [v.name for v in best.variants if v.is_refused]
        quicker = best.variants[0].latency_ms["p50"] / best.variant(best.chosen).latency_ms["p50"]
        told.append(
            f"seed {seed}: fp32 {base.mean():.4f}, {best.chosen} {right[best.chosen].mean():.4f} ({quicker:.1f} x), "
            f"refused {', '.join(refused) or 'none'}, trained in {ready - began:.0f} s, tournament {took:.0f} s"
        )
    losses = {name: _interval(np.mean(found, axis=0)) for name, found in lost.items()}
    mean, low, high = losses.pop("chosen")
    worst = max(losses, key=lambda name: losses[name][0])
    table = "; ".join(f"{name} {at:+.4f} [{a:+.4f}, {b:+.4f}]" for name, (at, a, b) in sorted(losses.items()))
    return [
        Figure(
            name="optimize digits, accuracy lost by the choice",
            value=mean,
            unit="share",
            target=MAX_DROP,
            detail=f"95 % [{low:+.4f}, {high:+.4f}], {TOLD} frozen test items, {len(SEEDS)} seeds; {'; '.join(told)}",
        ),
        Figure(
            name="optimize digits, most lost by a variant",
            value=losses[worst][0],
            unit="share",
            target=MAX_DROP,
            detail=f"{worst}, of those not refused; lost in the mean over seeds: {table}",
        ),
    ]


def _right(best: Bundle, variant: Variant, source: Pictures) -> NDArray[np.float64]:
    """1 where the variant is right about a test item."""
    predictor = predictors.load(variant, best.folder, best.rule, threads=1)
    try:
        said = answers(predictor, source.inputs(best.rule, "test"))["scores"].argmax(axis=1)
    finally:
        predictor.close()
    return np.asarray(said == source.labels["test"].argmax(axis=1), np.float64)


def _interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean with its 95 % interval, by drawing items anew."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def main(names: Sequence[str] = ()) -> list[Figure]:
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="loopworks-optimize-") as scratch:
        for name, floor in NETS.items():
            if not names or name in names:
                found += speed(name, floor, Path(scratch) / name)
        if not names or "digits" in names:
            found += accuracy(Path(scratch))
    return found


if __name__ == "__main__":
    for figure in main(sys.argv[1:]):
        print(figure.line())
