"""Networks that read a discharge note and give a logit a code: those that read words.

The models of Edin et al., SIGIR 2023 (arXiv 2304.10909) in the sizes of its repository
(medical-coding-reproducibility, `configs/model`), but for PLM-ICD, which is in `chunks`. All take
tokens (batch, time), filled up at the end, with a mask that is true at tokens, and read nothing
of what fills up: a note scores the same whatever it is batched with. `paper_compat` reads as the
published code does:

- the embedding's fixed row is row 0, the most frequent word, and the padding row is trained;
- filling takes part in convolutions, batch statistics, the maximum over time and label attention;
- the GRU is not packed, so that its forward state has read the filling;
- MultiResCNN's features pass through tanh once more before label attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wardround.errors import WardroundError
from wardround.models.label_attention import CAMLAttention, LAATAttention, ReadsByLabel


@dataclass(frozen=True)
class WordModelConfig:
    """What all of them share.

    Attributes:
        labels: number of codes, C.
        vocabulary: rows of the word embedding; the last is the padding, the one before unknown.
        embedding: width of a word.
        dropout: on embeddings; in MultiResCNN also on its branches. The Bi-GRU has none.
        paper_compat: see the module.
    """

    labels: int
    vocabulary: int
    embedding: int = 100
    dropout: float = 0.0
    paper_compat: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            sizes = value if isinstance(value, list | tuple) else (value,)
            if name not in ("dropout", "paper_compat") and not all(size >= 1 for size in sizes):
                raise WardroundError(f"coding model: {name} must be 1 or more, got {value}")
        if not 0 <= self.dropout < 1:
            raise WardroundError("coding model: dropout must be at least 0 and below 1")

    @property
    def padding(self) -> int:
        """The id that fills up."""
        return self.vocabulary - 1


@dataclass(frozen=True)
class VanillaConvConfig(WordModelConfig):
    """Beside what all share: `channels` and `kernel` of the convolution."""

    channels: int = 500
    kernel: int = 4


@dataclass(frozen=True)
class BiGRUConfig(WordModelConfig):
    """Beside what all share: `hidden`, units of each direction."""

    hidden: int = 256


@dataclass(frozen=True)
class CAMLConfig(WordModelConfig):
    """Beside what all share: `channels` and `kernel` of the convolution."""

    dropout: float = 0.2
    channels: int = 50
    kernel: int = 10


@dataclass(frozen=True)
class MultiResCNNConfig(WordModelConfig):
    """Beside what all share: `channels` of each branch; `kernels`, odd, one a branch."""

    dropout: float = 0.2
    channels: int = 50
    kernels: tuple[int, ...] = (3, 5, 9, 15, 19, 25)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kernels", tuple(self.kernels))
        if not self.kernels or any(kernel % 2 == 0 for kernel in self.kernels):
            raise WardroundError(f"MultiResCNN: kernels must be odd, got {self.kernels}")


@dataclass(frozen=True)
class LAATConfig(WordModelConfig):
    """Beside what all share: `hidden`, units of each direction; `projection`, of the keys."""

    dropout: float = 0.3
    hidden: int = 512
    projection: int = 512


class _WordModel(nn.Module):
    """Embedding and what a saved network needs."""

    def __init__(self, sizes: WordModelConfig, vectors: np.ndarray | Tensor | None) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed = nn.Embedding(
            sizes.vocabulary,
            sizes.embedding,
            padding_idx=0 if sizes.paper_compat else sizes.padding,
        )
        self.drop = nn.Dropout(sizes.dropout)
        with torch.no_grad():
            weight = self.embed.weight
            if vectors is None:
                weight.div_(weight.norm(dim=1, keepdim=True).clamp_min(1e-12))
                weight[sizes.padding].zero_()
            elif tuple(vectors.shape) != tuple(weight.shape):
                raise WardroundError(
                    f"coding model: word vectors of shape {tuple(vectors.shape)}, the embedding "
                    f"has {tuple(weight.shape)}"
                )
            else:
                weight.copy_(torch.as_tensor(vectors))

    @property
    def config(self) -> dict[str, Any]:
        """The sizes as JSON values, for whoever saves the network."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(self.sizes)
            for value in [getattr(self.sizes, field.name)]
        }

    @property
    def padding(self) -> int:
        """The id that fills up."""
        return self.sizes.padding

    def _embedded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(batch, time, embedding); zeros where nothing is read."""
        embedded = self.drop(self.embed(tokens))
        return embedded if self.sizes.paper_compat else embedded.masked_fill(~mask[..., None], 0.0)


class VanillaConv(_WordModel):
    """Convolution, tanh, maximum over time, linear.

    Args:
        sizes: see `VanillaConvConfig`.
        vectors: (vocabulary, embedding) to begin with.
    """

    def __init__(self, sizes: VanillaConvConfig, vectors: np.ndarray | None = None) -> None:
        super().__init__(sizes, vectors)
        self.kernel = sizes.kernel
        self.convolve = nn.Conv1d(sizes.embedding, sizes.channels, sizes.kernel)
        self.output = nn.Linear(sizes.channels, sizes.labels)
        nn.init.xavier_uniform_(self.convolve.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (batch, labels) of tokens (batch, time) under a mask (batch, time)."""
        embedded = self._embedded(tokens, mask).transpose(1, 2)
        missing = max(self.kernel - embedded.shape[2], 0)
        found = torch.tanh(self.convolve(functional.pad(embedded, (0, missing))))
        if not self.sizes.paper_compat:
            # Windows of tokens alone; a note shorter than one has one.
            windows = (mask.sum(1) - self.kernel + 1).clamp_min(1)
            outside = torch.arange(found.shape[2], device=found.device) >= windows[:, None]
            found = found.masked_fill(outside[:, None], -torch.inf)
        return self.output(found.amax(2))


