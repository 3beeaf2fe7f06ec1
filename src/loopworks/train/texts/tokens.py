"""A tokenizer of its own for texts whose encoder begins from random weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopworks.core.errors import Missing

PAD, START, END = "[PAD]", "[CLS]", "[SEP]"


def train(texts: Sequence[str], path: Path, size: int) -> int:
    """Learn a tokenizer from texts and write it as ``tokenizer.json``; how many tokens it has.

    Pairs of bytes, merged by how often they stand together: every text in every script has tokens, and the same texts
    give the same file (a WordPiece tokenizer was another at every run). Letters lose their case.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    except ImportError:
        raise Missing("tokenizers", "text", "training an encoder of texts") from None
    made: Any = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    special = [PAD, START, END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=max(size, len(alphabet) + len(special)),
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    ends = [(name, made.token_to_id(name)) for name in (START, END)]
    made.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    made.save(str(path))
    return int(made.get_vocab_size())
