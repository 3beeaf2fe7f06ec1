"""Any text encoder of transformers: from pretrained weights where they can be had, else a small random one."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Context
from loopworks.core.errors import Failed, Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.core.text import INPUT, TokenRule, read
from loopworks.core.values import LabelSchema
from loopworks.data.source import Source
from loopworks.train import weights
from loopworks.train.contracts import Lesson, Made
from loopworks.train.images import MODEL, WEIGHTS, load_libraries
from loopworks.train.texts import tokens
from loopworks.train.texts.course import TASKS, TextFit, planned, take

if TYPE_CHECKING:
    from torch import nn

    from loopworks.train.ragged import Ragged

NAME = "train.text-encoder"
DEFAULT = "intfloat/multilingual-e5-small"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
OTHERS = (CONFIG, TOKENIZER)
BATCH = 32
TUNED = {"rate": 5e-5, "steps": 1500, "fewest": 3}
FRESH = {"rate": 1e-3, "steps": 3000, "fewest": 10}
"""Rate, steps to aim at and fewest epochs, from pretrained weights and from random ones."""
SPARE = 2
"""Places that some encoders keep for themselves at the start of their longest text."""
TOLERANCE = 1e-4


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder(TextFit):
    """Any text encoder of transformers, pretrained where its weights are in reach: for texts with few labels."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    tasks: ClassVar[frozenset[str]] = TASKS

    encoder: str = DEFAULT
    """Repository on the Hugging Face hub, or a folder with config.json, model.safetensors and tokenizer.json."""
    weights: str = "auto"
    """auto: the folder's, cached or downloaded if the hub can be reached, else random; random: a small encoder with a
    tokenizer of its own."""
    most_tokens: Annotated[int, Field(ge=4, le=8192)] = 128
    """Tokens that are read of a text; the rest is left out."""
    rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Highest learning rate, no unit; 0 is 5e-5 from pretrained weights and 1e-3 from random ones."""
    layers: Annotated[int, Field(ge=1, le=24)] = 2
    """Layers of an encoder from random weights."""
    keep_layers: Annotated[int, Field(ge=0, le=1000)] = 0
    """Layers to keep of the encoder that the training begins from, the first ones; 0: all."""
    width: Annotated[int, Field(ge=16, le=1024, multiple_of=16)] = 128
    """Width of an encoder from random weights."""
    vocabulary: Annotated[int, Field(ge=50, le=100_000)] = 8000
    """Tokens of an encoder from random weights, at most."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """Worth its time where pretrained weights are at hand; from random weights n-grams are better."""
        if weights.cached(DEFAULT, OTHERS) is None:
            return 0.2, "no pretrained weights in the cache"
        if budget_s is not None and budget_s < 300:
            return 0.3, "a budget under five minutes"
        return 0.8, "pretrained weights are in the cache"

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        load_encoders()
        import torch

        from loopworks.train.budget import Budget
        from loopworks.train.texts.nets import TokenNet

        budget = Budget(source.budget_s, after_s=6.0)
        folder, why = self._folder(source, ctx)
        texts = _texts(source, "train", self.most_chars, ctx)
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            torch.manual_seed(ctx.seed)
            if folder is None:
                ctx.tick(0.0, "learning a tokenizer")
                tokens.train(texts, source.folder / TOKENIZER, self.vocabulary)
                model, note = self._fresh(source), f"the encoder began small and from random weights: {why}"
            else:
                (source.folder / TOKENIZER).write_bytes((folder / TOKENIZER).read_bytes())
                model = _pretrained(folder, source.source.schema, self.keep_layers)
                note = f"the encoder began from pretrained weights ({self.encoder})"
        notes = [note]
        if source.start is not None:
            notes = [_warm(source.start, model, source.source.schema)]
        rule = self._rule(model, source.folder)
        inputs = {"train": _tokens(rule, texts, ctx.part(0.0, 0.03))}
        if source.source.counts.get("val", 0):
            inputs["val"] = _tokens(rule, _texts(source, "val", self.most_chars, ctx), ctx.part(0.03, 0.05))
        usual = FRESH if folder is None and source.start is None else TUNED
        params = replace(self, most_tokens=rule.most_tokens, rate=self.rate or usual["rate"])
        params = planned(
            params, len(texts), source.budget_s, batch=BATCH, steps=int(usual["steps"]), fewest=int(usual["fewest"])
        )
        more, temperature = take(
            source,
            ctx.part(0.05, 0.9),
            params,
            NAME,
            network := TokenNet(model, rule.pad),
            {**inputs},
            budget=budget,
            rate=params.rate,
            threads=source.threads,
        )
        _soften(network.model, temperature)
        ctx.tick(0.9, "export")
        variant = write(source.folder, network, rule, texts, is_multi=source.source.schema.is_multi)
        ctx.tick(1.0, "exported")
        return Made(
            variant=variant,
            rule=replace(rule, folder=None),
            params={**asdict(params), "temperature": temperature},
            notes=(*notes, *more),
        )

    def _folder(self, lesson: Lesson, ctx: Context) -> tuple[Path | None, str]:
        """Where config, weights and tokenizer lie; ``None``, and why, where the encoder is to be a random one."""
        if lesson.start is not None:
            return lesson.start.folder, ""
        if self.weights == "random":
            return None, "asked for"
        if self.weights != "auto":
            raise Invalid("weights", "auto or random", self.weights, "encoder=FOLDER names a folder of your own")
        path = Path(self.encoder)
        if path.is_dir():
            if missing := [name for name in (*OTHERS, WEIGHTS) if not (path / name).is_file()]:
                raise Invalid(f"encoder {path}", f"a folder with {', '.join((*OTHERS, WEIGHTS))}", f"no {missing[0]}")
            return path, ""
        if self.encoder.count("/") > 1 or self.encoder.startswith((".", "/", "~")):
            raise Invalid("encoder", "a folder, or owner/name on the hub", self.encoder)
        found, why = weights.find(self.encoder, ctx, OTHERS)
        return (found.parent if found is not None else None), why

    def _fresh(self, lesson: Lesson) -> Any:
        """A small BERT with random weights for the tokenizer in the lesson's folder."""
        from transformers import BertConfig, BertForSequenceClassification

        made = TokenRule(folder=lesson.folder).tokenizer()
        config = BertConfig(
            vocab_size=made.get_vocab_size(),
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=max(1, self.width // 32),
            intermediate_size=4 * self.width,
            max_position_embeddings=self.most_tokens + SPARE,
            pad_token_id=made.token_to_id(tokens.PAD),
            **_labels(lesson.source.schema),
        )
        return BertForSequenceClassification(config)

    def _rule(self, model: Any, folder: Path) -> TokenRule:
        config = model.config
        longest = int(getattr(config, "max_position_embeddings", 0) or self.most_tokens + SPARE) - SPARE
        pad = config.pad_token_id
        return TokenRule(
            file=TOKENIZER,
            pad=0 if pad is None else int(pad),
            most_tokens=max(1, min(self.most_tokens, longest)),
            most_chars=self.most_chars,
            folder=folder,
        )


def load_encoders() -> None:
    """Import what an encoder needs.

    Raises: Missing: the [train] extra is not installed.
    """
    load_libraries()
    try:
        with quiet_transformers():
            import tokenizers
            import transformers
            from transformers import AutoModelForSequenceClassification
    except ImportError:
        raise Missing("transformers", "train", "text encoders") from None
    del tokenizers, transformers, AutoModelForSequenceClassification


def _texts(lesson: Lesson, split: str, most_chars: int, ctx: Context) -> list[str]:
    return read(lesson.inputs.get(TokenRule(), split, ctx)[INPUT], most_chars)


def _tokens(rule: TokenRule, texts: list[str], ctx: Context) -> "Ragged":
    from loopworks.train.ragged import Ragged

    rows: list[list[int]] = []
    for start in range(0, len(texts), 1000):
        ctx.tick(start / len(texts), "cutting texts into tokens")
        rows += [one.ids[: rule.most_tokens] for one in rule.tokenizer().encode_batch(texts[start : start + 1000])]
    return Ragged.of(rows, rule.pad)


def _labels(schema: LabelSchema) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(schema.classes)),
        "label2id": {name: i for i, name in enumerate(schema.classes)},
        "problem_type": "multi_label_classification" if schema.is_multi else "single_label_classification",
    }


