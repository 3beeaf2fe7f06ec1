"""The light recipe for texts: runs of words and characters into a small network, without any weights from outside."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Context
from loopworks.core.errors import Failed, Invalid
from loopworks.core.registry import plugins
from loopworks.core.text import INPUT, TextRule, read
from loopworks.data.source import Source
from loopworks.train.contracts import Draw, Lesson, Made
from loopworks.train.images import MODEL, WEIGHTS, load_libraries
from loopworks.train.texts.course import TASKS, TextFit, planned, take

if TYPE_CHECKING:
    from torch import nn

    from loopworks.train.ragged import Ragged

NAME = "train.ngrams"
BATCH, STEPS, FEWEST = 128, 900, 8
SEEN_TWICE = 1000
"""Training texts from which on a piece must be in two of them to be known."""
MOST_WEIGHTS = 12_000_000
"""Weights of the pieces' vectors, at most: 48 MB."""
TOLERANCE = 1e-4
CHUNK = 2000
"""Texts that are cut into pieces between two looks at whether to stop."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class Ngrams(TextFit):
    """Runs of words and characters, weighed by how rare they are, into a small network: minutes on two cores."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    tasks: ClassVar[frozenset[str]] = TASKS

    words: Annotated[int, Field(ge=0, le=4)] = 2
    """Longest run of words; 0 leaves words out."""
    chars: Annotated[int, Field(ge=0, le=8)] = 5
    """Longest run of characters (the shortest is 2); 0 or 1 leaves characters out."""
    pieces: Annotated[int, Field(ge=10, le=1_000_000)] = 100_000
    """Different runs that the model knows, at most; those in the most texts are taken."""
    hidden: Annotated[int, Field(ge=0, le=2048)] = 256
    """Width of the hidden layer; 0 is logistic regression."""
    drop_pieces: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a text's runs that are left out at random while training."""
    drop_hidden: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of the hidden layer that is left out at random while training."""
    rate: Annotated[float, Field(gt=0, le=1)] = 5e-3
    """Highest learning rate, no unit."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """Good for all texts: it needs no weights from outside and little time."""
        return 0.7, "it needs no pretrained weights"

    @classmethod
    def space(cls, draw: Draw, source: Source) -> dict[str, Any]:
        """Width, regularization and rate."""
        return {
            "hidden": draw.choice("hidden", (128, 256, 384)),
            "drop_pieces": draw.number("drop_pieces", 0.2, 0.7),
            "drop_hidden": draw.number("drop_hidden", 0.2, 0.7),
            "rate": draw.number("rate", 1e-3, 1e-2, log=True),
            "smoothing": draw.number("smoothing", 0.0, 0.2),
        }

    def rule(self) -> TextRule:
        """How a text is cut."""
        return TextRule(
            words=(1, self.words) if self.words else (0, 0),
            chars=(2, self.chars) if self.chars > 1 else (0, 0),
            most_chars=self.most_chars,
        )

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        rule = self.rule()
        load_libraries()
        import torch

        from loopworks.train.budget import Budget
        from loopworks.train.texts.nets import PieceNet

        budget = Budget(source.budget_s, after_s=3.0)
        counted = {
            split: _counted(rule, source, split, ctx.part(low, high))
            for split, low, high in (("train", 0.0, 0.12), ("val", 0.12, 0.15))
            if source.source.counts.get(split, 0)
        }
        train = counted["train"]
        params = planned(self, train.texts, source.budget_s, batch=BATCH, steps=STEPS, fewest=FEWEST)
        classes = len(source.source.schema.classes)
        known, idf = _known(train, min(self.pieces, MOST_WEIGHTS // (self.hidden or classes)))
        table = np.zeros(rule.buckets, np.int32)
        table[known] = np.arange(1, len(known) + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)
            network = PieceNet(
                len(known),
                classes,
                hidden=self.hidden,
                idf=torch.from_numpy(np.concatenate([np.zeros(1, np.float32), idf])),
                drop_pieces=self.drop_pieces,
                drop_hidden=self.drop_hidden,
            )
        notes = [] if source.start is None else [_warm(source.start, network, rule, known, source.source)]
        inputs = {split: _placed(texts, table) for split, texts in counted.items()}
        more, temperature = take(
            source,
            ctx.part(0.15, 0.95),
            params,
            NAME,
            network,
            {**inputs},
            budget=budget,
            rate=self.rate,
            threads=source.threads,
        )
        network.soften(temperature)
        variant = _write(source, network, table, known)
        some = read(source.inputs.get(rule, "train", ctx)[INPUT][:6], rule.most_chars)
        _check(source, network, table, rule, variant, ["", *some])
        ctx.tick(1.0, "exported")
        return Made(
            variant=variant,
            rule=rule,
            params={**asdict(params), "known_pieces": len(known), "temperature": temperature},
            notes=(*notes, *more),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """Pieces of a split's texts, sorted by text."""

    texts: int
    row: NDArray[np.int64]
    bucket: NDArray[np.int32]
    count: NDArray[Any]


