"""PLM-ICD and PLM-CA: a pretrained encoder over chunks of a note, under label attention.

A note's sub-words are cut into chunks that the encoder reads each by itself; the codes attend over
all of them. Chunks of all notes of a batch are encoded together, without those that hold nothing
but filling. `paper_compat` reads as the published code does: every position is shown to the
encoder and to the codes, filling too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from wardround.errors import WardroundError
from wardround.models.label_attention import CrossAttention, LAATAttention, ReadsByLabel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ChunkedConfig:
    """Sizes beside the encoder's. The defaults are those of PLM-ICD.

    Attributes:
        labels: number of codes, C.
        chunk: sub-words that the encoder reads at once.
        projection: of LAAT's keys; the encoder's width unless told. PLM-CA has none.
        gradient_checkpointing: compute the encoder's layers again in the backward pass, which
            saves most of the memory for about a third more time.
        paper_compat: see the module.
    """

    labels: int
    chunk: int = 128
    projection: int | None = None
    gradient_checkpointing: bool = False
    paper_compat: bool = False

    def __post_init__(self) -> None:
        for name in ("labels", "chunk", "projection"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise WardroundError(f"coding model: {name} must be 1 or more, got {value}")


class _ChunkedModel(ReadsByLabel):
    def __init__(self, encoder: PreTrainedModel, sizes: ChunkedConfig) -> None:
        super().__init__()
        about = encoder.config
        if about.pad_token_id is None:
            raise WardroundError("coding model: the encoder's config names no pad_token_id")
        # Where positions skip the padding's number (RoBERTa), that many rows are never used.
        offset = getattr(getattr(encoder, "embeddings", None), "padding_idx", None)
        skipped = 0 if offset is None else offset + 1
        if sizes.chunk > about.max_position_embeddings - skipped:
            raise WardroundError(
                f"coding model: chunks of {sizes.chunk} are longer than the encoder's "
                f"{about.max_position_embeddings - skipped} positions"
            )
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]  # nothing reads it
        if sizes.gradient_checkpointing:
            # The name of transformers 5.20 and later, and the one before.
            name = "activation_checkpointing_enable"
            enable = getattr(encoder, name, encoder.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        self.sizes = sizes
        self.encoder = encoder

    @classmethod
    def from_config(cls, *, encoder: Mapping[str, Any], **sizes: Any) -> _ChunkedModel:
        """Rebuild from what `config` gave, with weights yet to be loaded."""
        from transformers import AutoConfig, AutoModel

        about = AutoConfig.for_model(**encoder)
        return cls(AutoModel.from_config(about), ChunkedConfig(**sizes))

    @property
    def config(self) -> dict[str, Any]:
        """The sizes as JSON values, for whoever saves the network."""
        return {**asdict(self.sizes), "encoder": self.encoder.config.to_dict()}

    @property
    def padding(self) -> int:
        """The id that fills up."""
        return int(self.encoder.config.pad_token_id)

    def features(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the encoder makes of each sub-word.

        Args:
            tokens, mask: (batch, time); any time.

        Returns:
            (batch, time, width) and which may be read, None for all; time is a multiple of the
            chunk here.
        """
        batch, size = len(tokens), self.sizes.chunk
        missing = -tokens.shape[1] % size
        mask = functional.pad(mask, (0, missing), value=False)
        tokens = functional.pad(tokens, (0, missing)).masked_fill(~mask, self.padding)
        chunks, shown = tokens.view(-1, size), mask.view(-1, size)
        if self.sizes.paper_compat:
            found = self.encoder(chunks, attention_mask=torch.ones_like(shown))
            return found.last_hidden_state.view(batch, tokens.shape[1], -1), None
        held = shown.any(1).nonzero().squeeze(1)
        width = self.encoder.config.hidden_size
        if not len(held):
            return torch.zeros(*tokens.shape, width, device=tokens.device), mask
        found = self.encoder(chunks[held], attention_mask=shown[held]).last_hidden_state
        whole = found.new_zeros(len(chunks), size, width).index_copy(0, held, found)
        return whole.view(batch, tokens.shape[1], width), mask

    @torch.no_grad()
    def explain(self, tokens: Tensor, mask: Tensor, codes: Sequence[int] | Tensor) -> Tensor:
        """See `ReadsByLabel.explain`; positions are the tokens.

        Under `paper_compat` rows sum to less where filling beyond the given time is read.
        """
        return super().explain(tokens, mask, codes)[..., : tokens.shape[1]]


class PLMICD(_ChunkedModel):
    """An encoder over chunks of 128, LAAT's attention (Huang et al. 2022; Edin et al. 2023).

    Args:
        encoder: of the `transformers` library, RoBERTa or BERT, built or loaded by the caller; its
            pooler is taken off.
        sizes: see `ChunkedConfig`.
    """

    def __init__(self, encoder: PreTrainedModel, sizes: ChunkedConfig) -> None:
        super().__init__(encoder, sizes)
        width = encoder.config.hidden_size
        self.attention = LAATAttention(width, sizes.projection or width, sizes.labels)


class PLMCA(_ChunkedModel):
    """The same with cross attention (Edin et al. 2024, repository explainable-medical-coding).

    The published code adds its mask as numbers 0 and 1 after a slip, which moves all scores of a
    row alike: its codes read filling. Ours do not, unless `paper_compat`.

    Args:
        encoder, sizes: see `PLMICD`.
    """

    def __init__(self, encoder: PreTrainedModel, sizes: ChunkedConfig) -> None:
        super().__init__(encoder, sizes)
        self.attention = CrossAttention(encoder.config.hidden_size, sizes.labels)