def _pretrained(folder: Path, schema: LabelSchema, layers: int = 0) -> Any:
    """The encoder in ``folder`` with a fresh head; nothing is unpickled and no code of the folder runs.

    Args:
        folder: with config.json and model.safetensors.
        schema: the classes.
        layers: how many to keep, from the first on; 0: all.
    Raises: Invalid: the files are not those of an encoder, or it has fewer layers.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        if layers:
            held = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).num_hidden_layers
            if layers > held:
                raise Invalid("keep_layers", f"at most the {held} layers of the encoder", layers)
        model, facts = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype="float32",
            **({"num_hidden_layers": layers} if layers else {}),
            **_labels(schema),
        )
    except Invalid:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and safetensors' own for bad files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(f"encoder {folder}", "one that transformers can classify texts with", first) from None
    if len(facts["missing_keys"]) > len(model.state_dict()) / 2:
        raise Invalid(f"weights in {folder}", "those of its config.json", "a file of which hardly anything fits")
    model.config._name_or_path = ""  # a path of this machine is nobody's business
    return model


def head_of(model: Any) -> "nn.Linear":
    """The last layer: the last linear one with as many outputs as there are classes."""
    from torch import nn

    found = [
        part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == model.config.num_labels
    ]
    if not found:
        raise Invalid("encoder", "one with a linear last layer", type(model).__name__)
    return found[-1]


def _warm(start: Bundle, model: Any, schema: LabelSchema) -> str:
    """Rows of the last layer for the classes that both models know; the rest was loaded as it is.

    The sizes are those of the file unless the number of classes changed, and then they begin at random.
    """
    import torch
    from safetensors.torch import load_file

    if start.recipe != NAME:
        raise Invalid("start", f"a model of {NAME}", start.recipe, "train without start")
    head = head_of(model)
    name = next(name for name, part in model.named_modules() if part is head)
    old = load_file(start.path(WEIGHTS))
    before, now = start.schema.classes, schema.classes
    with torch.no_grad():
        for kind, new in (("weight", head.weight), ("bias", head.bias)):
            if new is None or f"{name}.{kind}" not in old:
                continue
            fresh = torch.zeros_like(new)
            for place, label in enumerate(now):
                if label in before:
                    fresh[place] = old[f"{name}.{kind}"][before.index(label)]
            new.copy_(fresh)
    shared = len(set(before) & set(now))
    return f"training began from an earlier model of version {start.version} ({shared} of {len(now)} classes)"


def _soften(model: Any, temperature: float) -> None:
    import torch

    head = head_of(model)
    with torch.no_grad():
        for part in (head.weight, head.bias):
            if part is not None:
                part.div_(temperature)


def write(folder: Path, network: Any, rule: TokenRule, texts: list[str], *, is_multi: bool) -> Variant:
    """Weights and config as transformers reads them, and the ONNX file."""
    import torch

    from loopworks.tasks.classes import OUTPUT
    from loopworks.train import export
    from loopworks.train.texts.nets import ServedTokens

    network.cpu().eval()
    with quiet_transformers():
        network.model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    served = ServedTokens(network, is_multi=is_multi).eval()
    path = folder / MODEL
    free = {
        0: torch.export.Dim("batch", min=1, max=2**16),
        1: torch.export.Dim("length", min=1, max=rule.most_tokens),
    }
    example = torch.from_numpy(rule.encode(rule.pack([*texts[:2], "a b", "c"]))["tokens"])
    if example.shape[1] < 2:  # an axis of one is taken for a constant
        example = torch.cat([example, example], 1)
    export.save(served, example, free, "tokens", [OUTPUT], path)
    variant = Variant(
        name="onnx-fp32",
        runtime="onnxruntime",
        precision="fp32",
        file=MODEL,
        files=(MODEL, TOKENIZER),
        size_bytes=path.stat().st_size,
    )
    _check(folder, served, rule, variant, ["", *texts[:6]])
    return variant


def _check(folder: Path, served: Any, rule: TokenRule, variant: Variant, texts: list[str]) -> None:
    """Compare torch and the written file, alone and together; ``Failed`` where they differ by more than 1e-4."""
    import torch

    from loopworks.core import predictor as predictors
    from loopworks.tasks.classes import OUTPUT

    predictor = predictors.load(variant, folder, rule, threads=1)
    try:
        for some in (texts, texts[:1], texts[-1:]):
            packed = rule.pack(some)
            with torch.inference_mode():
                wanted = served(torch.from_numpy(rule.encode(packed)["tokens"])).numpy()
            worst = float(np.abs(predictor.predict(packed)[OUTPUT] - wanted).max())
            if not worst <= TOLERANCE:
                raise Failed(
                    f"ONNX answers must be within {TOLERANCE:g} of torch's; got {worst:g} apart", "try another encoder"
                )
    finally:
        predictor.close()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers advises through its logger and draws progress bars; our users hear of what we say ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging

        hf: Any = logging
        level, has_bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
        hf.set_verbosity_error()
        hf.disable_progress_bar()
        try:
            yield
        finally:
            hf.set_verbosity(level)
            if has_bars:
                hf.enable_progress_bar()
