"""The floor of medical coding: one logistic regression a code on TF-IDF of a note's words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wardround.errors import WardroundError


@dataclass(frozen=True)
class BagOfWordsConfig:
    """Sizes.

    Attributes:
        labels: number of codes.
        vocabulary: number of words; the last is the padding, the one before unknown.
        words: so many of the first (most frequent) words count; the rest is passed over.
    """

    labels: int
    vocabulary: int
    words: int = 20_000

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise WardroundError(f"bag of words: {name} must be 1 or more, got {value}")


class BagOfWords(nn.Module):
    """x_w = (1 + log count_w) weight_w, |x| = 1, z = W x + b.

    Args:
        sizes: see `BagOfWordsConfig`.
        weights: (vocabulary,) inverse document frequencies; ones unless told.
    """

    weights: Tensor

    def __init__(self, sizes: BagOfWordsConfig, weights: np.ndarray | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.kept = min(sizes.words, sizes.vocabulary - 2)
        known = np.ones(sizes.vocabulary) if weights is None else np.asarray(weights)
        if known.shape != (sizes.vocabulary,):
            raise WardroundError(
                f"bag of words: weights of shape {known.shape} for {sizes.vocabulary} words"
            )
        self.register_buffer("weights", torch.as_tensor(known[: self.kept], dtype=torch.float32))
        self.output = nn.Linear(self.kept, sizes.labels)
        nn.init.zeros_(self.output.weight)

    @property
    def config(self) -> dict[str, Any]:
        """The sizes as JSON values, for whoever saves the network."""
        return asdict(self.sizes)

    @property
    def padding(self) -> int:
        """The id that fills up."""
        return self.sizes.vocabulary - 1

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (batch, labels) of tokens (batch, time) under a mask (batch, time)."""
        counted = mask & (tokens < self.kept)
        counts = torch.zeros(len(tokens), self.kept, device=tokens.device)
        counts.scatter_add_(1, tokens.masked_fill(~counted, 0), counted.float())
        values = torch.where(counts > 0, 1 + counts.clamp_min(1).log(), 0.0) * self.weights
        return self.output(nn.functional.normalize(values, dim=1))