class BiGRU(_WordModel):
    """The last states of both directions of a GRU, linear.

    Args:
        sizes: see `BiGRUConfig`.
        vectors: (vocabulary, embedding) to begin with.
    """

    def __init__(self, sizes: BiGRUConfig, vectors: np.ndarray | None = None) -> None:
        super().__init__(sizes, vectors)
        self.read = nn.GRU(sizes.embedding, sizes.hidden, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * sizes.hidden, sizes.labels)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (batch, labels) of tokens (batch, time) under a mask (batch, time)."""
        embedded = self._embedded(tokens, mask)
        given = embedded if self.sizes.paper_compat else _packed(embedded, mask)
        _, last = self.read(given)
        return self.output(torch.cat([last[0], last[1]], dim=1))


class _Attentive(ReadsByLabel, _WordModel):
    """Features of words under label attention."""


class CAML(_Attentive):
    """Convolution, tanh, label attention (Mullenbach et al. 2018), without its descriptions.

    An even kernel gives one position more than tokens, each centred between two tokens.

    Args:
        sizes: see `CAMLConfig`.
        vectors: (vocabulary, embedding) to begin with.
    """

    def __init__(self, sizes: CAMLConfig, vectors: np.ndarray | None = None) -> None:
        super().__init__(sizes, vectors)
        self.even = sizes.kernel % 2 == 0
        self.convolve = nn.Conv1d(
            sizes.embedding, sizes.channels, sizes.kernel, padding=sizes.kernel // 2
        )
        nn.init.xavier_uniform_(self.convolve.weight)
        self.attention = CAMLAttention(sizes.channels, sizes.labels)

    def features(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """(batch, time + 1, channels) for an even kernel; see `ReadsByLabel`."""
        found = torch.tanh(self.convolve(self._embedded(tokens, mask).transpose(1, 2)))
        if self.sizes.paper_compat:
            return found.mT, None
        return found.mT, functional.pad(mask, (1, 0), value=True) if self.even else mask

    @torch.no_grad()
    def explain(self, tokens: Tensor, mask: Tensor, codes: Sequence[int] | Tensor) -> Tensor:
        """See `ReadsByLabel.explain`; a position between two tokens counts half for each."""
        shares = super().explain(tokens, mask, codes)
        if not self.even:
            return shares
        inside = shares[..., 1:-1] / 2
        shown = functional.pad(inside, (0, 1)) + functional.pad(inside, (1, 0))
        shown[..., 0] += shares[..., 0]
        shown[..., -1] += shares[..., -1]
        if self.sizes.paper_compat:
            return shown
        # The last position of a note stands after its last token, which gets all of it.
        spilt = shown.masked_fill(mask[:, None], 0.0).sum(-1)
        shown = shown.masked_fill(~mask[:, None], 0.0)
        last = (mask.sum(1) - 1).clamp_min(0)[:, None, None].expand(-1, shown.shape[1], 1)
        return shown.scatter_add(2, last, spilt[..., None])


class MultiResCNN(_Attentive):
    """Convolutions of several widths, each with a residual block; label attention (Li & Yu 2020).

    Args:
        sizes: see `MultiResCNNConfig`.
        vectors: (vocabulary, embedding) to begin with.
    """

    def __init__(self, sizes: MultiResCNNConfig, vectors: np.ndarray | None = None) -> None:
        super().__init__(sizes, vectors)
        self.branches = nn.ModuleList(
            _Branch(sizes.embedding, sizes.channels, kernel, sizes.dropout)
            for kernel in sizes.kernels
        )
        self.attention = CAMLAttention(len(sizes.kernels) * sizes.channels, sizes.labels)

    def features(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """(batch, time, branches * channels); see `ReadsByLabel`."""
        embedded = self._embedded(tokens, mask).transpose(1, 2)
        if self.sizes.paper_compat:
            found = torch.cat([branch(embedded, None) for branch in self.branches], dim=1)
            return torch.tanh(found).mT, None
        rows = mask.flatten().nonzero().squeeze(1)
        return torch.cat([branch(embedded, rows) for branch in self.branches], dim=1).mT, mask


class _Branch(nn.Module):
    def __init__(self, width: int, channels: int, kernel: int, dropout: float) -> None:
        super().__init__()

        def convolution(before: int, after: int, size: int) -> nn.Conv1d:
            return nn.Conv1d(before, after, size, padding=size // 2, bias=False)

        self.first = convolution(width, width, kernel)
        self.second = convolution(width, channels, kernel)
        self.second_norm = nn.BatchNorm1d(channels)
        self.third = convolution(channels, channels, kernel)
        self.third_norm = nn.BatchNorm1d(channels)
        self.shortcut = convolution(width, channels, 1)
        self.shortcut_norm = nn.BatchNorm1d(channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, embedded: Tensor, rows: Tensor | None) -> Tensor:
        """(batch, channels, time) of (batch, width, time).

        Args:
            embedded: zeros where nothing is read.
            rows: numbers of the tokens among batch * time; None to read all.
        """
        stream = _kept(torch.tanh(self.first(embedded)), rows)
        inner = torch.tanh(_normalised(self.second_norm, self.second(stream), rows))
        inner = _normalised(self.third_norm, self.third(inner), rows)
        short = _normalised(self.shortcut_norm, self.shortcut(stream), rows)
        return self.drop(torch.tanh(inner + short))


def _normalised(norm: nn.BatchNorm1d, values: Tensor, rows: Tensor | None) -> Tensor:
    """Batch normalisation over the tokens alone; zeros elsewhere."""
    if rows is None:
        return norm(values)
    batch, width, time = values.shape
    flat = values.mT.reshape(batch * time, width)
    if norm.training and len(rows) < 2:  # of one token there is no variance
        raise WardroundError("MultiResCNN: a training batch holds fewer than 2 tokens")
    found = norm(flat[rows])
    return found.new_zeros(flat.shape).index_copy(0, rows, found).view(batch, time, width).mT


def _kept(values: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None:
        return values
    read = torch.zeros(len(values) * values.shape[2], device=values.device, dtype=values.dtype)
    return values * read.index_fill(0, rows, 1.0).view(len(values), 1, -1)


class LAAT(_Attentive):
    """Bidirectional LSTM, projected label attention (Vu et al. 2020).

    Args:
        sizes: see `LAATConfig`.
        vectors: (vocabulary, embedding) to begin with.
    """

    def __init__(self, sizes: LAATConfig, vectors: np.ndarray | None = None) -> None:
        super().__init__(sizes, vectors)
        self.read = nn.LSTM(sizes.embedding, sizes.hidden, batch_first=True, bidirectional=True)
        self.attention = LAATAttention(2 * sizes.hidden, sizes.projection, sizes.labels)

    def features(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """(batch, time, 2 * hidden), zeros past a note's end; see `ReadsByLabel`."""
        packed, _ = self.read(_packed(self._embedded(tokens, mask), mask))
        found, _ = pad_packed_sequence(packed, batch_first=True, total_length=tokens.shape[1])
        return found, None if self.sizes.paper_compat else mask


def _packed(embedded: Tensor, mask: Tensor) -> Any:
    lengths = mask.sum(1).clamp_min(1).cpu()  # where torch wants them
    return pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
