"""Label-wise attention: every code reads the document by itself.

Scores of codes x tokens are what such layers cost: 8 documents of 4,000 tokens and 7,942 codes make
a gigabyte of them, twice that with their softmax. Here codes are taken a slice at a time, and
training computes a slice again in the backward pass, so that no more than one slice is kept. Where
a code's output is linear in what it read, w.(A V) = A (V w), the attended vectors are not made at
all. Scores and softmax are float32 whatever the precision outside: float16 overflows there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

#: Scores (documents x codes x tokens) of one slice. Small ones stay in a CPU's cache; a GPU wants
#: few launches.
SLICE = {"cpu": 1 << 22, "cuda": 1 << 26}
#: Of the weights of LAAT (Vu et al. 2020) and of the layers that follow it.
DEVIATION = 0.03


class CAMLAttention(nn.Module):
    """A = softmax_T(U X), z_c = w_c.(A_c X) + b_c (Mullenbach et al. 2018, eq. 1-3).

    Args:
        width: of a token's features.
        labels: number of codes.
    """

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, labels, bias=False)
        self.output = nn.Linear(width, labels)
        nn.init.xavier_uniform_(self.query.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (batch, labels) of features (batch, time, width); see `label_logits`."""
        read = label_logits(features, features, self.query.weight, self.output.weight, mask)
        return read + self.output.bias

    def weights(self, features: Tensor, mask: Tensor | None, codes: Tensor) -> Tensor:
        """Attention (batch, codes, time) of some codes."""
        return attention(features, self.query.weight[codes], mask)


