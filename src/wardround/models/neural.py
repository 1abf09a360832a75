"""Networks of the ED-triage benchmark (Xie et al., Sci Data 2022, 9:658, notebooks of 2022-10).

Tensors in, one logit a row out. Each carries its input's standardisation (`Standardiser`), fitted
by the caller on training rows, and knows the sizes that it was built with (`config`), so that it
can be saved and rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from wardround.models.preprocessing import Standardiser


class TriageMLP(nn.Module):
    """Columns -> hidden layers with ReLU -> logit. Published: 64 -> 128 -> 64 -> 1.

    Args:
        n_features: number of columns.
        hidden: sizes of the hidden layers.
        standardiser: fitted on the columns of the training rows; without one they pass as they are.
    """

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int] = (128, 64),
        *,
        standardiser: Standardiser | None = None,
    ) -> None:
        super().__init__()
        _positive(n_features=n_features, **{f"hidden[{i}]": size for i, size in enumerate(hidden)})
        self.config: dict[str, Any] = {"n_features": n_features, "hidden": list(hidden)}
        self.standardise = _fitting(standardiser, n_features, "columns")
        self.layers = _dense((n_features, *hidden))
        self.logit = nn.Linear((n_features, *hidden)[-1], 1)

    def forward(self, tabular: Tensor) -> Tensor:
        """Return logits, shape (n,), of float columns, shape (n, n_features)."""
        _shape("tabular", tabular, (None, self.config["n_features"]))
        return self.logit(self.layers(self.standardise(tabular))).squeeze(-1)


class CodeBagNet(nn.Module):
    """Sum of code embeddings -> ReLU layer, beside the columns -> hidden layers -> logit.

    The benchmark calls it Med2Vec. Published: a row of 1,024 a code, 256, then 128 and 50. Index 0
    is padding and adds nothing to the sum (in the published code it adds its embedding).

    Args:
        n_codes: size of the vocabulary; ids go from 1 to n_codes.
        n_features: number of columns.
        embedding: size of a code's embedding.
        code_hidden: size of the layer on the sum.
        hidden: sizes of the layers on both parts.
        standardiser: as in `TriageMLP`.
    """

    def __init__(
        self,
        n_codes: int,
        n_features: int,
        embedding: int = 1024,
        code_hidden: int = 256,
        hidden: Sequence[int] = (128, 50),
        *,
        standardiser: Standardiser | None = None,
    ) -> None:
        super().__init__()
        _positive(
            n_codes=n_codes,
            n_features=n_features,
            embedding=embedding,
            code_hidden=code_hidden,
            **{f"hidden[{i}]": size for i, size in enumerate(hidden)},
        )
        self.config: dict[str, Any] = {
            "n_codes": n_codes,
            "n_features": n_features,
            "embedding": embedding,
            "code_hidden": code_hidden,
            "hidden": list(hidden),
        }
        self.embed = nn.EmbeddingBag(
            n_codes + 1, embedding, mode="sum", padding_idx=0, include_last_offset=True
        )
        # torch draws from N(0, 1), whose sums over dozens of codes drown the columns; the
        # published layer draws from this range.
        nn.init.uniform_(self.embed.weight, -0.05, 0.05)
        with torch.no_grad():
            self.embed.weight[0].zero_()
        self.on_codes = _dense((embedding, code_hidden))
        self.standardise = _fitting(standardiser, n_features, "columns")
        sizes = (code_hidden + n_features, *hidden)
        self.layers = _dense(sizes)
        self.logit = nn.Linear(sizes[-1], 1)

    def forward(self, tabular: Tensor, codes: Tensor, codes_offsets: Tensor) -> Tensor:
        """Return logits, shape (n,).

        Args:
            tabular: float, shape (n, n_features).
            codes: int64 ids of all rows one after the other, shape (total,); 0 is padding.
            codes_offsets: int64, shape (n + 1,): row i has codes[offsets[i] : offsets[i + 1]].
        """
        _shape("tabular", tabular, (None, self.config["n_features"]))
        _shape("codes_offsets", codes_offsets, (len(tabular) + 1,))
        of_codes = self.on_codes(self.embed(codes, codes_offsets))
        both = torch.cat([of_codes, self.standardise(tabular)], dim=1)
        return self.logit(self.layers(both)).squeeze(-1)


class VitalsLSTM(nn.Module):
    """LSTM over hourly vitals, beside a ReLU layer on the columns -> ReLU layer -> logit.

    Published: 7 channels, 32 units (last state); 96 on the columns; 64 on both.

    Args:
        n_features: number of columns.
        n_channels: hourly channels.
        hidden: units of the LSTM.
        tabular_hidden: size of the layer on the columns.
        head_hidden: size of the layer on both.
        standardiser: of the columns, as in `TriageMLP`.
        channel_standardiser: the same of the channels.
    """

    def __init__(
        self,
        n_features: int,
        n_channels: int = 7,
        hidden: int = 32,
        tabular_hidden: int = 96,
        head_hidden: int = 64,
        *,
        standardiser: Standardiser | None = None,
        channel_standardiser: Standardiser | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "n_features": n_features,
            "n_channels": n_channels,
            "hidden": hidden,
            "tabular_hidden": tabular_hidden,
            "head_hidden": head_hidden,
        }
        _positive(**self.config)
        self.standardise = _fitting(standardiser, n_features, "columns")
        self.standardise_channels = _fitting(channel_standardiser, n_channels, "channels")
        self.lstm = nn.LSTM(n_channels, hidden, batch_first=True)
        self.on_columns = _dense((n_features, tabular_hidden))
        self.layers = _dense((hidden + tabular_hidden, head_hidden))
        self.logit = nn.Linear(head_hidden, 1)

    def forward(self, tabular: Tensor, vitals: Tensor, lengths: Tensor) -> Tensor:
        """Return logits, shape (n,).

        Args:
            tabular: float, shape (n, n_features).
            vitals: float, shape (n, hours, n_channels); hours past a row's length are not read.
            lengths: int64, shape (n,), each from 1 to hours.
        """
        _shape("vitals", vitals, (None, None, self.config["n_channels"]))
        _shape("tabular", tabular, (len(vitals), self.config["n_features"]))
        _shape("lengths", lengths, (len(vitals),))
        packed = pack_padded_sequence(
            self.standardise_channels(vitals),
            lengths.cpu(),  # where torch wants them
            batch_first=True,
            enforce_sorted=False,
        )
        _, (last, _) = self.lstm(packed)
        both = torch.cat([last[0], self.on_columns(self.standardise(tabular))], dim=1)
        return self.logit(self.layers(both)).squeeze(-1)


def _dense(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number from 1, got {size!r}")


def _fitting(standardiser: Standardiser | None, size: int, what: str) -> Standardiser:
    if standardiser is None:
        return Standardiser(size)
    if len(standardiser.mean) != size:
        raise ValueError(
            f"the standardiser was fitted on {len(standardiser.mean)} {what}, "
            f"the network has {size}"
        )
    return standardiser


def _shape(name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    fits = tensor.ndim == len(expected) and all(
        size in (None, given) for size, given in zip(expected, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name} must have shape ({wanted}), got {tuple(tensor.shape)}")