def _counted(rule: TextRule, lesson: Lesson, split: str, ctx: Context) -> _Counted:
    packed = lesson.inputs.get(rule, split, ctx)[INPUT]
    parts = []
    for start in range(0, len(packed), CHUNK):
        ctx.tick(start / len(packed), f"cut {split} into pieces")
        row, bucket, count = rule.counts(read(packed[start : start + CHUNK], rule.most_chars))
        parts.append((row + start, bucket, count.astype(np.int32)))
    row, bucket, count = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Counted(texts=len(packed), row=row, bucket=bucket, count=count)


def _known(train: _Counted, most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The pieces to know, by number, and how rare each is: 1 + ln((1 + texts) / (1 + texts with it))."""
    texts_with = np.bincount(train.bucket)
    known = np.flatnonzero(texts_with >= (2 if train.texts >= SEEN_TWICE else 1))
    if not len(known):
        raise Invalid(
            "texts of the train split", "with letters or digits in them", "none", "look at the texts of the dataset"
        )
    if len(known) > most:
        known = np.sort(known[np.argsort(-texts_with[known], kind="stable")[:most]])
    return known, (1 + np.log((1 + train.texts) / (1 + texts_with[known]))).astype(np.float32)


def _placed(texts: _Counted, table: NDArray[np.int32]) -> "Ragged":
    """Place and count of the known pieces of each text."""
    from loopworks.train.ragged import Ragged

    place = table[texts.bucket]
    kept = place > 0
    sizes = np.bincount(texts.row[kept], minlength=texts.texts)
    return Ragged(np.stack([place[kept], texts.count[kept]], axis=1), sizes)


def _warm(start: Bundle, network: Any, rule: TextRule, known: NDArray[np.int64], source: Source) -> str:
    """Vectors of the pieces and rows of the classes that both models know."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = start.path(WEIGHTS)
    if start.rule != rule or not path.is_file():
        raise Invalid("start", f"a model of {NAME} that cuts texts alike", f"{start.recipe}", "train without start")
    try:
        old = load_file(path)
    except SafetensorError as error:
        raise Invalid(str(path), "a safetensors file", str(error)) from None
    head = network.head
    if (head is None) != ("head.weight" not in old) or (
        head is not None and old["head.weight"].shape[1] != head.weight.shape[1]
    ):
        raise Invalid("start", "a model with the same hidden layer", f"{start.recipe}", "train with its parameters")
    before, now = start.schema.classes, source.schema.classes
    places = [(now.index(name), row) for row, name in enumerate(before) if name in now]
    new_at, old_at = (torch.tensor([pair[side] for pair in places], dtype=torch.long) for side in (0, 1))
    _, here, there = np.intersect1d(known, old["known"].numpy(), assume_unique=True, return_indices=True)
    new_rows, old_rows = torch.from_numpy(here + 1), torch.from_numpy(there + 1)
    with torch.no_grad():
        if head is None:
            network.vectors[new_rows[:, None], new_at] = old["vectors"][old_rows][:, old_at]
            network.bias[new_at] = old["bias"][old_at]
        else:
            network.vectors[new_rows] = old["vectors"][old_rows]
            network.bias.copy_(old["bias"])
            head.weight[new_at] = old["head.weight"][old_at]
            head.bias[new_at] = old["head.bias"][old_at]
    return (
        f"training began from an earlier model of version {start.version} ({len(here)} of {len(known)} pieces, "
        f"{len(places)} of {len(now)} classes)"
    )


def _write(lesson: Lesson, network: "nn.Module", table: NDArray[np.int32], known: NDArray[np.int64]) -> Variant:
    import torch
    from safetensors.torch import save_file

    from loopworks.train.texts import graph

    state = {name: value.detach().contiguous() for name, value in network.cpu().eval().state_dict().items()}
    save_file({**state, "known": torch.from_numpy(known)}, lesson.folder / WEIGHTS, metadata={"kind": "pieces"})
    weights = {name: value.numpy() for name, value in state.items()}
    path = lesson.folder / MODEL
    graph.write({**weights, "table": table}, path, is_multi=lesson.source.schema.is_multi)
    return Variant(
        name="onnx-fp32",
        runtime="onnxruntime",
        precision="fp32",
        file=MODEL,
        files=(MODEL,),
        size_bytes=path.stat().st_size,
    )


def _check(
    lesson: Lesson, network: Any, table: NDArray[np.int32], rule: TextRule, variant: Variant, texts: list[str]
) -> None:
    """Compare torch and the written file on some texts; ``Failed`` where they differ by more than 1e-4."""
    import torch

    from loopworks.core import predictor as predictors
    from loopworks.tasks.classes import OUTPUT

    row, bucket, count = rule.counts(texts)
    counted = _Counted(texts=len(texts), row=row, bucket=bucket, count=count.astype(np.int32))
    with torch.inference_mode():
        logits = network(_placed(counted, table)[:])
    is_multi = lesson.source.schema.is_multi
    wanted = (logits.sigmoid() if is_multi else logits.softmax(1)).numpy()
    predictor = predictors.load(variant, lesson.folder, rule, threads=1)
    try:
        found = predictor.predict(rule.pack(texts))[OUTPUT]
    finally:
        predictor.close()
    if not (worst := float(np.abs(found - wanted).max())) <= TOLERANCE:
        raise Failed(f"ONNX answers must be within {TOLERANCE:g} of torch's; got {worst:g} apart", "report this")
