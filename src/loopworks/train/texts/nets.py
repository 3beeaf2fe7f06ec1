"""The small network on pieces of texts: a weighted sum of one vector per piece, a hidden layer, the classes."""
# ruff: noqa: TID253 - this file is imported inside functions only

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class PieceNet(nn.Module):
    """Classes from the pieces of a text, weighed by how rare they are (tf-idf with logarithmic counts, length 1).

    Without a hidden layer it is logistic regression.
    """

    def __init__(
        self, pieces: int, classes: int, *, hidden: int, idf: Tensor, drop_pieces: float, drop_hidden: float
    ) -> None:
        """Build it.

        Args:
            pieces: how many are known; piece 0 is none, the known ones are 1 and up.
            classes: outputs.
            hidden: width of the hidden layer; 0 for none.
            idf: weight of each piece, shape ``(pieces + 1,)``.
            drop_pieces: share of a text's pieces that are left out while training.
            drop_hidden: share of the hidden layer that is.
        """
        super().__init__()
        width = hidden or classes
        self.vectors = nn.Parameter(torch.zeros(pieces + 1, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.head = nn.Linear(hidden, classes) if hidden else None
        self.drop_pieces, self.drop_hidden = drop_pieces, drop_hidden
        self.register_buffer("idf", idf)
        if hidden:
            nn.init.normal_(self.vectors, std=0.1)

    def weights(self, places: Tensor, counts: Tensor) -> Tensor:
        """Weight of each piece in its text; both ``(texts, pieces)``, and 0 where ``counts`` is."""
        raw = (1 + counts.clamp(min=1).log()) * self.get_buffer("idf")[places] * (counts > 0)
        return raw / raw.square().sum(1, keepdim=True).sqrt().clamp(min=1e-9)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(texts, classes)`` of places and counts, ``(texts, pieces, 2)``, filled up with zeros."""
        places, counts = x[..., 0].long(), x[..., 1].float()
        weights = functional.dropout(self.weights(places, counts), self.drop_pieces, self.training)
        inside = (counts > 0) & (weights != 0)
        sizes = inside.sum(1)
        summed = functional.embedding_bag(
            places[inside], self.vectors, sizes.cumsum(0) - sizes, mode="sum", per_sample_weights=weights[inside]
        )
        return self.classes(summed)

    def classes(self, summed: Tensor) -> Tensor:
        """Logits of summed vectors, ``(texts, width)``."""
        inner = summed + self.bias
        if self.head is None:
            return inner
        found: Any = self.head(functional.dropout(inner.relu(), self.drop_hidden, self.training))
        return found  # type: ignore[no-any-return]

    def soften(self, temperature: float) -> None:
        """Divide the logits by ``temperature``, for good."""
        with torch.no_grad():
            for weight in (self.vectors, self.bias) if self.head is None else (self.head.weight, self.head.bias):
                weight.div_(temperature)


class TokenNet(nn.Module):
    """An encoder of transformers as the training loop calls it: tokens in, logits out."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        """Wrap ``model``; tokens ``pad`` are nothing to it."""
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(texts, classes)``; the first token of a text always counts, so that none is empty."""
        is_first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        there = (tokens != self.pad) | is_first
        found: Tensor = self.model(input_ids=tokens, attention_mask=there.long()).logits
        return found


class ServedTokens(nn.Module):
    """The same with chances for an answer."""

    def __init__(self, network: TokenNet, *, is_multi: bool) -> None:
        """Wrap ``network``."""
        super().__init__()
        self.network = network
        self.is_multi = is_multi

    def forward(self, tokens: Tensor) -> Tensor:
        """Chances ``(texts, classes)``."""
        logits: Tensor = self.network(tokens)
        return logits.sigmoid() if self.is_multi else logits.softmax(1)
