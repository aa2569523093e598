"""Weight norm, folded when a checkpoint is loaded: host layers know plain weights only (spec/host.md §2)."""

from __future__ import annotations

import torch
from torch import Tensor


def fold_weight_norm(g: Tensor, v: Tensor) -> Tensor:
    """g [A, 1, 1] and v [A, B, K] -> the weight g · v / |v| [A, B, K] in fp32; the norm goes over all but axis 0."""
    v = v.float()
    axes = tuple(range(1, v.ndim))
    length: Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=True)
    return v * (g.float() / length)
