"""Where a model is trained, and in which arithmetic."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def pick_device(device: str) -> str:
    """`auto` is the first CUDA card, or the CPU where there is none."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def pick_precision(precision: Precision, device: str) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 where the device has it in hardware, float32 elsewhere.

    Processors without it emulate it, some twenty times slower than float32.
    """
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # The function came with torch 2.10 or so; without it nothing is known of the processor.
        found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        native = any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "arm_bf16"))
    return "bfloat16" if native else "float32"
