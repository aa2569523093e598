"""The optimizers of a run, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .prodigy import Prodigy

ADAMW, ADAMW_8BIT, PRODIGY = "adamw", "adamw8bit", "prodigy"
NAMES = (ADAMW, ADAMW_8BIT, PRODIGY)
# What a user should start from: Prodigy finds the size of its steps itself, and lr only scales it.
USUAL_RATES = {ADAMW: 1e-4, ADAMW_8BIT: 1e-4, PRODIGY: 1.0}


def make_optimizer(
    name: str, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer whose rate is set through its `param_groups` before each step.

    Raises:
        ValueError: for a name that is not in NAMES, or "adamw8bit" without bitsandbytes or a card.
    """
    if name == ADAMW:
        fused = all(parameter.is_cuda for parameter in parameters)  # else torch makes copies of all of them on a card
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused, foreach=False)
    if name == ADAMW_8BIT:
        return _adamw_8bit(parameters, lr, weight_decay)
    if name == PRODIGY:
        return Prodigy(parameters, lr=lr, weight_decay=weight_decay)
    raise ValueError(f"optimizer: expected one of {', '.join(NAMES)}, got {name!r}")


def check_optimizer(name: str, device: torch.device) -> None:
    """Pass if the optimizer can be made for parameters on a device.

    Raises:
        ValueError: for "adamw8bit" without bitsandbytes or a card.
    """
    if name != ADAMW_8BIT:
        return
    _bitsandbytes()
    if device.type != "cuda":
        raise ValueError("optimizer 'adamw8bit' runs on a CUDA card only: choose 'adamw'")


def _adamw_8bit(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    for parameter in parameters:
        check_optimizer(ADAMW_8BIT, parameter.device)
    optimizer: torch.optim.Optimizer = _bitsandbytes().optim.AdamW8bit(parameters, lr=lr, weight_decay=weight_decay)
    return optimizer


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise ValueError(
            "optimizer 'adamw8bit' needs bitsandbytes, which is not installed: `pip install bitsandbytes`, or choose "
            "'adamw' (it needs 0.25 GB more at rank 64)"
        ) from error
    return bitsandbytes
