"""The contracts between the parts: what a step, a task kind, a predictor, a strategy and a blob store promise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Cancelled, Invalid
from loopworks.core.values import LabelSchema, Shape, TensorSpec

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Arrays = Mapping[str, NDArray[Any]]
"""Tensor name -> array; the first axis is the batch."""


def _no_metric(name: str, step: int, value: float) -> None:
    """Drop a metric nobody asked for."""


def _no_picture(name: str, step: int, png: bytes) -> None:
    """Drop a picture nobody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """All that a running step may touch: no globals, no clock, no network it was not given."""

    seed: int
    scratch: Path
    """Folder of this run. It survives a kill, so a step that runs again finds its checkpoints there."""
    report: Callable[[float, str], None]
    """Takes the share done in 0..1 and a short text."""
    stopped: Callable[[], bool]
    metric: Callable[[str, int, float], None] = _no_metric
    """Takes a metric's name, the step or epoch it belongs to, and its value."""
    picture: Callable[[str, int, bytes], None] = _no_picture
    """Takes a picture's name, the step or epoch it belongs to, and it as PNG: for people who watch the run."""
    job: str = ""
    """Id of the job that this run belongs to; empty outside of one."""

    def tick(self, share: float, text: str = "") -> None:
        """Report progress; raise ``Cancelled`` once the user asks to stop. Call it every second or so."""
        if self.stopped():
            raise Cancelled
        self.report(share, text)

    def part(self, start: float, end: float) -> "Context":
        """The same context for a piece of the work, whose 0..1 is our ``start``..``end``."""

        def report(share: float, text: str) -> None:
            self.report(start + (end - start) * share, text)

        return replace(self, report=report)


class Step(Protocol[In, Out]):
    """Offline. A frozen dataclass: its fields are its parameters, and building it does no work."""

    def run(self, source: In, ctx: Context, /) -> Out:
        """Return a new artifact, leave ``source`` untouched; same seed and source, same artifact."""


class Predictor(Protocol):
    """Online model: loaded once, called with batches from one thread at a time, never changes."""

    def predict(self, batch: Arrays, /) -> Arrays:
        """Answer a batch; every output has the batch's length as its first axis."""

    def close(self) -> None:
        """Free what the predictor holds; calling it twice is harmless."""


