"""A decoder-only transformer over the tokens of patients' timelines.

The network of ETHOS (Renc et al. 2024; 2025, giaf107): GPT-2's blocks without biases. It knows no
data and keeps no state: whoever calls it says how attention sees the past (`Attend`), so that
training on packed windows and simulation with shared caches run the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround.errors import WardroundError

#: Attention of one layer: (layer, queries, keys, values), each (batch, heads, time, width of a
#: head), keys and values of the new tokens alone; the result is shaped as the queries.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

#: Rows of the embedding are rounded up to this, which matrix units like; the rest is never scored.
ROWS = 64


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder. The defaults are those of ETHOS-ARES.

    Attributes:
        vocabulary: number of tokens.
        context: the longest sequence that learned positions reach; with rotary positions, the
            length that it is trained on.
        layers, heads, width, hidden: blocks, heads of each, width of the stream and of the
            feed-forward layer.
        positions: `learned` and added to the embeddings, or `rotary` (turning queries and keys).
        dropout: on embeddings, attention weights and both branches of a block.
        rotary_base: the longest wavelength of rotary positions, in tokens over 2π.
    """

    vocabulary: int
    context: int = 2048
    layers: int = 6
    heads: int = 12
    width: int = 768
    hidden: int = 3072
    positions: Literal["learned", "rotary"] = "learned"
    dropout: float = 0.3
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "layers", "heads", "width", "hidden"):
            if getattr(self, name) < 1:
                raise WardroundError(f"decoder: {name} must be 1 or more")
        if self.width % self.heads:
            raise WardroundError(
                f"decoder: width ({self.width}) must be a multiple of heads ({self.heads})"
            )
        if self.positions == "rotary" and self.head_width % 2:
            raise WardroundError("decoder: rotary positions need heads of an even width")
        if not 0 <= self.dropout < 1:
            raise WardroundError("decoder: dropout must be at least 0 and below 1")

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Decoder(nn.Module):
    """Tokens in, scores of the next token out; input and output embeddings are one matrix."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.sizes = config
        rows = -(-config.vocabulary // ROWS) * ROWS
        self.embedding = nn.Embedding(rows, config.width)
        self.position = (
            nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        )
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.apply(_initialise)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith(("out.weight", "contract.weight")):
                    # as GPT-2: each block adds to the stream twice
                    weight.div_(math.sqrt(2 * config.layers))

    @property
    def config(self) -> dict[str, Any]:
        """The sizes as JSON values, for whoever saves the network."""
        return asdict(self.sizes)

    def forward(
        self, tokens: Tensor, *, positions: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        """Scores of the next token.

        Args:
            tokens: (batch, time) ids.
            positions: (batch, time); 0, 1, … unless told.
            attend: sees the past; causal attention over `tokens` unless told.

        Returns:
            (batch, time, vocabulary) logits.
        """
        return self.score(self.hidden(tokens, positions=positions, attend=attend))

    def hidden(
        self, tokens: Tensor, *, positions: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        """The stream after the last block, normalised: (batch, time, width); see `forward`."""
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        attend = attend or self.causal
        stream = self.embedding(tokens)
        if self.position is not None:
            stream = stream + self.position(positions)
            turn = None
        else:
            turn = rotation(positions, self.sizes.head_width, self.sizes.rotary_base)
        stream = self.drop(stream)
        for number, block in enumerate(self.blocks):
            stream = block(stream, number, turn, attend)
        return self.norm(stream)

    def score(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) of a stream (…, width)."""
        return functional.linear(hidden, self.embedding.weight)[..., : self.sizes.vocabulary]

    def causal(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Each token sees itself and all before it."""
        return functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, dropout_p=self._attention_dropout
        )

    def masked(self, mask: Tensor) -> Attend:
        """Attention under a mask: (batch, 1, time, time), true where a token is seen."""

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, dropout_p=self._attention_dropout
            )

        return attend

    @property
    def _attention_dropout(self) -> float:
        return self.sizes.dropout if self.training else 0.0


class _Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(config.width, bias=False)
        self.attention = _Attention(config)
        self.before_expansion = nn.LayerNorm(config.width, bias=False)
        self.expand = nn.Linear(config.width, config.hidden, bias=False)
        self.contract = nn.Linear(config.hidden, config.width, bias=False)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, stream: Tensor, number: int, turn: Tensor | None, attend: Attend) -> Tensor:
        seen = self.attention(self.before_attention(stream), number, turn, attend)
        stream = stream + self.drop(seen)
        wide = functional.gelu(self.expand(self.before_expansion(stream)))
        return stream + self.drop(self.contract(wide))


class _Attention(nn.Module):
    """Queries, keys and values of new tokens; what they see is the caller's business."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.project = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, stream: Tensor, number: int, turn: Tensor | None, attend: Attend) -> Tensor:
        batch, time, width = stream.shape
        parts = self.project(stream).view(batch, time, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        if turn is not None:
            queries, keys = rotate(queries, turn), rotate(keys, turn)
        seen = attend(number, queries, keys, values)
        return self.out(seen.transpose(1, 2).reshape(batch, time, width))


def rotation(positions: Tensor, width: int, base: float) -> Tensor:
    """Cosines and sines of rotary positions (Su et al. 2021, eq. 34): (2, batch, 1, time, width).

    Args:
        positions: (batch, time).
        width: of a head; its halves form the pairs that are turned.
        base: see `DecoderConfig.rotary_base`.
    """
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions[:, None, :, None].float() * base**-exponents
    return torch.stack([angles.cos(), angles.sin()]).repeat(1, 1, 1, 1, 2)


def rotate(heads: Tensor, turn: Tensor) -> Tensor:
    """Turn queries or keys, (batch, heads, time, width), by what `rotation` gave."""
    first, second = heads.chunk(2, dim=-1)
    turn = turn.to(heads.dtype)
    return heads * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