class LAATAttention(nn.Module):
    """Z = tanh(H W^T), A = softmax_T(U Z^T), z_c = w_c.(A_c H) + b_c (Vu et al. 2020, eq. 2-5).

    Args:
        width: of a token's features.
        projection: of Z.
        labels: number of codes.
    """

    def __init__(self, width: int, projection: int, labels: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, projection, bias=False)
        self.query = nn.Linear(projection, labels, bias=False)
        self.output = nn.Linear(width, labels)
        for layer in (self.project, self.query, self.output):
            nn.init.normal_(layer.weight, std=DEVIATION)

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (batch, labels) of features (batch, time, width); see `label_logits`."""
        keys = torch.tanh(self.project(features))
        read = label_logits(keys, features, self.query.weight, self.output.weight, mask)
        return read + self.output.bias

    def weights(self, features: Tensor, mask: Tensor | None, codes: Tensor) -> Tensor:
        """Attention (batch, codes, time) of some codes."""
        return attention(torch.tanh(self.project(features)), self.query.weight[codes], mask)


class CrossAttention(nn.Module):
    """A = softmax_T(Q K^T), z_c = w.LayerNorm(A_c V) + b, with one w of all codes.

    The layer of PLM-CA (Edin et al. 2024, repository explainable-medical-coding). K = H W_k has no
    bias, V = H W_v has one; scores are not scaled.

    Args:
        width: of a token's features.
        labels: number of codes.
    """

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.query = nn.Parameter(torch.empty(labels, width))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 1)
        for weight in (self.key.weight, self.value.weight, self.query, self.output.weight):
            nn.init.normal_(weight, std=DEVIATION)

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (batch, labels) of features (batch, time, width); see `label_logits`."""
        keys, values = self.key(features), _hidden(self.value(features), mask)
        bias = _bias(keys, mask)

        def logits(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            seen = torch.matmul(_shares(keys, queries, bias).to(values.dtype), values)
            return self.output(self.norm(seen)).squeeze(-1).float()

        return _by_slices(logits, (self.query,), (keys, values))

    def weights(self, features: Tensor, mask: Tensor | None, codes: Tensor) -> Tensor:
        """Attention (batch, codes, time) of some codes."""
        return attention(self.key(features), self.query[codes], mask)


class ReadsByLabel(nn.Module):
    """A network whose labels attend to the features of tokens; `features` is its own."""

    attention: CAMLAttention | LAATAttention | CrossAttention

    def features(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """(batch, positions, width) and which positions may be read; None for all."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (batch, labels) of tokens (batch, time) under a mask (batch, time)."""
        return self.attention(*self.features(tokens, mask))

    @torch.no_grad()
    def explain(self, tokens: Tensor, mask: Tensor, codes: Sequence[int] | Tensor) -> Tensor:
        """What some codes attend to.

        Args:
            tokens, mask: (batch, time).
            codes: numbers of the codes.

        Returns:
            (batch, codes, positions) float32; rows sum to 1.
        """
        which = torch.as_tensor(codes, device=tokens.device)
        return self.attention.weights(*self.features(tokens, mask), which)


def attention(keys: Tensor, queries: Tensor, mask: Tensor | None) -> Tensor:
    """softmax_T(queries keys^T), float32.

    Args:
        keys: (batch, time, width).
        queries: (codes, width).
        mask: (batch, time), true at tokens; None lets everything be read.

    Returns:
        (batch, codes, time); rows sum to 1. In a document without tokens they are even.
    """
    return _shares(keys, queries, _bias(keys, mask))


def label_logits(
    keys: Tensor, values: Tensor, queries: Tensor, weights: Tensor, mask: Tensor | None
) -> Tensor:
    """What each code reads: w_c . sum_t A_ct v_t, with A = softmax_T(queries keys^T).

    Args:
        keys: (batch, time, width of queries).
        values: (batch, time, width of weights).
        queries: (codes, width of keys).
        weights: (codes, width of values).
        mask: (batch, time), true at tokens; None lets everything be read.

    Returns:
        (batch, codes), float32; zeros for a document without tokens.
    """
    values, bias = _hidden(values, mask), _bias(keys, mask)

    def logits(queries: Tensor, weights: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        shares = _shares(keys, queries, bias)
        return (shares * torch.matmul(weights, values.mT)).sum(-1)

    return _by_slices(logits, (queries, weights), (keys, values))


def _by_slices(
    function: Callable[..., Tensor], of_codes: Sequence[Tensor], of_tokens: Sequence[Tensor]
) -> Tensor:
    """`function` of slices of the codes, side by side: (batch, codes)."""
    codes, (batch, time) = len(of_codes[0]), of_tokens[0].shape[:2]
    limit = SLICE.get(of_tokens[0].device.type, SLICE["cuda"])
    size = max(1, limit // max(batch * time, 1))
    if size >= codes:
        return function(*of_codes, *of_tokens)
    again = torch.is_grad_enabled() and any(t.requires_grad for t in (*of_codes, *of_tokens))
    parts = []
    for at in range(0, codes, size):
        given = (*(tensor[at : at + size] for tensor in of_codes), *of_tokens)
        if again:
            # Nothing in there is drawn at random.
            part = checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
        else:
            part = function(*given)
        parts.append(part)
    return torch.cat(parts, dim=1)


def _shares(keys: Tensor, queries: Tensor, bias: Tensor) -> Tensor:
    kind = keys.device.type
    known = torch.amp.is_autocast_available(kind)  # not on meta
    with torch.autocast(kind, enabled=False) if known else nullcontext():
        queries = queries.float().expand(len(keys), -1, -1)
        return torch.baddbmm(bias, queries, keys.float().mT).softmax(-1)


def _bias(keys: Tensor, mask: Tensor | None) -> Tensor:
    """What is added to scores: (batch, 1, time), as low as can be where nothing may be read."""
    bias = torch.zeros(keys.shape[0], 1, keys.shape[1], device=keys.device)
    if mask is None:
        return bias
    # No infinity: a document without tokens would make it a softmax of nothing.
    return bias.masked_fill_(~mask[:, None], torch.finfo(bias.dtype).min)


def _hidden(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values.masked_fill(~mask[..., None], 0.0)
