"""What every recipe that trains a torch network on images has in common: parameters and the way from a lesson to a
bundle's files. What is learnt (classes, boxes, masks) is the recipe's objective; see ``loop.Objective``."""

import importlib
import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Arrays, Context, Pictured
from loopworks.core.errors import Missing
from loopworks.core.settings import quiet_libraries
from loopworks.core.values import ImageRule
from loopworks.data.source import Source
from loopworks.train import judge
from loopworks.train.contracts import Draw, Lesson, Made
from loopworks.train.lesson import ending, fingerprint, judge_of

if TYPE_CHECKING:
    from torch import nn

    from loopworks.train.augment import Augment
    from loopworks.train.loop import Objective, Plan, Show

WEIGHTS, MODEL = "model.safetensors", "model.onnx"
TINY_PX = 48
"""Largest side of an image that counts as tiny, in pixels."""
SHORT_S = 60.0
"""A budget under which no pretrained backbone is worth its start."""
PICTURE_PX = 1200
"""Longer side of a picture of validation items, in pixels."""
STATS_PX = 128
"""Pixels along the shorter side of an image from which its colours are read, at most twice as many."""
EXPORT_S, LAYER_S = 3.5, 0.03
"""Seconds of one core that the export of any network is taken for, and of each of its layers: an estimate."""
FEWEST, MOST = 15, 200
"""The fewest and most epochs that a training without a budget makes of the steps it aims at."""
FEW = 512
"""Training images below which batches of 16 learn as much per image as batches of 32, in half the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFit:
    """Parameters of every training of a network on images."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    steps: ClassVar[int] = 400
    """Optimizer steps that a training without a budget aims at."""

    image_size: Annotated[int, Field(ge=0, le=1024)] = 0
    """Height and width that images are resized to, in pixels; 0 chooses by the data."""
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    """How an image meets the square: stretched, its centre cropped, or padded with black."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Times that the training goes over all images; 0 chooses by the number of images and the budget."""
    batch: Annotated[int, Field(ge=0, le=4096)] = 0
    """Images per step; 0 is 16 below 512 training images, else 32."""
    rate: Annotated[float, Field(gt=0, le=1)] = 6e-3
    """Highest learning rate, no unit; it rises at the start and falls along a cosine."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Pull of the weights towards zero (AdamW), no unit."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    """Largest random move of an image along each axis, as a share of its side."""
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest random change of size, as a share."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 8.0
    """Largest random turn, in degrees."""
    light: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Largest random change of brightness and contrast, as a share."""
    flip: Literal["none", "horizontal", "both"] = "none"
    """Random mirroring; only where a mirrored image keeps its class (not for letters, digits, arrows)."""
    patience: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Epochs without a better validation result after which training stops; 0 is half of all epochs."""

    @classmethod
    def load(cls) -> None:
        """Import what a training needs."""
        load_libraries()

    @classmethod
    def shares(cls) -> str:
        """Workers split each batch."""
        return "batches"

    def rule(self, _source: Source) -> ImageRule:
        """How images of the source become the network's input; ``image_size`` is chosen already."""
        return ImageRule(height=self.image_size, width=self.image_size, fit=self.fit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFit(ImageFit):
    """Parameters of every training of a network that says what an image is."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of each single label that is spread over the other classes."""

    def objective(self, augment: "Augment", source: Source) -> "Objective":
        """Class scores."""
        from loopworks.train.objectives import Classes

        return Classes(augment, is_multi=source.schema.is_multi, smoothing=self.smoothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A network that is ready to learn."""

    network: "nn.Module"
    """Takes normalized float images ``(n, 3, height, width)``, gives what the objective's ``loss`` takes."""
    mean: NDArray[np.float32]
    """Per channel, in 0..255, shape ``(3,)``."""
    std: NDArray[np.float32]
    head: str
    """Name of the last layer, whose rows are the classes."""
    notes: tuple[str, ...] = ()


PRELOAD = tuple(
    f"loopworks.train.{name}" for name in ("batches", "loop", "together", "objectives", "export", "nets", "warm")
)
"""Modules that a warm worker may import ahead: they load torch, Lightning, onnx and onnxscript (some 10 s cold)."""

Build = Callable[[int, NDArray[np.uint8], Context], Net]
"""Takes the number of classes, the training images and the context."""
Aim = Callable[["Augment", Source], "Objective"]
"""Takes the random changes of images and the source, and gives what is learnt."""


def load_libraries() -> None:
    """Import what a training needs, so that its time budget starts after that.

    Raises: Missing: the [train] extra is not installed.
    """
    quiet_libraries()
    for name in ("torch", "lightning", "onnx", "onnxscript", "safetensors"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise Missing(name, "train", "training a network") from None
    for name in PRELOAD:
        importlib.import_module(name)


def learn(lesson: Lesson, ctx: Context, params: ImageFit, recipe: str, build: Build, objective: Aim) -> Made:
    """Train, save the weights, export to ONNX.

    Args:
        lesson: what to learn from, and where to write.
        ctx: progress 0..1 of the whole.
        params: with ``image_size`` chosen already.
        recipe: the plug-in's name.
        build: makes the network; torch's random state is seeded when it is called.
        objective: makes what is learnt.
    Raises: Invalid, Failed, Cancelled, NoSpace.
    """
    load_libraries()
    import torch

    from loopworks.train.augment import Augment, Change
    from loopworks.train.budget import Budget
    from loopworks.train.loop import Learner, evaluate
    from loopworks.train.together import fit
    from loopworks.train.warm import start_from

    budget = Budget(lesson.budget_s, after_s=EXPORT_S)
    source = lesson.source
    rule = params.rule(source)
    train, val = _splits(lesson, rule, ctx.part(0.0, 0.08))
    params = _with_epochs(params, len(train), lesson.budget_s)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed)
        net = build(len(source.schema.classes), train.images.numpy(), ctx.part(0.08, 0.1))
    budget.after_s = export_s(net.network) + judge.seconds(source.counts)
    notes = list(net.notes)
    if lesson.start is not None:
        notes.append(start_from(lesson.start, net.network, net.head, source.schema))
    if lesson.prune:
        from loopworks.train.prune import prune

        notes.append(prune(net.network, net.head, lesson.prune, (rule.height, rule.width)))
    mean, std = torch.from_numpy(net.mean), torch.from_numpy(net.std)
    change = Change(
        shift=params.shift, scale=params.scale, rotate_deg=params.rotate_deg, light=params.light, flip=params.flip
    )
    aim = objective(Augment(change, mean, std, torch.device("cpu")), source)
    learner = Learner(net.network, aim, _plan(params, lesson, rule))
    if not lesson.is_still:
        progress = fit(
            learner,
            train,
            val,
            judge_of(source),
            fingerprint=fingerprint(lesson, ctx.seed, recipe, params),
            budget=budget,
            ctx=ctx.part(0.1, 0.85),
            show=_show(source),
            workers=lesson.workers,
        )
        notes += ending(progress, epochs=params.epochs, batch=params.batch, has_val=val is not None)
    if val is not None and hasattr(aim, "settle"):
        answers, _ = evaluate(learner, val, params.batch, partial(ctx.tick, 0.85, "settle"))
        aim.settle(answers, source.targets("val"))
    ctx.tick(0.85, "export")
    variant = _write(lesson, net, rule, aim)
    ctx.tick(1.0, "exported")
    return Made(variant=variant, rule=rule, params=asdict(params), notes=tuple(notes))


def export_s(network: "nn.Module") -> float:
    """Seconds that one core computes to write and check a network: the exporter takes time for every layer."""
    return EXPORT_S + LAYER_S * sum(1 for part in network.modules() if not any(part.children()))


def _splits(lesson: Lesson, rule: ImageRule, ctx: Context) -> "tuple[Any, Any]":
    from loopworks.train.batches import Split

    source = lesson.source
    name = rule.inputs()[0].name
    pixels, targets = lesson.inputs.get(rule, "train", ctx.part(0.0, 0.8))[name], source.targets("train")
    if len(pixels) == 1:  # of which alone batch norm could learn nothing
        pixels, targets = pixels.repeat(2, axis=0), targets.repeat(2, axis=0)
    train = Split.of(pixels, targets)
    if not source.counts.get("val", 0):
        return train, None
    return train, Split.of(lesson.inputs.get(rule, "val", ctx.part(0.8, 1.0))[name], source.targets("val"))


def _with_epochs(params: ImageFit, items: int, budget_s: float | None) -> ImageFit:
    """Fill in batch, epochs and patience: enough steps for few images; with a budget, the clock decides earlier."""
    params = replace(params, batch=params.batch or (16 if items < FEW else 32))
    epochs = params.epochs or min(MOST, max(FEWEST, round(params.steps / math.ceil(items / params.batch))))
    if budget_s is not None and not params.epochs:
        epochs *= 4
    return replace(params, epochs=epochs, patience=params.patience or max(5, epochs // 2))


def _plan(params: ImageFit, lesson: Lesson, rule: ImageRule) -> "Plan":
    from loopworks.train.loop import Plan

    return Plan(
        epochs=params.epochs,
        batch=params.batch,
        rate=params.rate,
        weight_decay=params.weight_decay,
        patience=params.patience,
        # A second thread gains little on tiny images (1.3 x when all is quiet) and costs 2 to 3 x beside other work.
        threads=lesson.threads or (1 if max(rule.height, rule.width) <= TINY_PX else 0),
    )


def _write(lesson: Lesson, net: Net, rule: ImageRule, objective: "Objective") -> Variant:
    import torch
    from safetensors.torch import save_file

    from loopworks.train.export import Served, export

    network = net.network.cpu().eval()
    state: dict[str, torch.Tensor] = {}
    places: set[tuple[object, ...]] = set()
    for name, x in network.state_dict().items():  # what has two names is written once, under the first of them
        place = (x.data_ptr(), x.shape, x.stride())
        if not x.numel() or place not in places:
            state[name] = x.detach().contiguous()
        places.add(place)
    # One entry of metadata alone: several are written in another order each time, and the file's checksum with them.
    save_file(state, lesson.folder / WEIGHTS, metadata={"head": net.head})
    outputs = [spec.name for spec in lesson.source.task.outputs(lesson.source.schema)]
    served = Served(network, torch.from_numpy(net.mean), torch.from_numpy(net.std), objective.answer, outputs).eval()
    export(served, rule, lesson.folder / MODEL)
    return Variant(
        name="onnx-fp32",
        runtime="onnxruntime",
        precision="fp32",
        file=MODEL,
        files=(MODEL,),
        size_bytes=(lesson.folder / MODEL).stat().st_size,
    )


def _show(source: Source) -> "Show | None":
    """Makes pictures of validation items, where the task kind can."""
    task, schema = source.task, source.schema
    if not isinstance(task, Pictured):
        return None

    def show(images: NDArray[np.uint8], targets: NDArray[Any], answers: Arrays) -> bytes:
        from PIL import Image

        picture = Image.fromarray(task.sample(images, targets, answers, schema))
        picture.thumbnail((PICTURE_PX, PICTURE_PX))
        out = io.BytesIO()
        picture.save(out, "PNG")
        return out.getvalue()

    return show


def augmentation(draw: Draw) -> dict[str, Any]:
    """How much a search lets images change; mirroring stays as it is, since it may change the class."""
    return {
        "shift": draw.number("shift", 0.0, 0.15),
        "scale": draw.number("scale", 0.0, 0.25),
        "rotate_deg": draw.number("rotate_deg", 0.0, 15.0),
        "light": draw.number("light", 0.0, 0.3),
    }


def channel_stats(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation per channel in 0..255, each of shape ``(3,)``; of at most 512 of the images,
    and of large ones not of every pixel."""
    step = max(1, min(images.shape[1:3]) // STATS_PX)
    some = images[:: max(1, len(images) // 512), ::step, ::step].reshape(-1, 3).astype(np.float64)
    return some.mean(axis=0).astype(np.float32), np.maximum(some.std(axis=0), 1.0).astype(np.float32)
