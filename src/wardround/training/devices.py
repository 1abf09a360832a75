"""Where a model is trained, and in which arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def pick_device(device: str) -> str:
    """`auto` is the first CUDA card, or the CPU where there is none."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def pick_precision(
    precision: Precision, device: str, *, cpu: bool = True
) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 where the device has it in hardware, float32 elsewhere.

    Processors without it emulate it, several times slower than float32.

    Args:
        precision: what was asked for.
        device: where it is computed.
        cpu: whether `auto` may be bfloat16 on a processor.
    """
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif not cpu:
        return "float32"
    else:
        # The function came with torch 2.10 or so; without it nothing is known of the processor.
        found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        native = any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "arm_bf16"))
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The arithmetic of a forward pass; `precision` as `pick_precision` gave it."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