@runtime_checkable
class Task(Protocol):
    """One kind of question asked of items: what a label is. No stage asks ``if task == ...``."""

    @property
    def name(self) -> str:
        """Name in the registry without the ``task.`` part, e.g. ``image-classification``."""

    @property
    def media(self) -> str:
        """What an item is: image, text, row."""

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of shapes that answer the question, e.g. box; see ``core.values.Shape``."""

    def check(self, shapes: Sequence[Shape], schema: LabelSchema) -> tuple[Shape, ...]:
        """The canonical form of one item's label; raise ``Invalid`` where it makes no sense."""

    def draw(self, image: NDArray[np.uint8], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
        """A picture of the item with its label, for reports; ``image`` is ``(height, width, 3)``."""


Sizes = Sequence[tuple[int, int]]
"""Width and height of each item's image, in pixels; empty where items have no pictures."""
Metric = Callable[[NDArray[np.intp]], float]
"""A figure of merit on some items: takes their positions, shape ``(any,)``, repetitions allowed."""


@runtime_checkable
class Rule(Protocol):
    """How items become a model's input; each bundle says its rule. One class per medium, see ``core.rules``.

    Two steps: ``pack`` makes the tensors that clients send (pixels, texts, columns), ``encode`` makes of these what the
    model's graph takes. Whoever speaks to a predictor (``core.predictor.load``) speaks in packed tensors.
    """

    @property
    def media(self) -> str:
        """What an item is: image, text, row."""

    def inputs(self) -> tuple[TensorSpec, ...]:
        """The packed tensors; the first axis is the batch (-1)."""

    def pack(self, contents: Sequence[Any], *, names: Sequence[str] = (), max_pixels: int | None = None) -> Arrays:
        """Contents of items (bytes of image files, texts, rows as mappings) as ``inputs``.

        Args:
            contents: at least one.
            names: of the items, for errors.
            max_pixels: larger images are refused.
        Raises: Invalid: naming the first that cannot be read.
        """

    def encode(self, batch: Arrays, /) -> Arrays:
        """Packed tensors as the model's graph takes them."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with ``kind``: ``core.rules.read`` reads it."""


@runtime_checkable
class Opened(Protocol):
    """A rule that needs a file of its bundle to encode, say a tokenizer; ``core.predictor.opened`` asks."""

    @property
    def file(self) -> str:
        """Path of that file inside the bundle."""

    def opened(self, folder: Path) -> Rule:
        """The same rule, told where the bundle lies."""


@runtime_checkable
class Learnable(Task, Protocol):
    """A task kind that models can be trained for, scored and asked. Pure values and functions.

    ``targets`` is what training and scoring take for the truth: an array whose first axis is the items; what the rest
    of it means is between the task kind and the recipes that learn it, and each task kind's docstring says it.
    """

    @property
    def headline(self) -> str:
        """Name of the metric that the task kind is judged by; higher is better."""

    def targets(self, labels: Sequence[Sequence[Shape]], schema: LabelSchema, sizes: Sizes = ()) -> NDArray[Any]:
        """Labels as the training target, one row per item."""

    def teachable(self, targets: NDArray[Any], schema: LabelSchema) -> None:
        """Raise ``Invalid`` where no model can be learnt from these targets, e.g. all are of one class."""

    def outputs(self, schema: LabelSchema) -> tuple[TensorSpec, ...]:
        """What a model's answer looks like; the first axis is the batch (-1)."""

    def decode(self, outputs: Arrays, schema: LabelSchema, sizes: Sizes = ()) -> list[dict[str, Any]]:
        """A model's answer as one JSON value per item, for people; places in pixels where ``sizes`` are known."""

    def labels(
        self, outputs: Arrays, schema: LabelSchema, author: str, sizes: Sizes = ()
    ) -> list[tuple[tuple[Shape, float], ...]]:
        """A model's answer as label proposals (``source`` is model), each with its confidence in 0..1, per item."""

    def uncertainty(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """How unsure a model is of each item, in 0..1, shape ``(items,)``; 1 is a coin flip."""

    def features(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float32]:
        """A model's answer as a point per item, shape ``(items, dims)``: items that it answers alike are near."""

    def metrics(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> Mapping[str, Metric]:
        """Name -> metric on any of the items; always holds ``headline``. Work done here is shared by all calls.

        ``tasks.scores.score`` makes scores with intervals of them; ``tasks.scores.LOWER`` names those where less is
        better.
        """

    def by_class(
        self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema
    ) -> Mapping[str, Mapping[str, float]]:
        """Class -> metric -> value, for the classes that occur; the first metric is the one to compare classes by."""

    def quality(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """How right the answer is for each item, in 0..1, shape ``(items,)``: the lowest are the worst mistakes."""

    def agreement(self, left: Arrays, right: Arrays, schema: LabelSchema) -> float:
        """Share of items, in 0..1, on which two models give the same label."""


@runtime_checkable
class Pictured(Protocol):
    """A task kind that can show what a model says of images while it learns."""

    def sample(
        self, images: NDArray[np.uint8], targets: NDArray[Any], outputs: Arrays, schema: LabelSchema
    ) -> NDArray[np.uint8]:
        """One picture ``(height, width, 3)`` of a few images with the truth and the model's answer.

        Args:
            images: as the model takes them, shape ``(items, height, width, 3)``.
            targets: the truth, as ``targets`` made it.
            outputs: the model's answer to them.
            schema: the classes.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """A model's chances beside the truth, class by class."""

    chances: NDArray[np.float64]
    """In 0..1, shape ``(items, classes)``."""
    truth: NDArray[np.bool_]
    """Whether the item is of the class, same shape."""
    is_exclusive: bool
    """Whether an item is of exactly one class."""
    answers: NDArray[np.bool_]
    """What the model answers, shape ``(items, classes)``: not always the highest chance, where mistakes have costs."""


@runtime_checkable
class Chances(Protocol):
    """A task kind whose answer is a chance per class: it can be calibrated, and drawn as curves and confusion."""

    def odds(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> Odds:
        """The model's chances beside the truth; the columns are the classes of ``schema``."""


@runtime_checkable
class Told(Protocol):
    """A task kind that can say truth and answer in a few words, for lists of mistakes."""

    def tell(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> list[tuple[str, str]]:
        """Truth and answer of each item, each of at most some 80 characters."""


@runtime_checkable
class Translated(Protocol):
    """A task kind whose answers can be read by another list of classes, so that models of both can be compared."""

    def translate(self, outputs: Arrays, before: LabelSchema, now: LabelSchema) -> Arrays:
        """Answers of a model that knew ``before``, as one of ``now`` would give them: unknown classes never occur."""


@runtime_checkable
class Recalled(Protocol):
    """A task kind of places whose answers can be scored where only shapes of them were kept."""

    def recall(
        self, said: Sequence[Sequence[tuple[Shape, float]]], schema: LabelSchema, sizes: Sequence[tuple[int, int]]
    ) -> Arrays:
        """Outputs that ``labels`` would make these shapes of, as far as shapes still tell them.

        Args:
            said: per item, shapes with their confidence.
            schema: the classes.
            sizes: width and height of the items that the shapes lie in, in pixels.
        """


@runtime_checkable
class Teaching(Protocol):
    """A task kind whose answers say more than labels do, so that a smaller model can learn from a larger one."""

    def taught(
        self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema, *, share: float, seed: int
    ) -> NDArray[Any]:
        """Training targets for a student: the truth and what its teacher says of the same items.

        Args:
            targets: the truth, as ``targets`` made it.
            outputs: the teacher's answers.
            schema: the classes.
            share: of the teacher in it, in 0..1; the rest is the truth.
            seed: for task kinds whose targets cannot hold chances, and which draw by them.
        """


def learnable(task: Task) -> Learnable:
    """The task kind as one that models can be trained for; ``Invalid`` where it is for labels alone as yet."""
    if not isinstance(task, Learnable):
        raise Invalid("task kind", "one that models can be trained for", task.name, "image-classification is one")
    return task


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do for one subject; the propensity is never left out, so every policy can be judged later."""

    subject: str
    action: str
    propensity: float  # chance that the policy takes this action here, in (0, 1]
    reasons: tuple[str, ...] = ()


class Strategy(Protocol):
    """Business policy: rules, model, uplift, bandit, or a mix. One decision per subject, same order."""

    def decide(self, subjects: Sequence[Mapping[str, Any]], /, *, seed: int) -> Sequence[Decision]:
        """Decide for every subject; the same seed gives the same decisions."""


@runtime_checkable
class Blobs(Protocol):
    """Bytes under the SHA-256 of their content (hex, 64 characters); written once, never changed."""

    def put(self, data: BinaryIO, /) -> str:
        """Store the rest of ``data`` and return its key; when it returns, the bytes are safe on disk."""

    def put_bytes(self, data: bytes, /) -> str:
        """Store bytes that are in memory already."""

    def open(self, key: str, /) -> BinaryIO:
        """Read a blob; ``NotFound`` where there is none."""

    def read(self, key: str, /) -> bytes:
        """All bytes of a blob."""

    def has(self, key: str, /) -> bool:
        """Whether the blob is here."""

    def delete(self, key: str, /) -> None:
        """Remove a blob; no error where it is gone already. Only garbage collection calls this."""

    def keys(self) -> Iterator[str]:
        """All keys, in no order."""


class Runtime(Protocol):
    """Loads one executable form of a model; plug-ins named ``runtime.NAME`` (onnxruntime, openvino)."""

    def load(self, path: Path, /, *, threads: int, precision: str) -> Predictor:
        """A predictor from the file; ``precision`` is fp32, bf16 or int8."""


class Sampler(Protocol):
    """Picks what to label next; plug-ins named ``label.NAME``."""

    def pick(
        self, uncertainty: NDArray[np.float64], features: NDArray[np.float32], count: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Positions of the ``count`` items to label next, best first.

        Args:
            uncertainty: in 0..1, shape ``(items,)``; all zeros where no model exists yet.
            features: one row per item, shape ``(items, dims)``: the model's answer or an embedding.
            count: how many to pick; more than there are gives all.
            seed: the same seed and input give the same pick.
        """
