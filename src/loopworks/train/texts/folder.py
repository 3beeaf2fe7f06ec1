"""Text classifiers in folders as the Hugging Face hub has them: configuration, weights, tokenizer."""
# ruff: noqa: TID253 - this file is imported inside functions only

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loopworks.core.bundle import Variant
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.text import TokenRule
from loopworks.train.images import WEIGHTS
from loopworks.train.texts.encoder import (
    CONFIG,
    SPARE,
    TOKENIZER,
    head_of,
    load_encoders,
    quiet_transformers,
    write,
)
from loopworks.train.texts.nets import TokenNet

MOST_TOKENS = 512
"""Tokens that are read of a text, at most: what most encoders learnt from."""
SAMPLES = ("A short text.", "Another, somewhat longer one, with numbers: 12 and 345.", "一段文字")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """A classifier with what its folder says of it."""

    model: Any
    classes: tuple[str, ...]
    """Empty where the folder does not name them."""
    is_multi: bool
    most_tokens: int


def read(path: Path) -> TextModel:
    """The classifier in a folder; nothing is unpickled, and no code of the folder runs.

    Raises: Missing. Invalid: a file is missing or damaged, or the weights have no last layer that was trained.
    """
    load_encoders()
    from transformers import AutoModelForSequenceClassification

    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (path / name).is_file():
            raise Invalid(f"folder {path.name}", f"one with {CONFIG}, {WEIGHTS} and {TOKENIZER}", f"none called {name}")
    try:
        with quiet_transformers():
            model, facts = AutoModelForSequenceClassification.from_pretrained(
                str(path),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype="float32",
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and safetensors' own for bad files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(f"folder {path.name}", "a text classifier that transformers can load", first[:200]) from None
    if missing := sorted(facts["missing_keys"]):
        hint = "an encoder without a head is trained here: recipe text-encoder, encoder=FOLDER"
        raise Invalid(f"weights in {path.name}", "those of a trained classifier", f"none for {missing[0]}", hint)
    config = model.config
    config._name_or_path = ""  # a path of this machine is nobody's business
    names = [str(config.id2label[place]).strip() for place in sorted(config.id2label)]
    is_named = names != [f"LABEL_{place}" for place in range(len(names))]
    places = int(getattr(config, "max_position_embeddings", 0) or MOST_TOKENS + SPARE)
    return TextModel(
        model=model.eval(),
        classes=tuple(names) if is_named else (),
        is_multi=config.problem_type == "multi_label_classification",
        most_tokens=max(1, min(MOST_TOKENS, places - SPARE)),
    )


def adopt(
    found: TextModel, path: Path, part: Path, *, order: Sequence[int], is_multi: bool
) -> tuple[TokenRule, Variant]:
    """Write the files of the bundle into ``part``, with the classes in another order.

    Args:
        found: from ``read``.
        path: the folder.
        part: where the files go.
        order: the model's place of each class of the bundle.
        is_multi: whether a text may carry several classes.
    Raises: Invalid: the tokenizer cannot be read. Failed: the exported file does not answer as the model does.
    """
    if list(order) != list(range(found.model.config.num_labels)):
        head = head_of(found.model)
        with torch.no_grad():
            for values in (head.weight, head.bias):
                if values is not None:
                    values.copy_(values[list(order)].clone())
    shutil.copyfile(path / TOKENIZER, part / TOKENIZER)
    pad = found.model.config.pad_token_id
    rule = TokenRule(
        file=TOKENIZER, pad=0 if pad is None else int(pad), most_tokens=found.most_tokens, folder=part
    )  # fmt: skip
    try:
        rule.encode(rule.pack(SAMPLES))
    except LoopworksError:
        raise
    except Exception as error:  # tokenizers raises plain Exception for whatever a file is
        raise Invalid(f"{TOKENIZER} of {path.name}", "a tokenizer of Hugging Face", str(error)[:200]) from None
    variant = write(part, TokenNet(found.model, rule.pad), rule, list(SAMPLES), is_multi=is_multi)
    return rule, variant
