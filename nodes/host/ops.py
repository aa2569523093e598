"""The host's casting layers as the core's `Ops`, so weights stream, take LoRA patches and change dtype at use."""

from __future__ import annotations

from typing import Any

import comfy.ops
from torch import Tensor

from ...acestep_models.ops import Ops


def _cast(parameter: Tensor, like: Tensor) -> Tensor:
    """A raw parameter where it is needed: a partial load leaves it on the offload device (spec/host.md §2)."""
    return comfy.ops.cast_to_input(parameter, like, copy=False)


def host_ops(operations: Any) -> Ops:
    """`operations` is one of the host's layer families, such as `comfy.ops.manual_cast`."""
    return Ops(
        Linear=operations.Linear,
        Conv1d=operations.Conv1d,
        ConvTranspose1d=operations.ConvTranspose1d,
        RMSNorm=operations.RMSNorm,
        Embedding=operations.Embedding,
        cast=_cast,
    )


def casting_ops() -> Ops:
    """Layers that bring their weights to the dtype and device of what they are given."""
    return host_ops(comfy.ops.manual_cast)
