"""State of a training run in one file of safetensors, written whole or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger("wardround")


def write_checkpoint(
    path: Path,
    settings: Mapping[str, Any],
    progress: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Replace the file at `path`.

    Args:
        path: its folder is made.
        settings: JSON values that a run must share to go on from here.
        progress: JSON values that say how far the run is.
        tensors: everything else; see `optimiser_tensors`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    about = {"settings": json.dumps(settings, sort_keys=True), "progress": json.dumps(progress)}
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary, about)
    temporary.replace(path)


def read_checkpoint(
    path: Path | None, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Progress and tensors; None for no file, one of another run, or (logged) a damaged one."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            if about["settings"] != json.dumps(settings, sort_keys=True):
                log.info("%s is of other settings; training starts anew", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return json.loads(about["progress"]), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("%s cannot be read (%s); training starts anew", path, error)
        return None


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of each parameter, by `number/name`."""
    return {
        f"{number}/{name}": value
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` gave; rates and the like stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split("/", 1)
        state.setdefault(int(number), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
