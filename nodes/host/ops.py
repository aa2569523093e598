"""The host's casting layers as the core's `Ops`, so weights stream, take LoRA patches and change dtype at use."""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn

from ...acestep_models.ops import Ops
from .fused import joined


def _cast(parameter: Tensor, like: Tensor) -> Tensor:
    """A raw parameter where it is needed: a partial load leaves it on the offload device (spec/host.md §2)."""
    return comfy.ops.cast_to_input(parameter, like, copy=False)


def _rows(embedding: Any, start: int, stop: int, like: Tensor) -> Tensor:
    """Rows of an embedding as a head: a view of a plain table, else what the layer itself gives for these ids.

    Going through the layer brings a streamed, quantised or patched table here the way the host wants it.
    """
    if _is_plain(embedding, like) and embedding.weight.dtype == like.dtype:
        return embedding.weight[start:stop]
    return embedding(torch.arange(start, stop, device=like.device)).to(like.dtype)


def _lies_still(module: nn.Module, like: Tensor) -> bool:
    """Whether every weight is read where it lies: none is fetched or patched while a layer computes.

    Packed ones lie still, too; what they are multiplied out to is a pass's own.
    """
    return all(_is_plain(layer, like) for layer in module.modules() if any(True for _ in layer.parameters(False)))


def _is_plain(layer: Any, like: Tensor) -> bool:
    """The layer's own weights, in place and as loaded. `_v` marks those that newer hosts bring in at each use."""
    if hasattr(layer, "_v") or any(getattr(layer, name, None) for name in _AT_USE):
        return False
    weights = layer.parameters(recurse=False)
    return all(type(weight) in (Tensor, nn.Parameter) and weight.device == like.device for weight in weights)


# What the host hangs on a layer whose weights it patches while computing.
_AT_USE = ("weight_function", "bias_function", "weight_lowvram_function", "bias_lowvram_function")


def host_ops(operations: Any) -> Ops:
    """`operations` is one of the host's layer families, such as `comfy.ops.manual_cast`."""
    return Ops(
        Linear=operations.Linear,
        Conv1d=operations.Conv1d,
        ConvTranspose1d=operations.ConvTranspose1d,
        RMSNorm=operations.RMSNorm,
        Embedding=operations.Embedding,
        cast=_cast,
        rows=_rows,
        lies_still=_lies_still,
        joined=joined,
    )


def casting_ops() -> Ops:
    """Layers that bring their weights to the dtype and device of what they are given."""
    return host_ops(comfy.ops.manual_cast)
