"""Rotary positions of the LLaMA/Qwen kind: the two halves of a head are the two coordinates (spec/audio.md §2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

Rope = tuple[Tensor, Tensor]


def rotary_table(
    length: int,
    head_dim: int,
    theta: float,
    *,
    device: torch.device | str | None,
    dtype: torch.dtype,
    start: int = 0,
    positions: Tensor | None = None,
) -> Rope:
    """Cosine and sine of every position, each [length, head_dim]; angles in fp32, then cast to `dtype`.

    Positions are start .. start + length - 1, or `positions` ([L] or [B, L], `length` is then unused), which
    gives tables of shape [L, head_dim] or [B, L, head_dim].
    """
    if positions is None:
        positions = torch.arange(start, start + length, device=device)
    halves = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim  # [D/2]
    angles = positions.to(torch.float32)[..., None] * theta**-halves  # [..., L, D/2]
    angles = torch.cat([angles, angles], dim=-1)  # [..., L, D]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [B, heads, L, D] by the tables of `rotary_table` ([L, D] or [B, L, D])."""
    if cos.ndim == 3:
        cos, sin = cos[:, None], sin[:, None]  # [B, 1, L, D]
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
