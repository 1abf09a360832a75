"""What every training loop keeps: sums between looks, seeds of steps, copies of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn


@dataclass
class Since:
    """Sums since the last look at the tuning loss."""

    loss: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, loss: float, tokens: int, seconds: float) -> None:
        """One step more."""
        self.loss, self.tokens = self.loss + loss, self.tokens + tokens
        self.seconds += seconds


def step_seed(seed: int, step: int, number: int) -> int:
    """A seed of dropout for batch `number` of a step, whichever process reads it."""
    return int(np.random.SeedSequence((seed, step, number)).generate_state(1, np.uint64)[0]) >> 1


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, in the CPU's memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
