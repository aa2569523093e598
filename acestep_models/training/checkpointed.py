"""Recomputation ("gradient checkpointing"): keep the input of each layer, compute the rest again for the gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..dit.transformer import DiT


def recompute(decoder: DiT, on: bool) -> None:
    """Switch recomputation of every layer on or off; parameters keep their names, results their values.

    The random numbers of dropout are the same both times. Without gradients a layer runs as always.
    """
    for layer in decoder.layers:
        layer.__dict__.pop("forward", None)  # back to the class's own
        if on:
            layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Any, *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True)
